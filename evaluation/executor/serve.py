"""A broker on the shared daemon shell: its socket, its loop, its log, its admin endpoint.

Not here: what it decides (:mod:`evaluation.executor.broker`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from evaluation.executor.broker import LINK, BrokerCore, BrokerSettings
from propius.shell.admin import AdminServer
from propius.shell.health import Health, Metrics
from propius.shell.runtime import Surroundings, run
from propius.shell.socket import Binding
from propius.shell.wake import Shutdown, Wake

__all__ = ["serve"]


def serve(
    endpoint: str,
    settings: BrokerSettings,
    *,
    admin: tuple[str, int] | None = None,
    on_open: Callable[[str, str], None],
    on_start: Callable[[Shutdown], object] = lambda _: None,
    log: Any,
) -> int:
    """Run a broker until it is asked to stop; the exit code.

    ``endpoint`` may have port 0, and so may ``admin`` (host and port of an admin endpoint, if one
    is wanted); ``on_open`` gets the real ones, "" for none, and ``on_start`` what stops the broker
    (SIGTERM and SIGINT do, in the main thread). Raises StartError if one cannot be bound.
    """
    with ExitStack() as stack:
        wake = Wake()
        stack.callback(wake.close)
        shutdown = Shutdown(wake)
        health = Health("executor")
        around = Surroundings(wake, shutdown, health, Metrics(health), log=log)
        address = ""
        if admin is not None:
            server = AdminServer(*admin, health, around.metrics, "--admin-port")
            stack.callback(server.stop)
            server.start()
            address = server.address
        stack.enter_context(shutdown.on_signals())
        on_start(shutdown)
        return run(
            BrokerCore(secrets.randbits(62), settings),
            [Binding(LINK, endpoint, "--port")],
            around,
            on_open=lambda endpoints: on_open(endpoints[LINK.name], address),
        )
