"""``propius job``: the operator's view of the jobs, by the key in the state directory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from propius.cli.options import ConfigOption, JsonOption, StateOption, TimeoutOption, one_line
from propius.cli.status import dialled, run_info
from propius.config import load_config
from propius.errors import UsageError
from propius.job import Operator
from propius.messages import JobStatus

app = typer.Typer(
    no_args_is_help=True, help="List, show, pause, resume and cancel jobs, as the operator."
)

JobArgument = Annotated[int, typer.Argument(metavar="JOB", min=0, help="The job's number.")]


@app.command("list")
def list_jobs(
    active: Annotated[
        bool, typer.Option("--active", help="Only jobs that have not ended.")
    ] = False,
    config: ConfigOption = None,
    state_dir: StateOption = None,
    timeout_s: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """List jobs, in the order they were registered."""
    with _operator(config, state_dir, timeout_s) as operator:
        jobs = operator.list_jobs(active_only=active)
    if as_json:
        typer.echo(json.dumps([msgspec.to_builtins(job) for job in jobs], indent=2))
    else:
        Console().print(_table(jobs))


@app.command()
def show(
    job: JobArgument,
    config: ConfigOption = None,
    state_dir: StateOption = None,
    timeout_s: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Show all that is known of one job."""
    with _operator(config, state_dir, timeout_s) as operator:
        found, attributes = operator.show(job), operator.attributes()
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(found), indent=2))
        return
    table = Table(box=None, show_header=False)
    for name, value in readable(found, attributes).items():
        table.add_row(name, Text(value))
    Console().print(table)


@app.command()
def cancel(
    job: JobArgument,
    reason: Annotated[str, typer.Option(help="Kept with the job.")] = "cancelled by the operator",
    config: ConfigOption = None,
    state_dir: StateOption = None,
    timeout_s: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Stop a job for good."""
    with _operator(config, state_dir, timeout_s) as operator:
        operator.cancel(job, reason)
    typer.echo(json.dumps({"job": job, "cancelled": True}) if as_json else f"job {job} cancelled")


@app.command()
def pause(
    job: JobArgument,
    config: ConfigOption = None,
    state_dir: StateOption = None,
    timeout_s: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Send no more devices to a job until it is resumed; those that work go on."""
    with _operator(config, state_dir, timeout_s) as operator:
        operator.pause(job)
    typer.echo(json.dumps({"job": job, "paused": True}) if as_json else f"job {job} paused")


@app.command()
def resume(
    job: JobArgument,
    config: ConfigOption = None,
    state_dir: StateOption = None,
    timeout_s: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Send devices to a job again that is paused, or backs off because all of them failed."""
    with _operator(config, state_dir, timeout_s) as operator:
        operator.resume(job)
    typer.echo(json.dumps({"job": job, "paused": False}) if as_json else f"job {job} resumed")


def readable(job: JobStatus, attributes: Sequence[str]) -> dict[str, str]:
    """What is known of a job, for people: names beside numbers, units, and "-" for nothing yet."""
    wanted = zip(attributes, job.requirement, strict=False)
    rows = {
        "job": f"{job.job} ({job.name})",
        "state": _state(job),
        "requirement": ", ".join(f"{name} ≥ {least:g}" for name, least in wanted if least) or "any",
        "registered": f"{seconds(job.age_s)} ago",
        "rounds done": f"{job.rounds_done}" + (f" of {job.rounds}" if job.rounds else ""),
        "round": "-",
        "devices a round": str(job.demand) if job.demand else "-",
        "devices": f"{job.devices_completed} completed, {job.devices_failed} failed, "
        f"{job.devices_expired} expired",
        "scheduling delay": f"{seconds(job.mean_scheduling_delay_s)} (mean)",
        "response time": f"{seconds(job.mean_response_s)} (mean)",
        "completion time": seconds(job.jct_s),
    }
    if job.round >= 0:
        rows["round"] = (
            f"{job.round}, {job.round_state}: {job.allocated} of {job.round_demand} slots"
        )
        if job.waiting_s > 0:
            rows["round"] += f", open for {seconds(job.waiting_s)}"
    return {name: "-" if value.startswith("- (") else value for name, value in rows.items()}


def seconds(value: float) -> str:
    """A duration; "-" for one that there is not yet (below 0).

    >>> seconds(-1.0), seconds(2.345), seconds(95.0), seconds(7_300.0)
    ('-', '2.35 s', '95 s', '2 h 01 min')
    """
    if value < 0:
        return "-"
    if value < 60:
        return f"{value:.2f} s"
    if value < 3_600:
        return f"{value:.0f} s"
    return f"{value // 3_600:.0f} h {value % 3_600 // 60:02.0f} min"


@contextmanager
def _operator(config: Path | None, state_dir: Path | None, timeout_s: float) -> Iterator[Operator]:
    """A connection to the job manager of the state directory; what goes wrong is one line."""
    with one_line():
        settings = load_config(config)
        directory = state_dir or settings.state_dir
        here = settings.job_manager
        endpoint = run_info(directory, "job_manager").get("endpoints", {}).get("jobs")
        host = f"[{here.host}]" if ":" in here.host else here.host
        endpoint = endpoint or f"tcp://{host}:{here.port}"
        with Operator(dialled(endpoint), _key(directory), timeout_s=timeout_s) as operator:
            yield operator


def _key(directory: Path) -> bytes:
    path = directory / "operator.key"
    try:
        return bytes.fromhex(path.read_text("ascii").strip())
    except OSError as error:
        text = f"{path}: {error.strerror}; has a job manager run here? (--state-dir)"
    except ValueError:
        text = f"{path}: not an operator's key"
    raise UsageError(text)


def _table(jobs: list[JobStatus]) -> Table:
    table = Table(
        "job", "name", "state", "round", "held", "done", "delay s", "response s", box=None
    )
    for job in jobs:
        of = f"/{job.rounds}" if job.rounds else ""  # how many there will be is not always known
        rounds = f"{job.rounds_done}{of} done"
        if job.round >= 0:
            rounds += f", {job.round} {job.round_state}"
        held = f"{job.allocated}/{job.round_demand}" if job.round >= 0 else ""
        delay, response = (
            f"{value:.2f}" if value >= 0 else ""
            for value in (job.mean_scheduling_delay_s, job.mean_response_s)
        )
        table.add_row(
            str(job.job),
            job.name,
            _state(job),
            rounds,
            held,
            str(job.devices_completed),
            delay,
            response,
        )
    return table


def _state(job: JobStatus) -> str:
    """The state, and what stands in the way: ``requesting, backs off 12 s (…)``."""
    state = job.state
    if job.backoff == "waiting":
        state += f", backs off {job.backoff_s:.0f} s"
    elif job.backoff == "probing":
        state += ", a few devices try it"
    return f"{state} ({job.reason})" if job.reason else state
