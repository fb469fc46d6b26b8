"""What a program does before its heavy imports: from here on, being asked to stop is no accident.

Imports take half a second, in which SIGTERM would otherwise kill the process, and SIGINT print a
traceback. Nothing has been promised to anybody yet, so it just leaves, with exit code 0.
"""

from __future__ import annotations

import os
import signal
from types import FrameType


def leave_on_signals() -> None:
    """SIGTERM and SIGINT end the process at once, in good order; the loop takes them over later."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)
