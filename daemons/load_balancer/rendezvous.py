"""Which client manager serves a device: rendezvous hashing, without any state.

Every manager gets a score for the device, a hash of both names; the highest wins. A retry finds
the same manager, and when one of N comes or goes only 1/N of the devices move.

>>> three = Rendezvous(["client_manager-0", "client_manager-1", "client_manager-2"])
>>> three.pick("ab" * 16) == three.pick("ab" * 16)
True
>>> Rendezvous([]).pick("ab" * 16) is None
True
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


class Rendezvous:
    """The managers that may be picked now; the order in which they are named does not matter."""

    def __init__(self, managers: Iterable[str]) -> None:
        self.managers = tuple(sorted(managers))
        self._hashes = [
            (name, hashlib.blake2b(f"{name}|".encode(), digest_size=8)) for name in self.managers
        ]

    def pick(self, device: str) -> str | None:
        """The manager of this device, or None if there is none at all."""
        if len(self.managers) < 2:
            return self.managers[0] if self.managers else None
        key, best, winner = device.encode(), b"", ""
        for name, started in self._hashes:
            scored = started.copy()
            scored.update(key)
            score = scored.digest()
            if score > best or not winner:
                best, winner = score, name
        return winner
