"""The demo's state as its parent sees it, and how a person watches it.

:class:`Scoreboard` takes progress lines and knows, per job, the round, the devices held, the
waiting time and the accuracy, and the series that the figure draws. :func:`live_table` shows it on
a terminal; :func:`plain_line` is one job's line where there is none. No process and no clock here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rich.table import Table

from evaluation.demo.jobs import DemoJob
from evaluation.demo.progress import Devices, JobDone, Progress, RoundDone, Watched

__all__ = ["JobScore", "Scoreboard", "live_table", "plain_line"]


@dataclass
class JobScore:
    """One job's present figures and its history."""

    plan: DemoJob
    watched: Watched | None = None
    rounds_done: int = 0
    accuracy: float = float("nan")
    done: JobDone | None = None
    accuracy_series: list[tuple[float, int, float, int]] = field(default_factory=list)
    """(t_s, round, accuracy, devices held) after each aggregation."""
    held_series: list[tuple[float, int]] = field(default_factory=list)
    """(t_s, devices held) at each change."""

    @property
    def held(self) -> int:
        """Devices that work for the job now."""
        return self.watched.held if self.watched is not None and self.done is None else 0

    @property
    def state(self) -> str:
        """What the job is doing, for people."""
        if self.done is not None:
            return "finished"
        return self.watched.state if self.watched is not None else "starting"


class Scoreboard:
    """All jobs by name, and the fleet."""

    def __init__(self, jobs: Iterable[DemoJob]) -> None:
        self.jobs = {job.name: JobScore(job) for job in jobs}
        self.devices: Devices | None = None

    def take(self, progress: Progress) -> None:
        """Take one progress line."""
        match progress:
            case Devices():
                self.devices = progress
            case Watched():
                score = self.jobs[progress.job]
                score.watched = progress
                score.held_series.append((progress.t_s, progress.held))
            case RoundDone():
                score = self.jobs[progress.job]
                score.rounds_done += 1
                score.accuracy = progress.accuracy
                point = (progress.t_s, progress.round, progress.accuracy, score.held)
                score.accuracy_series.append(point)
            case JobDone():
                score = self.jobs[progress.job]
                score.done = progress
                score.held_series.append((progress.t_s, 0))

    @property
    def started_s(self) -> float:
        """When the first job's first round was opened; 0 if none was."""
        firsts = (score.held_series[0][0] for score in self.jobs.values() if score.held_series)
        return min(firsts, default=0.0)

    @property
    def finished(self) -> bool:
        """Whether every job is done."""
        return all(score.done is not None for score in self.jobs.values())


def live_table(board: Scoreboard, *, title: str) -> Table:
    """The scoreboard as a table that is drawn anew several times a second."""
    table = Table(title=title, title_justify="left", caption=_fleet_line(board))
    table.add_column("job")
    table.add_column("round", justify="right")
    table.add_column("progress", width=20)
    table.add_column("state")
    table.add_column("devices held", justify="right")
    table.add_column("waiting", justify="right")
    table.add_column("accuracy", justify="right")
    for name, score in board.jobs.items():
        table.add_row(name, *_cells(score))
    return table


def plain_line(board: Scoreboard, *, t_s: float) -> str:
    """The scoreboard in one line, for a log."""
    jobs = "; ".join(
        f"{name} {score.rounds_done}/{score.plan.rounds} {score.state}"
        f" held {score.held}"
        f" waiting {_waiting(score)} accuracy {_accuracy(score)}"
        for name, score in board.jobs.items()
    )
    return f"{t_s:5.1f} s  {jobs}; {_fleet_line(board)}"


def _cells(score: JobScore) -> tuple[str, ...]:
    share = score.rounds_done / score.plan.rounds
    full = round(20 * share)
    return (
        f"{score.rounds_done}/{score.plan.rounds}",
        f"[green]{'█' * full}[/][dim]{'░' * (20 - full)}[/]",
        score.state,
        f"{score.held}/{score.plan.demand}" if not score.done else "-",
        _waiting(score),
        _accuracy(score),
    )


def _waiting(score: JobScore) -> str:
    if score.done or score.watched is None:
        return "-"
    return f"{score.watched.waiting_s:.1f} s"


def _accuracy(score: JobScore) -> str:
    return f"{score.accuracy:.3f}" if score.rounds_done else "-"


def _fleet_line(board: Scoreboard) -> str:
    fleet = board.devices
    if fleet is None:
        return "devices: starting"
    return (
        f"devices: {fleet.online} online, {fleet.working} at work; tasks: {fleet.completed} "
        f"completed, {fleet.failed} failed, {fleet.vanished} vanished"
    )
