#!/usr/bin/env python3
"""When do tiers pay? `venn` against `irs` over V, load and the length of tasks, as a table.

propius trace generate --preset small --out clients.csv.gz
scripts/tier_ablation.py clients.csv.gz --seeds 1-5
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evaluation.simulator.arguments import parse_seeds
from evaluation.simulator.tier_ablation import Load, measure, table
from propius.engine import Trace


def main(
    clients: Annotated[Path, typer.Argument(help="Client trace.")],
    seeds: Annotated[str, typer.Option(help="1-5, or 1,4,7.")] = "1-5",
    jobs: Annotated[list[int], typer.Option(help="Jobs at the same time.")] = [2, 8, 32],  # noqa: B006
    workload: Annotated[list[float], typer.Option(help="Of a task.")] = [30, 120, 300],  # noqa: B006
    tiers: Annotated[list[int], typer.Option(help="V: classes.")] = [2, 4, 8],  # noqa: B006
    rounds: Annotated[int, typer.Option(help="Of each job.")] = 100,
    threads: Annotated[int, typer.Option(help="Runs at the same time.")] = 1,
) -> None:
    """Print the ratio of average JCTs, irs over venn, with its interval over seeds."""
    trace = Trace.load_csv(clients)
    cells = [
        cell
        for many in jobs
        for units in workload
        for cell in measure(trace, Load(many, rounds, units), tiers, parse_seeds(seeds), threads)
    ]
    typer.echo(table(cells))


if __name__ == "__main__":
    typer.run(main)
