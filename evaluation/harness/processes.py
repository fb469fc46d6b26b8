"""The processes of a live run: all are started first, say that they are ready, and begin together.

The instant at which they begin they read from their standard input. What else there is to a run's
processes is in :mod:`evaluation.children`.
"""

from __future__ import annotations

from pathlib import Path
from time import monotonic

from evaluation.children import POLL_S, Children
from evaluation.jobs.told import Ready, Told, read_told
from propius.errors import PropiusError

__all__ = ["LiveError", "Processes"]


class LiveError(PropiusError):
    """A live run cannot go on; one line with the log to look at."""


class Processes(Children[Told]):
    """Starts processes and hears them; a context manager."""

    def __init__(self, logs: Path) -> None:
        super().__init__(logs, read_told)

    def begin(self, start_ns: int) -> None:
        """Tell all that are ready when the run starts, on the monotonic clock."""
        for child in self.all:
            assert child.popen.stdin is not None
            child.popen.stdin.write(f"{start_ns}\n")
            child.popen.stdin.flush()

    def wait_ready(self, timeout_s: float) -> list[Told]:
        """Wait until every process has said so; returns what else they said meanwhile.

        Raises LiveError with what is missing.
        """
        early: list[Told] = []
        deadline_s = monotonic() + timeout_s
        waiting = len(self.all)
        while waiting:
            told = self.hear(POLL_S)
            if isinstance(told, Ready):
                waiting -= 1
            elif told is not None:
                early.append(told)
            else:
                self.check()
                if monotonic() > deadline_s:
                    raise LiveError(
                        f"{waiting} of {len(self.all)} processes are not ready after "
                        f"{timeout_s:g} s; logs in {self._logs}"
                    )
        return early

    def hear(self, timeout_s: float) -> Told | None:
        """What any process says next, or None if nothing in time; raises LiveError."""
        try:
            return super().hear(timeout_s)
        except ValueError as error:
            raise LiveError(str(error)) from error

    def check(self) -> None:
        """Raise LiveError if one ended badly."""
        if failures := self.failures():
            raise LiveError(failures[0])
