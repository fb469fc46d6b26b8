"""The Rust engine alone, called from Python: check-in to offer, matching those who wait, a plan.

What a client manager or scheduler pays per call with the border crossed; the same without Python is
`cargo bench`. Each benchmark asserts that the work was done. A debug build is refused.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from propius import engine
from propius.engine import Matcher, Planner

DIMENSIONS = 4
S = 1_000_000_000


@pytest.fixture(autouse=True)
def _release_build() -> None:
    """A figure of a debug build would be read as one of the engine."""
    if engine.build_profile != "release":
        pytest.fail("propius._core is a debug build: run `make setup`")


def a_matcher(open_rounds: int, waiting_max: int = 1_000_000) -> Matcher:
    """A matcher whose plan has this many rounds, in up to 100 groups, with room for all."""
    matcher = Matcher(dimensions=DIMENSIONS, waiting_max=waiting_max)
    groups: list[engine.PlanGroup] = [
        (
            group,
            [float(group % 10), float(group // 10), 0.0, 0.0],
            [(job, 0, job, 2**32 - 1, None, 0) for job in range(group, open_rounds, 100)],
        )
        for group in range(min(open_rounds, 100))
    ]
    matcher.apply_plan(0, version=1, seq=0, ranked=True, groups=groups, preferences=[], fallback=[])
    return matcher


def devices() -> itertools.cycle[tuple[str, list[float]]]:
    """Ten thousand devices of 144 kinds, over and over."""
    return itertools.cycle(
        [(f"{i:032x}", [float(i % 12), float(i // 12 % 12), 1.0, 1.0]) for i in range(10_000)]
    )


@pytest.mark.parametrize("open_rounds", [1, 100, 1000])
def test_check_in_to_offer(benchmark: Any, open_rounds: int) -> None:
    """A device checks in and is offered something; the device's earlier offer is replaced."""
    matcher, stream = a_matcher(open_rounds), devices()

    def check_in() -> list[tuple[int, int]]:
        device, spec = next(stream)
        return matcher.check_in(0, device, spec, 1.0, 0)

    assert benchmark(check_in)
    assert matcher.counts()["offered"] > 0
    matcher.check()


@pytest.mark.parametrize("waiting", [0, 100_000])
def test_check_in_and_wait(benchmark: Any, waiting: int) -> None:
    """Nothing is open: the device joins those who wait; their number should not matter."""
    matcher = a_matcher(0)
    numbers = itertools.count()

    def check_in() -> None:
        matcher.check_in(0, f"{next(numbers):032x}", [1.0] * DIMENSIONS, 1.0, S)

    for _ in range(waiting):
        check_in()
    benchmark.pedantic(check_in, rounds=20_000)
    assert matcher.counts()["waiting"] == waiting + 20_000


def test_match_a_thousand_of_a_hundred_thousand(benchmark: Any) -> None:
    """A new round of 1,000 meets 100,000 clients who wait."""

    def a_full_room() -> tuple[tuple[Matcher], dict[str, Any]]:
        matcher = a_matcher(0)
        for device in range(100_000):
            matcher.check_in(0, f"{device:032x}", [1.0] * DIMENSIONS, 1.0, S)
        groups: list[engine.PlanGroup] = [(0, [0.0] * DIMENSIONS, [(1, 0, 0, 1000, None, 0)])]
        matcher.apply_plan(
            0, version=2, seq=0, ranked=True, groups=groups, preferences=[], fallback=[]
        )
        return (matcher,), {}

    def match(matcher: Matcher) -> int:
        return len(matcher.match_waiting(0))

    assert benchmark.pedantic(match, setup=a_full_room, rounds=3) == 1000


@pytest.mark.parametrize("policy", engine.POLICIES)
def test_plan(benchmark: Any, policy: str) -> None:
    """A plan for 1,000 rounds in 100 groups from 1,000 signatures, and the quotas of 4 managers."""
    planner = Planner(policy=policy, dimensions=DIMENSIONS)
    for job in range(1000):
        group = job % 100
        requirement = [0.0] * DIMENSIONS
        requirement[group % DIMENSIONS] = float(1 + group // 4)
        planner.put_job(job, group, requirement, job, 100, 100)
        planner.open_round(job, 0, 10 + job % 90, 0, 0)
    specs = [float(i // 6**place % 6 * 5) for i in range(1000) for place in range(DIMENSIONS)]
    for manager in range(4):
        planner.add_manager(manager)
        planner.add_supply(manager, 0, 4000, specs, [1.0] * 1000)
    plan = benchmark(planner.plan, 0)
    assert planner.counts()["specs"] == 1000
    assert all(len(plan.quotas(manager)) == 1000 for manager in range(4))
    assert sum(len(rounds) for _, _, rounds in plan.groups) == 1000
