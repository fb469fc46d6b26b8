"""What systemd is told: READY, STATUS, WATCHDOG, STOPPING, as datagrams to ``$NOTIFY_SOCKET``.

The watchdog's sign of life is sent by the loop itself, so that a loop that hangs is noticed.
Without the variable nothing is sent.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

from propius.core import SECOND_NS


class Notifier:
    """Talks to the service manager named by the environment, if there is one."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._address = env.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # Linux's abstract names
            self._address = "\0" + self._address[1:]
        self._socket: socket.socket | None = None
        self._ready = False
        self._status = ""
        self._watchdog_ns = self._interval_ns(env)
        self._last_ns = 0

    def report(self, now_ns: int, not_ready: str) -> None:
        """Say READY once, STATUS when it changes, WATCHDOG when half its interval is over."""
        lines = []
        if not not_ready and not self._ready:
            self._ready = True
            lines.append("READY=1")
        status = f"not ready: {not_ready}" if not_ready else "ready"
        if status != self._status:
            self._status = status
            lines.append(f"STATUS={status}")
        if self._watchdog_ns and now_ns - self._last_ns >= self._watchdog_ns:
            self._last_ns = now_ns
            lines.append("WATCHDOG=1")
        self._send(lines)

    def stopping(self) -> None:
        """Say STOPPING."""
        self._send(["STOPPING=1", "STATUS=stopping"])

    def due_ns(self) -> int | None:
        """When ``report`` is due for the watchdog."""
        return self._last_ns + self._watchdog_ns if self._watchdog_ns else None

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _interval_ns(self, env: Mapping[str, str]) -> int:
        usec = env.get("WATCHDOG_USEC", "")
        if not self._address or not usec.isdecimal():
            return 0
        return max(int(usec) * 1_000 // 2, SECOND_NS // 100)

    def _send(self, lines: list[str]) -> None:
        if not self._address or not lines:
            return
        try:
            if self._socket is None:
                kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
                self._socket = socket.socket(socket.AF_UNIX, kind)
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            pass  # no service manager listens (any more); the daemon's work does not depend on it
