"""The load balancer's core, told as conversations on a virtual clock."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from daemons.load_balancer.core import LoadBalancerCore, LoadBalancerSettings
from propius.messages import (
    PAYLOAD_BYTES_MAX,
    Accept,
    Beat,
    CheckIn,
    Deliver,
    Error,
    ErrorCode,
    Forward,
    GetSchema,
    Header,
    Message,
    Offer,
    Register,
    Reject,
    Undeliverable,
    Welcome,
    decode_header,
    encode,
    encode_header,
)
from tests.daemons.client_manager.kit import (
    SCHEMA,
    SECOND,
    VERSION,
    DiallingPeer,
    Driver,
    device_id,
    keep_alive,
)
from tests.daemons.client_manager.manager_kit import World as ManagerWorld

CHECK_IN = CheckIn(schema="s1", spec=[1.0, 1.0], option=1.0, wait_s=60.0)
OFFER = Offer(tasks=[], plan_version=1, retry_after_s=1.0)


class World:
    """A load balancer, its managers and its devices."""

    def __init__(self, managers: int = 1, **settings: Any) -> None:
        values = LoadBalancerSettings(schema=SCHEMA, package_version=VERSION, **settings)
        self.driver = Driver(LoadBalancerCore(values, incarnation=6))
        self.driver.start()
        self.managers = [self.manager(number) for number in range(managers)]
        for manager in self.managers:
            manager.hello()

    @property
    def core(self) -> LoadBalancerCore:
        core = self.driver.core
        assert isinstance(core, LoadBalancerCore)
        return core

    def manager(self, number: int, incarnation: int = 1, **values: Any) -> DiallingPeer:
        return DiallingPeer(
            self.driver,
            "managers",
            "client_manager",
            f"client_manager-{number}",
            manager=number,
            incarnation=incarnation,
            **values,
        )

    def ask(
        self,
        device: int,
        message: Message = CHECK_IN,
        *,
        request: int = 1,
        session: int = 3,
        peer: bytes = b"",
    ) -> None:
        """A device's request, over its own connection."""
        self.driver.hear(
            "clients",
            peer or f"device {device}".encode(),
            message,
            sender=device_id(device),
            session=session,
            request=request,
        )

    def forwarded(self) -> list[tuple[str, int, bytes, bytes]]:
        """(manager's address, tag, header, payload) of what was passed on."""
        return [
            (sent.peer.decode(), *item)
            for sent in self.driver.take_sent(Forward)
            for item in sent.message.items
        ]

    def tag(self) -> int:
        ((_, tag, _, _),) = self.forwarded()
        return tag

    def deliver(self, manager: DiallingPeer, tag: int, message: Message = OFFER) -> None:
        header = Header(kind=message.kind, sender=manager.name, session=3, request=1)
        manager.say(Deliver(items=[(tag, *encode(header, message))]))

    def heard(self) -> Iterator[tuple[bytes, Header, Any]]:
        """What devices heard since last asked."""
        sent = [sent for sent in self.driver.sent if sent.link == "clients"]
        self.driver.sent = [sent for sent in self.driver.sent if sent.link != "clients"]
        return ((each.peer, each.header, each.message) for each in sent)

    def error(self) -> Error:
        ((_, _, message),) = self.heard()
        assert isinstance(message, Error)
        return message


def test_request_goes_to_a_manager_and_its_answer_comes_back() -> None:
    """The frames are passed on as they are, both ways, and the table is empty afterwards."""
    world = World()
    world.ask(1)
    ((manager, tag, header, payload),) = world.forwarded()
    assert manager == "client_manager-0"
    assert decode_header(header).sender == device_id(1)
    world.deliver(world.managers[0], tag)
    ((peer, reply, message),) = world.heard()
    assert (peer, reply.request, message) == (b"device 1", 1, OFFER)
    assert len(world.core.pending) == 0
    assert payload == encode(decode_header(header), CHECK_IN)[1]


def test_payloads_are_passed_on_unread() -> None:
    """Garbage reaches the client manager, which answers with the field; nothing is decoded here."""
    world, behind = World(), ManagerWorld()
    header = encode_header(Header(kind="check_in", sender=device_id(1), session=3, request=1))
    world.driver.receive("clients", b"device 1", header, b"\xc1 not MessagePack")
    ((_, tag, header_frame, payload),) = world.forwarded()
    assert payload == b"\xc1 not MessagePack"
    behind.ask_frames(header_frame, payload, tag=tag)
    (answer,) = behind.answers()
    world.deliver(world.managers[0], answer.tag, answer.message)
    error = world.error()
    assert (error.code, error.field) == (ErrorCode.INVALID, "payload")


def test_batch_of_requests_is_one_message_a_manager() -> None:
    """What arrives together leaves together."""
    world = World(managers=3)
    core, now_ns = world.core, world.driver.now_ns
    for device in range(300):
        header = Header(kind="check_in", sender=device_id(device), session=3, request=1)
        core.receive(now_ns, "clients", b"gateway", encode(header, CHECK_IN))
    world.driver.hear("managers", b"?", Beat(), sender="nobody", session=1)  # ends the batch
    sent = world.driver.take_sent(Forward)
    assert len(sent) == 3
    assert sum(len(each.message.items) for each in sent) == 300


def test_no_manager_means_not_ready_with_a_retry_time() -> None:
    """A device hears that nobody is there yet, and when to ask again."""
    world = World(managers=0)
    assert "client manager" in world.core.not_ready()
    world.ask(1)
    error = world.error()
    assert error.code is ErrorCode.NOT_READY
    assert error.retry_after_s > 0


def test_schema_is_told_without_any_manager() -> None:
    """A client can connect before the managers are there."""
    world = World(managers=0)
    world.ask(1, GetSchema())
    ((_, header, message),) = world.heard()
    assert message == SCHEMA
    assert (header.session, header.request) == (3, 1)


def test_draining_manager_gets_no_new_requests() -> None:
    """A beat that says not ready moves its devices to the others; a ready one brings them back."""
    world = World(managers=2)
    world.managers[0].say(Beat(ready=False))
    for device in range(20):
        world.ask(device)
    assert {manager for manager, *_ in world.forwarded()} == {"client_manager-1"}
    world.managers[0].say(Beat(ready=True))
    for device in range(20, 60):
        world.ask(device)
    assert {manager for manager, *_ in world.forwarded()} == {
        "client_manager-0",
        "client_manager-1",
    }


def test_silent_manager_is_noticed_within_three_seconds() -> None:
    """Its devices are told to check in again, and nobody is sent there any more."""
    world = World(managers=2)
    for device in range(20):
        world.ask(device)
    mine = [item for item in world.forwarded() if item[0] == "client_manager-0"]
    assert mine
    keep_alive(world.driver, 3.0, world.managers[1])
    heard = list(world.heard())
    assert len(heard) == len(mine)
    assert {message.code for _, _, message in heard} == {ErrorCode.CHECK_IN_AGAIN}
    world.ask(30)
    assert {manager for manager, *_ in world.forwarded()} == {"client_manager-1"}


def test_accept_of_a_lost_manager_is_to_be_asked_again() -> None:
    """It may have been granted, which the same request finds out through another manager."""
    world = World()
    world.ask(1, Accept(job=7, round=0))
    world.driver.advance(3.0)
    error = world.error()
    assert error.code is ErrorCode.BUSY
    assert error.retry_after_s > 0


def test_new_incarnation_of_a_manager_has_forgotten_its_devices() -> None:
    """They hear at once that they must check in again."""
    world = World()
    world.ask(1)
    tag = world.tag()
    again = world.manager(0, incarnation=2)
    again.hello()
    assert world.error().code is ErrorCode.CHECK_IN_AGAIN
    world.deliver(again, tag)
    assert list(world.heard()) == []
    world.ask(1, request=2)
    world.deliver(again, world.tag())
    assert len(list(world.heard())) == 1


def test_hello_from_another_address_moves_the_manager() -> None:
    """A reconnected manager is reached at its new address, and the old one is unknown."""
    world = World()
    moved = world.manager(0, address=b"elsewhere")
    moved.hello()
    world.ask(1)
    ((manager, *_),) = world.forwarded()
    assert manager == "elsewhere"
    world.driver.take(Error)
    world.managers[0].say(Beat())
    assert world.driver.one(Error).code is ErrorCode.UNKNOWN_SESSION


def test_other_version_is_rejected_with_both_named() -> None:
    """Peers must be of one version; the line names both."""
    world = World(managers=0)
    world.manager(0, version="9.9.9").hello()
    reject = world.driver.one(Reject)
    assert "9.9.9" in reject.text
    assert VERSION in reject.text
    assert world.driver.take(Welcome) == []


def test_repeat_of_a_request_keeps_its_tag() -> None:
    """The answer to either of two copies reaches the device, once."""
    world = World()
    world.ask(1)
    first = world.tag()
    world.ask(1)
    assert world.tag() == first
    world.deliver(world.managers[0], first)
    world.deliver(world.managers[0], first)
    assert len(list(world.heard())) == 1
    assert world.driver.take(Undeliverable) == []
    assert world.core.counters["unknown_tags"] == 1


def test_newer_request_replaces_the_older_one() -> None:
    """One entry a device and connection; the older answer finds nobody, and the manager hears."""
    world = World()
    world.ask(1)
    first = world.tag()
    world.ask(1, request=2)
    world.tag()
    assert len(world.core.pending) == 1
    world.deliver(world.managers[0], first)
    assert list(world.heard()) == []
    assert world.driver.one(Undeliverable).tags == [first]


def test_device_that_moves_to_another_manager_is_let_go_by_the_first() -> None:
    """The first manager hears that its held check-in is of no use any more."""
    world = World(managers=2)
    device = next(
        number
        for number in range(100)
        if world.core._rendezvous.pick(device_id(number)) == "client_manager-0"
    )
    world.ask(device)
    first = world.tag()
    world.managers[0].say(Beat(ready=False))
    world.ask(device)
    ((manager, tag, _, _),) = world.forwarded()
    assert manager == "client_manager-1"
    assert tag != first
    (sent,) = world.driver.take_sent(Undeliverable)
    assert (sent.peer, sent.message.tags) == (b"client_manager-0", [first])


def test_answer_that_cannot_be_delivered_is_reported_to_the_manager() -> None:
    """The device is gone: its manager may offer the slot to somebody else."""
    world = World()
    world.ask(1)
    tag = world.tag()
    world.deliver(world.managers[0], tag)
    (sent,) = (each for each in world.driver.sent if each.link == "clients")
    world.driver.undeliverable(sent)
    assert world.driver.one(Undeliverable).tags == [tag]
    assert world.core.counters["undeliverable"] == 1


def test_batch_that_did_not_reach_its_manager_is_answered() -> None:
    """Devices need not wait until they find out by themselves."""
    world = World()
    world.ask(1)
    (sent,) = world.driver.take_sent(Forward)
    world.driver.undeliverable(sent)
    assert world.error().code is ErrorCode.CHECK_IN_AGAIN
    assert len(world.core.pending) == 0


def test_manager_cannot_answer_for_another() -> None:
    """A tag belongs to the manager that it was given to."""
    world = World(managers=2)
    world.ask(1)
    ((owner, tag, _, _),) = world.forwarded()
    (other,) = [manager for manager in world.managers if manager.name != owner]
    world.deliver(other, tag)
    assert list(world.heard()) == []
    assert len(world.core.pending) == 1


def test_request_that_was_asked_again_over_another_connection_leaves_the_table() -> None:
    """The manager says that the older tag gets no answer any more."""
    world = World()
    world.ask(1, peer=b"wifi")
    first = world.tag()
    world.ask(1, peer=b"mobile")
    world.tag()
    assert len(world.core.pending) == 2
    world.managers[0].say(Deliver(items=[(first, b"", b""), (first, b"", b"")]))
    assert len(world.core.pending) == 1
    assert list(world.heard()) == []
    assert world.driver.take(Undeliverable) == []


def test_full_table_answers_busy_with_times_that_spread() -> None:
    """Past pending_max each device is told another time."""
    world = World(pending_max=5)
    for device in range(30):
        world.ask(device)
    errors = [message for _, _, message in world.heard()]
    assert len(world.core.pending) == 5
    assert {error.code for error in errors} == {ErrorCode.BUSY}
    assert len({error.retry_after_s for error in errors}) > 15
    assert len(world.forwarded()) == 5


def test_one_connection_has_its_share_of_the_table() -> None:
    """Past pending_per_connection_max it is told to wait; others, and its own repeats, are not."""
    world = World(pending_per_connection_max=3)
    for device in range(4):
        world.ask(device, peer=b"gateway")
    assert world.error().code is ErrorCode.BUSY
    assert world.core.counters["connection_limits_hit"] == 1
    tags = [tag for _, tag, _, _ in world.forwarded()]
    world.ask(0, peer=b"gateway")
    world.ask(9, peer=b"another")
    assert len(world.core.pending) == 4
    assert list(world.heard()) == []
    world.deliver(world.managers[0], tags[1])
    world.ask(3, peer=b"gateway")
    assert [message for _, _, message in world.heard()] == [OFFER]
    world.core.check_invariants()


def test_fleet_that_is_sent_away_comes_back_spread_out() -> None:
    """5,000 devices at one instant and no manager: they return at about the welcome rate."""
    world = World(managers=0, retries_per_s=500.0)
    start_ns = world.driver.now_ns
    due = [(start_ns, device) for device in range(5_000)]
    returns: Counter[int] = Counter()
    while due:
        now_ns, device = heapq.heappop(due)
        second = (now_ns - start_ns) // SECOND
        if second >= 40:
            break
        returns[second] += 1
        world.driver.now_ns = now_ns
        world.ask(device, request=1 + second)
        error = world.error()
        assert error.code is ErrorCode.NOT_READY
        heapq.heappush(due, (now_ns + int(error.retry_after_s * SECOND), device))
    assert returns[0] > 5_000
    assert max(returns[second] for second in range(1, 40)) <= 1_100
    assert min(returns[second] for second in range(10, 40)) >= 200


def test_restarted_balancer_declares_nobody_dead() -> None:
    """Each manager comes by its hello, and devices are told to wait till then."""
    world = World(managers=0)
    world.ask(1)
    error = world.error()
    assert error.code is ErrorCode.NOT_READY
    assert error.retry_after_s > 0
    manager = world.manager(0)
    manager.say(Beat())
    assert world.driver.one(Error).code is ErrorCode.UNKNOWN_SESSION
    manager.hello()
    world.ask(1, request=2)
    assert world.tag()
    assert world.core.peers() == [
        {"manager": 0, "incarnation": manager.incarnation, "ready": True, "requests": 1}
    ]


def test_manager_that_cannot_be_reached_gets_nothing_more() -> None:
    """A batch that finds no taker is enough to send devices elsewhere, until it says hello."""
    world = World(managers=2)
    for device in range(20):
        world.ask(device)
    (sent, *_) = world.driver.take_sent(Forward)
    world.driver.undeliverable(sent)
    world.driver.advance(0.0)
    assert [peer.encode() == sent.peer for peer in world.core.listener.peers] == [False]
    world.driver.take(Error)
    for device in range(100, 120):
        world.ask(device)
    assert sent.peer.decode() not in {manager for manager, _, _, _ in world.forwarded()}


def test_requests_that_are_no_check_ins_expire_soon() -> None:
    """Their manager gives up after some seconds, so an entry from before is of no use."""
    world = World()
    world.ask(1, Accept(job=1, round=0))
    world.ask(2)
    for _ in range(4):
        keep_alive(world.driver, 10.0, *world.managers)
    assert [entry.header.kind for entry in world.core.pending.all()] == ["check_in"]
    assert world.error().code is ErrorCode.BUSY


def test_request_without_an_answer_expires() -> None:
    """No entry outlives the longest wait that a device may ask for."""
    world = World()
    world.ask(1)
    for _ in range(64):
        keep_alive(world.driver, 10.0, *world.managers)
    assert len(world.core.pending) == 0
    assert world.core.counters["expired_requests"] == 1


@pytest.mark.parametrize(
    "header, code, field",
    [
        (b"", ErrorCode.INVALID, "header"),
        (b"\xff\xff", ErrorCode.INVALID, "header"),
        (b"x" * 300, ErrorCode.TOO_LARGE, "header"),
        (
            encode_header(
                Header(version=9, kind="check_in", sender="ab" * 16, session=1, request=1)
            ),
            ErrorCode.VERSION,
            "version",
        ),
        (
            encode_header(Header(kind="check_in", sender="somebody", session=1, request=1)),
            ErrorCode.INVALID,
            "sender",
        ),
        (
            encode_header(Header(kind="check_in", sender="AB" * 16, session=1, request=1)),
            ErrorCode.INVALID,
            "sender",
        ),
        (
            encode_header(Header(kind=Register.kind, sender="ab" * 16, session=1, request=1)),
            ErrorCode.UNKNOWN_KIND,
            "kind",
        ),
        (
            encode_header(Header(kind="no_such", sender="ab" * 16, session=1, request=1)),
            ErrorCode.UNKNOWN_KIND,
            "kind",
        ),
    ],
)
def test_garbage_headers_are_refused_by_name(header: bytes, code: ErrorCode, field: str) -> None:
    """What is no header of a device is answered with the reason, and forwarded to nobody."""
    world = World()
    world.driver.receive("clients", b"stranger", header, b"\x80")
    error = world.error()
    assert (error.code, error.field) == (code, field)
    assert world.forwarded() == []


def test_oversize_payload_is_refused() -> None:
    """More than a device may send does not reach a manager."""
    world = World()
    header = encode_header(Header(kind="check_in", sender=device_id(1), session=3, request=1))
    world.driver.receive("clients", b"stranger", header, b"\0" * (PAYLOAD_BYTES_MAX + 1))
    assert world.error().code is ErrorCode.TOO_LARGE


def test_wrong_number_of_frames_is_counted_and_dropped() -> None:
    """One frame or three are no message of this protocol."""
    world = World()
    world.driver.receive("clients", b"stranger", b"x")
    world.driver.receive("clients", b"stranger", b"x", b"y", b"z")
    assert list(world.heard()) == []
    assert world.core.counters["refused_frames"] == 2


def test_answers_to_garbage_are_limited_a_second() -> None:
    """A flood of garbage is answered so often, then only counted."""
    world = World(refusals_per_s=5)
    for _ in range(50):
        world.driver.receive("clients", b"stranger", b"\xff", b"")
    assert len(list(world.heard())) == 5
    world.driver.advance(1.0)
    world.driver.receive("clients", b"stranger", b"\xff", b"")
    assert len(list(world.heard())) == 1
    assert world.core.counters["refused_headers"] == 51


def test_garbage_on_the_inside_link_is_counted() -> None:
    """A manager that says nonsense is answered and changes nothing."""
    world = World()
    header = encode_header(Header(kind="deliver", sender="client_manager-0", session=1, request=1))
    world.driver.receive("managers", b"client_manager-0", header, b"\xc1")
    assert world.driver.one(Error, "managers").code is ErrorCode.INVALID


def test_tags_of_another_life_mean_nothing() -> None:
    """A restarted load balancer gives out other tags than the one before."""
    world = World()
    world.ask(1)
    before = world.tag()
    settings = LoadBalancerSettings(schema=SCHEMA, package_version=VERSION)
    world.driver = Driver(LoadBalancerCore(settings, incarnation=7))
    manager = world.manager(0)
    manager.hello()
    world.ask(2)
    assert world.tag() != before
    world.deliver(manager, before)
    assert list(world.heard()) == []


def test_drain_answers_everybody_and_takes_nothing_new() -> None:
    """On SIGTERM those who wait hear that they must check in again."""
    world = World()
    world.ask(1)
    assert not world.core.drained()
    world.core.drain(world.driver.now_ns)
    assert world.core.drained()
    world.ask(2)
    codes = [message.code for _, _, message in world.heard()]
    assert codes == [ErrorCode.CHECK_IN_AGAIN, ErrorCode.NOT_READY]
