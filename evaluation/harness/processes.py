"""The processes of a live run: started together, heard line by line, ended together.

Each process's standard output is read by a thread into one queue, so that none ever blocks on a
full pipe, however much it says; its standard error goes to a file. All are started first, say that
they are ready, and begin at the same instant, which they read from their standard input. Leaving
the ``with`` block ends every one: SIGTERM, a grace, SIGKILL.
"""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import IO, Final, Self

import msgspec

from evaluation.children import end_all, failure_of
from evaluation.jobs.told import Ready, Told, read_told
from propius.errors import PropiusError

__all__ = ["LiveError", "Process", "Processes"]

QUEUE_LINES_MAX: Final = 10_000
POLL_S: Final = 0.2


class LiveError(PropiusError):
    """A live run cannot go on; one line with the log to look at."""


@dataclass(frozen=True)
class Process:
    """One process of a run."""

    name: str
    popen: subprocess.Popen[str]
    log: Path

    def failure(self) -> str:
        """Why it ended badly, in one line; "" if it runs or ended well."""
        return failure_of(self.name, self.popen, self.log)


class Processes:
    """Starts processes and hears them; a context manager."""

    def __init__(self, logs: Path) -> None:
        self.all: list[Process] = []
        self._logs = logs
        self._heard: queue.Queue[Told | ValueError] = queue.Queue(QUEUE_LINES_MAX)
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, name: str, module: str, settings: msgspec.Struct) -> Process:
        """Start ``python -m module`` with the settings as its one argument."""
        self._logs.mkdir(parents=True, exist_ok=True)
        path = self._logs / f"{name}.log"
        with path.open("w") as log:
            popen = subprocess.Popen(
                [sys.executable, "-m", module, msgspec.json.encode(settings).decode()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        process = Process(name, popen, path)
        self.all.append(process)
        assert popen.stdout is not None
        thread = threading.Thread(target=self._read, args=(popen.stdout,), daemon=True)
        thread.start()
        self._threads.append(thread)
        return process

    def begin(self, start_ns: int) -> None:
        """Tell all that are ready when the run starts, on the monotonic clock."""
        for process in self.all:
            assert process.popen.stdin is not None
            process.popen.stdin.write(f"{start_ns}\n")
            process.popen.stdin.flush()

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
            told = self._heard.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(told, ValueError):
            raise LiveError(str(told))
        return told

    def check(self) -> None:
        """Raise LiveError if one ended badly."""
        for process in self.all:
            if line := process.failure():
                raise LiveError(line)

    def _read(self, output: IO[str]) -> None:
        for line in output:
            told: Told | ValueError
            try:
                told = read_told(line)
            except ValueError as error:
                told = error
            while not self._closed.is_set():
                try:
                    self._heard.put(told, timeout=POLL_S)
                except queue.Full:
                    continue
                break

    def stop(self) -> None:
        """End every process that still runs, and take what they said last."""
        end_all([each.popen for each in self.all])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self._closed.set()
        for thread in self._threads:
            thread.join()
        for process in self.all:
            for pipe in (process.popen.stdin, process.popen.stdout):
                if pipe is not None:
                    pipe.close()
