"""``propius eval report``: what one or several runs found, as a page, files, tables, or JSON."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich import table as rich_table
from rich.console import Console

from evaluation.files import replacing
from evaluation.report.document import Report, make_report
from evaluation.report.original_csv import write_original_csv
from evaluation.report.tables import TABLES, Table, headline, notices
from evaluation.simulator.arguments import wide_console
from propius.cli.options import JsonOption, one_line
from propius.errors import PropiusError
from propius.shell import exit_codes

__all__ = ["report", "write_report"]

SHOWN: Final = ("times", "accuracy", "utilisation")
"""The tables that the terminal shows unless it is asked for others."""


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="DIR [DIR …]", help="Run folders.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to write; default: report/ in the first DIR."),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, metavar="ACCURACY",
            help="For time to accuracy; default: for each job the best that all policies reach.",
        ),
    ] = None,
    show: Annotated[
        list[str] | None,
        typer.Option(metavar="TABLE", help=f"One of {', '.join(TABLES)}; may be given often."),
    ] = None,
    every: Annotated[
        float | None,
        typer.Option(
            min=0.1, max=86_400, metavar="SECONDS",
            help="While a run is going, show the tables again and again; writes nothing.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Report on runs: a page with figures and tables, and CSV files. A run may still be going.

    Several folders are compared with each other. Writes report.html, the figures as SVG,
    report.json, and csv/ with the columns of the original testbed.

    Example: propius eval report out/irs-against-random
    """
    with one_line(exit_codes.CONFIGURATION):
        names = _tables(show)
        found = make_report(runs, target=target)
        if every is not None:
            _follow(runs, target, names, found, every)
            return
        where = out or runs[0] / "report"
        if out is not None or not as_json:
            write_report(found, where)
        if as_json:
            typer.echo(_json(found), nl=False)
            return
    _print(found, names, wide_console())
    typer.echo(f"The page: {where / 'report.html'}")


def write_report(found: Report, where: Path) -> None:
    """Write the page, the figures, report.json and csv/; raises PropiusError."""
    # They load matplotlib, which tables and JSON need not wait for.
    from evaluation.report.charts import draw_charts
    from evaluation.report.page import page

    try:
        where.mkdir(parents=True, exist_ok=True)
        charts = draw_charts(found)
        files = {f"{chart.name}.svg": chart.svg for chart in charts}
        files |= {"report.html": page(found, charts), "report.json": _json(found)}
        for name, text in files.items():
            with replacing(where / name) as draft:
                draft.write_text(text)
        for variant in found.variants:
            jobs = found.jobs[variant.label]
            for result in variant.results:
                mine = [job for job in jobs if job.seed == result.seed]
                folder = f"{variant.label}-{result.seed}".replace("/", "_")
                write_original_csv(result, mine, where / "csv" / folder)
    except OSError as error:
        raise PropiusError(f"{where}: the report cannot be written: {error.strerror}") from error


def _follow(
    runs: Sequence[Path],
    target: float | None,
    names: Sequence[str],
    found: Report,
    every_s: float,
) -> None:
    """Show the tables until no run is going any more, or until Ctrl-C."""
    console = wide_console()
    try:
        while True:
            if console.is_terminal:
                console.clear()
            _print(found, names, console)
            if not found.going:
                return
            threading.Event().wait(every_s)
            found = make_report(runs, target=target)
    except KeyboardInterrupt:
        return


def _tables(show: Sequence[str] | None) -> Sequence[str]:
    for name in show or ():
        if name not in TABLES:
            raise PropiusError(f"--show {name}: one of {', '.join(TABLES)}")
    return show or SHOWN


def _json(found: Report) -> str:
    return json.dumps(found.as_dict(), indent=1, default=str) + "\n"


def _print(found: Report, names: Sequence[str], console: Console) -> None:
    for notice in notices(found):
        console.print(f"Note: {notice}", markup=False, highlight=False)
    for name in names:
        table = TABLES[name](found)
        if table.rows:
            console.print(_rich(table))
    if sentence := headline(found):
        console.print(sentence, markup=False, highlight=False)


def _rich(table: Table) -> rich_table.Table:
    made = rich_table.Table(title=table.title, title_justify="left")
    for place, column in enumerate(table.columns):
        made.add_column(column, justify="left" if place < table.names else "right")
    for row in table.rows:
        made.add_row(*row)
    return made
