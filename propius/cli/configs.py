"""``propius config``: is a configuration file right, and what holds in the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from propius.cli.failure import fail
from propius.cli.options import JsonOption, say
from propius.config import ConfigError, config_yaml, load_config
from propius.shell import exit_codes

app = typer.Typer(
    no_args_is_help=True, help="Check a configuration file, or show what holds in the end."
)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE")], as_json: JsonOption = False
) -> None:
    """Say whether FILE is right; exits 2 with one line that names the key if it is not."""
    _load(file)
    _try_policy(load_config(file).scheduler.policy)
    say(as_json, f"{file}: right", file=str(file), right=True)


@app.command()
def show(
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Over the defaults.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print every key with the value that holds: defaults, FILE, environment variables."""
    values = _load(config)
    typer.echo(json.dumps(values, indent=2) if as_json else config_yaml(values), nl=as_json)


def _try_policy(policy: str) -> None:
    """A policy of the operator's own must be found and made, as the scheduler will."""
    from propius import engine

    try:
        engine.Planner(policy=policy, dimensions=1)
    except engine.EngineError as error:
        fail(f"scheduler.policy: {error}", exit_codes.CONFIGURATION)


def _load(file: Path | None) -> dict[str, object]:
    try:
        return load_config(file).model_dump(mode="json", by_alias=True)
    except ConfigError as error:
        fail(str(error), exit_codes.CONFIGURATION)
