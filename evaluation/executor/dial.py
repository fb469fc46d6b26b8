"""The way to a broker, for workers and for the handles of jobs: a socket with the shell's options.

Not here: what is said on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import zmq

from evaluation.executor.arrays import FRAME_BYTES_MAX
from evaluation.executor.jobs import ExecutorError
from propius.core import Link
from propius.shell.exit_codes import StartError
from propius.shell.socket import Binding, open_socket

__all__ = ["dial"]

LINK: Final = Link("executor", "dial", outside=False, frame_bytes_max=FRAME_BYTES_MAX)


@contextmanager
def dial(endpoint: str, *, linger_ms: int) -> Iterator[zmq.Socket[bytes]]:
    """A socket that connects, and connects again; ``linger_ms`` is for its last words.

    Nothing is kept for a broker that is not there. Raises :class:`ExecutorError` for an endpoint
    that is none; whether somebody is there shows later.
    """
    with zmq.Context() as context:
        try:
            dealer, _ = open_socket(context, Binding(LINK, endpoint))
        except StartError as error:
            raise ExecutorError(str(error)) from error
        with dealer:
            dealer.linger = linger_ms
            yield dealer
