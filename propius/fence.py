"""Which devices a job server may listen to: the fence around a job's current round.

A device proves its slot with a lease token (:mod:`propius.tokens`). The fence lets a token in when
its signature is right, it is of the current round, no newer lease of the same slot has come, and
the job manager has not said that the lease is lost. So a device that was given up for dead, and
whose slot went to another, cannot be counted beside it.

>>> from propius.tokens import Lease, sign
>>> fence = Fence(job=7, secret=b"s" * 32, round_no=0)
>>> old = sign(fence.secret, Lease(job=7, round=0, slot=3, lease=41, device_id="ab" * 16))
>>> new = sign(fence.secret, Lease(job=7, round=0, slot=3, lease=57, device_id="cd" * 16))
>>> fence.admit(old).lease, fence.admit(new).lease
(41, 57)
>>> fence.admit(old)
Traceback (most recent call last):
propius.errors.StaleTokenError: lease 41 of job 7 round 0: superseded by lease 57 of the same slot

Not here: how the round and the lost leases are learnt (:mod:`propius.job_session`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

from propius.errors import StaleTokenError
from propius.tokens import Lease, verify

LOST_MAX: Final = 100_000
"""Lost leases remembered for the current round; the oldest are forgotten first."""


class Fence:
    """The current round of one job, and who has lost the right to it. Threads may share it."""

    def __init__(self, job: int, secret: bytes, round_no: int = -1) -> None:
        self.job = job
        self.secret = secret
        self.round = round_no  # -1: none yet
        self._newest: dict[int, int] = {}  # slot -> greatest lease seen
        self._lost: dict[int, None] = {}  # leases; a dict, because it keeps the order
        self._lock = threading.Lock()

    def open(self, round_no: int) -> None:
        """This is the current round now; tokens of another are stale."""
        with self._lock:
            if round_no != self.round:
                self.round = round_no
                self._newest.clear()
                self._lost.clear()

    def lose(self, round_no: int, leases: Iterable[int]) -> None:
        """The job manager says that these leases of the round failed or expired."""
        with self._lock:
            if round_no == self.round:
                self._lost.update(dict.fromkeys(leases))
            while len(self._lost) > LOST_MAX:
                del self._lost[next(iter(self._lost))]

    def admit(self, token: bytes) -> Lease:
        """The lease of this token; raises StaleTokenError if it gives no right (any more)."""
        lease = verify(self.secret, token)
        with self._lock:
            why = self._objection(lease)
            if why:
                what = f"lease {lease.lease} of job {lease.job} round {lease.round}"
                raise StaleTokenError(f"{what}: {why}")
            self._newest[lease.slot] = lease.lease
        return lease

    def _objection(self, lease: Lease) -> str:
        """What is wrong with a lease that was signed with the job's secret."""
        if lease.job != self.job or lease.round != self.round:
            return f"not of job {self.job}'s current round {self.round}"
        if lease.lease in self._lost:
            return "failed or expired"
        newest = self._newest.get(lease.slot, -1)
        if lease.lease < newest:
            return f"superseded by lease {newest} of the same slot"
        return ""
