"""A broker and workers as child processes of this one, for a run on one machine.

All end with the ``with`` block, and with this process if it is killed. A worker that ends by itself
(killed, out of memory) is started again, a few times.

Not here: workers on other machines (``propius eval executor``, ``propius eval worker``).
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from evaluation.children import close_pipes, end_all
from evaluation.executor.jobs import STACK_CLIENTS, ExecutorError
from propius.shell import exit_codes

__all__ = ["LocalExecutor"]

WATCH_S: Final = 0.5
RESTARTS_MAX: Final = 3
"""Of one worker."""
SAID: Final = "executor: "


class LocalExecutor:
    """``workers`` on this machine; ``endpoint`` is for :class:`RemoteExecutor`.

    Standard error of each process is a file in ``logs``. Raises :class:`ExecutorError` if the
    broker does not start.
    """

    def __init__(
        self,
        workers: int,
        logs: Path,
        *,
        device: str = "auto",
        threads: int = 1,
        stack_clients: int = STACK_CLIENTS,
    ) -> None:
        self.endpoint = ""
        self._count, self._logs, self._device, self._threads = workers, logs, device, threads
        self._stack_clients = stack_clients
        self._broker: subprocess.Popen[str] | None = None
        self._workers: dict[int, subprocess.Popen[str]] = {}
        self._restarts = dict.fromkeys(range(workers), 0)
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="workers", daemon=True)

    def __enter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        try:
            options = ["--port", "0", "--stack-clients", str(self._stack_clients)]
            broker = self._start("executor", ["broker_command", *options])
            self._broker = broker
            assert broker.stdout is not None
            line = broker.stdout.readline()
            if not line.startswith(SAID):
                raise ExecutorError(f"the executor did not start: see {self._logs}/executor.log")
            self.endpoint = line.removeprefix(SAID).strip()
            for number in range(self._count):
                self._workers[number] = self._start_worker(number)
        except BaseException:
            self._stop()
            raise
        self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._watcher.join()
        self._stop()

    @property
    def pids(self) -> list[int]:
        """The workers' process ids."""
        return [popen.pid for popen in self._workers.values()]

    def _start_worker(self, number: int) -> subprocess.Popen[str]:
        options = ["--device", self._device, "--index", str(number)]
        options += ["--threads", str(self._threads), "--name", f"worker-{number}"]
        return self._start(f"worker-{number}", ["worker_command", self.endpoint, *options])

    def _start(self, name: str, command: Sequence[str]) -> subprocess.Popen[str]:
        module, *options = command
        with (self._logs / f"{name}.log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"evaluation.executor.{module}", *options, "--until-eof"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def _watch(self) -> None:
        """Start workers again that ended by themselves, unless it is in vain."""
        while not self._over.wait(WATCH_S):
            for number, popen in list(self._workers.items()):
                code = popen.poll()
                if code in {None, exit_codes.CONFIGURATION}:
                    continue
                if self._restarts[number] < RESTARTS_MAX:
                    self._restarts[number] += 1
                    close_pipes(popen)
                    self._workers[number] = self._start_worker(number)

    def _stop(self) -> None:
        started = [*self._workers.values(), *([self._broker] if self._broker else [])]
        end_all(started)
        for popen in started:
            close_pipes(popen)
