"""The grid: every run there, in order, the same however many threads; and all cores at work."""

from __future__ import annotations

import json
import os
import sys
import threading
from array import array
from contextlib import suppress
from types import ModuleType
from typing import Final

import pytest

from evaluation.simulator.grid import Grid, run_grid
from evaluation.simulator.workloads import SimulatedJob
from propius.engine import POLICIES, PolicyError, SimulationStopped, Trace, simulate
from propius.policy import Snapshot

MEET_S: Final = 20.0
"""Far more than a thread needs to start; spent only if the test fails."""

ROUNDS: Final = 10_000
"""Of a run that lasts for several seconds."""


def a_trace(sessions: int = 800) -> Trace:
    """One session a minute, of 10 minutes to an hour."""
    starts = [60.0 * i for i in range(sessions)]
    return Trace.from_columns(
        array("d", starts),
        array("d", [start + 600 + 97 * i % 3_000 for i, start in enumerate(starts)]),
        array("d", [20 + 31 * i % 100 for i in range(sessions)]),
        array("d", [14_000] * sessions),
        array("H", [(0b10, 0b110, 0b1010, 0b11110)[i % 4] for i in range(sessions)]),
    )


def job_list(count: int = 6) -> list[SimulatedJob]:
    """Jobs of all four classes."""
    return [
        SimulatedJob(
            start_s=100 * i, participants=2 + i, rounds=4, deadline_s=2_000, requirement=1 + i % 4
        )
        for i in range(count)
    ]


class Meeting:
    """A policy whose first plan, in each run, waits for the other runs' first plans."""

    barrier: threading.Barrier

    def __init__(self) -> None:
        self.has_met = False

    def order(self, snapshot: Snapshot) -> list[tuple[int, int]]:
        """In the order of registration."""
        if not self.has_met:
            self.barrier.wait(MEET_S)
            self.has_met = True
        return []


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> type[Meeting]:
    """The policy `meets:Meeting`, and three cores."""
    own = ModuleType("meets")
    own.Meeting = Meeting  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "meets", own)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    return Meeting


def test_as_many_runs_are_under_way_at_once_as_there_are_cores(meeting: type[Meeting]) -> None:
    """Each waits for two others in the middle of its run: one after the other, none would end."""
    meeting.barrier = threading.Barrier(3)
    runs = run_grid(a_trace(), Grid(jobs=job_list(), policies=["meets:Meeting"], seeds=[1, 2, 3]))
    assert [run["finished"] for run in runs] == [6, 6, 6]


def test_with_one_thread_they_would_not_meet(
    meeting: type[Meeting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above can fail."""
    monkeypatch.setitem(globals(), "MEET_S", 0.05)
    meeting.barrier = threading.Barrier(3)
    grid = Grid(jobs=job_list(), policies=["meets:Meeting"], seeds=[1, 2, 3])
    with pytest.raises(PolicyError, match="meets:Meeting raised: BrokenBarrierError"):
        run_grid(a_trace(), grid, threads=1)


def test_a_run_holds_no_lock_that_other_runs_need() -> None:
    """While it lasts another thread runs Python; nobody is ever made to give the lock up here."""
    entered, seen, ended = threading.Event(), threading.Event(), threading.Event()
    job = {"start_s": 0, "participants": 700, "rounds": 10**6, "deadline_s": 1e6, "requirement": 1}
    trace = a_trace()

    def play() -> None:
        entered.set()
        with suppress(SimulationStopped):
            simulate(
                trace, [job], policy="irs", repeat=10_000, progress=lambda _: not seen.is_set()
            )
        ended.set()

    thread = threading.Thread(target=play)
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1_000)  # only who lets go of the interpreter's lock lets others run
    try:
        thread.start()
        entered.wait()
        was_under_way = not ended.is_set()
        seen.set()
    finally:
        sys.setswitchinterval(interval_s)
        thread.join()
    assert was_under_way


def test_runs_come_in_order_and_are_the_same_to_the_byte_however_many_threads() -> None:
    """Policies, then seeds; whatever ended first."""
    grid = Grid(jobs=job_list(), policies=POLICIES, seeds=[3, 1])
    one, many = (run_grid(a_trace(), grid, threads=threads) for threads in (1, 4))
    assert [(run["policy"], run["seed"]) for run in one] == [
        (p, s) for p in POLICIES for s in (3, 1)
    ]
    assert json.dumps(one) == json.dumps(many)


class Raises:
    """Fails at its first plan, once the other run is under way."""

    under_way: threading.Event

    def order(self, snapshot: Snapshot) -> list[tuple[int, int]]:
        """No order at all."""
        assert self.under_way.wait(MEET_S)
        raise RuntimeError("no idea")


def test_a_run_that_fails_ends_those_before_it_and_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody waits for hours of a run whose result is thrown away."""
    own = ModuleType("fails")
    own.Raises = Raises  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fails", own)
    Raises.under_way = threading.Event()
    told: list[int] = []

    def progress(run: int, rounds: int) -> None:
        if run == 0:
            told.append(rounds)
            Raises.under_way.set()

    long = SimulatedJob(start_s=0, participants=700, rounds=ROUNDS, deadline_s=1e6, requirement=1)
    policies = ["irs", "fails:Raises"]
    grid = Grid(jobs=[long], policies=policies, seeds=[1], repeat=2 * ROUNDS)
    with pytest.raises(PolicyError, match="policy fails:Raises raised: RuntimeError: no idea"):
        run_grid(a_trace(), grid, progress=progress, threads=2)
    assert max(told) < ROUNDS / 2
