"""``propius trace``: make synthetic traces of clients, and see what is in one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from evaluation.simulator.arguments import (
    check_out,
    load_trace,
    refusals,
    steps_bar,
    wide_console,
)
from evaluation.simulator.generate import PRESETS, generate, write_csv
from evaluation.simulator.tables import duration
from propius.cli.options import JsonOption, say
from propius.engine import Trace
from propius.errors import PropiusError

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Make traces of clients, and look at them.")


@app.command("generate")
def generate_(
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Where to write: .csv, or .csv.gz (compressed).")
    ],
    preset: Annotated[
        str,
        typer.Option(
            help="; ".join(f"{name}: {p.checkins:,} check-ins" for name, p in PRESETS.items())
        ),
    ] = "small",
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another trace.")] = 0,
    checkins: Annotated[
        int, typer.Option(min=0, max=100_000_000, help="Instead of the preset's number.")
    ] = 0,
    days: Annotated[int, typer.Option(min=1, max=365, help="How long the trace is.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Make a synthetic trace: daily rhythm over time zones, heavy-tailed sessions.

    Every parameter is ours, and is explained in evaluation/simulator/generate.py.
    """
    with refusals():
        if preset not in PRESETS:
            raise PropiusError(f"--preset {preset}: one of {', '.join(PRESETS)}")
        if not out.name.endswith((".csv", ".csv.gz")):
            raise PropiusError(f"--out {out}: must end in .csv or .csv.gz")
        check_out(out)
        settings = replace(PRESETS[preset], days=days)
        settings = replace(settings, checkins=checkins or settings.checkins)
        trace = generate(settings, seed)
        with steps_bar(quiet=as_json) as bar:
            task = bar.add_task("rows", total=len(trace))
            write_csv(trace, out, wrote=lambda rows: bar.advance(task, rows))
    text = f"{out}: {len(trace):,} check-ins over {days} days, seed {seed}"
    say(as_json, text, out=str(out), checkins=len(trace), days=days, seed=seed)


@app.command()
def info(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="A .csv or .csv.gz file.")],
    as_json: JsonOption = False,
) -> None:
    """Read a trace, check every row, and say what is in it.

    For each value of the column requirements: how many check-ins, and how long these last together.
    """
    with refusals():
        loaded = load_trace(trace)
    signatures = _signatures(loaded)
    facts = {
        "checkins": len(loaded),
        "period_s": loaded.period_s,
        "checkins_per_s": len(loaded) / loaded.period_s,
        "requirements": loaded.classes,
        "signatures": signatures,
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    classes = ", ".join(map(str, loaded.classes)) or "none"
    typer.echo(
        f"{trace}: {len(loaded):,} check-ins in {duration(loaded.period_s)}, "
        f"{facts['checkins_per_s']:.2f} a second; requirements that clients meet: {classes}"
    )
    wide_console().print(_signature_table(signatures))


def _signatures(trace: Trace) -> list[dict[str, Any]]:
    return [
        {"requirements": "".join(map(str, classes)), "checkins": checkins, "online_s": online_s}
        for classes, checkins, online_s in trace.signatures
    ]


def _signature_table(signatures: list[dict[str, Any]]) -> Table:
    table = Table()
    table.add_column("requirements")
    for name in ("check-ins", "share", "online", "share", "mean session"):
        table.add_column(name, justify="right")
    checkins = sum(signature["checkins"] for signature in signatures)
    online_s = sum(signature["online_s"] for signature in signatures)
    for signature in signatures:
        table.add_row(
            signature["requirements"] or "none",
            f"{signature['checkins']:,}",
            f"{signature['checkins'] / checkins:.1%}",
            duration(signature["online_s"]),
            f"{signature['online_s'] / online_s:.1%}" if online_s else "-",
            duration(signature["online_s"] / signature["checkins"]),
        )
    return table
