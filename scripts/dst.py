"""Try whole systems in virtual time, one a seed, with faults drawn from the seed.

Each seed builds all daemons with their real cores, and devices and job servers with the SDK's real
sessions; messages are lost, torn and repeated, processes die, freeze and come back, the store is
slow or full; after every step all is checked that must hold, and when the faults end everything
must finish. tests/simulation/ is the code, docs/testing.md says what is covered and what is not.

  scripts/dst.py                             seeds 1 to 50
  scripts/dst.py --seeds 1-20000 --resume runs.jsonl
                                             may be interrupted: asked again, it goes on
  scripts/dst.py --seeds 7 --trace           replay seed 7, and print what led to its failure
  scripts/dst.py --seeds 7 --trace --only /3 of that, the lines that contain "/3"
  scripts/dst.py --summary runs.jsonl        what docs/testing.md says of these runs
  scripts/dst.py --json                      figures for programs

Exit code: 0, or 1 if a seed found something, 2 on a wrong command, 130 if interrupted.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tests/ is not installed

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.simulation.figures import Run, Runs, from_line, harness, to_line
from tests.simulation.world import SeedError, run

TRACE_LINES = 3_000
INTERRUPTED = 130


@dataclass
class Found:
    """What a failing seed found."""

    seed: int
    what: str
    trace: list[str]


def attempt(seed: int) -> Run | Found:
    """Run one seed."""
    try:
        return run(seed, trace_max=TRACE_LINES)
    except SeedError as error:
        return Found(seed, str(error), error.trace.lines())


def prepare_worker() -> None:
    """The parent alone answers Ctrl-C; what is loaded by now is never garbage."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.freeze()


def seeds_of(text: str) -> range:
    """The seeds of "A-B" (both ends) or "A"."""
    first, _, last = text.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    if not seeds:
        raise ValueError
    return seeds


def finished(path: Path | None) -> dict[int, Run]:
    """The runs that a file of lines has; its last line may have been cut by an interruption."""
    if path is None or not path.exists():
        return {}
    runs = {}
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            done = from_line(line)
        except (ValueError, TypeError, KeyError) as error:
            if number < len(lines):
                raise SystemExit(f"{path}:{number}: not a line of --resume: {error}") from error
            path.write_text("".join(f"{line}\n" for line in lines[:-1]))
        else:
            runs[done.seed] = done
    return runs


def tried(seeds: list[int], jobs: int) -> Iterator[Run | Found]:
    """What came of these seeds, as each is finished."""
    with multiprocessing.Pool(jobs, prepare_worker) as pool:
        yield from pool.imap_unordered(attempt, seeds, chunksize=2)


def progress_bar(console: Console) -> Progress:
    """How far it has come, what it found, and how long it will take."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    return Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=console.quiet
    )


def try_seeds(
    seeds: list[int], jobs: int, console: Console, keep: Callable[[Run], None]
) -> tuple[list[Found], bool]:
    """Try them all; what was found, and whether Ctrl-C ended it. Runs go to ``keep``."""
    found: list[Found] = []
    with progress_bar(console) as progress:
        bar = progress.add_task("seeds", total=len(seeds))
        try:
            for result in tried(seeds, jobs):
                if isinstance(result, Run):
                    keep(result)
                else:
                    found.append(result)
                    progress.print(result.what, markup=False, highlight=False, soft_wrap=True)
                progress.update(bar, advance=1, description=f"seeds, {len(found)} failed")
        except KeyboardInterrupt:
            return found, True
    return found, False


def show_failures(found: list[Found], console: Console, *, trace: bool, only: str) -> None:
    """The traces, if asked for, and the lines that keep these seeds as regressions."""
    for failure in found if trace else ():
        for line in failure.trace:
            if only in line:
                console.print(line, markup=False, highlight=False, soft_wrap=True)
    if found:
        console.print("\nfor tests/simulation/regressions.toml, once it is understood:")
    for failure in found:
        what = failure.what.splitlines()[0].partition(" ")[2][:120]
        console.print(f"\n[[seed]]\nseed = {failure.seed}", markup=False, highlight=False)
        console.print(f'harness = "{harness()}"', markup=False, highlight=False)
        console.print(f"found = {json.dumps(what)}", markup=False, soft_wrap=True)
        console.print('fixed = "the commit that mends it"', markup=False, highlight=False)


def arguments() -> argparse.Namespace:
    """What the command asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=seeds_of, default="1-50", help="A-B (both included), or A")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--resume", type=Path, help="finished seeds, read first and added to")
    parser.add_argument("--trace", action="store_true", help="print what led to each failure")
    parser.add_argument("--only", default="", help="lines of the trace that contain this text")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="of a --resume file; no runs")
    parser.add_argument("--json", action="store_true", help="the sums as JSON, nothing else")
    return parser.parse_args()


def main() -> int:
    """Run the seeds; the exit code."""
    asked = arguments()
    if asked.summary is not None:
        runs = Runs(list(finished(asked.summary).values()))
        sys.stdout.write(json.dumps(runs.sums()) + "\n" if asked.json else runs.page() + "\n")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    console = Console(quiet=asked.json)
    done = finished(asked.resume)
    drawn_by = harness()
    if others := {run.harness for run in done.values()} - {drawn_by}:
        console.print(f"some were drawn by harness {', '.join(others)}; it is {drawn_by} now")
    open_seeds = [seed for seed in asked.seeds if seed not in done]
    if len(open_seeds) < len(asked.seeds):
        console.print(f"{len(asked.seeds) - len(open_seeds)} seeds are done already")
    began_s = time.monotonic()

    def keep(finished_run: Run) -> None:
        finished_run.harness = drawn_by
        done[finished_run.seed] = finished_run
        if asked.resume is not None:
            with asked.resume.open("a") as file:
                file.write(to_line(finished_run) + "\n")

    found, interrupted = try_seeds(open_seeds, asked.jobs, console, keep)
    runs = Runs([done[seed] for seed in asked.seeds if seed in done])
    took_s = time.monotonic() - began_s
    if asked.json:
        failed = {"failed": {failure.seed: failure.what for failure in found}}
        sys.stdout.write(json.dumps(runs.sums() | failed | {"took_s": round(took_s, 1)}) + "\n")
    console.print(runs.page(), markup=False, highlight=False, soft_wrap=True)
    show_failures(found, console, trace=asked.trace, only=asked.only)
    console.print(f"{len(runs.all)} seeds passed, {len(found)} failed; {took_s:.1f} s")
    if interrupted:
        again = "ask again to go on" if asked.resume else "with --resume FILE it could go on"
        console.print(f"interrupted; {again}")
        return INTERRUPTED
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
