"""The commands that start, stop and show a system, and the table of all the others."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

import propius
from propius.cli import client_managers, configs, jobs
from propius.cli.cluster import Cluster, NotReadyError, stop_system
from propius.cli.failure import fail
from propius.cli.options import (
    ConfigOption,
    JsonOption,
    StateOption,
    one_line,
    say,
    state_dir_of,
)
from propius.cli.status import DaemonStatus, daemon_names, statuses
from propius.config import load_config
from propius.shell import exit_codes
from propius.shell.extras import extra_of, needs_extras

COMMANDS_GROUP: Final = "propius.commands"
LOOK_AGAIN_S: Final = 0.5

app = typer.Typer(
    name="propius",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="""Share one population of edge devices among many federated-learning jobs.

    Start a system with `propius up`, see it with `propius status` and its jobs with
    `propius job list`. `propius demo` shows everything at once on this machine.
    """,
)
app.add_typer(jobs.app, name="job")
app.add_typer(client_managers.app, name="client-manager")
app.add_typer(configs.app, name="config")


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"propius {propius.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Print the version, and exit."
        ),
    ] = False,
) -> None:
    """Options that go before a command."""


@app.command()
def up(
    config: ConfigOption = None,
    state_dir: StateOption = None,
    managers: Annotated[
        int, typer.Option(min=1, max=64, help="Client managers; they share the devices.")
    ] = 2,
    detach: Annotated[bool, typer.Option(help="Return once all is ready.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Start all daemons under supervisord and wait until they are ready; Ctrl-C stops them.

    Logs are in STATE_DIR/logs. With --detach the system stays; `propius down` ends it.
    """
    with one_line():
        settings = load_config(config)
        cluster = Cluster(
            state_dir or settings.state_dir, managers=managers, config=settings, free_ports=False
        )
        cluster.start()
        stop = _stop_on_signals()
        try:
            _wait_ready(cluster, stop)
            _say_ready(cluster, as_json=as_json)
        except BaseException:
            cluster.stop()
            raise
        if not detach:
            try:
                _show_until(cluster, stop, quiet=as_json)
            finally:
                cluster.stop()
                if not as_json:
                    typer.echo("stopped")


@app.command()
def down(
    config: ConfigOption = None, state_dir: StateOption = None, as_json: JsonOption = False
) -> None:
    """Stop what `propius up --detach` started; what was acknowledged is kept."""
    with one_line():
        directory = state_dir_of(config, state_dir)
        ran = stop_system(directory, daemon_names(directory))
        say(as_json, "stopped" if ran else f"nothing runs in {directory}", stopped=ran)


@app.command()
def status(
    config: ConfigOption = None, state_dir: StateOption = None, as_json: JsonOption = False
) -> None:
    """Show each daemon: ready or why not, process, addresses. Exits 1 unless all are ready."""
    with one_line():
        found = statuses(state_dir_of(config, state_dir))
        if as_json:
            typer.echo(json.dumps([asdict(each) for each in found], indent=2))
        elif found:
            Console().print(_table(found))
        else:
            typer.echo("no daemon runs here; start them with `propius up`")
        if not found or any(each.state != "ready" for each in found):
            raise typer.Exit(exit_codes.FAILED)


@app.command()
def wait_ready(
    config: ConfigOption = None,
    state_dir: StateOption = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0, max=86_400, metavar="SECONDS")
    ] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Wait until every daemon is ready; exits 1 and says what is missing if that takes too long."""
    with one_line():
        directory = state_dir_of(config, state_dir)
        deadline_s = time.monotonic() + timeout_s
        while True:
            found = statuses(directory)
            if found and all(each.state == "ready" for each in found):
                say(as_json, "ready", ready=True)
                return
            if time.monotonic() > deadline_s:
                missing = "; ".join(f"{s.daemon}: {s.why}" for s in found if s.state != "ready")
                fail(f"not ready after {timeout_s:g} s: {missing or 'no daemon runs here'}")
            time.sleep(0.1)


# --- pieces -------------------------------------------------------------------------------------


def _stop_on_signals() -> threading.Event:
    """An event that Ctrl-C and SIGTERM set."""
    stop = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
    return stop


def _wait_ready(cluster: Cluster, stop: threading.Event) -> None:
    """Wait in short turns, so that Ctrl-C is heard."""
    deadline_s = time.monotonic() + cluster.ready_timeout_s
    while not stop.is_set():
        left_s = deadline_s - time.monotonic()
        try:
            cluster.wait_ready(min(LOOK_AGAIN_S, max(left_s, 0.0)))
        except NotReadyError:
            if left_s <= 0:
                raise
        else:
            return
    fail("interrupted before all was ready", 128 + signal.SIGINT)


def _say_ready(cluster: Cluster, *, as_json: bool) -> None:
    devices = cluster.endpoint("load_balancer", "clients")
    jobs = cluster.endpoint("job_manager", "jobs")
    text = (
        f"ready: devices at {devices}\n       jobs at    {jobs}\n"
        f"       state and logs in {cluster.directory}"
    )
    say(as_json, text, devices=devices, jobs=jobs, state_dir=str(cluster.directory))


def _show_until(cluster: Cluster, stop: threading.Event, *, quiet: bool) -> None:
    """The status table until the event is set; where nobody watches, nothing."""
    console = Console()
    if quiet or not console.is_terminal:
        while cluster.runs and not stop.wait(LOOK_AGAIN_S):
            pass
    else:
        with Live(_table(cluster.statuses()), console=console, auto_refresh=False) as live:
            while cluster.runs and not stop.wait(LOOK_AGAIN_S):
                live.update(_table(cluster.statuses()), refresh=True)
    if not stop.is_set():
        fail(f"supervisord ended by itself; see {cluster.logs}")


def _table(found: list[DaemonStatus]) -> Table:
    table = Table("daemon", "state", "why", "pid", "up", "addresses", box=None)
    colours = {"ready": "green", "not ready": "yellow", "hung": "red", "down": "red"}
    for each in found:
        addresses = [*each.endpoints.items(), *([("admin", each.admin)] if each.admin else [])]
        table.add_row(
            each.daemon,
            f"[{colours[each.state]}]{each.state}[/]",
            each.why,
            str(each.pid or ""),
            f"{each.uptime_s:.0f} s" if each.pid else "",
            "\n".join(f"{name} {address}" for name, address in addresses if address),
        )
    return table


def _add_found_commands() -> None:
    """Commands of other packages: only the one that is called is loaded, which may take a while."""
    # A shell that completes a line says it here.
    line = os.environ.get("_TYPER_COMPLETE_ARGS", "").split() or sys.argv
    called = line[1] if len(line) > 1 else ""
    for entry in sorted(importlib.metadata.entry_points(group=COMMANDS_GROUP), key=_name):
        if entry.name != called:
            app.command(entry.name, help=_help_without_loading(entry))(_unloaded)
            continue
        try:
            _add(entry.name, entry.load())
        except ModuleNotFoundError as missing:
            if not extra_of(missing.name or ""):
                raise
            _add_missing_command(entry.name, missing)


def _help_without_loading(entry: importlib.metadata.EntryPoint) -> str:
    """The first line of the module's docstring, which says "``propius NAME``: what it does"."""
    try:
        spec = importlib.util.find_spec(entry.module)
        source = Path(spec.origin).read_text("utf-8") if spec and spec.origin else ""
        doc = ast.get_docstring(ast.parse(source)) or ""
    except (ImportError, OSError, SyntaxError, UnicodeDecodeError):
        return "(not installed)"
    text = doc.split("\n\n")[0].rpartition("``: ")[2].replace("\n", " ")
    return text[:1].upper() + text[1:]


def _unloaded() -> None:
    """Stands in for a command that was not called."""


def _add(name: str, found: typer.Typer) -> None:
    """A package with one command gives the command, one with several a group of them."""
    if len(found.registered_commands) == 1 and not found.registered_callback:
        command = found.registered_commands[0].callback
        assert command is not None
        app.command(name)(command)
    else:
        app.add_typer(found, name=name)


def _add_missing_command(name: str, why: ModuleNotFoundError) -> None:
    """Whatever it was called with, it says what it needs."""
    whatever = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

    @app.command(name, context_settings=whatever)
    def missing() -> None:
        with needs_extras(f"propius {name}"):
            raise why


def _name(entry: importlib.metadata.EntryPoint) -> str:
    return entry.name


_add_found_commands()
