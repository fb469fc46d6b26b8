"""Nobody starves with ε > 0: one large job against a stream of small ones that takes every device.

The rule itself is worked by hand in `rust_core/tests/policies.rs`.
"""

from __future__ import annotations

from array import array
from typing import Any, Final

import pytest

from propius.engine import Trace, simulate

STREAM_S: Final = 60_000
ARRIVAL_S: Final = 10
SMALL: Final = 3
LARGE: Final = 20


@pytest.fixture(scope="module")
def fleet() -> Trace:
    """A device every 10 s, each stays for 10 minutes and meets the classes 1 and 2."""
    starts = [float(s) for s in range(0, STREAM_S + 4_000, ARRIVAL_S)]
    return Trace.from_columns(
        array("d", starts),
        array("d", [start + 600 for start in starts]),
        array("d", [40] * len(starts)),
        array("d", [14_000] * len(starts)),
        array("H", [0b110] * len(starts)),
    )


def large_job_s(fleet: Trace, policy: str, fairness: float, strict: int) -> float:
    """The completion time of the large job, which wants class `strict`."""
    job = {"rounds": 1, "deadline_s": 1e6}
    large = job | {"start_s": 100, "participants": LARGE, "requirement": strict}
    # Every 30 s three devices come, and a job that wants three: there is never one to spare.
    stream = [
        job | {"start_s": start, "participants": SMALL, "requirement": 1}
        for start in range(0, STREAM_S, SMALL * ARRIVAL_S)
    ]
    options = {"fairness": fairness} if fairness else {}
    run: dict[str, Any] = simulate(
        fleet, [large, *stream], policy=policy, policy_options=options, repeat=1
    )
    assert run["finished"] == len(stream) + 1
    jct_s: float = run["per_job"][0]["jct_s"]
    return jct_s


@pytest.mark.parametrize("strict", [1, 2])
@pytest.mark.parametrize("policy", ["srsf", "irs", "venn"])
def test_without_fairness_the_large_job_waits_until_the_stream_ends(
    fleet: Trace, policy: str, strict: int
) -> None:
    """In the small jobs' group, or in one of its own that owns no device."""
    assert large_job_s(fleet, policy, 0, strict) > STREAM_S - 100


@pytest.mark.parametrize("strict", [1, 2])
@pytest.mark.parametrize("policy", ["irs", "venn"])
def test_with_any_fairness_it_is_served_and_with_more_the_sooner(
    fleet: Trace, policy: str, strict: int
) -> None:
    """ε of ½, 1, 2 and 4: in less than half the stream, a tenth, a thirtieth, a fiftieth."""
    waits_s = [large_job_s(fleet, policy, fairness, strict) for fairness in (0.5, 1, 2, 4)]
    assert waits_s == sorted(waits_s, reverse=True)
    for wait_s, share in zip(waits_s, (2, 10, 30, 50), strict=True):
        assert wait_s < STREAM_S / share


def test_alone_one_waits_for_as_many_devices_as_one_wants(fleet: Trace) -> None:
    """What the large job would need at least: 20 devices, one every 10 s."""
    job = {"start_s": 100, "participants": LARGE, "rounds": 1, "deadline_s": 1e6, "requirement": 1}
    [alone] = simulate(fleet, [job], policy="irs", repeat=1)["per_job"]
    assert alone["jct_s"] < LARGE * ARRIVAL_S + 60
