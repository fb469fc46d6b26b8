"""The figures of a run: for each job, and for each policy over its jobs, seeds and clients.

What counts, since the original's averages did not:

* a mean over rounds is over *completed* rounds, divided by how many there are;
* a failed attempt has no delay or response time of its own; the time that it took, as it was and
  not as its time-out says, is ``failed_s``;
* a mean over jobs is over those that have the figure, and says over how many.

Not here: curves over time (:mod:`evaluation.report.curves`), and how figures are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Self

from evaluation.results.reader import PolicyResults, RunReader
from evaluation.results.rows import ClientRow, JobRow, RoundRow, ScoreRow
from evaluation.simulator.results import Estimate, estimate

__all__ = ["JobSummary", "PolicySummary", "Spread", "Variant", "speed_ups", "summarize",
           "summarize_job", "variants"]  # fmt: skip

BASES = ("random", "random-per-client", "fifo")
"""The policies that others are compared with, the first of them that is there."""


@dataclass(frozen=True)
class Spread:
    """A mean with its bounds, the least and the greatest, over ``count`` values.

    >>> Spread.of([1.0, None, 3.0])
    Spread(mean=2.0, low=1.0, high=3.0, count=2)
    """

    mean: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Self | None:
        """Over those that are known; None if none is."""
        known = [value for value in values if value is not None]
        return cls(fmean(known), min(known), max(known), len(known)) if known else None


@dataclass(frozen=True)
class Variant:
    """One policy of one run with all of its seeds: a colour in the figures. Labels are unique."""

    label: str
    run: str
    policy: str
    results: list[PolicyResults]


@dataclass(frozen=True)
class JobSummary:
    """One job in one run. ``state``: ``running`` until it is over."""

    job: int
    profile: str
    seed: int
    state: str
    arrived_s: float
    jct_s: float | None
    rounds: int
    attempts: int
    scheduling_delay_s: Spread | None
    response_time_s: Spread | None
    round_time_s: Spread | None
    failed_s: float
    scheduling_timeouts: int
    response_timeouts: int
    other_failures: int
    diverged: int
    allocated: int
    used: int
    training_wait_s: float
    accuracy: float | None
    best_accuracy: float | None
    test_loss: float | None


@dataclass(frozen=True)
class PolicySummary:
    """One variant over its jobs, seeds and clients; spreads are over jobs.

    ``weighted_round_time_s``: mean over all rounds of all jobs, each weighted with its demand.
    ``utilisation``: over clients, share of the time that they were there in which they worked.
    ``waste``: share of the allocated slots of which no result went into a model.
    """

    label: str
    run: str
    policy: str
    seeds: int
    jobs: int
    finished: int
    jct_s: Spread | None
    scheduling_delay_s: Spread | None
    response_time_s: Spread | None
    round_time_s: Spread | None
    weighted_round_time_s: float | None
    failed_s: Spread | None
    scheduling_timeouts: int
    response_timeouts: int
    other_failures: int
    diverged: int
    utilisation: Spread | None
    waste: float | None
    dropped: float | None
    accuracy: Spread | None
    training_wait_s: float
    events: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def variants(runs: Sequence[RunReader]) -> list[Variant]:
    """What is compared: every policy of every run, named by its run where that is needed."""
    found: list[tuple[RunReader, str, list[PolicyResults]]] = []
    for run in runs:
        by_policy: dict[str, list[PolicyResults]] = {}
        for result in run.results():
            by_policy.setdefault(result.policy, []).append(result)
        found += [(run, policy, results) for policy, results in by_policy.items()]
    names = [policy for _, policy, _ in found]
    folders = [run.folder.resolve() for run in runs]
    by_name = len({folder.name for folder in folders}) == len(folders)
    made = []
    for run, policy, results in found:
        where = run.folder.resolve().name if by_name else str(run.folder)
        label = policy if names.count(policy) == 1 else f"{policy} ({where})"
        made.append(Variant(label, where, policy, results))
    return made


def summarize_job(
    job: int, seed: int, rounds: Sequence[RoundRow], scores: Sequence[ScoreRow], over: JobRow | None
) -> JobSummary:
    """One job from its attempts and scores; ``over`` is its row once it has one."""
    done = [row for row in rounds if row.state == "completed"]
    failed = [row for row in rounds if row.state != "completed"]
    times = [row.opened_s for row in rounds] + [row.time_s for row in scores]
    return JobSummary(
        job=job,
        profile=over.profile if over else "",
        seed=seed,
        state=over.state if over else "running",
        arrived_s=over.arrived_s if over else min(times, default=0.0),
        jct_s=over.jct_s if over else None,
        rounds=len(done),
        attempts=len(rounds),
        scheduling_delay_s=Spread.of(_delay(row) for row in done),
        response_time_s=Spread.of(_response(row) for row in done),
        round_time_s=Spread.of(row.ended_s - row.opened_s for row in done),
        failed_s=sum(row.ended_s - row.opened_s for row in failed),
        scheduling_timeouts=_count(failed, "timed_out_scheduling"),
        response_timeouts=_count(failed, "timed_out_response"),
        other_failures=_count(failed, "failed"),
        diverged=sum(row.diverged for row in done),
        allocated=sum(row.allocated for row in rounds),
        used=sum(row.completed - row.diverged for row in done),
        training_wait_s=sum(row.training_wait_s for row in rounds),
        accuracy=scores[-1].accuracy if scores else None,
        best_accuracy=max((row.accuracy for row in scores), default=None),
        test_loss=scores[-1].test_loss if scores else None,
    )


def summarize(variant: Variant) -> tuple[PolicySummary, list[JobSummary]]:
    """A variant's figures, and those of its jobs by seed and number."""
    jobs = [job for result in variant.results for job in _jobs(result)]
    rounds = [row for result in variant.results for row in result.rounds]
    clients = [row for result in variant.results for row in result.clients]
    allocated = sum(job.allocated for job in jobs)
    tasks = sum(row.tasks for row in clients)
    return PolicySummary(
        label=variant.label,
        run=variant.run,
        policy=variant.policy,
        seeds=len(variant.results),
        jobs=len(jobs),
        finished=sum(job.jct_s is not None for job in jobs),
        jct_s=Spread.of(job.jct_s for job in jobs),
        scheduling_delay_s=_over_jobs(job.scheduling_delay_s for job in jobs),
        response_time_s=_over_jobs(job.response_time_s for job in jobs),
        round_time_s=_over_jobs(job.round_time_s for job in jobs),
        weighted_round_time_s=_weighted(rounds),
        failed_s=Spread.of(job.failed_s for job in jobs),
        scheduling_timeouts=sum(job.scheduling_timeouts for job in jobs),
        response_timeouts=sum(job.response_timeouts for job in jobs),
        other_failures=sum(job.other_failures for job in jobs),
        diverged=sum(job.diverged for job in jobs),
        utilisation=Spread.of(map(_utilisation, clients)),
        waste=1 - sum(job.used for job in jobs) / allocated if allocated else None,
        dropped=sum(row.dropped + row.failed for row in clients) / tasks if tasks else None,
        accuracy=Spread.of(job.accuracy for job in jobs),
        training_wait_s=sum(job.training_wait_s for job in jobs),
        events=_events(variant.results),
    ), jobs


def speed_ups(compared: Sequence[Variant]) -> tuple[str, dict[str, Estimate]]:
    """Which variant is the base, and how many times faster the others' average JCT is.

    Seed by seed, over the jobs that are finished with both: the ratio says the same of the same
    jobs. A variant without such a job is left out.
    """
    base = min(compared, key=_base_rank)
    bases = {result.seed: _jcts(result) for result in base.results}
    found = {}
    for variant in compared:
        if variant is base:
            continue
        ratios = []
        for result in variant.results:
            mine, its = _jcts(result), bases.get(result.seed, {})
            if both := mine.keys() & its.keys():
                ratios.append(sum(its[job] for job in both) / sum(mine[job] for job in both))
        if ratios:
            found[variant.label] = estimate(ratios)
    return base.label, found


def _base_rank(variant: Variant) -> int:
    return BASES.index(variant.policy) if variant.policy in BASES else len(BASES)


def _jcts(result: PolicyResults) -> dict[int, float]:
    return {row.job: row.jct_s for row in result.jobs if row.jct_s is not None and row.jct_s > 0}


def _jobs(result: PolicyResults) -> list[JobSummary]:
    over = {row.job: row for row in result.jobs}
    rounds: dict[int, list[RoundRow]] = {}
    scores: dict[int, list[ScoreRow]] = {}
    for row in result.rounds:
        rounds.setdefault(row.job, []).append(row)
    for score in result.scores:
        scores.setdefault(score.job, []).append(score)
    return [
        summarize_job(job, result.seed, rounds.get(job, []), scores.get(job, []), over.get(job))
        for job in sorted({*over, *rounds, *scores})
    ]


def _over_jobs(spreads: Iterable[Spread | None]) -> Spread | None:
    return Spread.of(spread.mean if spread else None for spread in spreads)


def _delay(row: RoundRow) -> float | None:
    return None if row.filled_s is None else row.filled_s - row.opened_s


def _response(row: RoundRow) -> float | None:
    return None if row.filled_s is None else row.ended_s - row.filled_s


def _count(rows: Sequence[RoundRow], state: str) -> int:
    return sum(row.state == state for row in rows)


def _weighted(rounds: Sequence[RoundRow]) -> float | None:
    done = [row for row in rounds if row.state == "completed"]
    weight = sum(row.demand for row in done)
    if not weight:
        return None
    return sum((row.ended_s - row.opened_s) * row.demand for row in done) / weight


def _utilisation(client: ClientRow) -> float | None:
    return client.utilised_s / client.active_s if client.active_s > 0 else None


def _events(results: Sequence[PolicyResults]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for result in results:
        for event in result.events:
            kind = str(event.get("kind", "?"))
            counts[kind] = counts.get(kind, 0) + 1
    return dict(sorted(counts.items()))
