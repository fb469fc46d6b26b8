"""The engine: which device serves which job. The only module that imports the compiled core.

Here are the classes of the core, its errors and the shapes of what crosses the border.

* `Matcher` belongs to a client manager. A device checks in and is offered rounds at once, or waits
  (`check_in`, `match_waiting`); it accepts, and the claim is granted or refused (`accept`,
  `assigned`, `refused`), or it declines, goes away or lets the time pass (`decline`, `forget`,
  `expire`). `take_supply` gives what the scheduler wants to know about who checked in.
* `Planner` belongs to the scheduler. It is told of jobs, rounds, managers and supply, and makes
  plans (`plan`) by one of `POLICIES`.
* `Plan` is the same for every manager but for the quotas: `groups_for(plan, manager)`.
* `simulate(trace, jobs, policy=…)` runs a matcher and a planner on a `Trace` of clients in virtual
  time, or the published reference simulator's rules (`semantics="venn-reference"`, with
  `REFERENCE_POLICIES` and single rules switched to ours by `rules`, names of `REFERENCE_RULES`).
  It holds no lock of the interpreter while it runs. `progress(rounds_done)` is called now and then;
  on False the run ends with `SimulationStopped`.
* `PlayedRounds` is what such a run keeps of one job, its rounds, played by hand by tests.

All of them are deterministic: times (nanoseconds of the system-wide monotonic clock) and seeds are
arguments, and there is no I/O. Devices are 32 lower-case hexadecimal digits. A call that raises has
changed nothing, but `MatcherFull` comes after the check-in was counted as supply, and so does
`DeviceClaiming`.

    EngineError(ValueError)     wrong length, NaN, negative, unknown job or policy …: one line
    ├── MatcherFull             waiting_max clients wait already
    ├── DeviceClaiming          the device's last claim is not decided yet
    ├── TraceError              a trace is wrong: file and line
    ├── JobsError               a job list is wrong: the number of the job
    ├── SimulationStalled       no round has succeeded for ``stalled_s``
    ├── SimulationStopped       the caller's `progress` said False
    ├── PolicyError             the policy failed; live, the last plan stays
    └── InvariantBroken         a bug, found by Matcher.check()

Not here: slots and leases (the job manager), and messages. Read next: `rust_core/src/lib.rs`.

>>> matcher = Matcher(dimensions=1)
>>> matcher.check_in(0, "00" * 16, [4.0], 1.0, hold_until_ns=5)  # nothing is open: it waits
[]
>>> planner = Planner(policy="fifo", dimensions=1)
>>> planner.add_manager(0)
>>> planner.put_job(7, 0, [2.0], registered_ns=0, demand_estimate=1, rounds_estimate=1)
>>> planner.open_round(7, 0, demand=1, allocated=0, opened_ns=0)
>>> plan = planner.plan(1)
>>> apply_plan(matcher, 1, plan, manager=0, seq=1)
True
>>> matcher.match_waiting(1)
[('00000000000000000000000000000000', [(7, 0)])]
"""

from __future__ import annotations

from typing import TypeAlias

try:
    from propius._core import (
        POLICIES,
        POLICY_OPTIONS,
        REFERENCE_POLICIES,
        REFERENCE_RULES,
        DeviceClaiming,
        EngineError,
        InvariantBroken,
        JobsError,
        Matcher,
        MatcherFull,
        Plan,
        Planner,
        PlayedRounds,
        PolicyError,
        SimulationStalled,
        SimulationStopped,
        Trace,
        TraceError,
        __version__,
        build_profile,
        simulate,
        task_failure,
    )
except ModuleNotFoundError as missing:
    raise ImportError(
        "propius._core is not built for this Python: run `make setup`, or `pip install .` with Rust"
    ) from missing

__all__ = [
    "POLICIES",
    "POLICY_OPTIONS",
    "REFERENCE_POLICIES",
    "REFERENCE_RULES",
    "DeviceClaiming",
    "EngineError",
    "InvariantBroken",
    "JobsError",
    "Matcher",
    "MatcherFull",
    "Plan",
    "PlanGroup",
    "PlanRound",
    "Planner",
    "PlayedRounds",
    "PolicyError",
    "SimulationStalled",
    "SimulationStopped",
    "SupplyBucket",
    "Task",
    "Tier",
    "Trace",
    "TraceError",
    "__version__",
    "apply_plan",
    "build_profile",
    "groups_for",
    "simulate",
    "task_failure",
]

Task: TypeAlias = tuple[int, int]
"""(job, round): what an offer lists."""

Tier: TypeAlias = tuple[float, float | None]
"""(min, max): the devices with ``min <= option < max``; None = no bound."""

PlanRound: TypeAlias = tuple[int, int, int, int, Tier | None, int]
"""(job, round, rank, quota, tier, part) where a matcher applies it; a `Plan` has `remaining` in the
place of the quota."""

PlanGroup: TypeAlias = tuple[int, list[float], list[PlanRound]]
"""(requirement id, its vector, its rounds in the order in which they are served)."""

SupplyBucket: TypeAlias = tuple[int, int, list[float], list[float]]
"""(start in ns, distinct devices, specs of a sample one after the other, options of the sample)."""


def groups_for(plan: Plan, manager: int) -> list[PlanGroup]:
    """The groups of a plan with this manager's quotas, as `Matcher.apply_plan` takes them.

    Raises `EngineError` if the plan knows no such manager.
    """
    quotas = iter(plan.quotas(manager))
    return [
        (
            requirement_id,
            vector,
            [
                (job, number, rank, next(quotas), tier, part)
                for job, number, rank, _, tier, part in rounds
            ],
        )
        for requirement_id, vector, rounds in plan.groups
    ]


def apply_plan(matcher: Matcher, now_ns: int, plan: Plan, *, manager: int, seq: int) -> bool:
    """Applies a plan that need not cross a wire, as simulations and tests do.

    `seq` is the job manager's last sequence number that the planner had seen. False: the matcher
    has a newer plan.
    """
    return matcher.apply_plan(
        now_ns,
        version=plan.version,
        seq=seq,
        ranked=plan.ranked,
        groups=groups_for(plan, manager),
        preferences=plan.preferences,
        fallback=plan.fallback,
        shuffle=plan.shuffle,
        partitions=plan.partitions,
    )
