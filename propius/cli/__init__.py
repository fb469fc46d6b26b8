"""The ``propius`` command: start a system, look at it, look at its jobs, check a configuration.

``propius --help`` lists the commands. Others join by the entry-point group ``propius.commands``
(``demo`` and ``log`` of this package), so that nothing here imports daemons or evaluation.

:mod:`propius.cli.cluster` is the part that programs and tests use.
"""

from __future__ import annotations

from propius.shell.extras import needs_extras


def main() -> None:
    """Run the command line."""
    with needs_extras("propius"):
        from propius.cli.app import app
    app()
