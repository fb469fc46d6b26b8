"""``propius replay``: put an event log through the engine again, or through another policy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evaluation.replay import DaemonReplay, Instant, ReplayReport, order, replay, what_if
from evaluation.simulator.arguments import parse_options
from propius.cli.failure import fail
from propius.cli.options import JsonOption
from propius.engine import POLICIES, EngineError
from propius.errors import PropiusError
from propius.messages import PlanFailed, PlanMade
from propius.shell import exit_codes

__all__ = ["app"]

DIFFERENCES_SHOWN = 10
INSTANTS_SHOWN = 20
ROUNDS_SHOWN = 12

app = typer.Typer(add_completion=False)


@app.command()
def main(
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIR", exists=True, file_okay=False, help="The log's folder."),
    ],
    policy: Annotated[
        str,
        typer.Option(
            help=f"What if: the plans of this policy. One of: {', '.join(POLICIES)}; or your own,"
            " as package.module:Class."
        ),
    ] = "",
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help="What if: with an option of the policy."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="What if: with another seed of the policy.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Drive the engine with the inputs in an event log, and compare its decisions with the log's.

    Exits 1 if any offer or plan comes out otherwise, and 2 if the log cannot be replayed.

    With --policy, --option or --seed: what if? Prints the plans in the scheduler's log in which the
    rounds would have stood in another order, and both orders.
    """
    with _refusals():
        if policy or option or seed is not None:
            options = parse_options(option or [])
            instants = list(what_if(directory, policy=policy or None, options=options, seed=seed))
            _tell_instants(instants, as_json)
            return
        report = replay(directory)
    _tell_report(report, as_json)
    if not report.same:
        raise typer.Exit(1)


@contextmanager
def _refusals() -> Iterator[None]:
    """What a person did wrong is one line, and exit code 2."""
    try:
        yield
    except (PropiusError, EngineError, OSError) as error:
        fail(f"replay: {error}", exit_codes.CONFIGURATION)


def _tell_report(report: ReplayReport, as_json: bool) -> None:
    if as_json:
        told = {"same": report.same, "daemons": report.daemons}
        typer.echo(json.dumps(msgspec.to_builtins(told)))
        return
    console = Console(soft_wrap=True)
    table = Table("daemon", "starts", "events", "decisions compared", "differences", box=None)
    for daemon in report.daemons:
        numbers = (daemon.lives, daemon.events, daemon.decisions.total(), len(daemon.differences))
        table.add_row(daemon.daemon, *(f"{number:,}" for number in numbers))
    console.print(table)
    for daemon in report.daemons:
        _tell_daemon(console, daemon)
    console.print("the same decisions" if report.same else "other decisions than in the log")


def _tell_daemon(console: Console, daemon: DaemonReplay) -> None:
    if daemon.skipped:
        text = f"{daemon.daemon}: {daemon.skipped:,} events before its first start in the log"
        console.print(f"{text} are not replayed", highlight=False)
    for torn in daemon.torn:
        console.print(f"torn: {escape(torn)} (its program was killed)", highlight=False)
    for difference in daemon.differences[:DIFFERENCES_SHOWN]:
        where = f"{daemon.daemon} at {difference.now_ns}"
        logged, replayed = difference.logged or "nothing", difference.replayed or "nothing"
        text = f"{where}:\n  in the log: {logged}\n  replayed:   {replayed}"
        console.print(escape(text), style="red", highlight=False)


def _tell_instants(instants: list[Instant], as_json: bool) -> None:
    changed = [each for each in instants if order(each.logged) != order(each.other)]
    if as_json:
        plans = [
            {"now_ns": each.now_ns, "logged": order(each.logged), "other": order(each.other)}
            for each in instants
        ]
        typer.echo(json.dumps({"changed": len(changed), "plans": plans}))
        return
    console = Console(soft_wrap=True)
    table = Table("time", "order of rounds in the log", "what if", box=None)
    for each in changed[:INSTANTS_SHOWN]:
        after_s = (each.now_ns - instants[0].now_ns) / 1e9
        table.add_row(f"{after_s:.3f} s", _order(each.logged), _order(each.other))
    if changed:
        console.print(table)
    if len(changed) > INSTANTS_SHOWN:
        console.print(f"… and {len(changed) - INSTANTS_SHOWN:,} more")
    console.print(f"{len(changed):,} of {len(instants):,} plans have another order of rounds")


def _order(plan: PlanMade | PlanFailed) -> str:
    """The first rounds of a plan, as job.round."""
    if isinstance(plan, PlanFailed):
        return f"no plan: {plan.why}"
    rounds = order(plan)
    text = " ".join(f"{job}.{number}" for job, number in rounds[:ROUNDS_SHOWN])
    return text + (" …" if len(rounds) > ROUNDS_SHOWN else "")
