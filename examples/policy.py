"""A policy of one's own: who asks for little goes first, but nobody waits for ever.

Live:       scheduler: {policy: "policy:AgedSmallest"} in the configuration, PYTHONPATH=examples
Simulated:  PYTHONPATH=examples propius simulate ... --policy policy:AgedSmallest
"""

from __future__ import annotations

import math

from propius.policy import Round, Snapshot

PATIENCE_NS = 3_600 * 1_000_000_000


class AgedSmallest:
    """Rounds by the devices that they lack, halved for each hour that they have been open."""

    def order(self, snapshot: Snapshot) -> list[tuple[int, int]]:
        """The open rounds, first served first."""

        def lacks(round_: Round) -> float:
            hours = (snapshot.now_ns - round_.opened_ns) / PATIENCE_NS
            return round_.remaining / math.exp2(max(0.0, hours))

        ordered = sorted(snapshot.rounds, key=lambda round_: (lacks(round_), round_.registered_ns))
        return [(round_.job, round_.round) for round_ in ordered]
