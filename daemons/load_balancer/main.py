"""The load balancer as a program: ``propius-controller-load-balancer``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from propius.shell.early import leave_on_signals
from propius.shell.extras import needs_extras


def main(argv: Sequence[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT."""
    leave_on_signals()
    with needs_extras("propius-controller-load-balancer"):
        from daemons.load_balancer.build import build
        from propius.shell.program import run_daemon

    sys.exit(run_daemon("load_balancer", build, argv))


if __name__ == "__main__":
    main()
