"""The virtual store: commits take time, are applied whole and in order, and die with a crash.

A commit has two instants, as a real one has: when it is durable, and a little later when the
daemon hears of it. A crash between the two loses nothing but the news.

As with the real writer (:mod:`propius.shell.writer`), commits that wait while another is written
become one transaction, of which the daemon hears only the last number; and a failure is told once.
Here, some wait to be written alone, so that both are tried.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Final

from propius.core import Commit, Put
from tests.simulation.clock import MILLISECOND_NS, SECOND_NS, Clock
from tests.simulation.faults import Fault, Faults

MERGED: Final = 0.8  # transactions that take all that waits

Tables = dict[str, dict[str, bytes]]


class VirtualStore:
    """What is durable, and the commits under way."""

    def __init__(self, clock: Clock, faults: Faults) -> None:
        self.tables: Tables = {}
        self.transactions = 0
        self.slow = False
        self.failing = False
        self.committed: Callable[[int], None] = lambda _number: None
        self.failed: Callable[[int, str], None] = lambda _number, _reason: None
        self.applied: Callable[[Commit], None] = lambda _commit: None
        self._clock, self._faults = clock, faults
        self._random: Random = faults.random
        self._queue: deque[Commit] = deque()
        self._batch: list[Commit] = []  # what is being written
        self._told_ns = 0
        self._life = 0  # grows with each crash, so that what belongs to the last life is ignored

    def load(self) -> Tables:
        """A copy of all that is durable."""
        return {table: dict(rows) for table, rows in self.tables.items()}

    def commit(self, commit: Commit) -> None:
        """Take a commit; it will be applied after those before it."""
        self._queue.append(commit)
        if not self._batch:
            self._begin()

    def crash(self) -> None:
        """The daemon died: commits that are not durable yet are lost."""
        self._queue.clear()
        self._batch = []
        self._life += 1

    def _begin(self) -> None:
        """Begin a transaction with what waits."""
        number = len(self._queue) if self._random.random() < MERGED else 1
        self._batch = [self._queue.popleft() for _ in range(number)]
        self._clock.after(self._latency_ns(), self._apply, self._life, True)

    def _latency_ns(self) -> int:
        latency_ns = int(self._random.random() ** 2 * 4 * MILLISECOND_NS)
        if self.slow and self._faults.active:
            self._faults.struck(Fault.SLOW_COMMIT)
            latency_ns += int(self._random.random() * SECOND_NS)
        return latency_ns

    def _apply(self, life: int, first_try: bool) -> None:
        if life != self._life:
            return
        last = self._batch[-1].number
        if self.failing:
            self._faults.struck(Fault.FAILED_COMMIT)
            if first_try:
                self.failed(last, "no space left on device (simulated)")
            self._clock.after(SECOND_NS, self._apply, life, False)
            return
        whole = Commit(last, tuple(change for commit in self._batch for change in commit.changes))
        for change in whole.changes:
            rows = self.tables.setdefault(change.table, {})
            if isinstance(change, Put):
                rows[change.key] = change.value
            else:
                rows.pop(change.key, None)
        self._batch = []
        self.transactions += 1
        told_ns = self._clock.now_ns + int(self._random.random() * MILLISECOND_NS)
        self._told_ns = max(self._told_ns, told_ns)
        self._clock.at(self._told_ns, self._tell, life, last)
        if self._queue:
            self._begin()
        self.applied(whole)

    def _tell(self, life: int, number: int) -> None:
        if life == self._life:
            self.committed(number)
