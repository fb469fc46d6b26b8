"""The report's tables as words, made once for the terminal and for the page.

Not here: how a terminal or a page shows them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from evaluation.report.document import Report
from evaluation.report.summary import JobSummary, PolicySummary, Spread
from evaluation.simulator.tables import duration, ratio

__all__ = ["TABLES", "Table", "headline", "notices"]


@dataclass(frozen=True)
class Table:
    """Words in rows. The first ``names`` columns are names, the others figures."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1


FINDING_SEEDS_MIN: Final = 5
"""With fewer, a difference is what one draw of jobs and clients happened to give."""


def headline(report: Report) -> str:
    """The one sentence to take home; empty where there is nothing to compare."""
    if not report.speed_ups:
        return ""
    label = max(report.speed_ups, key=lambda label: report.speed_ups[label].mean)
    best = report.speed_ups[label]
    if best.mean < 1:
        return f"No policy finishes its jobs sooner than {report.base}, on average."
    seeds = {each.label: each.seeds for each in report.policies}
    n = min(seeds[label], seeds[report.base])
    said = f"With {label} the average job is done {ratio(best)} as fast as with {report.base}"
    said += f" (n = {n} seed{'s' if n > 1 else ''})"
    if n < FINDING_SEEDS_MIN:
        return f"{said}: no finding yet, which takes at least {FINDING_SEEDS_MIN} seeds."
    doubt = best.half_width is not None and best.mean - best.half_width <= 1
    return said + (": too little to tell from chance; run more seeds." if doubt else ".")


def notices(report: Report) -> list[str]:
    """What a reader must know of before believing a figure."""
    found = []
    for run in report.runs:
        if run.state == "running":
            found.append(f"{run.name} is still going: figures are of what has ended so far.")
        elif run.state != "finished":
            found.append(f"{run.name} {run.state}")
    unfinished = [each for each in report.policies if each.finished < each.jobs]
    if unfinished and not report.going:
        names = ", ".join(f"{each.label} ({each.jobs - each.finished})" for each in unfinished)
        found.append(f"Not every job was finished: {names}. Completion times leave those out.")
    # By the run's own word: every live run has waits that are too short to set any pace.
    late = {each.label: each.events.get("training_set_the_pace", 0) for each in report.policies}
    if any(late.values()):
        names = ", ".join(
            f"{label} (attempts: {attempts})" for label, attempts in late.items() if attempts
        )
        found.append(f"Training, not the devices, set the pace at times: {names}.")
    diverged = [f"{each.label} ({each.diverged})" for each in report.policies if each.diverged]
    if diverged:
        found.append(f"Results of clients that diverged were dropped: {', '.join(diverged)}.")
    return found


def times(report: Report) -> Table:
    """How long jobs and their rounds take."""
    return Table(
        "Jobs and rounds",
        "Means over jobs, with the least and the greatest in brackets; of a job, over its "
        "completed rounds. Faster: ratio of the average completion times of the same jobs, seed by "
        "seed, with its 95 % interval where there are several seeds.",
        ["policy", "finished", "completion time", f"faster than {report.base}",
         "scheduling delay", "response time", "round, by demand", "in failed attempts"],
        [
            [
                each.label,
                f"{each.finished} of {each.jobs}",
                bounds(each.jct_s),
                _faster(report, each),
                bounds(each.scheduling_delay_s),
                bounds(each.response_time_s),
                duration(each.weighted_round_time_s),
                bounds(each.failed_s),
            ]
            for each in report.policies
        ],
    )  # fmt: skip


def utilisation(report: Report) -> Table:
    """What became of the devices' time, and of the slots."""
    return Table(
        "Devices and time-outs",
        "Utilisation: share of the time that a client was there in which it worked, mean over "
        "clients. Wasted: allocated slots of which no result went into a model. Dropped: tasks "
        "that a client did not bring to an end. Diverged: results without usable weights, which "
        "were dropped.",
        ["policy", "utilisation", "wasted", "dropped", "time-outs: scheduling", "response",
         "other failures", "diverged", "training waited"],
        [
            [
                each.label,
                percent(each.utilisation),
                _share(each.waste),
                _share(each.dropped),
                str(each.scheduling_timeouts),
                str(each.response_timeouts),
                str(each.other_failures),
                str(each.diverged),
                duration(each.training_wait_s),
            ]
            for each in report.policies
        ],
    )  # fmt: skip


def accuracy(report: Report) -> Table:
    """How good models become, and how soon."""
    found = report.reach
    aim = (
        "the best accuracy that the job reaches with every policy"
        if found.target is None
        else f"{found.target:.1%}"
    )
    return Table(
        "Accuracy",
        f"Target of a job: {aim}. Times are over the {found.compared} of {found.tested} jobs that "
        "reach it with every policy.",
        ["policy", "last accuracy", "target", "time to target", "reached"],
        [
            [
                each.label,
                percent(each.accuracy),
                percent(found.targets),
                bounds(found.times_s.get(each.label)),
                f"{found.reached.get(each.label, 0)} of {found.tested}",
            ]
            for each in report.policies
            if each.accuracy is not None
        ],
    )


def jobs(report: Report) -> Table:
    """Every job in every run."""
    return Table(
        "Job by job",
        "Delay and response are means over completed rounds, with bounds.",
        ["policy", "seed", "job", "profile", "state", "arrived", "completion time", "rounds",
         "attempts", "scheduling delay", "response time", "accuracy"],
        [
            _job_row(label, job) for label, its in report.jobs.items() for job in its
        ],
        names=5,
    )  # fmt: skip


def events(report: Report) -> Table:
    """What befell the runs."""
    return Table(
        "Events",
        "What befell the executor and the run: events.jsonl in the run folder has them whole.",
        ["policy", "event", "times"],
        [
            [each.label, kind.replace("_", " "), str(count)]
            for each in report.policies
            for kind, count in each.events.items()
        ],
        names=2,
    )


TABLES: Final[dict[str, Callable[[Report], Table]]] = {
    "times": times,
    "utilisation": utilisation,
    "accuracy": accuracy,
    "jobs": jobs,
    "events": events,
}


def bounds(spread: Spread | None) -> str:
    """A mean duration with its bounds.

    >>> bounds(Spread(60.0, 30.0, 150.0, 3))
    '60.0 s (30.0 s – 2.5 min)'
    """
    if spread is None:
        return "-"
    if spread.low == spread.high:
        return duration(spread.mean)
    return f"{duration(spread.mean)} ({duration(spread.low)} – {duration(spread.high)})"


def percent(spread: Spread | None) -> str:
    """A mean share with its bounds.

    >>> percent(Spread(0.5, 0.25, 0.75, 3))
    '50.0 % (25.0 – 75.0)'
    """
    if spread is None:
        return "-"
    if spread.low == spread.high:
        return f"{spread.mean * 100:.1f} %"
    return f"{spread.mean * 100:.1f} % ({spread.low * 100:.1f} – {spread.high * 100:.1f})"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.1f} %"


def _faster(report: Report, each: PolicySummary) -> str:
    if each.label == report.base:
        return "(base)"
    found = report.speed_ups.get(each.label)
    return ratio(found) if found else "-"


def _job_row(label: str, job: JobSummary) -> list[str]:
    return [
        label,
        str(job.seed),
        str(job.job),
        job.profile or "-",
        job.state,
        duration(job.arrived_s),
        duration(job.jct_s),
        str(job.rounds),
        str(job.attempts),
        bounds(job.scheduling_delay_s),
        bounds(job.response_time_s),
        _share(job.accuracy),
    ]
