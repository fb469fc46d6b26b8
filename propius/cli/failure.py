"""How a command ends that cannot go on: one line on standard error, and an exit code.

Loads next to nothing. Not here: which error has which code (:mod:`propius.cli.options`).
"""

from __future__ import annotations

from typing import NoReturn

import typer

from propius.shell import exit_codes

__all__ = ["fail"]


def fail(text: str, code: int = exit_codes.FAILED) -> NoReturn:
    """Say what is wrong, and end the command."""
    typer.echo(f"propius: {text}", err=True)
    raise typer.Exit(code)
