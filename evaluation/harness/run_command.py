"""``propius eval run``: a configuration, run to its end in one of the two clocks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evaluation.demo.command import terminated_is_interrupted
from evaluation.harness.config import packaged_config
from evaluation.harness.experiment import load_experiment
from propius.engine import EngineError
from propius.errors import PropiusError

__all__ = ["run"]

BAD_INPUT: int = 2
FAILED: int = 1
INTERRUPTED: int = 130


def run(
    config: Annotated[
        Path | None,
        typer.Argument(
            metavar="CONFIG",
            help="What differs from the packaged evaluation_config.yml; without it, all defaults.",
        ),
    ] = None,
    virtual: Annotated[
        bool,
        typer.Option(
            "--virtual",
            help="Take rounds and participants from the simulator and train them as fast as "
            "this machine can; else over live daemons.",
        ),
    ] = False,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the run goes; a new folder.")] = (
        Path("out/eval")
    ),
) -> None:
    """Run jobs that train on simulated devices, under each policy.

    Results are in DIR, also while it runs: `propius eval report DIR`.
    """
    # torch and the data are loaded by what follows, not by `propius --help`.
    from evaluation.harness.runner import Runner

    try:
        runner = Runner(load_experiment(config or packaged_config()), out, typer.echo)
        runner.prepare()
    except (PropiusError, EngineError) as error:
        _refuse(error, BAD_INPUT)
    try:
        with terminated_is_interrupted():
            runner.run(virtual=virtual)
    except (PropiusError, EngineError) as error:
        _refuse(error, FAILED)
    except KeyboardInterrupt:
        _refuse(PropiusError("interrupted; everything was stopped"), INTERRUPTED)
    typer.echo(f"results: {out}; propius eval report {out}")


def _refuse(error: Exception, code: int) -> None:
    typer.echo(f"propius eval run: {error}", err=True)
    raise typer.Exit(code) from error
