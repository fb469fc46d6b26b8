"""The scheduler as a program: ``propius-controller-scheduler``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from propius.shell.early import leave_on_signals
from propius.shell.extras import needs_extras


def main(argv: Sequence[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT."""
    leave_on_signals()
    with needs_extras("propius-controller-scheduler"):
        from daemons.scheduler.build import build
        from propius.shell.program import run_daemon

    sys.exit(run_daemon("scheduler", build, argv))


if __name__ == "__main__":
    main()
