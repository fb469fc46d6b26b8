"""A client manager as a program: ``propius-controller-client-manager ID``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from propius.shell.early import leave_on_signals
from propius.shell.extras import needs_extras


def main(argv: Sequence[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT."""
    leave_on_signals()
    with needs_extras("propius-controller-client-manager"):
        from daemons.client_manager.build import build
        from propius.shell import program

    parser = program.parser("client_manager")
    parser.add_argument("id", type=_manager_id, metavar="ID", help="0 … 65535, unique")
    options = parser.parse_args(argv)
    sys.exit(program.launch(f"client_manager-{options.id}", build, options))


def _manager_id(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 65535")
    return int(text)


if __name__ == "__main__":
    main()
