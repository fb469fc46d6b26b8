"""The ``propius`` command: start a system, look at it, look at its jobs, check a configuration.

``propius --help`` lists the commands. Others join by the entry-point group ``propius.commands``
(``demo`` and ``log`` of this package), so that nothing here imports daemons or evaluation.

:mod:`propius.cli.cluster` is the part that programs and tests use.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        from propius.cli.app import app
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.startswith("propius"):
            raise
        text = f"propius: {missing.name} is missing: pip install 'propius[daemons]'\n"
        sys.stderr.write(text)
        sys.exit(2)
    app()
