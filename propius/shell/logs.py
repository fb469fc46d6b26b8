"""The program's own log: one JSON object a line on standard error, written by a thread.

The loop must never wait for a reader of the log (a stopped supervisord fills the pipe), so lines
go through a bounded queue; what finds no room is dropped and counted. Bytes are never written out,
nor is any field whose name speaks of a secret.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import MutableMapping
from typing import Any, Final

from propius.shell.light import without

with without("rich"):
    import structlog

LINES_MAX: Final = 10_000
SECRET_WORDS: Final = ("secret", "token", "key", "master", "password")
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class LineQueue:
    """A file-like object whose ``write`` never waits."""

    def __init__(self, fd: int, lines_max: int = LINES_MAX) -> None:
        self.dropped = 0  # lines, since the start
        self._fd = fd
        self._lines: queue.Queue[str | None] = queue.Queue(lines_max)
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        """Queue a line."""
        try:
            self._lines.put_nowait(text)
        except queue.Full:
            self.dropped += 1
        return len(text)

    def flush(self) -> None:
        """Nothing: the thread writes at once."""

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what is queued, if the reader takes it in time."""
        try:
            self._lines.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (text := self._lines.get()) is not None:
            data = text.encode("utf-8", "backslashreplace")
            try:
                while data:
                    data = data[os.write(self._fd, data) :]
            except OSError:
                self.dropped += 1  # the reader is gone; the daemon goes on without it


def without_secrets(
    _logger: object, _method: str, fields: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """A structlog processor: bytes become their length, fields named like a secret vanish."""
    for name, value in fields.items():
        if isinstance(value, (bytes, bytearray, memoryview)):
            fields[name] = f"<{len(value)} bytes>"
        elif any(word in name for word in SECRET_WORDS):
            fields[name] = "<not shown>"
    return fields


def set_up(*, daemon: str, level: str, style: str, fd: int = 2) -> tuple[Any, LineQueue]:
    """The program's logger (bound to the daemon's name), and the queue to close at the end."""
    console = style == "console" or (style == "auto" and os.isatty(fd))
    lines = LineQueue(fd)
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=os.isatty(fd))
        if console
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            without_secrets,
            *([] if console else [structlog.processors.format_exc_info]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=lines),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
    return structlog.get_logger().bind(daemon=daemon), lines


def complain(text: str) -> None:
    """One line for a person on standard error, before there is a logger."""
    sys.stderr.write(f"propius: {' '.join(text.split())}\n")
    sys.stderr.flush()
