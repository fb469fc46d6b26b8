"""``propius reproduce``: published results, made again and put beside the published figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from evaluation.simulator.arguments import (
    STALLED_DAYS,
    StalledOption,
    load_trace,
    parse_seeds,
    refusals,
    stalled_s,
    steps_bar,
    wide_console,
)
from evaluation.simulator.reproduce import (
    POLICIES_COMPARED,
    Agreement,
    Step,
    load_expected,
    reproduce,
    steps,
)
from evaluation.simulator.tables import duration
from evaluation.simulator.workloads import WORKLOADS, load_jobs
from propius.cli.options import JsonOption
from propius.errors import PropiusError

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Make published results again.")


@app.callback()
def main() -> None:
    """Make published results again."""


@app.command()
def venn(
    clients: Annotated[
        Path, typer.Option(metavar="TRACE", help="As of `propius trace generate --preset small`.")
    ],
    expected: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The reference simulator's own figures for this trace: JSON, "
            '{"workloads": {workload: {policy: {"avg_jct_s": number}}}}.',
        ),
    ] = None,
    workload: Annotated[
        list[str] | None, typer.Option(help="Only this workload; may be given several times.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="1-5, or 1,4,7.")] = "1-5",
    by_steps: Annotated[
        bool,
        typer.Option("--steps", help="Switch the reference's rules to ours, one after the other."),
    ] = False,
    stalled_days: StalledOption = STALLED_DAYS,
    as_json: JsonOption = False,
) -> None:
    """Run the rules of Venn's published simulator on the paper's workloads, a tenth in size.

    With --expected, exits 1 if the mean over the seeds is further than 1.5 % (random: 4 %) from the
    reference's. With --steps, shows what each departure from the reference does to the average JCT.
    """
    with refusals():
        names = tuple(workload or WORKLOADS)
        for name in names:
            if name not in WORKLOADS:
                raise PropiusError(f"--workload {name}: one of {', '.join(WORKLOADS)}")
        chosen = parse_seeds(seeds)
        trace = load_trace(clients, load_jobs(names[0]))
        if by_steps:
            _steps(trace, names, chosen, stalled_s(stalled_days), as_json=as_json)
            return
        figures = load_expected(expected) if expected else {}
        rows: list[Agreement] = []
        with steps_bar(quiet=as_json) as bar:
            task = bar.add_task("workloads", total=len(names))
            limit_s = stalled_s(stalled_days)
            asked = reproduce(trace, figures, workloads=names, seeds=chosen, stalled_s=limit_s)
            for found in asked:
                rows += found
                bar.advance(task)
    if as_json:
        typer.echo(json.dumps({"rows": [_row(row) for row in rows]}, indent=1))
    else:
        wide_console().print(agreement_table(rows))
    if any(row.agrees is False for row in rows):
        raise typer.Exit(1)


def agreement_table(rows: Sequence[Agreement]) -> Table:
    """Ours beside the reference's and the paper's."""
    table = Table(
        title="average JCT under the reference's rules, and improvement over random",
        title_justify="left",
    )
    for name in ("workload", "policy"):
        table.add_column(name)
    for name in ("ours", "reference", "deviation", "× ours", "× reference", "× paper"):
        table.add_column(name, justify="right")
    table.add_column("agrees")
    for row in rows:
        table.add_row(
            row.workload if row.policy == POLICIES_COMPARED[0] else "",
            row.policy,
            duration(row.avg_jct_s),
            duration(row.expected_s),
            "-" if row.deviation is None else f"{row.deviation:+.2%}",
            f"{row.improvement:.2f}",
            _times(row.expected_improvement),
            _times(row.paper),
            {True: "yes", False: "NO", None: ""}[row.agrees],
            end_section=row.policy == POLICIES_COMPARED[-1],
        )
    return table


def _steps(
    trace: Any, names: Sequence[str], seeds: list[int], limit_s: float | None, *, as_json: bool
) -> None:
    found: dict[str, list[Step]] = {}
    with steps_bar(quiet=as_json) as bar:
        task = bar.add_task("steps", total=None)
        for name in names:
            for step in steps(
                trace, name, seeds=seeds, policies=POLICIES_COMPARED, stalled_s=limit_s
            ):
                found.setdefault(name, []).append(step)
                bar.advance(task)
    if as_json:
        document = {name: [asdict(step) for step in taken] for name, taken in found.items()}
        typer.echo(json.dumps(document, indent=1))
        return
    for name, taken in found.items():
        wide_console().print(steps_table(name, taken))


def steps_table(workload: str, taken: Sequence[Step]) -> Table:
    """The average JCT after each step."""
    table = Table(title=f"{workload}: from the reference's rules to ours", title_justify="left")
    table.add_column("rules up to")
    for policy in POLICIES_COMPARED:
        table.add_column(policy, justify="right")
    table.add_column("random / irs", justify="right")
    table.add_column("what is ours from here on")
    for step in taken:
        jct = step.avg_jct_s
        table.add_row(
            step.name,
            *(duration(jct[policy]) for policy in POLICIES_COMPARED),
            f"{jct['random'] / jct['irs']:.2f}",
            step.what,
        )
    return table


def _row(row: Agreement) -> dict[str, Any]:
    return asdict(row) | {"deviation": row.deviation, "agrees": row.agrees}


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
