"""The results of one attempt at a round, without a socket: who counts, in which order.

A client *starts* when it has its slot: from then on it is trained. It *hands in* when its device
is done. Its result counts from the later of the two on: the end of its training, and the end of
its simulated work. A client that serves twice in one attempt counts once.

Not here: how many results make a round (the job manager counts reports, and the learning core uses
the first ``demand`` results).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from evaluation.aggregators import Update

__all__ = ["Attempt"]


@dataclass
class Attempt:
    """One attempt. ``number`` is the round's number at Propius; without ``trains`` nobody waits."""

    number: int
    trains: bool
    steps: dict[int, int] = field(default_factory=dict)
    """Of those who started: how many steps each does; 0 for whole tasks."""
    waits_s: dict[int, float] = field(default_factory=dict)
    """Of those who count: how long each waited for its training."""
    _updates: dict[int, Update | None] = field(default_factory=dict)
    _handed_in_s: dict[int, float] = field(default_factory=dict)
    _counted: dict[int, None] = field(default_factory=dict)

    def start(self, client: int, steps: int = 0) -> bool:
        """The client has a slot; whether it is to be trained now, for ``steps`` steps.

        One that dropped out may come again and have time for more steps, which are trained anew.
        """
        if client in self._handed_in_s or self.steps.get(client) == steps:
            return False
        self.steps[client] = steps
        self._updates[client] = None
        return self.trains

    def hand_in(self, client: int, now_s: float) -> bool | None:
        """The client's device is done: True if it counts, None if its training is not over yet.

        False: it never started.
        """
        if client not in self._updates:
            return False
        self._handed_in_s.setdefault(client, now_s)
        if self.trains and self._updates[client] is None:
            return None
        self._count(client, now_s)
        return True

    def trained(self, updates: Iterable[Update], now_s: float) -> list[int]:
        """These were trained; returns those of them who waited for it and count now."""
        waited = []
        for update in updates:
            if update.client not in self._updates:
                continue
            self._updates[update.client] = update
            if update.client in self._handed_in_s:
                self._count(update.client, now_s)
                waited.append(update.client)
        return waited

    def _count(self, client: int, now_s: float) -> None:
        if client not in self._counted:
            self._counted[client] = None
            self.waits_s[client] = now_s - self._handed_in_s[client]

    @property
    def clients(self) -> list[int]:
        """Those who count, in the order in which they came to."""
        return list(self._counted)

    @property
    def updates(self) -> list[Update]:
        """Their results."""
        return [update for client in self._counted if (update := self._updates[client])]
