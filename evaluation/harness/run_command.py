"""``propius eval run``: a configuration, run to its end in one of the two clocks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from evaluation.children import terminated_is_interrupted
from evaluation.harness.config import packaged_config
from evaluation.harness.experiment import load_experiment
from propius.cli.failure import fail
from propius.cli.options import JsonOption, say
from propius.engine import EngineError
from propius.errors import PropiusError
from propius.shell import exit_codes
from propius.shell.extras import needs_extras

__all__ = ["run"]

INTERRUPTED: Final = 130


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
            "this machine can; without it, over live daemons.",
        ),
    ] = False,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the run goes; a new folder.")] = (
        Path("out/eval")
    ),
    as_json: JsonOption = False,
) -> None:
    """Run jobs that train on simulated devices, under each policy with each seed.

    Results are in DIR, also while the run goes on; `propius eval report DIR` shows them.

    Example: propius eval run --virtual --out out/irs-against-random
    """
    with needs_extras("propius eval run"):
        _run(config or packaged_config(), out, virtual=virtual, quiet=as_json)
    say(as_json, f"results: {out} (propius eval report {out})", results=str(out))


def _run(config: Path, out: Path, *, virtual: bool, quiet: bool) -> None:
    # Loads torch and data, which `propius eval --help` need not wait for.
    from evaluation.harness.runner import Runner

    def tell(line: str) -> None:
        typer.echo(line, err=quiet)

    try:
        runner = Runner(load_experiment(config), out, tell)
        runner.prepare(virtual=virtual)
    except (PropiusError, EngineError) as error:
        fail(str(error), exit_codes.CONFIGURATION)
    try:
        with terminated_is_interrupted():
            runner.run(virtual=virtual)
    except (PropiusError, EngineError) as error:
        fail(str(error), exit_codes.FAILED)
    except KeyboardInterrupt:
        fail("interrupted; everything was stopped", INTERRUPTED)
