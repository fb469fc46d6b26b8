from __future__ import annotations

from random import Random

from propius.core import Commit, Delete, Put
from tests.simulation.clock import SECOND_NS, Clock
from tests.simulation.faults import Fault, Faults
from tests.simulation.store import VirtualStore


def make() -> tuple[Clock, VirtualStore, list[int]]:
    """A store, and the numbers of the commits that it reports."""
    clock = Clock()
    store = VirtualStore(clock, Faults(Random(1), {}, {}))
    told: list[int] = []
    store.committed = told.append
    return clock, store, told


def test_commits_are_applied_whole_and_in_order() -> None:
    """Later changes win, deletions delete, and every commit is told once, in order."""
    clock, store, told = make()
    store.commit(Commit(1, (Put("t", "a", b"1"), Put("t", "b", b"1"))))
    store.commit(Commit(2, (Put("t", "a", b"2"), Delete("t", "b"))))
    clock.run(clock.now_ns + SECOND_NS)
    assert store.load() == {"t": {"a": b"2"}}
    assert told == [1, 2]


def test_commits_that_wait_become_one_transaction() -> None:
    """Of commits that waited together only the last is told, and some are still written alone."""
    clock, store, told = make()
    applied: list[Commit] = []
    store.applied = applied.append
    for number in range(1, 31, 3):
        for commit in range(number, number + 3):
            store.commit(Commit(commit, (Put("t", str(commit), b"1"),)))
        clock.run(clock.now_ns + SECOND_NS)
    assert told == [commit.number for commit in applied]
    assert told == sorted(told)
    assert {len(commit.changes) for commit in applied} >= {1, 2}
    assert sum(len(commit.changes) for commit in applied) == len(store.load()["t"]) == 30


def test_a_crash_loses_what_was_not_durable_and_all_news() -> None:
    """Commits under way are gone; one that was durable stays, though nobody was told."""
    clock, store, told = make()
    store.applied = lambda _commit: store.crash()
    store.commit(Commit(1, (Put("t", "a", b"1"),)))
    store.commit(Commit(2, (Put("t", "a", b"2"),)))
    clock.run(clock.now_ns + SECOND_NS)
    assert store.load() == {"t": {"a": b"1"}}
    assert told == []


def test_a_failing_store_tries_again_for_ever() -> None:
    """A commit that fails is reported once, stays first in the queue, and succeeds in the end."""
    clock, store, told = make()
    failures: list[int] = []
    store.failed = lambda number, _reason: failures.append(number)
    store.failing = True
    store.commit(Commit(1, (Put("t", "a", b"1"),)))
    clock.run(clock.now_ns + 3 * SECOND_NS)
    assert failures == [1]
    assert store.load() == {}
    store.failing = False
    clock.run(clock.now_ns + 3 * SECOND_NS)
    assert told == [1]


def test_slow_commits_are_counted_as_faults() -> None:
    """A slow store takes longer, and the run's table says so."""
    clock = Clock()
    faults = Faults(Random(1), {}, {})
    store = VirtualStore(clock, faults)
    store.slow = True
    store.commit(Commit(1, ()))
    clock.run(clock.now_ns + 2 * SECOND_NS)
    assert faults.counts[Fault.SLOW_COMMIT] == 1
