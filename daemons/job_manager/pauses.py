"""Devices that a job has just failed, and for how long they are not sent there again.

A pause is of one device and one job, over all its rounds; it doubles with each failure in a row,
up to a cap, and a completed task ends it. Bounded by number, and by time: what has been over for
as long as the longest pause is forgotten. It is not stored: a restart costs a device one try.

>>> pauses = Pauses(first_ns=2, longest_ns=60, pauses_max=10)
>>> for now_ns in (0, 10, 20):
...     pauses.failed(now_ns, "device", 7)
>>> pauses.left_ns(20, "device", 7), pauses.left_ns(28, "device", 7), pauses.left_ns(20, "other", 7)
(8, 0, 0)
"""

from __future__ import annotations

from collections import OrderedDict

GROWTH_MAX = 64  # doublings; more are beyond any cap

Key = tuple[str, int]  # device, job


class Pauses:
    """The pauses of one job manager; the one that began first is the first to be forgotten."""

    def __init__(self, *, first_ns: int, longest_ns: int, pauses_max: int) -> None:
        self._first_ns, self._longest_ns, self._max = first_ns, longest_ns, pauses_max
        # failures in a row, and when the pause after the last of them is over
        self._pauses: OrderedDict[Key, tuple[int, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pauses)

    def left_ns(self, now_ns: int, device_id: str, job: int) -> int:
        """How long the device is not sent to the job."""
        _, until_ns = self._pauses.get((device_id, job), (0, now_ns))
        return max(0, until_ns - now_ns)

    def failed(self, now_ns: int, device_id: str, job: int) -> None:
        """The device's task of this job ended without a result."""
        self._tidy(now_ns)
        failures, _ = self._pauses.pop((device_id, job), (0, 0))
        pause_ns = min(self._first_ns << min(failures, GROWTH_MAX), self._longest_ns)
        self._pauses[device_id, job] = (failures + 1, now_ns + pause_ns)
        if len(self._pauses) > self._max:
            self._pauses.popitem(last=False)

    def completed(self, device_id: str, job: int) -> None:
        """The device has completed a task of this job."""
        self._pauses.pop((device_id, job), None)

    def _tidy(self, now_ns: int) -> None:
        while self._pauses:
            key, (_, until_ns) = next(iter(self._pauses.items()))
            if until_ns + self._longest_ns > now_ns:
                return
            del self._pauses[key]
