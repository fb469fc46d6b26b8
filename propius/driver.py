"""The engine, driven by events: how a daemon's inputs become calls, and decisions become events.

The daemons and the replay of their logs go the same way to the engine:

* `matcher_of` and `planner_of` make a matcher and a planner from the event that opens a log;
* `apply_plan` is how a plan off the wire reaches a matcher, `JobFeed` how the states of jobs reach
  a planner, `plan_made` how a plan is written down.

The drivers take the inputs alone. `MatcherDriver` does what a client manager does with its matcher,
`PlannerDriver` what the scheduler does with its planner; each answers an input with the decisions
on it, as the events that the daemon would log. ``propius replay`` compares them with those in the
log (``evaluation/replay.py``), and what-if gives the planner another policy.

When it is time to look at the clock, to match those who wait, or to make a plan, is an input: the
events `TimeLooked`, `WaitingMatched`, `PlanMade` and `PlanFailed` stand where the daemon did so.

>>> started = PlannerStarted(policy="fifo", options={}, dimensions=1, seed=0,
...                          supply_window_ns=1, supply_samples_max=1)
>>> PlannerDriver(started).plan(5).version
1
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec.structs import astuple

from propius import engine, messages
from propius.core import SECOND_NS
from propius.engine import EngineError, PolicyError
from propius.messages import (
    CheckedIn,
    ClaimAnswered,
    Claimed,
    ClientForgotten,
    Declined,
    ErrorCode,
    JobsReceived,
    JobState,
    LookedUp,
    ManagerJoined,
    ManagerLeft,
    MatcherStarted,
    Message,
    Offered,
    PlanApplied,
    PlanFailed,
    PlanMade,
    PlannerStarted,
    SchedulerMet,
    SupplyReceived,
    TimeLooked,
    WaitingMatched,
)

HOLD_OVER: Final = "hold timed out"
OFFER_OVER: Final = "offer timed out"
TIMED_OUT: Final = frozenset({HOLD_OVER, OFFER_OVER})
"""The reasons of `ClientForgotten` that are the matcher's finding; all others are an input."""
WHY_MAX: Final = 1_000  # characters of an error in an event


def matcher_of(started: MatcherStarted) -> engine.Matcher:
    """A new matcher with these settings. Raises EngineError."""
    return engine.Matcher(
        dimensions=started.dimensions,
        tasks_per_offer_max=started.tasks_per_offer_max,
        offer_timeout_ns=started.offer_timeout_ns,
        waiting_max=started.waiting_max,
        declined_max=started.declined_max,
        supply_bucket_ns=started.supply_bucket_ns,
        supply_sample_max=started.supply_sample_max,
        seed=started.seed,
    )


def planner_of(started: PlannerStarted) -> engine.Planner:
    """A new planner with these settings. Raises EngineError, say if the policy is unknown."""
    return engine.Planner(
        policy=started.policy,
        dimensions=started.dimensions,
        seed=started.seed,
        supply_window_ns=started.supply_window_ns,
        supply_samples_max=started.supply_samples_max,
        options=dict(started.options),
    )


def apply_plan(matcher: engine.Matcher, now_ns: int, plan: messages.Plan) -> bool:
    """Give a plan off the wire to a matcher; False: it has a newer one. Raises EngineError."""
    groups = [
        (
            group.requirement_id,
            group.requirement,
            [(r.job, r.round, r.rank, r.quota, r.tier, r.part) for r in group.rounds],
        )
        for group in plan.groups
    ]
    return matcher.apply_plan(
        now_ns,
        version=plan.version,
        seq=plan.seq,
        ranked=plan.ranked,
        groups=groups,
        preferences=plan.preferences,
        fallback=plan.fallback,
        shuffle=plan.shuffle,
        partitions=plan.partitions,
    )


class JobFeed:
    """The states of jobs on their way to a planner, which has to be told what changed."""

    def __init__(self, planner: engine.Planner) -> None:
        self.open: dict[int, int] = {}  # job → its open round
        self._planner = planner

    def reset(self) -> None:
        """Forget all jobs: a snapshot follows."""
        self._planner.reset()
        self.open = {}

    def put(self, state: JobState) -> None:
        """A job is like this now. Raises EngineError, and forgets a job that does not fit."""
        try:
            self._planner.put_job(
                state.job,
                state.requirement_id,
                state.requirement,
                state.registered_ns,
                state.demand_estimate,
                state.rounds_estimate,
            )
            self._planner.set_history(state.job, *astuple(state.history))
            self._put_round(state)
        except EngineError:
            self.remove(state.job)
            raise

    def remove(self, job: int) -> None:
        """A job is gone."""
        self.open.pop(job, None)
        self._planner.remove_job(job)

    def _put_round(self, state: JobState) -> None:
        job, before = state.job, self.open.pop(state.job, None)
        if state.round >= 0:
            self._planner.open_round(
                job, state.round, state.demand, state.allocated, state.opened_ns
            )
            self.open[job] = state.round
        elif before is not None:
            self._planner.close_round(job, before)


def plan_made(plan: engine.Plan, seq: int, policy: str) -> PlanMade:
    """A plan as the log has it; ``seq`` is the last job event that its planner had seen."""
    return PlanMade(
        version=plan.version,
        seq=seq,
        policy=policy,
        ranked=plan.ranked,
        groups=[(requirement_id, rounds) for requirement_id, _, rounds in plan.groups],
        preferences=plan.preferences,
        fallback=plan.fallback,
        shuffle=plan.shuffle,
        partitions=plan.partitions,
        quotas=[(manager, plan.quotas(manager)) for manager in plan.managers],
    )


def plan_failed(error: PolicyError) -> PlanFailed:
    """A policy's error as the log has it."""
    return PlanFailed(why=str(error)[:WHY_MAX])


def claim_refused(matcher: engine.Matcher, now_ns: int, answer: ClaimAnswered) -> None:
    """The claim got no slot; a round that the device served is not offered to it again."""
    if answer.error == ErrorCode.ALREADY_SERVED:
        matcher.decline(now_ns, answer.device_id, [(answer.job, answer.round)])
    matcher.refused(now_ns, answer.device_id)


class MatcherDriver:
    """A client manager's matcher, fed from its log."""

    def __init__(self, started: MatcherStarted) -> None:
        self.matcher = matcher_of(started)
        self.plan_version = 0

    def take(self, now_ns: int, event: Message) -> list[Message]:
        """Put one input in; the decisions that it led to. Raises EngineError on a plan that the
        matcher does not take; a client manager logs those only that it took.

        What only says what was decided (offers, those whose time is over) does nothing.
        """
        matcher = self.matcher
        match event:
            case SchedulerMet():
                self.plan_version = 0
                matcher.expect_new_versions()
            case PlanApplied():
                if not apply_plan(matcher, now_ns, event.plan):
                    raise EngineError(f"plan {event.plan.version} is older than the last one")
                self.plan_version = event.plan.version
            case CheckedIn():
                return self._check_in(now_ns, event)
            case Claimed() | LookedUp():
                return [self._accept(now_ns, event)]
            case ClaimAnswered(error=""):
                matcher.assigned(now_ns, event.device_id, event.seq)
            case ClaimAnswered():
                claim_refused(matcher, now_ns, event)
            case Declined():
                matcher.decline(now_ns, event.device_id, event.rounds)
            case ClientForgotten() if event.reason not in TIMED_OUT:
                matcher.forget(now_ns, event.device_id)
            case TimeLooked():
                return self._look(now_ns)
            case WaitingMatched():
                return [self._offered(*offer) for offer in matcher.match_waiting(now_ns)]
        return []

    def _check_in(self, now_ns: int, event: CheckedIn) -> list[Message]:
        hold_until_ns = now_ns + int(event.hold_s * SECOND_NS)
        try:
            rounds = self.matcher.check_in(
                now_ns, event.device_id, event.spec, event.option, hold_until_ns
            )
        except EngineError:  # too many wait, or a claim is undecided: the device heard `busy`
            return []
        return [self._offered(event.device_id, rounds)] if rounds else []

    def _accept(self, now_ns: int, event: Claimed | LookedUp) -> Message:
        device, job, number = event.device_id, event.job, event.round
        if self.matcher.accept(now_ns, device, job, number):
            return Claimed(device_id=device, job=job, round=number)
        return LookedUp(device_id=device, job=job, round=number)

    def _look(self, now_ns: int) -> list[Message]:
        held, offered = self.matcher.expire(now_ns)
        self.matcher.take_supply(now_ns)
        reasons = [*((device, HOLD_OVER) for device in held), *((d, OFFER_OVER) for d in offered)]
        return [ClientForgotten(device_id=device, reason=reason) for device, reason in reasons]

    def _offered(self, device: str, rounds: list[tuple[int, int]]) -> Message:
        return Offered(device_id=device, plan_version=self.plan_version, rounds=rounds)


class PlannerDriver:
    """The scheduler's planner, fed from its log; with another policy, seed or options: what if."""

    def __init__(
        self,
        started: PlannerStarted,
        *,
        policy: str | None = None,
        options: Mapping[str, float] | None = None,
        seed: int | None = None,
    ) -> None:
        """``options`` replace those of the same names. Raises EngineError if there is no such."""
        self.policy = started.policy if policy is None else policy
        self.planner = planner_of(
            PlannerStarted(
                policy=self.policy,
                options={**started.options, **(options or {})},
                dimensions=started.dimensions,
                seed=started.seed if seed is None else seed,
                supply_window_ns=started.supply_window_ns,
                supply_samples_max=started.supply_samples_max,
            )
        )
        self._jobs = JobFeed(self.planner)
        self._seq = -1

    def take(self, now_ns: int, event: Message) -> list[Message]:
        """Put one input in; the decisions that it led to (a plan, or that there was none)."""
        match event:
            case ManagerJoined():
                self.planner.add_manager(event.manager)
            case ManagerLeft():
                self.planner.remove_manager(event.manager)
            case JobsReceived():
                self._take_jobs(event)
            case SupplyReceived():
                for bucket in event.buckets:
                    self.planner.add_supply(event.manager, *astuple(bucket))
            case PlanMade() | PlanFailed():
                return [self.plan(now_ns)]
        return []

    def plan(self, now_ns: int) -> PlanMade | PlanFailed:
        """The plan that is made now."""
        try:
            return plan_made(self.planner.plan(now_ns), self._seq, self.policy)
        except PolicyError as error:
            return plan_failed(error)

    def _take_jobs(self, event: JobsReceived) -> None:
        if event.whole:
            self._jobs.reset()
        for job in event.removed:
            self._jobs.remove(job)
        for state in event.changed:
            try:
                self._jobs.put(state)
            except EngineError:  # the scheduler left this job out, too, and complained
                continue
        self._seq = event.seq
