"""The commit writer: order, merging, failure and stop."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from propius.core import Change, Commit, Put
from propius.shell.writer import Committed, CommitWriter, Failed, Result


class SlowStore:
    """A store whose commits wait for ``go`` and fail while ``error`` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.entered = threading.Semaphore(0)
        self.error: Exception | None = None
        self.transactions: list[list[Change]] = []

    def commit(self, changes: Sequence[Change]) -> None:
        self.entered.release()
        assert self.go.wait(10)
        if self.error is not None:
            raise self.error
        self.transactions.append(list(changes))


def commit(number: int) -> Commit:
    """A commit of one change."""
    return Commit(number, (Put("t", str(number), b""),))


class Waker:
    """What the writer wakes; tests wait for it."""

    def __init__(self) -> None:
        self.woken = threading.Semaphore(0)

    def __call__(self) -> None:
        self.woken.release()

    def wait(self) -> None:
        assert self.woken.acquire(timeout=10)


def test_queued_commits_become_one_transaction() -> None:
    """What waits while one commit is under way is merged, in order, and reported once."""
    store, wake = SlowStore(), Waker()
    writer = CommitWriter(store, wake)
    writer.start()
    writer.submit(commit(1))
    assert store.entered.acquire(timeout=10)
    for number in (2, 3, 4):
        writer.submit(commit(number))
    assert writer.backlog == 4
    store.go.set()
    results: list[Result] = []
    while len(results) < 2:
        wake.wait()
        results += writer.take_results()
    assert results == [Committed(1), Committed(4)]
    assert [len(transaction) for transaction in store.transactions] == [1, 3]
    assert writer.stop(10)


def test_failed_commit_is_retried_until_it_succeeds() -> None:
    """The failure is told once for each reason; nothing overtakes the failed commit."""
    store, wake = SlowStore(), Waker()
    store.error = OSError("disk full")
    store.go.set()
    writer = CommitWriter(store, wake, retry_s=0.001)
    writer.start()
    writer.submit(commit(1))
    wake.wait()
    assert writer.take_results() == [Failed(1, "OSError: disk full")]
    for _ in range(3):  # more failures, with the same reason
        assert store.entered.acquire(timeout=10)
    assert writer.take_results() == []
    writer.submit(commit(2))
    store.error = None
    wake.wait()
    wake.wait()
    assert writer.take_results() == [Committed(1), Committed(2)]
    assert writer.backlog == 0
    assert writer.stop(10)


def test_stop_finishes_what_is_queued() -> None:
    """Commits that were submitted before the stop are made durable."""
    store, wake = SlowStore(), Waker()
    store.go.set()
    writer = CommitWriter(store, wake)
    writer.start()
    for number in range(5):
        writer.submit(commit(number))
    assert writer.stop(10)
    assert sum(map(len, store.transactions)) == 5


def test_stop_does_not_wait_for_a_store_that_fails() -> None:
    """A commit that cannot be made is abandoned at the stop, and that is said."""
    store, wake = SlowStore(), Waker()
    store.error = OSError("disk full")
    store.go.set()
    writer = CommitWriter(store, wake, retry_s=60)
    writer.start()
    writer.submit(commit(1))
    wake.wait()
    assert not writer.stop(10)


def test_unexpected_error_reaches_the_loop() -> None:
    """A bug in the store is not retried but handed over."""
    store, wake = SlowStore(), Waker()
    store.error = ValueError("bug")
    store.go.set()
    writer = CommitWriter(store, wake)
    writer.start()
    writer.submit(commit(1))
    wake.wait()
    assert isinstance(writer.crash, ValueError)
