"""When to come back: retry times for those who were sent away, spread so that they do not collide.

A fleet that is told "try again in 5 s" comes back as one wave. Here the wait grows with the number
of those who were told to come back and have not yet done so, and each draws its own place in the
window by a hash of who it is; so the fleet returns at about ``per_s`` requests a second, however
large it is, and a single client comes back soon.

Used by the load balancer (``busy``) and the client managers (empty offers).

>>> retry = Retry(min_s=0.5, max_s=60.0, per_s=10.0, seed=1)
>>> waits = [retry.after(0, f"{device:032x}", 1) for device in range(300)]
>>> waits[0] < 1.6 and 30 < max(waits) <= 60
True
"""

from __future__ import annotations

import zlib
from typing import Final

from propius.core import SECOND_NS

SLOTS: Final = 64  # seconds ahead that are kept; waits are at most max_s <= SLOTS - 2


class Retry:
    """Hands out waits between ``min_s`` and ``max_s``; ``per_s`` returns a second are welcome."""

    def __init__(self, *, min_s: float, max_s: float, per_s: float, seed: int) -> None:
        self.min_s = min_s
        self.max_s = max(min_s, min(max_s, SLOTS - 2.0))
        self.per_s = per_s
        self._seed = seed
        self._returns = [0] * SLOTS  # how many will come back in each second from now on
        self._expected = 0  # their sum
        self._second = 0

    def expected(self, now_ns: int) -> int:
        """How many were told to come back and are still to come."""
        second = now_ns // SECOND_NS
        passed = min(second - self._second, SLOTS)
        for past in range(self._second, self._second + passed):
            self._expected -= self._returns[past % SLOTS]
            self._returns[past % SLOTS] = 0
        self._second = max(second, self._second)
        return self._expected

    def after(self, now_ns: int, device: str, request: int, base_s: float = 0.0) -> float:
        """Seconds until this device should ask again; about ``base_s`` when the fleet is small."""
        window_s = max(2 * self.min_s, base_s, self.expected(now_ns) / self.per_s)
        draw = zlib.crc32(f"{self._seed}:{device}:{request}".encode()) / (1 << 32)
        wait_s = max(self.min_s, min(window_s, self.max_s / 1.5) * (0.5 + draw))
        slot = (now_ns + int(wait_s * SECOND_NS)) // SECOND_NS % SLOTS
        self._returns[slot] += 1
        self._expected += 1
        return round(wait_s, 3)
