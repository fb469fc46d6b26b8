"""``propius log``: check an event log against what Propius promises, or print it."""

from __future__ import annotations

import difflib
import heapq
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from daemons.event_log_check import Report, check
from propius.messages import EVENTS, Message
from propius.shell.event_log import EventLogError, daemon_logs, read_events

app = typer.Typer(no_args_is_help=True, help="Check or print an event log (event_log.directory).")

VIOLATIONS_SHOWN = 20
KINDS = sorted(event.kind for event in EVENTS)
Directory = Annotated[
    Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="The log's folder.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.command()
def verify(directory: Directory, as_json: JsonOption = False) -> None:
    """Check eligibility of offers and leases, 0 ≤ allocated ≤ demand, one lease a device.

    Prints what was checked; exits 1 with the first violations if there are any.
    """
    report = _report(directory)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "checked": report.counts,
                    "violations": report.violations,
                    "violations_count": report.violations_count,
                    "torn": report.torn,
                }
            )
        )
    else:
        _print(report)
    if report.violations_count:
        raise typer.Exit(1)


@app.command()
def show(
    directory: Directory,
    kind: Annotated[str, typer.Option(help="Only events of this kind.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Print the events of all daemons in order of time."""
    if not daemon_logs(directory):
        _fail(f"{directory}: no event log here; is event_log.directory set?")
    if kind and kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, 1, cutoff=0.4)
        hint = f"did you mean {near[0]}? " if near else ""
        _fail(f"--kind {kind}: no such event; {hint}There are {', '.join(KINDS)}")
    first_ns = -1
    try:
        for now_ns, daemon, event in _merged(directory):
            first_ns = now_ns if first_ns < 0 else first_ns
            if kind and event.kind != kind:
                continue
            values = msgspec.to_builtins(event)
            if as_json:
                line = {"now_ns": now_ns, "daemon": daemon, "kind": event.kind, **values}
                typer.echo(json.dumps(line))
            else:
                said = " ".join(f"{name}={value}" for name, value in values.items())
                typer.echo(f"{(now_ns - first_ns) / 1e9:12.6f} {daemon} {event.kind} {said}")
    except EventLogError as error:
        _fail(str(error))


def _merged(directory: Path) -> Iterator[tuple[int, str, Message]]:
    def tagged(daemon: str, path: Path) -> Iterator[tuple[int, str, Message]]:
        for now_ns, event in read_events(path):
            yield now_ns, daemon, event

    logs = [tagged(daemon, path) for daemon, path in daemon_logs(directory).items()]
    return heapq.merge(*logs, key=lambda item: item[0])


def _report(directory: Path) -> Report:
    if not daemon_logs(directory):
        _fail(f"{directory}: no event log here; is event_log.directory set?")
    try:
        return check(directory)
    except EventLogError as error:
        _fail(str(error))


def _print(report: Report) -> None:
    console = Console(soft_wrap=True)
    table = Table("checked", "number", box=None)
    for name, count in report.counts.items():
        table.add_row(name, f"{count:,}")
    console.print(table)
    for torn in report.torn:
        console.print(f"torn: {escape(torn)} (its program was killed)", highlight=False)
    for violation in report.violations[:VIOLATIONS_SHOWN]:
        console.print(f"violation: {escape(violation)}", style="red", highlight=False)
    more = report.violations_count - VIOLATIONS_SHOWN
    if more > 0:
        console.print(f"… and {more:,} more", style="red")
    word = "violation" if report.violations_count == 1 else "violations"
    console.print(
        f"{report.violations_count:,} {word}" if report.violations_count else "no violation"
    )


def _fail(text: str) -> NoReturn:
    typer.echo(f"propius log: {text}", err=True)
    raise typer.Exit(2)
