"""Virtual time: a heap of things to do, in the order of their times and, at one time, of asking.

Not here: what is done (:mod:`tests.simulation.world`).
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

SECOND_NS: Final = 1_000_000_000
MILLISECOND_NS: Final = 1_000_000
START_NS: Final = 1_000 * SECOND_NS
DONE_EVERY: Final = 8  # things done from one look at whether all is done to the next


class Clock:
    """The one clock of a simulated world; ``now_ns`` moves only in :meth:`run`."""

    def __init__(self, start_ns: int = START_NS) -> None:
        self.now_ns = start_ns
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._asked = 0

    def at(self, time_ns: int, action: Callable[..., None], *args: Any) -> None:
        """Do ``action(*args)`` at this time, or at once if it has passed."""
        self._asked += 1
        time_ns = max(time_ns, self.now_ns)
        heappush(self._heap, (time_ns, self._asked, action, args))

    def after(self, wait_ns: int, action: Callable[..., None], *args: Any) -> None:
        """Do ``action(*args)`` when ``wait_ns`` have passed."""
        self._asked += 1
        heappush(self._heap, (self.now_ns + wait_ns, self._asked, action, args))

    def run(self, until_ns: int, done: Callable[[], bool] = lambda: False) -> bool:
        """Do what is due until ``done()``, or until that time; True if ``done()``.

        Asking costs time, so it is asked now and then: a few more things may be done.
        """
        heap, unasked = self._heap, 0
        while heap and heap[0][0] <= until_ns:
            self.now_ns, _, action, args = heappop(heap)
            action(*args)
            unasked += 1
            if unasked == DONE_EVERY:
                unasked = 0
                if done():
                    return True
        self.now_ns = max(self.now_ns, until_ns)
        return done()
