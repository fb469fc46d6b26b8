"""Try whole systems in virtual time, one a seed, with faults drawn from the seed.

``python scripts/dst.py --seeds 1-1000`` runs these seeds on all cores and prints what was covered;
``--seeds 7-7 --trace`` shows what led to a failure. Exit code 1 if a seed found something.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tests/ is not installed

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.simulation.faults import Fault
from tests.simulation.world import Run, SeedError, run

TRACE_LINES = 3_000
# A seed below one of these tried little: it drew few jobs, or a merciful mix of faults.
DELIVERED_MIN = 2_000
FAULTS_MIN = 20
ROUNDS_MIN = 10


def attempt(seed: int) -> tuple[int, Run | None, str, list[str]]:
    """Run one seed: (seed, its figures, what it found, the trace of that)."""
    try:
        return seed, run(seed, trace_max=TRACE_LINES), "", []
    except SeedError as error:
        return seed, None, str(error), list(error.trace.lines())


def seeds_of(text: str) -> range:
    """The seeds of "A-B" (both ends) or "A"."""
    first, _, last = text.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    if not seeds:
        raise ValueError
    return seeds


def coverage_table(coverage: Counter[tuple[str, Fault]]) -> Table:
    """How often each kind of message met each kind of fault."""
    faults = sorted({fault for _, fault in coverage})
    table = Table(title="messages × faults", title_justify="left")
    table.add_column("kind")
    for fault in faults:
        table.add_column(fault, justify="right")
    for kind in sorted({kind for kind, _ in coverage}):
        table.add_row(kind, *(f"{coverage[kind, fault]:,}" for fault in faults))
    return table


def summary(runs: list[Run]) -> list[str]:
    """The sums of the seeds that found nothing, and which of them tried little."""
    faults: Counter[Fault] = sum((done.faults for done in runs), Counter())
    thin = [
        done.seed
        for done in runs
        if done.delivered < DELIVERED_MIN
        or done.faults.total() < FAULTS_MIN
        or done.rounds < ROUNDS_MIN
    ]
    return [
        "faults: " + ", ".join(f"{kind} {number:,}" for kind, number in faults.most_common()),
        (
            f"{sum(done.delivered for done in runs):,} messages delivered, "
            f"{faults.total():,} faults, {sum(done.rounds for done in runs):,} rounds"
        ),
        f"{len(thin)} seeds with fewer than {DELIVERED_MIN:,} messages, {FAULTS_MIN} faults or "
        f"{ROUNDS_MIN} rounds" + (f": {sorted(thin)[:20]}" if thin else ""),
    ]


def main() -> int:
    """Run the seeds; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--seeds", type=seeds_of, default="1-50", help="A-B, both included")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--trace", action="store_true", help="print what led to a failure")
    asked = parser.parse_args()
    console = Console(width=max(Console().width, 132))  # the table of coverage is wide
    began_s = time.monotonic()
    runs: list[Run] = []
    failures = 0
    with multiprocessing.Pool(asked.jobs) as pool:
        results = pool.imap_unordered(attempt, asked.seeds, chunksize=4)
        for _, done, found, trace in track(
            results, "seeds", total=len(asked.seeds), console=console, transient=True
        ):
            if done is not None:
                runs.append(done)
                continue
            failures += 1
            console.print(found, markup=False, highlight=False, soft_wrap=True)
            for line in trace if asked.trace else ():
                console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(coverage_table(sum((done.coverage for done in runs), Counter())))
    for line in summary(runs):
        console.print(line, highlight=False)
    took_s = time.monotonic() - began_s
    console.print(f"{len(asked.seeds)} seeds, {failures} failed; {took_s:.1f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
