"""The plan that a client manager works by, and how its offers look on the wire.

The scheduler numbers its plans from anew when it restarts, and the matcher is told when. Offers of
the same rounds are the same bytes, and are made once.

Not here: which rounds a client is offered (:mod:`propius.engine`).
"""

from __future__ import annotations

from typing import Final

from propius import driver
from propius.engine import Matcher
from propius.messages import Offer, Plan, PrivateConstraint, RoundRef, Task, encode_payload

OFFERS_MAX: Final = 1_024  # different offers of one plan whose bytes are kept


class PlanBook:
    """The current plan; ``version`` is the scheduler's number of it, 0 before the first."""

    def __init__(self, matcher: Matcher) -> None:
        self.version = 0
        self.known = False  # there was a plan, ever
        self.open_rounds = 0  # with a quota for this manager
        self._matcher = matcher
        self._scheduler = -1  # the incarnation that ``version`` belongs to
        self._constraints: dict[RoundRef, PrivateConstraint] = {}
        self._offers: dict[tuple[RoundRef, ...], bytes] = {}

    def met_scheduler(self, incarnation: int) -> bool:
        """A scheduler answered our hello; True: a new one, which numbers its plans from anew."""
        if incarnation == self._scheduler:
            return False
        self._scheduler, self.version = incarnation, 0
        self._matcher.expect_new_versions()
        return True

    def apply(self, now_ns: int, plan: Plan) -> bool:
        """Work by this plan; False: it is not newer than the current one. Raises EngineError."""
        if plan.version <= self.version:
            return False
        driver.apply_plan(self._matcher, now_ns, plan)
        self.version, self.known = plan.version, True
        planned_rounds = [planned for group in plan.groups for planned in group.rounds]
        self.open_rounds = sum(planned.quota > 0 for planned in planned_rounds)
        self._constraints = {(p.job, p.round): p.private_constraint for p in planned_rounds}
        self._offers.clear()
        return True

    def offer_payload(self, rounds: list[RoundRef]) -> bytes:
        """The payload of the offer of these rounds, which are in the current plan."""
        key = tuple(rounds)
        payload = self._offers.get(key)
        if payload is None:
            tasks = [Task(job, number, self._constraints[job, number]) for job, number in rounds]
            offer = Offer(tasks=tasks, plan_version=self.version, retry_after_s=0.0)
            payload = encode_payload(offer)
            if len(self._offers) >= OFFERS_MAX:
                self._offers.clear()
            self._offers[key] = payload
        return payload

    def check(self) -> None:
        """Tables are bounded; raises AssertionError where not."""
        assert len(self._offers) <= OFFERS_MAX
        assert self._matcher.counts()["open_rounds"] <= len(self._constraints)
