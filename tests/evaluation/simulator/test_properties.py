"""What holds under every policy and a user's, on small drawn traces and job lists.

The same is drawn from Rust, with the matchers' own invariants, in `rust_core/tests/simulator.rs`.
"""

from __future__ import annotations

import json
import random
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from propius.engine import POLICIES, Trace, simulate
from propius.policy import Snapshot

EXAMPLES: Final = Path(__file__).resolve().parents[3] / "examples"
USERS: Final = "policy:AgedSmallest"
EVERY: Final = (*POLICIES, USERS)
CLASSES: Final = (0, 0b10, 0b110, 0b1010, 0b11110, 0b10000)


@dataclass(frozen=True)
class Client:
    """One row of a trace."""

    start_s: int
    online_s: int
    computation: int
    classes: int


CORE: Final = [Client(60 * i, 3_600, 40, 0b11110) for i in range(300)]
"""Enough fast and patient clients of every class, so that each job can finish."""
REPEAT_MAX: Final = 20
PHASES: Final = (Phase.explicit, Phase.reuse, Phase.generate)
"""No shrinking: cases are small, and those that fail are slow, for they are replayed."""
clients = st.lists(
    st.builds(
        Client,
        start_s=st.integers(0, 20_000),
        online_s=st.integers(0, 3_000),
        computation=st.integers(10, 3_000),
        classes=st.sampled_from(CLASSES),
    ),
    min_size=50,
    max_size=150,
)


def job_lists(*kinds: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    """One to seven jobs of these kinds."""
    job = st.fixed_dictionaries(
        {
            "start_s": st.integers(0, 5_000),
            "participants": st.integers(1, 6),
            "rounds": st.integers(1, 3),
            "requirement": st.integers(1, 4),
            "deadline_s": st.integers(600, 3_000),
            "min_response": st.sampled_from([0.5, 0.8, 1.0]),
            "kind": st.sampled_from(kinds),
        }
    )

    def complete(drawn: dict[str, Any]) -> dict[str, Any]:
        own = {
            "sync": {},
            "refill": {"deadline_s": 0},
            "async": {"deadline_s": 0, "buffer": 1 + drawn["participants"] // 2, "staleness": 1},
        }
        return drawn | own[drawn["kind"]]

    return st.lists(job.map(complete), min_size=1, max_size=7)


def to_trace(rows: list[Client]) -> Trace:
    """As a trace file with these rows would be."""
    rows = sorted(rows, key=lambda row: row.start_s)
    return Trace.from_columns(
        array("d", [row.start_s for row in rows]),
        array("d", [row.start_s + row.online_s for row in rows]),
        array("d", [row.computation for row in rows]),
        array("d", [14_000] * len(rows)),
        array("H", [row.classes for row in rows]),
    )


def played(trace: Trace, jobs: list[dict[str, Any]], **settings_: Any) -> dict[str, Any]:
    """A run that does not go on for ever if something is wrong."""
    return simulate(trace, jobs, repeat=REPEAT_MAX, **settings_)


@pytest.fixture(scope="module", autouse=True)
def own_policies() -> Iterator[ModuleType]:
    """The example can be named as a policy, and those of this file as `own_dice:…`."""
    module = ModuleType("own_dice")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        patch.setitem(sys.modules, "own_dice", module)
        yield module


@pytest.mark.parametrize("policy", EVERY)
@settings(max_examples=12, phases=PHASES)
@given(
    strays=clients,
    jobs=job_lists("sync", "refill", "async"),
    seed=st.integers(0, 1_000),
    managers=st.integers(1, 3),
    tasks_max=st.sampled_from([1, 2, None]),
)
def test_jobs_finish_with_eligible_devices_and_the_same_seed_gives_the_same_bytes(
    policy: str,
    strays: list[Client],
    jobs: list[dict[str, Any]],
    seed: int,
    managers: int,
    tasks_max: int | None,
) -> None:
    """Whatever comes and goes, all jobs have all their rounds; nobody served who may not."""
    trace = to_trace(CORE + strays)

    def play() -> dict[str, Any]:
        return played(trace, jobs, policy=policy, seed=seed, managers=managers, tasks_max=tasks_max)

    run = play()
    assert run["ineligible"] == 0
    assert run["finished"] == len(jobs)
    assert [job["rounds"] for job in run["per_job"]] == [job["rounds"] for job in jobs]
    assert run["dispatched"] == run["completed"] + run["failed"] + run["running"]
    assert json.dumps(play()) == json.dumps(run)


@pytest.mark.parametrize("policy", EVERY)
@settings(max_examples=8, phases=PHASES)
@given(strays=clients, jobs=job_lists("sync", "refill"), managers=st.integers(1, 3))
def test_no_round_gets_more_devices_than_it_asked_for_and_lost(
    policy: str, strays: list[Client], jobs: list[dict[str, Any]], managers: int
) -> None:
    """Over all rounds, those that were aborted too; a device that left was replaced."""
    run = played(to_trace(CORE + strays), jobs, policy=policy, managers=managers)
    assert run["finished"] == len(jobs)
    asked = sum(
        job["participants"] * (ran["rounds"] + ran["aborts"])
        for job, ran in zip(jobs, run["per_job"], strict=True)
    )
    assert run["dispatched"] <= asked + run["failed"]


@pytest.mark.parametrize("policy", EVERY)
@settings(max_examples=8, phases=PHASES)
@given(jobs=job_lists("sync", "refill"), managers=st.integers(1, 3), seed=st.integers(0, 99))
def test_where_nobody_leaves_and_nothing_is_late_devices_are_exactly_those_asked_for(
    policy: str, jobs: list[dict[str, Any]], managers: int, seed: int
) -> None:
    """Not one more, not one fewer: a single slot too many in any round would show."""
    for job in jobs:
        job["deadline_s"] = 1e6 if job["kind"] == "sync" else 0
    patient = [Client(60 * i, 40_000, 40, CLASSES[i % 6]) for i in range(600)]
    run = played(to_trace(patient), jobs, policy=policy, managers=managers, seed=seed)
    assert (run["failed"], run["aborts"]) == (0, 0)
    assert run["dispatched"] == sum(job["participants"] * job["rounds"] for job in jobs)


class Dicer:
    """Keeps dice of its own, which no user's policy may."""

    def order(self, snapshot: Snapshot) -> list[tuple[int, int]]:
        """In an order that the seed knows nothing of."""
        rounds = [(round_.job, round_.round) for round_ in snapshot.rounds]
        return random.sample(rounds, len(rounds))


def test_what_is_asserted_here_can_be_seen(own_policies: ModuleType) -> None:
    """The reference does serve who may not, and is counted; dice of one's own change the bytes."""
    rows = [Client(20 * i, 900 + 37 * i % 600, 40, CLASSES[i % 6]) for i in range(900)]
    jobs = [
        {"start_s": 100 * i, "participants": 3 + i % 4, "rounds": 5, "deadline_s": 600,
         "requirement": 1 + i % 4}
        for i in range(8)
    ]  # fmt: skip
    trace = to_trace(rows)
    assert simulate(trace, jobs, policy="irs", semantics="venn-reference")["ineligible"] > 0
    own_policies.Dicer = Dicer  # type: ignore[attr-defined]
    runs = {json.dumps(simulate(trace, jobs, policy="own_dice:Dicer")) for _ in range(5)}
    assert len(runs) > 1
    drawn = [simulate(trace, jobs, policy="random", seed=seed)["avg_jct_s"] for seed in (1, 2)]
    assert drawn[0] != drawn[1]


def parts_of(rounds: list[tuple[Any, ...]]) -> dict[str, int]:
    """The parts of a job's time in nanoseconds, from the record of its attempts alone."""
    parts = dict.fromkeys(("scheduling", "response", "unfilled", "aborted", "buffer"), 0)
    for _job, _round, _attempt, times_s, _counts, is_success, _history in rounds:
        opened, filled, ended = (None if s is None else round(s * 1e9) for s in times_s)
        assert opened is not None
        assert ended is not None
        if not is_success:
            parts["aborted"] += ended - opened
        elif filled is None:
            parts["unfilled"] += ended - opened
        else:
            parts["scheduling"] += filled - opened
            parts["response"] += ended - filled
    return parts


@settings(max_examples=25, deadline=None, phases=PHASES)
@given(
    rows=clients,
    jobs=job_lists("sync", "refill"),
    policy=st.sampled_from(POLICIES),
    seed=st.integers(0, 99),
)
def test_the_parts_of_each_completion_time_are_those_of_its_attempts(
    rows: list[Client], jobs: list[dict[str, Any]], policy: str, seed: int
) -> None:
    """To the nanosecond; a virtual time below 9e6 s has an exact one as a float."""
    run = played(to_trace(rows + CORE), jobs, policy=policy, seed=seed, record=True)
    for number, job in enumerate(run["per_job"]):
        mine = [row for row in run["record"][0] if row[0] == number]
        assert job["parts_ns"] == parts_of(mine)
        if job["jct_ns"] is not None:
            assert sum(job["parts_ns"].values()) == job["jct_ns"]
            assert job["jct_ns"] == round(job["finish_s"] * 1e9) - round(job["start_s"] * 1e9)


@settings(max_examples=10, deadline=None, phases=PHASES)
@given(rows=clients, jobs=job_lists("sync", "refill", "async"), seed=st.integers(0, 99))
def test_the_parts_sum_to_the_completion_time_of_every_kind_of_job(
    rows: list[Client], jobs: list[dict[str, Any]], seed: int
) -> None:
    """Under both semantics; an asynchronous job's time is in its buffers."""
    for semantics in ("propius", "venn-reference"):
        run = played(to_trace(rows + CORE), jobs, policy="random", seed=seed, semantics=semantics)
        for asked, job in zip(jobs, run["per_job"], strict=True):
            parts_ns = job["parts_ns"]
            if job["jct_ns"] is not None:
                assert sum(parts_ns.values()) == job["jct_ns"]
                assert job["jct_ns"] == pytest.approx(job["jct_s"] * 1e9, abs=2)
                is_async = asked["kind"] == "async"
                assert (parts_ns["buffer"] == job["jct_ns"]) == is_async
