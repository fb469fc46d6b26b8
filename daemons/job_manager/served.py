"""Who served a live round, so that one device does not fill several of its slots.

A device that held a lease of a round is noted when the lease ends, however it ended; while it holds
one it can have no other. What is noted is stored with the end of the lease, so it is as it was
after a restart, and is forgotten when the round is over.

Bounded over all rounds: above the limit the oldest note is forgotten, and that device may serve its
round once more. Not here: refusing a claim (``claims.py``).
"""

from __future__ import annotations

from collections import OrderedDict

from daemons.job_manager.records import Changes, Lease, ServedRound
from propius.messages import RoundRef


class Served:
    """The devices whose leases of live rounds ended."""

    def __init__(self, changes: Changes, served_max: int) -> None:
        self._changes = changes
        self._max = served_max
        self._notes: OrderedDict[tuple[RoundRef, str], ServedRound] = OrderedDict()  # oldest first
        self._of: dict[RoundRef, set[str]] = {}  # devices

    def __len__(self) -> int:
        return len(self._notes)

    @property
    def rounds(self) -> set[RoundRef]:
        """The rounds that anybody served."""
        return set(self._of)

    def has(self, ref: RoundRef, device_id: str) -> bool:
        """Whether the device is known to have served the round."""
        return device_id in self._of.get(ref, ())

    def add(self, lease: Lease) -> None:
        """A lease of a live round ended."""
        note = ServedRound(
            job=lease.job, round=lease.round, device_id=lease.device_id, lease=lease.lease
        )
        self._changes.put(note)
        self._note(note)

    def restore(self, notes: list[ServedRound]) -> None:
        """Take back what was stored."""
        for note in sorted(notes, key=lambda note: note.lease):
            self._note(note)

    def count(self, ref: RoundRef) -> int:
        """How many are known to have served the round."""
        return len(self._of.get(ref, ()))

    def forget(self, ref: RoundRef) -> None:
        """The round is over."""
        for device_id in self._of.pop(ref, ()):
            self._changes.drop(self._notes.pop((ref, device_id)))

    def _note(self, note: ServedRound) -> None:
        ref = (note.job, note.round)
        self._notes[ref, note.device_id] = note
        self._of.setdefault(ref, set()).add(note.device_id)
        while len(self._notes) > self._max:
            (ref, device_id), oldest = self._notes.popitem(last=False)
            self._changes.drop(oldest)
            self._of[ref].remove(device_id)
            if not self._of[ref]:
                del self._of[ref]
