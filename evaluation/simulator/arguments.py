"""What the commands of the simulator have in common: options, how they are read, and refusals.

Every reader raises an error of one line that names the option.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from evaluation.simulator.draws import DRAWS, LATENCIES
from evaluation.simulator.grid import Grid
from evaluation.simulator.grid import Progress as Told
from evaluation.simulator.workloads import SCALES, WORKLOADS, JobList, Scale
from propius.cli.failure import fail
from propius.engine import POLICIES, EngineError, SimulationStalled, Trace
from propius.errors import PropiusError

__all__ = ["check_out", "load_trace", "parse_draws", "parse_options", "parse_scale", "parse_seeds",
           "parse_semantics", "refusals", "rounds_bar", "stalled_s", "steps_bar",
           "wide_console"]  # fmt: skip

SEMANTICS: Final = ("propius", "venn-reference")
SEEDS_MAX: Final = 10_000
STALLED_DAYS: Final = 30.0
DAY_S: Final = 86_400.0
TABLE_WIDTH: Final = 170
"""Of a table that goes to a file or a pipe."""

TraceOption: TypeAlias = Annotated[
    Path,
    typer.Option(
        metavar="TRACE",
        help="Client trace: CSV or CSV.gz with the columns start, end, computation, "
        "communication, requirements. `propius trace generate` makes one.",
    ),
]
JobsOption: TypeAlias = Annotated[
    str, typer.Option(metavar="JOBS", help=f"A JSON job list, or one of: {', '.join(WORKLOADS)}.")
]
PolicyOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        help="A policy to run; may be given several times. One of: "
        f"{', '.join(POLICIES)}; or your own, as package.module:Class. Default: random, irs."
    ),
]
SeedsOption: TypeAlias = Annotated[str, typer.Option(help="Of the runs' draws: 1-5, or 1,4,7.")]
DrawOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KIND",
        help=f"What each seed draws, the same for all policies: {', '.join(DRAWS)}; may be given "
        "several times, or as jobs,arrivals. Latencies always are; by default nothing else.",
    ),
]
SemanticsOption: TypeAlias = Annotated[
    str,
    typer.Option(
        help="propius: the engine of the daemons. venn-reference: the rules of the paper's "
        "published simulator, for comparison only."
    ),
]
RepeatOption: TypeAlias = Annotated[
    int,
    typer.Option(
        min=0,
        max=100_000,
        help="Replay the trace so many times, end to end; 0: until every job has finished.",
    ),
]
TasksOption: TypeAlias = Annotated[
    int,
    typer.Option(
        min=0,
        max=1_000_000,
        help="How many tasks a device does each time that it is online (propius semantics); "
        "0: as many as it can. FL platforms spare their devices' owners: 1.",
    ),
]
StalledOption: TypeAlias = Annotated[
    float,
    typer.Option(
        min=0,
        max=100_000,
        help="Give up when jobs wait and no round of any has succeeded for so many virtual days; "
        "0: never.",
    ),
]
ScaleOption: TypeAlias = Annotated[
    str, typer.Option(help="Of a named workload: small (a tenth) or full (as published).")
]
NumberOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=NUMBER", help="An option of the policies: fairness=2, tiers=4."),
]
BaseOption: TypeAlias = Annotated[
    str, typer.Option(help="Compare with this policy. Default: random if it runs, else the first.")
]
OutOption: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the JSON to this file as well.")
]


@contextmanager
def refusals() -> Iterator[None]:
    """Say what was refused in one line, and end with exit code 1."""
    try:
        yield
    except SimulationStalled as error:
        fail(f"{error}: give them more devices or time (deadline_s), or raise --stalled-days")
    except (PropiusError, EngineError, OSError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted", code=130)


def load_trace(path: Path, jobs: JobList | None = None) -> Trace:
    """Read a trace, and see that it has a client for every job.

    Raises EngineError for a file that cannot be used, PropiusError for a job that nobody can serve.
    """
    trace = Trace.load_csv(str(path))
    if jobs is None:
        return trace
    met = trace.classes
    for place, job in zip(jobs.places, jobs, strict=True):
        if job.requirement not in met:
            have = ", ".join(map(str, met)) or "none"
            raise PropiusError(
                f"{place}: requirement {job.requirement}: no client of {path} meets it; "
                f"they meet {have}"
            )
    return trace


def parse_seeds(text: str) -> list[int]:
    """The seeds of "1-5" or "1,4,7".

    >>> parse_seeds("1-3,9")
    [1, 2, 3, 9]
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        try:
            span = range(int(first), int(last or first) + 1)
        except ValueError:
            raise PropiusError(f"--seeds {text}: write 1-5 or 1,4,7") from None
        if not span or len(span) > SEEDS_MAX:
            raise PropiusError(
                f"--seeds {text}: from the smaller to the larger, at most {SEEDS_MAX}"
            )
        seeds += span
    return list(dict.fromkeys(seeds))


def parse_draws(asked: list[str]) -> tuple[str, ...]:
    """What is drawn, in the order of DRAWS; latencies always are.

    >>> parse_draws(["days,jobs", "jobs"])
    ('latencies', 'jobs', 'days')
    """
    names = {name.strip() for text in asked for name in text.split(",")}
    if unknown := sorted(names - set(DRAWS)):
        raise PropiusError(f"--draw {unknown[0]}: one of {', '.join(DRAWS)}")
    return tuple(name for name in DRAWS if name in names | {LATENCIES})


def parse_options(pairs: list[str]) -> dict[str, float]:
    """The policy options of "name=number" pairs.

    >>> parse_options(["fairness=2"])
    {'fairness': 2.0}
    """
    options = {}
    for pair in pairs:
        name, _, number = pair.partition("=")
        try:
            options[name] = float(number)
        except ValueError:
            raise PropiusError(f"--option {pair}: write name=number, as fairness=2") from None
    return options


def parse_scale(text: str) -> Scale:
    """One of the scales; raises PropiusError."""
    if text not in SCALES:
        raise PropiusError(f"--scale {text}: one of {', '.join(SCALES)}")
    return text


def parse_semantics(text: str) -> str:
    """One of the semantics; raises PropiusError."""
    if text not in SEMANTICS:
        raise PropiusError(f"--semantics {text}: one of {', '.join(SEMANTICS)}")
    return text


def stalled_s(days: float) -> float | None:
    """The seconds of --stalled-days; None for 0."""
    return None if days == 0 else days * DAY_S


def check_out(path: Path | None) -> None:
    """Raise PropiusError if a file cannot be made there: before the runs, not after them."""
    if path is not None and not path.parent.is_dir():
        raise PropiusError(f"--out {path}: no such folder: {path.parent}")
    if path is not None and path.is_dir():
        raise PropiusError(f"--out {path}: is a folder")


@contextmanager
def rounds_bar(grid: Grid, *, quiet: bool) -> Iterator[Told]:
    """A progress bar over the rounds of all runs, on the terminal only."""
    done: dict[int, int] = {}
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=quiet or not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task("rounds", total=grid.rounds)

        def told(run: int, rounds: int) -> None:
            done[run] = rounds
            bar.update(task, completed=sum(done.values()))

        yield told


def wide_console() -> Console:
    """The terminal; or, into a file or a pipe, a page wide enough for the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=TABLE_WIDTH)


def steps_bar(*, quiet: bool) -> Progress:
    """A progress bar over whatever is added to it, on the terminal only."""
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=quiet or not sys.stderr.isatty())
