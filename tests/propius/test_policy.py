"""Policies of one's own: what they see, what becomes of their answer, and how they fail."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from propius import engine, policy
from propius.engine import Planner, PolicyError
from propius.policy import Round, Snapshot

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
HERE = __name__
S = 1_000_000_000
seen: list[Snapshot] = []
script: list[Callable[[Snapshot], Any]] = []


class Scripted:
    """A policy that a test writes as it goes."""

    def order(self, snapshot: Snapshot) -> Iterable[tuple[int, int]]:
        seen.append(snapshot)
        result: Iterable[tuple[int, int]] = script[-1](snapshot)
        return result


class Without:
    """No method of the right name."""


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """This module and the examples can be named as policies."""
    monkeypatch.setitem(sys.modules, "own_policies", sys.modules[HERE])
    monkeypatch.syspath_prepend(str(EXAMPLES))
    seen.clear()
    script.clear()


def a_planner(name: str = "own_policies:Scripted", **options: float) -> Planner:
    """Jobs 1 to 3, each lacking 10 times its number; 3 registered before 2."""
    planner = Planner(policy=name, dimensions=1, seed=7, options=options)
    planner.add_manager(0)
    planner.add_supply(0, 0, 40, [float(i % 2) for i in range(40)], [1.0 + i for i in range(40)])
    for job, registered in [(1, 1), (2, 9), (3, 5)]:
        planner.put_job(job, job % 2, [float(job % 2)], registered, 10 * job, 4)
        planner.open_round(job, job, 10 * job, 0, job * S)
    planner.set_history(2, 5, 100, 2 * S, 8 * S, 50 * S)
    return planner


def order_of(planner: Planner, now_ns: int = 0) -> list[int]:
    """The jobs of the plan by rank."""
    plan = planner.plan(now_ns)
    ranks = [(rank, job) for _, _, rounds in plan.groups for job, _, rank, *_ in rounds]
    return [job for _, job in sorted(ranks)]


def test_the_answer_is_the_global_order() -> None:
    """By rank, over all groups; what is left out follows in the order of registration."""
    script.append(lambda _: [(2, 2), (1, 1), (3, 3)])
    assert order_of(a_planner()) == [2, 1, 3]
    script.append(lambda _: iter([(2, 2)]))
    assert order_of(a_planner()) == [2, 1, 3]
    script.append(lambda _: [])
    assert order_of(a_planner()) == [1, 3, 2]


def test_the_snapshot_tells_everything_and_is_frozen() -> None:
    """Rounds with their history, groups scarcest first with rates and speeds, signatures."""
    script.append(lambda _: [])
    a_planner(fairness=2, tiers=2).plan(20 * S)
    (snapshot,) = seen
    assert (snapshot.now_ns, snapshot.seed, snapshot.jobs) == (20 * S, 7, 3)
    assert (snapshot.options["fairness"], snapshot.options["tiers"]) == (2.0, 2.0)
    past = policy.History(5, 100, 2 * S, 8 * S, 50 * S)
    assert snapshot.rounds[1] == Round(2, 2, 0, 20, 20, 9, 2 * S, 4, 20, past)
    scarce, plenty = snapshot.groups
    assert (scarce.requirement_id, scarce.supply, scarce.rate, scarce.rate_day) == (1, 20, 1, 1)
    assert (plenty.requirement_id, plenty.supply) == (0, 40)
    assert plenty.speeds == (5.0, 21.0), "the slowest that counts, and the middle one of 40"
    assert {s.requirement_ids: s.devices for s in snapshot.signatures} == {(1, 0): 20, (0,): 20}
    with pytest.raises(dataclasses.FrozenInstanceError):
        snapshot.now_ns = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        snapshot.options["fairness"] = 0.0  # type: ignore[index]


@pytest.mark.parametrize(
    "wrong, said",
    [
        (lambda _: [(1, 1), (1, 1)], "returned round 1 of job 1 twice"),
        (lambda _: [(1, 0)], "returned round 0 of job 1, which is not open"),
        (lambda _: [1], "raised: TypeError: order.. must return .job, round. pairs, not 1"),
        (lambda _: None, "raised: TypeError: 'NoneType' object is not iterable"),
        (lambda _: 1 // 0, "raised: ZeroDivisionError: "),
        (lambda _: [(-1, 0)], "raised: OverflowError: "),
    ],
)
def test_a_policy_that_fails_names_itself(wrong: Callable[[Snapshot], Any], said: str) -> None:
    """One line with its name; no version is taken, and the next plan may succeed."""
    script.append(wrong)
    planner = a_planner()
    with pytest.raises(PolicyError, match=f"^policy own_policies:Scripted {said}[^\n]*$"):
        planner.plan(0)
    script.append(lambda _: [])
    assert planner.plan(0).version == 1


@pytest.mark.parametrize(
    "name, said",
    [
        (
            "no_such_module:X",
            "ModuleNotFoundError: No module named 'no_such_module'; is its",
        ),
        ("own_policies:Nobody", "AttributeError: .*no attribute 'Nobody'"),
        ("own_policies:Without", "TypeError: Without has no method order"),
        ("own_policies:", "ValueError: a policy of your own is named package.module:Class"),
    ],
)
def test_a_policy_that_cannot_be_loaded_says_why(name: str, said: str) -> None:
    """At once, not at the first plan."""
    with pytest.raises(PolicyError, match=f"^policy {name} cannot be loaded: {said}"):
        Planner(policy=name, dimensions=1)


def test_unknown_and_wrong_options_are_one_line() -> None:
    """The engine knows the names and the ranges."""
    with pytest.raises(engine.EngineError, match='unknown option "fairnes", known are'):
        Planner(policy="irs", dimensions=1, options={"fairnes": 1})
    with pytest.raises(engine.EngineError, match="option tiers must be a whole number, 2 to 64"):
        Planner(policy="venn", dimensions=1, options={"tiers": 2.5})


def test_the_example_lets_nobody_wait_for_ever() -> None:
    """A large round that has been open for hours goes before a small new one."""
    assert len((EXAMPLES / "policy.py").read_text().splitlines()) <= 60
    planner = a_planner("policy:AgedSmallest")
    assert order_of(planner, now_ns=3 * S) == [1, 2, 3]
    planner.open_round(1, 2, 10, 0, 8 * 3600 * S)
    planner.open_round(2, 3, 20, 0, 8 * 3600 * S)
    assert order_of(planner, now_ns=8 * 3600 * S) == [3, 1, 2]
