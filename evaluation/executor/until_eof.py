"""A child process that ends with its parent: when its standard input does.

A parent that is killed cannot end its children; its end of the pipe is closed all the same.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Final

__all__ = ["stop_at_eof"]

STDIN: Final = 0


def stop_at_eof(stop: Callable[[], object]) -> None:
    """Call ``stop`` once standard input has ended; from a thread of its own."""

    def wait() -> None:
        while os.read(STDIN, 4_096):  # not through sys.stdin, whose lock Python wants at its end
            pass
        stop()

    threading.Thread(target=wait, name="parent", daemon=True).start()
