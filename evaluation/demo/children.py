"""The demo's own processes: started together, read line by line, ended together.

Each child's standard output is read by a thread into one queue, so that no child ever blocks on a
full pipe; its standard error goes to a file. Leaving the ``with`` block ends every child: SIGTERM,
a grace, SIGKILL.
"""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import msgspec

from evaluation.children import GRACE_S, end_all, failure_of
from evaluation.demo.progress import Progress, read_progress

__all__ = ["Child", "Children"]

QUEUE_LINES_MAX: Final = 10_000


@dataclass(frozen=True)
class Child:
    """One process of the demo."""

    name: str
    process: subprocess.Popen[str]
    log_path: Path

    def failure(self) -> str:
        """Why it ended badly, in one line; "" if it runs or ended well."""
        return failure_of(self.name, self.process, self.log_path)


class Children:
    """Starts processes and gathers their progress lines."""

    def __init__(self, log_dir: Path) -> None:
        self.children: list[Child] = []
        self._log_dir = log_dir
        self._lines: queue.Queue[str] = queue.Queue(QUEUE_LINES_MAX)
        self._threads: list[threading.Thread] = []

    def start(self, name: str, module: str, settings: msgspec.Struct) -> Child:
        """Start ``python -m module`` with the settings as its one argument."""
        self._log_dir.mkdir(parents=True, exist_ok=True)
        log_path = self._log_dir / f"{name}.log"
        argument = msgspec.json.encode(settings).decode()
        with log_path.open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, argument],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        child = Child(name, process, log_path)
        self.children.append(child)
        assert process.stdout is not None
        reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        reader.start()
        self._threads.append(reader)
        return child

    def next_progress(self, timeout_s: float) -> Progress | None:
        """The next progress line of any child, or None when none came in time."""
        try:
            return read_progress(self._lines.get(timeout=timeout_s))
        except queue.Empty:
            return None

    def failures(self) -> list[str]:
        """A line for each child that ended badly."""
        return [line for child in self.children if (line := child.failure())]

    def stop(self) -> None:
        """End every child that still runs."""
        end_all([child.process for child in self.children])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                try:
                    self._lines.put(line, timeout=GRACE_S)
                except queue.Full:
                    return  # the parent reads no more: it is on its way out
