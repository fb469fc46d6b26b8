"""Random conversations with a client manager: whatever comes, in whatever order, the rules hold.

A seed draws devices that ask, repeat, contradict themselves and vanish, and peers that lose
messages and restart. The driver checks the core's invariants after every step; here it is checked
what devices and the job manager see.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from propius.messages import (
    Accept,
    CheckIn,
    Claim,
    Decline,
    Error,
    ErrorCode,
    Message,
    Offer,
    Outcome,
    Report,
    Undeliverable,
)
from tests.daemons.client_manager.kit import device_id
from tests.daemons.client_manager.manager_kit import World

DEVICES = 8
JOBS = (7, 8, 9)


class Storm:
    """One seed's story."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = World(offer_timeout_s=3.0, waiting_max=5, claims_max=4, remembered_max=6)
        self.requests = Counter[int]()
        self.sessions = dict.fromkeys(range(DEVICES), 3)
        self.last: dict[int, Message] = {}
        self.offers: dict[int, Offer] = {}
        self.owners: dict[int, tuple[int, int, int]] = {}  # tag → (device, session, request)
        self.answered = Counter[int]()
        self.unanswered: list[Claim] = []
        self.lease_of: dict[str, tuple[int, int]] = {}  # device → (session, request)

    def run(self, steps: int) -> None:
        acts = [
            (self.check_in, 6), (self.accept, 6), (self.repeat, 4), (self.decline, 2),
            (self.report, 1), (self.reborn, 1), (self.plan, 3), (self.job_manager, 8),
            (self.pass_time, 4), (self.restart, 1), (self.undeliverable, 1), (self.stale, 1),
        ]  # fmt: skip
        for _ in range(steps):
            (act,) = self.random.choices([a for a, _ in acts], [w for _, w in acts])
            act()
            self.listen()

    # --- devices ---------------------------------------------------------------------------

    def ask(self, device: int, message: Message, *, request: int | None = None) -> None:
        if request is None:
            self.requests[device] += 1
            request = self.requests[device]
            self.last[device] = message
        session = self.sessions[device]
        self.world.tags += 1
        self.owners[self.world.tags] = (device, session, request)
        tag = self.world.tags
        self.world.ask(device, message, request=request, session=session, tag=tag)

    def check_in(self) -> None:
        spec = [self.random.choice([1.0, 4.0]), 4.0]
        wait_s = self.random.choice([0.0, 1.0, 20.0])
        self.ask(self.pick(), CheckIn(schema="s1", spec=spec, option=1.0, wait_s=wait_s))

    def accept(self) -> None:
        device = self.pick()
        offer = self.offers.get(device)
        offered = offer is not None and offer.tasks and self.random.random() < 0.9
        tasks = [task.job for task in offer.tasks] if offer is not None and offered else JOBS
        self.ask(device, Accept(job=self.random.choice(tasks), round=0))

    def repeat(self) -> None:
        device = self.pick()
        if device in self.last:
            self.ask(device, self.last[device], request=self.requests[device])

    def stale(self) -> None:
        device = self.pick()
        request = self.random.randint(0, self.requests[device])
        self.ask(device, Accept(job=7, round=0), request=request)

    def decline(self) -> None:
        self.ask(self.pick(), Decline(rounds=[(self.random.choice(JOBS), 0)]))

    def report(self) -> None:
        self.ask(self.pick(), Report(job=7, round=0, token=b"t", outcome=Outcome.COMPLETED))

    def reborn(self) -> None:
        device = self.pick()
        self.sessions[device] += 1
        self.requests[device] = 0
        self.last.pop(device, None)

    # --- peers -----------------------------------------------------------------------------

    def plan(self) -> None:
        jobs = [job for job in JOBS if self.random.random() < 0.7]
        self.world.plan(
            *jobs, quota=self.random.randint(1, 3), seq=self.random.randint(1, 5), bound=2.0
        )

    def job_manager(self) -> None:
        """Claims are answered, late, twice, or not at all."""
        claims = self.world.claims()
        for claim in claims:
            assert not claim.look_up or claim.job in JOBS
        self.unanswered += claims
        self.random.shuffle(self.unanswered)
        while self.unanswered and self.random.random() < 0.7:
            claim = self.unanswered.pop()
            granted = not claim.look_up and self.random.random() < 0.6
            if granted:
                self.world.grant(claim, seq=self.random.randint(1, 6))
            else:
                self.world.refuse(claim, "not_offered" if claim.look_up else "round_full")
        del self.unanswered[20:]

    def pass_time(self) -> None:
        silent = tuple(peer for peer in ("scheduler", "job_manager") if self.random.random() < 0.1)
        self.world.advance(self.random.choice([0.1, 1.0, 4.0]), silent=silent)
        self.world.welcome("scheduler", "job_manager")

    def restart(self) -> None:
        peer = self.random.choice(["load_balancer", "scheduler", "job_manager"])
        self.world.restart(peer)
        if peer == "scheduler":
            self.world.versions = 0

    def undeliverable(self) -> None:
        tags = [self.random.randint(1, self.world.tags + 1) for _ in range(2)]
        self.world.say("load_balancer", Undeliverable(tags=tags))

    def pick(self) -> int:
        return self.random.randrange(DEVICES)

    # --- what devices see ------------------------------------------------------------------

    def listen(self) -> None:
        for answer in self.world.answers():
            device, session, request = self.owners[answer.tag]
            assert (answer.header.session, answer.header.request) == (session, request)
            self.answered[answer.tag] += 1
            assert self.answered[answer.tag] == 1, f"tag {answer.tag} was answered twice"
            if isinstance(answer.message, Offer):
                self.offers[device] = answer.message


@pytest.mark.parametrize("seed", range(40))
def test_rules_hold_in_any_conversation(seed: int) -> None:
    """Each tag is answered at most once, and the tables agree with the matcher at every step."""
    Storm(seed).run(150)


@pytest.mark.parametrize("seed", range(10))
def test_everything_is_let_go_in_the_end(seed: int) -> None:
    """When all is quiet no client waits, no offer is charged, and no claim is under way."""
    storm = Storm(seed)
    storm.run(150)
    world = storm.world
    world.welcome("load_balancer", "scheduler", "job_manager")
    world.advance(30.0)
    gauges = world.core.gauges()
    busy = ("clients_waiting", "clients_offered", "clients_claiming", "claims_under_way")
    assert {key: gauges[key] for key in busy} == dict.fromkeys(busy, 0)
    world.versions += 1_000
    world.plan(*JOBS, quota=DEVICES, seq=100)
    storm.listen()
    for device in range(DEVICES):  # and everybody is served again
        world.check_in(100 + device)
    assert all(answer.message.tasks for answer in world.answers())


@pytest.mark.parametrize("seed", range(10))
def test_every_device_that_asks_again_is_answered(seed: int) -> None:
    """After the faults, a request that is repeated until it is answered gets an answer."""
    storm = Storm(seed)
    storm.run(100)
    world = storm.world
    world.welcome("load_balancer", "scheduler", "job_manager")
    world.answers()
    world.claims()
    for device in range(DEVICES):
        storm.requests[device] += 1
        accept = Accept(job=7, round=0)
        for _ in range(5):
            world.ask(
                device, accept, request=storm.requests[device], session=storm.sessions[device]
            )
            for claim in world.claims():
                if claim.device_id == device_id(device):
                    world.refuse(claim, "not_offered")
            codes = [a.message.code for a in world.answers() if isinstance(a.message, Error)]
            if ErrorCode.NOT_OFFERED in codes:
                break
            world.advance(6.0)
        else:
            raise AssertionError(f"device {device} got no final answer")


def test_device_ids_of_tests_are_valid() -> None:
    """The kit's ids are what the protocol demands."""
    assert len(device_id(3)) == 32
