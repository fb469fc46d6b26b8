"""The border of the engine: what Python sees, and what wrong calls get."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from propius import engine
from propius.engine import EngineError, Matcher, Planner

S = 1_000_000_000
DEVICE = "0123456789abcdef" * 2
OTHER = "f" * 32


def a_planner(policy: str = "fifo", **settings: Any) -> Planner:
    """A planner with one manager and one job (7) that lacks three devices."""
    planner = Planner(policy=policy, dimensions=2, **settings)
    planner.add_manager(0)
    planner.put_job(7, 0, [2.0, 0.0], 0, 3, 1)
    planner.open_round(7, 0, demand=4, allocated=1, opened_ns=0)
    return planner


def a_matcher() -> Matcher:
    """A matcher with the plan of `a_planner`."""
    matcher = Matcher(dimensions=2)
    assert engine.apply_plan(matcher, 0, a_planner().plan(0), manager=0, seq=0)
    return matcher


def test_a_device_goes_from_check_in_to_assignment() -> None:
    """The whole way of a device, with the numbers that a client manager sees."""
    matcher = a_matcher()
    assert matcher.check_in(0, DEVICE, [2.0, 1.0], 1.5, 0) == [(7, 0)]
    assert matcher.check_in(0, OTHER, [1.0, 1.0], 1.5, 5 * S) == []
    assert matcher.accept(1, DEVICE, 7, 0)
    assert matcher.counts() == {
        "waiting": 1,
        "offered": 0,
        "claiming": 1,
        "signatures": 2,
        "open_rounds": 1,
    }
    matcher.assigned(2, DEVICE, 1)
    assert matcher.expire(5 * S) == ([OTHER], [])
    buckets = matcher.take_supply(5 * S)
    assert buckets == [(0, 2, [2.0, 1.0, 1.0, 1.0], [1.5, 1.5])]
    assert matcher.due_ns() is None
    matcher.check()


def test_a_plan_shows_groups_rounds_and_quotas() -> None:
    """Everything of a plan that is sent to a manager, and its description for people."""
    planner = a_planner()
    plan = planner.plan(0)
    assert (plan.version, plan.ranked, plan.managers) == (1, True, [0])
    assert plan.groups == [(0, [2.0, 0.0], [(7, 0, 0, 3, None, 0)])]
    assert engine.groups_for(plan, 0) == [(0, [2.0, 0.0], [(7, 0, 0, 3, None, 0)])]
    assert (plan.preferences, plan.fallback, plan.quotas(0)) == ([], [0], [3])
    assert "job 7 round 0 lacks 3" in plan.explain()
    assert planner.plan(0).version == 2
    assert a_planner(first_version=40).plan(0).version == 41


def test_quotas_follow_the_supply_of_each_manager() -> None:
    """Shares are rounded up, and a manager without supply still gets one."""
    planner = a_planner()
    planner.add_manager(1)
    planner.add_manager(2)
    assert [planner.plan(0).quotas(m) for m in range(3)] == [[1], [1], [1]]
    planner.add_supply(0, 0, 90, [3.0, 0.0], [1.0])
    planner.add_supply(1, 0, 10, [3.0, 0.0, 0.0, 0.0], [1.0, 1.0])
    # 3 devices are lacking; 90 of 95 eligible devices are manager 0's, 5 are manager 1's.
    assert [planner.plan(0).quotas(m) for m in range(3)] == [[3], [1], [1]]
    planner.remove_manager(0)
    assert planner.plan(0).quotas(1) == [3]


def test_a_round_leaves_the_plan_when_it_is_full_or_closed() -> None:
    """Only rounds that lack devices are planned; an old round cannot change the current one."""
    planner = a_planner()
    assert planner.set_allocated(7, 0, 4)
    assert planner.plan(0).groups == []
    assert not planner.set_allocated(7, 1, 0), "not the current round"
    assert not planner.set_allocated(8, 0, 0), "not a job"
    planner.open_round(7, 1, demand=2, allocated=0, opened_ns=0)
    planner.close_round(7, 0)
    assert [rounds for _, _, rounds in planner.plan(0).groups] == [[(7, 1, 0, 2, None, 0)]]
    planner.close_round(7, 1)
    assert planner.plan(0).groups == []
    planner.reset()
    assert planner.counts()["jobs"] == 0


BAD_CALLS: list[tuple[str, Callable[[], object]]] = [
    ("spec has 1 values", lambda: a_matcher().check_in(0, DEVICE, [1.0], 1.0, 0)),
    (r"spec\[1\] is NaN", lambda: a_matcher().check_in(0, DEVICE, [1.0, float("nan")], 1.0, 0)),
    (r"spec\[0\] is inf", lambda: a_matcher().check_in(0, DEVICE, [float("inf"), 1.0], 1.0, 0)),
    (r"spec\[0\] is -1", lambda: a_matcher().check_in(0, DEVICE, [-1.0, 1.0], 1.0, 0)),
    ("option is NaN", lambda: a_matcher().check_in(0, DEVICE, [1.0, 1.0], float("nan"), 0)),
    ("device id", lambda: a_matcher().check_in(0, "beef", [1.0, 1.0], 1.0, 0)),
    ("device id", lambda: a_matcher().check_in(0, "0" * 30 + "é", [1.0, 1.0], 1.0, 0)),
    ("device id", lambda: a_matcher().forget(0, DEVICE.upper())),
    ("-1 is not between", lambda: a_matcher().check_in(-1, DEVICE, [1.0, 1.0], 1.0, 0)),
    ("is not between 0 and 2\\^32", lambda: a_matcher().accept(0, DEVICE, 1, 2**32)),
    ("spec has 3 values", lambda: a_matcher().would_offer([1.0, 1.0, 1.0])),
    ("dimensions must be", lambda: Matcher(dimensions=0)),
    ("waiting_max must be", lambda: Matcher(dimensions=1, waiting_max=0)),
    (
        "known are fifo, random, random-per-client",
        lambda: Planner(policy="best", dimensions=1),
    ),
    ("supply_samples_max must be", lambda: a_planner(supply_samples_max=0)),
    ("requirement has 1 values", lambda: a_planner().put_job(8, 1, [1.0], 0, 1, 1)),
    (r"requirement\[0\] is NaN", lambda: a_planner().put_job(8, 1, [float("nan"), 1.0], 0, 1, 1)),
    ("requirement 0 is registered", lambda: a_planner().put_job(8, 0, [1.0, 1.0], 0, 1, 1)),
    ("unknown job 8", lambda: a_planner().open_round(8, 0, 1, 0, 0)),
    ("specs has 3 values", lambda: a_planner().add_supply(0, 0, 9, [1.0, 1.0, 1.0], [1.0])),
    (r"options\[0\] is -1", lambda: a_planner().add_supply(0, 0, 9, [1.0, 1.0], [-1.0])),
    ("distinct_devices must be", lambda: a_planner().add_supply(0, 0, 0, [1.0, 1.0], [1.0])),
    ("unknown client manager 5", lambda: a_planner().plan(0).quotas(5)),
]


@pytest.mark.parametrize("text, call", BAD_CALLS, ids=[text for text, _ in BAD_CALLS])
def test_a_wrong_call_gets_one_line_that_names_what_was_wrong(
    text: str, call: Callable[[], object]
) -> None:
    """Every wrong value raises EngineError with one line, never a panic."""
    with pytest.raises(EngineError, match=text) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_a_wrong_type_is_a_type_error() -> None:
    """What a type checker would have found is told as Python tells it."""
    with pytest.raises(TypeError):
        a_matcher().check_in(0, DEVICE, "spec", 1.0, 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        a_matcher().forget(0, 5)  # type: ignore[arg-type]


def test_a_bad_plan_changes_nothing() -> None:
    """A plan is applied as a whole or not at all."""
    matcher = a_matcher()
    with pytest.raises(EngineError, match="two groups of requirement 3"):
        matcher.apply_plan(
            0,
            version=9,
            seq=0,
            ranked=True,
            groups=[(3, [0.0, 0.0], []), (3, [0.0, 0.0], [])],
            preferences=[],
            fallback=[],
        )
    assert matcher.would_offer([2.0, 2.0]) == [(7, 0)]


def test_special_errors_are_engine_errors_of_their_own_kind() -> None:
    """A client manager tells a full table and an undecided claim from bad input."""
    matcher = Matcher(dimensions=1, waiting_max=1)
    matcher.check_in(0, DEVICE, [1.0], 1.0, 5)
    with pytest.raises(engine.MatcherFull, match="1 clients wait"):
        matcher.check_in(0, OTHER, [1.0], 1.0, 5)
    matcher = a_matcher()
    matcher.check_in(0, DEVICE, [2.0, 0.0], 1.0, 0)
    assert matcher.accept(0, DEVICE, 7, 0)
    with pytest.raises(engine.DeviceClaiming, match=DEVICE):
        matcher.check_in(0, DEVICE, [2.0, 0.0], 1.0, 0)
    assert issubclass(engine.InvariantBroken, EngineError)
    assert issubclass(EngineError, ValueError)


@pytest.mark.parametrize("policy", engine.POLICIES)
def test_two_thousand_requirements_hide_no_job(policy: str) -> None:
    """A client that is eligible for the last of 2,000 jobs only is offered it, by every policy."""
    planner = Planner(policy=policy, dimensions=1, options={"partitions": 1})
    planner.add_manager(0)
    for job in range(2000):
        planner.put_job(job, job, [float(2000 - job)], job, 1, 1)
        planner.open_round(job, 0, demand=1, allocated=0, opened_ns=job)
    matcher = Matcher(dimensions=1)
    assert engine.apply_plan(matcher, 0, planner.plan(0), manager=0, seq=0)
    assert matcher.check_in(0, DEVICE, [1.0], 1.0, 0) == [(1999, 0)]
    assert matcher.check_in(0, OTHER, [0.5], 1.0, 0) == []
    assert matcher.counts()["open_rounds"] == 2000


def test_the_module_names_what_it_is() -> None:
    """Benchmarks refuse a debug build by this, and the CLI lists the policies."""
    assert engine.build_profile in {"release", "debug"}
    assert {"fifo", "random", "srsf", "irs", "venn"} <= set(engine.POLICIES)
    assert engine.__version__.count(".") == 2
    assert all(hasattr(engine, name) for name in engine.__all__)


def test_the_stub_is_what_the_compiled_module_has() -> None:
    """mypy's stubtest finds no difference between `_core.pyi` and the extension."""
    pytest.importorskip("mypy.stubtest")
    root = Path(engine.__file__).parent.parent
    command = [sys.executable, "-m", "mypy.stubtest", "propius._core"]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
