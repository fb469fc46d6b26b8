"""The processes that a run starts: started together, heard line by line, ended together.

Each one's standard output is read by a thread into one queue, so that none ever blocks on a full
pipe, however much it says; its standard error goes to a file. Leaving the ``with`` block ends every
one: SIGTERM, a grace, SIGKILL. :func:`tell` and :func:`complain` are the child's side.

Not here: what the lines say (:mod:`evaluation.demo.progress`, :mod:`evaluation.jobs.told`).
"""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Generic, Self, TypeVar

import msgspec

from propius.shell.wake import on_signals

__all__ = ["Child", "Children", "close_pipes", "complain", "end_all", "tell",
           "terminated_is_interrupted"]  # fmt: skip

GRACE_S: Final = 5.0
"""From SIGTERM to SIGKILL."""
LINES_MAX: Final = 10_000
"""That wait to be heard."""
POLL_S: Final = 0.2

Line = TypeVar("Line")
_ENCODER = msgspec.json.Encoder()


@dataclass(frozen=True)
class Child:
    """One process of a run."""

    name: str
    popen: subprocess.Popen[str]
    log: Path

    def failure(self) -> str:
        """Why it ended badly, in one line, the last of its log; "" if it runs or ended well."""
        code = self.popen.poll()
        if code in {None, 0}:
            return ""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return f"{self.name} ended with {code}: {lines[-1] if lines else 'no word'} ({self.log})"


class Children(Generic[Line]):
    """Starts processes and hears them; ``read`` parses a line, or raises ValueError."""

    def __init__(self, logs: Path, read: Callable[[str], Line]) -> None:
        self.all: list[Child] = []
        self._logs = logs
        self._parse = read
        self._lines: queue.Queue[str] = queue.Queue(LINES_MAX)
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, name: str, module: str, settings: msgspec.Struct) -> Child:
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
        child = Child(name, popen, path)
        self.all.append(child)
        assert popen.stdout is not None
        thread = threading.Thread(target=self._read, args=(popen.stdout,), daemon=True)
        thread.start()
        self._threads.append(thread)
        return child

    def hear(self, timeout_s: float) -> Line | None:
        """What any process says next, or None if nothing in time; raises ValueError."""
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            return None
        return self._parse(line)

    def failures(self) -> list[str]:
        """A line for each that ended badly."""
        return [line for child in self.all if (line := child.failure())]

    def stop(self) -> None:
        """End every one that still runs; what they said last can still be heard."""
        end_all([child.popen for child in self.all])

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
        for child in self.all:
            close_pipes(child.popen)

    def _read(self, output: IO[str]) -> None:
        for line in output:
            while not self._closed.is_set():
                try:
                    self._lines.put(line, timeout=POLL_S)
                except queue.Full:
                    continue
                break


def end_all(processes: Sequence[subprocess.Popen[str]]) -> None:
    """End those that still run: SIGTERM to all, a grace, SIGKILL; returns when all have ended."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def terminated_is_interrupted() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does, so that it cleans up."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with on_signals(interrupt, signal.SIGTERM):
        yield


def close_pipes(process: subprocess.Popen[str]) -> None:
    """Close our ends of its standard input and output."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def tell(message: msgspec.Struct) -> None:
    """The child's side: say this to whoever started it, at once, as a line of JSON."""
    sys.stdout.write(_ENCODER.encode(message).decode() + "\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    """The child's side: a line for people, which becomes this process's log."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
