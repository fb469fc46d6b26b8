"""``propius eval``: many jobs that really train, on devices that behave like the traces.

Not here: the sub-commands themselves.
"""

from __future__ import annotations

import typer

from evaluation.executor.broker_command import executor
from evaluation.executor.worker_command import worker
from evaluation.harness.run_command import run
from evaluation.report.command import report

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Compare policies on jobs that really train, on simulated devices.",
)
for command in (run, report, executor, worker):
    app.command()(command)
