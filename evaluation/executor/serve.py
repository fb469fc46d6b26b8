"""A broker on the shared daemon shell: its socket, its loop, its log.

Not here: what it decides (:mod:`evaluation.executor.broker`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from evaluation.executor.broker import LINK, BrokerCore, BrokerSettings
from propius.shell.health import Health, Metrics
from propius.shell.runtime import Surroundings, run
from propius.shell.socket import Binding
from propius.shell.wake import Shutdown, Wake

__all__ = ["serve"]


def serve(
    endpoint: str,
    settings: BrokerSettings,
    *,
    on_open: Callable[[str], None],
    on_start: Callable[[Shutdown], object] = lambda _: None,
    log: Any,
) -> int:
    """Run a broker until it is asked to stop; the exit code.

    ``endpoint`` may have port 0; ``on_open`` gets the real one, ``on_start`` what stops the broker
    (SIGTERM and SIGINT do, in the main thread). Raises StartError if it cannot be bound.
    """
    wake = Wake()
    shutdown = Shutdown(wake)
    health = Health("executor")
    around = Surroundings(wake, shutdown, health, Metrics(health), log=log)
    core = BrokerCore(secrets.randbits(62), settings)
    try:
        with shutdown.on_signals():
            on_start(shutdown)
            return run(
                core,
                [Binding(LINK, endpoint, "--port")],
                around,
                on_open=lambda endpoints: on_open(endpoints[LINK.name]),
            )
    finally:
        wake.close()
