"""The thread that makes commits durable while the loop goes on.

Commits are taken in order; all that wait when the thread is free become one transaction. A failed
transaction is tried again every second for ever, and nothing overtakes it: memory is never rolled
back, so what was decided must become durable sooner or later.

Not here: the stores (``daemons/store``).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from propius.core import Change, Commit

BACKLOG_MAX: Final = 1_000  # commits; beyond, the loop reads no more from outside
CHANGES_PER_TRANSACTION_MAX: Final = 50_000
RETRY_S: Final = 1.0


class Store(Protocol):
    """As much of a store as the writer needs."""

    def commit(self, changes: Sequence[Change], /) -> None: ...


@dataclass(frozen=True, slots=True)
class Committed:
    """This commit and all before it are durable."""

    number: int


@dataclass(frozen=True, slots=True)
class Failed:
    """This commit failed and is being tried again; said once for each new reason."""

    number: int
    reason: str


Result: TypeAlias = Committed | Failed


class CommitWriter:
    """Start it, ``submit`` commits, ``take_results`` after each ``wake``; ``stop`` at the end."""

    def __init__(
        self,
        store: Store,
        wake: Callable[[], None],
        *,
        failures: tuple[type[Exception], ...] = (OSError,),
        observe_s: Callable[[float], None] = lambda _: None,
        retry_s: float = RETRY_S,
    ) -> None:
        self.crash: BaseException | None = None  # an error that is none of ``failures``
        self._store = store
        self._wake = wake
        self._failures = failures
        self._observe_s = observe_s
        self._retry_s = retry_s
        self._waiting: deque[Commit] = deque()
        self._results: deque[Result] = deque()
        self._busy = False
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="commit-writer", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def submit(self, commit: Commit) -> None:
        """Queue a commit behind the others."""
        with self._changed:
            self._waiting.append(commit)
            self._changed.notify()

    def take_results(self) -> list[Result]:
        """What happened since the last call, oldest first."""
        results: list[Result] = []
        while self._results:
            results.append(self._results.popleft())
        return results

    @property
    def backlog(self) -> int:
        """Commits that are not durable yet."""
        with self._changed:
            return len(self._waiting) + self._busy

    def stop(self, timeout_s: float) -> bool:
        """Finish what is queued, if it takes no longer than this; whether it did."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive() and self.backlog == 0

    def _run(self) -> None:
        try:
            while batch := self._next_batch():
                if not self._commit(batch):
                    return
        except BaseException as error:  # noqa: BLE001 - handed to the loop, which raises it
            self.crash = error
            self._wake()

    def _next_batch(self) -> list[Commit]:
        """What waits, merged up to a limit; empty when it is time to stop."""
        with self._changed:
            self._busy = False
            while not self._waiting and not self._stopping:
                self._changed.wait()
            batch: list[Commit] = []
            changes = 0
            while self._waiting and changes < CHANGES_PER_TRANSACTION_MAX:
                batch.append(self._waiting.popleft())
                changes += len(batch[-1].changes)
            self._busy = bool(batch)
            return batch

    def _commit(self, batch: list[Commit]) -> bool:
        changes = [change for commit in batch for change in commit.changes]
        last = batch[-1].number
        told = ""
        while True:
            begun_s = time.monotonic()
            try:
                self._store.commit(changes)
            except self._failures as error:
                reason = f"{type(error).__name__}: {error}"
                if reason != told:
                    told = reason
                    self._tell(Failed(last, reason))
                if self._wait_for_retry():
                    return False
                continue
            self._observe_s(time.monotonic() - begun_s)
            with self._changed:
                self._busy = False
            self._tell(Committed(last))
            return True

    def _wait_for_retry(self) -> bool:
        """Wait a retry interval; True if the program stops meanwhile."""
        with self._changed:
            return self._changed.wait_for(lambda: self._stopping, self._retry_s)

    def _tell(self, result: Result) -> None:
        self._results.append(result)
        self._wake()
