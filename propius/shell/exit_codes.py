"""What a program's exit status says, and the error that carries it to ``main``.

systemd and supervisord decide by these whether a restart makes sense: 2 does not heal by itself.
"""

from __future__ import annotations

from typing import Final

from propius.errors import PropiusError

OK: Final = 0  # asked to stop, and stopped
FAILED: Final = 1  # a command of the `propius` program found something wrong
CONFIGURATION: Final = 2  # the configuration or the command line is wrong
CANNOT_BIND: Final = 3  # an address is in use, or the same program runs on the same state
STORE: Final = 4  # the store cannot be opened or read
BUG: Final = 70  # an error that should not happen; the log has the traceback


class StartError(PropiusError):
    """The program cannot start; the text is one line, ``exit_code`` one of the above."""

    def __init__(self, text: str, exit_code: int):
        super().__init__(text)
        self.exit_code = exit_code


def exit_code_of(error: PropiusError) -> int:
    """The exit code of a command that failed with this error."""
    from propius.config import ConfigError

    if isinstance(error, StartError):
        return error.exit_code
    return CONFIGURATION if isinstance(error, ConfigError) else FAILED
