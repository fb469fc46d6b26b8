"""supervisord for ``propius up``, which notices a death at once.

supervisord sleeps for up to a second between two looks at its programs, and needs two looks from a
death to a new start: left alone, it takes a killed daemon up to two seconds to begin again. Here
its poller is woken by the signal that tells of the death, and the look after that follows without
a sleep.

Not here: its configuration (:mod:`propius.cli.cluster`).
"""

from __future__ import annotations

import os
import signal
from typing import Any, Final

import supervisor.poller
import supervisor.supervisord

_DRAIN_BYTES: Final = 4_096


class WakingPoller(supervisor.poller.Poller):  # type: ignore[misc]
    """supervisord's poller; it returns also when a signal comes, and once more right after."""

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._again = False
        self._wake_r, wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)

    def poll(self, timeout: float) -> tuple[list[int], list[int]]:
        """What can be read and written, after ``timeout`` seconds at most."""
        self.register_readable(self._wake_r)
        readable, writable = super().poll(0 if self._again else timeout)
        self._again = self._wake_r in readable
        if self._again:
            os.read(self._wake_r, _DRAIN_BYTES)
        return [fd for fd in readable if fd != self._wake_r], list(writable)


def main() -> None:
    """Run supervisord with its own command line."""
    supervisor.poller.Poller = WakingPoller
    supervisor.supervisord.main()


if __name__ == "__main__":
    main()
