"""``propius simulate``: policies compared on a trace of devices, in virtual time."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from evaluation.simulator.grid import TASKS_PER_SESSION, Grid, run_grid
from evaluation.simulator.grid import Progress as Told
from evaluation.simulator.results import summarize
from evaluation.simulator.tables import as_json, comparison_table
from evaluation.simulator.workloads import SCALES, WORKLOADS, SimulatedJob, load_jobs
from propius.engine import POLICIES, EngineError, Trace
from propius.errors import PropiusError

__all__ = ["app", "load_trace", "parse_options", "parse_seeds", "rounds_bar", "simulate"]

SEMANTICS = ("propius", "venn-reference")
SEEDS_MAX = 10_000
TABLE_WIDTH = 150
"""Of a table that goes to a file or a pipe."""

app = typer.Typer(add_completion=False)


@app.command()
def simulate(
    clients: Annotated[
        Path,
        typer.Option(
            metavar="TRACE",
            help="Client trace: CSV or CSV.gz with the columns start, end, computation, "
            "communication, requirements. `propius trace generate` makes one.",
        ),
    ],
    jobs: Annotated[
        str,
        typer.Option(metavar="JOBS", help=f"A JSON job list, or one of: {', '.join(WORKLOADS)}."),
    ] = "even",
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="A policy to run; may be given several times. One of: "
            f"{', '.join(POLICIES)}; or your own, as package.module:Class. Default: random, irs."
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of the runs' draws: 1-5, or 1,4,7.")] = "1",
    semantics: Annotated[
        str,
        typer.Option(
            help="propius: the engine of the daemons. venn-reference: the rules of the paper's "
            "published simulator, for comparison only."
        ),
    ] = "propius",
    repeat: Annotated[
        int,
        typer.Option(
            min=0,
            max=100_000,
            help="Replay the trace so many times, end to end; 0: until every job has finished.",
        ),
    ] = 0,
    tasks_per_session: Annotated[
        int,
        typer.Option(
            min=0,
            max=1_000_000,
            help="How many tasks a device does each time that it is online (propius semantics); "
            "0: as many as it can. FL platforms spare their devices' owners: 1.",
        ),
    ] = TASKS_PER_SESSION,
    scale: Annotated[
        str, typer.Option(help="Of a named workload: small (a tenth) or full (as published).")
    ] = "small",
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help="An option of the policies: fairness=2, tiers=4."),
    ] = None,
    base: Annotated[
        str,
        typer.Option(help="Compare with this policy. Default: random if it runs, else the first."),
    ] = "",
    as_json_: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the JSON to this file as well.")
    ] = None,
) -> None:
    """Compare scheduling policies on a trace of devices, in virtual time.

    Every policy runs with every seed; a seed changes the draws of a run (latencies, a policy's own
    draws), never the trace or the jobs. The same seed gives the same figures, on any machine.

    Example: propius trace generate --preset small --out clients.csv.gz
    then:    propius simulate --clients clients.csv.gz --jobs even --policy random --policy irs
             --seeds 1-5
    """
    with refusals():
        policies = list(dict.fromkeys(policy or ["random", "irs"]))
        chosen = base or ("random" if "random" in policies else policies[0])
        if chosen not in policies:
            raise PropiusError(f"--base {chosen}: not among the policies that run: {policies}")
        grid = Grid(
            jobs=load_jobs(jobs, parse_scale(scale)),  # type: ignore[arg-type]
            policies=policies,
            seeds=parse_seeds(seeds),
            semantics=parse_semantics(semantics),
            repeat=repeat or None,
            policy_options=parse_options(option or []),
            tasks_per_session=tasks_per_session,
        )
        trace = load_trace(clients, grid.jobs)
        with rounds_bar(grid, quiet=as_json_) as told:
            runs = run_grid(trace, grid, progress=told)
        summaries = summarize(runs, chosen)
        document = json.dumps(as_json(runs, summaries, grid, chosen), indent=1)
        if out is not None:
            draft = out.with_name(out.name + ".part")
            draft.write_text(document + "\n")
            draft.replace(out)
    if as_json_:
        typer.echo(document)
        return
    title = f"{jobs} on {clients.name}, {len(grid.seeds)} seeds, {semantics} semantics"
    console = Console()
    console = console if console.is_terminal else Console(width=TABLE_WIDTH)
    console.print(comparison_table(summaries, chosen, title))
    if any(summary.finished < summary.jobs for summary in summaries):
        console.print(
            "Not every job finished before the trace ended: averages are over those that did. "
            "Raise --repeat."
        )


# --- what the other commands of the simulator share ---------------------------------------------


@contextmanager
def refusals() -> Iterator[None]:
    """Say what was refused in one line, and end with exit code 1."""
    try:
        yield
    except (PropiusError, EngineError, OSError) as error:
        _refuse(str(error))
    except KeyboardInterrupt:
        _refuse("interrupted", code=130)


def _refuse(why: str, code: int = 1) -> NoReturn:
    print(f"propius: {why}", file=sys.stderr)
    raise typer.Exit(code)


def load_trace(path: Path, jobs: Sequence[SimulatedJob] = ()) -> Trace:
    """Read a trace, and see that it has a client for every job.

    Raises EngineError for a file that cannot be used, PropiusError for a job that nobody can serve.
    """
    trace = Trace.load_csv(str(path))
    for number, job in enumerate(jobs, 1):
        if job.requirement not in trace.classes:
            have = ", ".join(map(str, trace.classes)) or "none"
            raise PropiusError(
                f"job {number}: requirement {job.requirement}: no client of {path} meets it; "
                f"its clients meet {have}"
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


def parse_scale(text: str) -> str:
    """One of the scales; raises PropiusError."""
    if text not in SCALES:
        raise PropiusError(f"--scale {text}: one of {', '.join(SCALES)}")
    return text


def parse_semantics(text: str) -> str:
    """One of the semantics; raises PropiusError."""
    if text not in SEMANTICS:
        raise PropiusError(f"--semantics {text}: one of {', '.join(SEMANTICS)}")
    return text


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
        task = bar.add_task("rounds", total=grid.rounds * len(grid.runs()))

        def told(run: int, rounds: int) -> None:
            done[run] = rounds
            bar.update(task, completed=sum(done.values()))

        yield told
