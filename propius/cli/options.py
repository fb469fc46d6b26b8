"""What the commands of `propius` share: options, the state directory, an error as one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from propius.cli.failure import fail
from propius.config import load_config
from propius.errors import PropiusError
from propius.shell import exit_codes

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Keys that differ from the defaults."),
]
StateOption = Annotated[
    Path | None, typer.Option("--state-dir", metavar="DIR", help="Instead of the configuration's.")
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=0.1, max=3_600, metavar="SECONDS", help="To wait.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@contextmanager
def one_line(code: int | None = None) -> Iterator[None]:
    """What went wrong becomes one line and an exit code, that of the error or this one."""
    try:
        yield
    except PropiusError as error:
        fail(str(error), exit_codes.exit_code_of(error) if code is None else code)


def say(as_json: bool, text: str, **facts: object) -> None:
    """One line for people, or the same facts as one JSON object for programs."""
    typer.echo(json.dumps(facts) if as_json else text)


def state_dir_of(config: Path | None, state_dir: Path | None) -> Path:
    """The state directory that was named, else the configuration's. Raises ConfigError."""
    return (state_dir or load_config(config).state_dir).absolute()
