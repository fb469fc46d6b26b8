"""The client manager's core: bad input, its peers, supply and the event log."""

from __future__ import annotations

import math

import msgspec
import pytest

from propius.messages import (
    Accept,
    Assignment,
    Beat,
    CheckedIn,
    CheckIn,
    ClaimAnswered,
    Claimed,
    Claims,
    ClientForgotten,
    Decline,
    Declined,
    Deliver,
    Error,
    ErrorCode,
    GetSchema,
    Header,
    Heartbeat,
    Hello,
    LookedUp,
    MatcherStarted,
    Offered,
    PlanApplied,
    Reject,
    SchedulerMet,
    Supply,
    TimeLooked,
    Undeliverable,
    WaitingMatched,
    Welcome,
    encode,
    encode_header,
    encode_payload,
)
from tests.daemons.client_manager.kit import SCHEMA, device_id
from tests.daemons.client_manager.manager_kit import World, jobs_of, offered

# --- bad input -----------------------------------------------------------------------------------


def test_garbage_payload_is_refused_with_the_reason() -> None:
    """Bytes that are no MessagePack are an error, and the device's memory is untouched."""
    world = World()
    header = encode_header(Header(kind="check_in", sender=device_id(1), session=3, request=1))
    world.ask_frames(header, b"\xc1\xff\x00garbage")
    error = world.answer()
    assert (error.code, error.field) == (ErrorCode.INVALID, "payload")
    assert len(world.core.clients.exchanges) == 0


@pytest.mark.parametrize(
    "change, field",
    [
        ({"spec": [math.nan, 1.0]}, "spec[0]"),
        ({"spec": [-1.0, 1.0]}, "spec[0]"),
        ({"spec": [1.0]}, "spec"),
        ({"spec": [1.0, 2.0, 3.0]}, "spec"),
        ({"spec": "many"}, "spec"),
        ({"option": math.nan}, "option"),
        ({"wait_s": 1e9}, "wait_s"),
        ({"colour": 1}, "colour"),
    ],
)
def test_wrong_field_is_named(change: dict[str, object], field: str) -> None:
    """NaN, negative, wrong length, wrong type, unknown: the error says which field."""
    world = World()
    values = {"schema": "s1", "spec": [1.0, 1.0], "option": 1.0, "wait_s": 0.0, **change}
    header = encode_header(Header(kind="check_in", sender=device_id(1), session=3, request=1))
    world.ask_frames(header, msgspec.msgpack.encode(values))
    error = world.answer()
    assert (error.code, error.field) == (ErrorCode.INVALID, field)


def test_another_attribute_schema_is_refused() -> None:
    """The device must fetch the operator's schema again."""
    world = World()
    world.check_in(1, schema="s0")
    error = world.answer()
    assert (error.code, error.field) == (ErrorCode.SCHEMA_CHANGED, "schema")


def test_kind_that_no_client_may_send_is_refused() -> None:
    """A job's verb, or an inside message, is not a client's."""
    world = World()
    world.ask(1, Heartbeat(job=1, secret=b"x"), request=1)
    assert world.answer().code is ErrorCode.UNKNOWN_KIND


def test_schema_is_told_to_who_asks() -> None:
    """get_schema is answered even where the load balancer passes it on."""
    world = World()
    world.ask(1, GetSchema(), request=1)
    assert world.answer() == SCHEMA
    world.check_in(1, wait_s=60.0, request=1)
    world.ask(1, GetSchema(), request=1, session=77)
    assert world.answer() == SCHEMA
    assert world.core.gauges()["clients_waiting"] == 1


def test_garbage_from_a_peer_is_counted() -> None:
    """An inside message that cannot be read changes nothing."""
    world = World()
    header = encode_header(Header(kind="plan", sender="scheduler", session=9, request=0))
    world.driver.receive("scheduler", b"", header, b"\x00")
    world.driver.receive("scheduler", b"", b"\xff", b"\x00")
    world.driver.receive("scheduler", b"", header)
    assert world.core.counters["refused_messages"] == 1
    assert world.core.counters["refused_headers"] == 1
    assert world.core.counters["refused_frames"] == 1


def test_device_table_is_bounded_and_forgets_the_oldest() -> None:
    """remembered_max devices are remembered, and none longer than remember_s."""
    world = World(remembered_max=10, remember_s=5.0)
    for device in range(25):
        world.check_in(device)
    assert len(world.core.clients.exchanges) == 10
    world.advance(5.5)
    assert len(world.core.clients.exchanges) == 0


def test_an_offer_can_be_taken_though_its_check_in_was_forgotten_in_a_crowd() -> None:
    """More devices wait than are remembered: an accept still claims what was offered."""
    world = World(remembered_max=2)
    for device in range(1, 6):
        world.check_in(device, wait_s=60.0)
    world.plan(1)
    assert jobs_of(world.answer()) == [1]
    world.accept(1, 1)
    assert not world.claim().look_up


# --- peers ---------------------------------------------------------------------------------------


def test_hello_says_who_we_are_to_all_three_peers() -> None:
    """The hello is the membership: role, number, version and schema."""
    world = World(welcomed=False)
    hellos = world.driver.take_sent(Hello)
    assert {sent.link for sent in hellos} == {"load_balancer", "scheduler", "job_manager"}
    assert {sent.message.role for sent in hellos} == {"client_manager"}
    assert {sent.message.package_version for sent in hellos} == {"0.1.0"}


def test_it_waits_for_its_peers_and_says_which_is_missing() -> None:
    """not_ready names the missing peer, then the missing plan, then nothing."""
    world = World(welcomed=False)
    for peer in ("load_balancer", "scheduler", "job_manager"):
        assert peer.replace("_", " ") in world.core.not_ready()
        world.welcome(peer)
    assert "plan" in world.core.not_ready()
    world.plan()
    assert world.core.not_ready() == ""


def test_rejection_is_the_reason_for_not_being_ready() -> None:
    """A peer of another version says so, and that line is shown."""
    world = World(welcomed=False)
    world.say("load_balancer", Reject(text="load_balancer 2.0 cannot work with 0.1.0"))
    assert "2.0" in world.core.not_ready()


def test_old_plan_is_ignored() -> None:
    """A plan that arrives after a newer one changes nothing."""
    world = World()
    old = world.plan(7)
    world.plan(8)
    world.say("scheduler", old)
    world.check_in(1)
    assert jobs_of(world.answer()) == [8]
    assert world.core.counters["plans_applied"] == 2


def test_new_scheduler_numbers_its_plans_from_anew() -> None:
    """A restarted scheduler's plan 1 replaces plan 5 of the one before."""
    world = World()
    for _ in range(5):
        world.plan(7)
    world.restart("scheduler")
    world.versions = 0
    world.plan(8)
    world.check_in(1)
    offer = world.answer()
    assert jobs_of(offer) == [8]
    assert offer.plan_version == 1


def test_last_plan_stays_in_force_without_a_scheduler() -> None:
    """Offers go on while the scheduler is away."""
    world = World()
    world.plan(7)
    world.advance(5.0, silent=("scheduler",))
    world.check_in(1)
    assert jobs_of(world.answer()) == [7]
    assert "scheduler" in world.core.not_ready()


def test_restarted_scheduler_does_not_double_the_quotas() -> None:
    """Offers that are out, and grants that its plan does not know of, count against it, too."""
    world = World()
    world.plan(7, quota=3)
    for device in (1, 2, 3):
        world.check_in(device)
    assert [jobs_of(answer.message) for answer in world.answers()] == [[7]] * 3
    world.accept(1, 7)
    world.grant(world.claim(), seq=5)
    world.answers()
    world.restart("scheduler")
    world.check_in(4)
    assert jobs_of(world.answer()) == []  # by the plan from before
    world.versions = 0
    world.plan(7, quota=3, seq=4)  # of a snapshot from before the grant
    world.check_in(5)
    assert jobs_of(world.answer()) == []
    world.plan(7, quota=2, seq=5)
    world.check_in(6)
    assert jobs_of(world.answer()) == []  # two offers are out still
    world.ask(2, Decline(rounds=[(7, 0)]), request=2)
    world.answers()
    world.check_in(8)
    assert jobs_of(world.answer()) == [7]


def test_beat_tells_the_scheduler_which_plan_is_in_force() -> None:
    """So a plan that got lost is noticed."""
    world = World()
    world.plan(7)
    world.driver.take(Beat)
    world.advance(0.5)
    assert {beat.seq for beat in world.driver.take(Beat, "scheduler")} == {1}


def test_unknown_session_leads_back_to_hello_and_those_who_wait_check_in_again() -> None:
    """The load balancer lost us and told its devices; nobody is left waiting here."""
    world = World()
    world.check_in(1, wait_s=60.0)
    world.driver.take(Hello)
    world.say("load_balancer", Error(code=ErrorCode.UNKNOWN_SESSION, text="say hello first"))
    assert len(world.driver.take(Hello, "load_balancer")) == 1
    world.welcome("load_balancer")
    assert world.answer().code is ErrorCode.CHECK_IN_AGAIN
    assert world.core.gauges()["clients_waiting"] == 0
    world.check_in(1, wait_s=60.0)
    world.plan(7)
    assert jobs_of(world.answer()) == [7]


def test_undeliverable_offer_gives_its_quota_back() -> None:
    """The device is gone: who waits is offered its slot in the same batch."""
    world = World()
    world.plan(7)
    tag = world.check_in(1)
    world.check_in(2, wait_s=60.0)
    world.answers()
    world.say("load_balancer", Undeliverable(tags=[tag]))
    assert jobs_of(world.answer()) == [7]


def test_device_that_went_to_another_manager_is_forgotten_here() -> None:
    """The load balancer says so of a held check-in; no later plan offers it anything."""
    world = World()
    tag = world.check_in(1, wait_s=60.0)
    world.say("load_balancer", Undeliverable(tags=[tag, 12345]))
    world.plan(7)
    assert world.answers() == []


def test_undeliverable_answer_to_a_claim_under_way_changes_nothing() -> None:
    """A claim is decided by the job manager, whoever is still there."""
    world = World()
    offered(world, 7)
    tag = world.accept(1, 7)
    world.say("load_balancer", Undeliverable(tags=[tag]))
    world.grant(world.claim())
    assert isinstance(world.answer(), Assignment)


def test_restarted_manager_makes_no_claim_of_an_offer_from_before() -> None:
    """All it knew is lost, so the accept is looked up."""
    world = World()
    offered(world, 7)
    world.boot(incarnation=6)
    world.welcome("load_balancer", "scheduler", "job_manager")
    world.plan(7)
    world.accept(1, 7)
    assert world.claim().look_up


def test_message_of_another_incarnation_is_not_acted_upon() -> None:
    """A plan of a scheduler that was replaced leads to hello, not to offers."""
    world = World()
    world.incarnations["scheduler"] = 77
    world.plan(7)
    world.check_in(1)
    assert world.answer().tasks == []
    assert not world.core.scheduler.up


def test_answers_are_dropped_while_the_load_balancer_is_away() -> None:
    """They would find nobody, and are not kept."""
    world = World()
    world.check_in(1, wait_s=2.0)
    world.advance(2.5, silent=("load_balancer",))
    assert world.driver.take(Deliver) == []
    assert world.core.counters["undelivered_answers"] >= 1


def test_drain_sends_waiting_clients_away_and_finishes_claims() -> None:
    """New check-ins go elsewhere; a claim under way is answered before it is drained."""
    world = World()
    offered(world, 7)
    world.accept(1, 7)
    world.check_in(2, wait_s=60.0)
    world.driver.take(Beat)
    world.core.drain(world.driver.now_ns)
    world.check_in(3, wait_s=60.0)
    codes = [answer.message.code for answer in world.answers()]
    assert codes == [ErrorCode.CHECK_IN_AGAIN] * 2
    assert [beat.ready for beat in world.driver.take(Beat, "load_balancer")] == [False]
    assert not world.core.drained()
    world.grant(world.claim())
    assert isinstance(world.answer(), Assignment)
    assert world.core.drained()


def test_draining_is_said_again_until_it_is_over() -> None:
    """One lost beat must not leave new check-ins coming here."""
    world = World()
    world.core.drain(world.driver.now_ns)
    world.driver.take(Beat)
    for _ in range(10):  # other traffic all the time
        world.driver.advance(0.1)
        world.check_in(1, request=_ + 1)
    assert len([b for b in world.driver.take(Beat, "load_balancer") if not b.ready]) >= 2


# --- supply --------------------------------------------------------------------------------------


def test_supply_is_sent_by_closed_buckets() -> None:
    """Two devices in a second, one of them twice: a bucket of two."""
    world = World()
    world.check_in(1)
    world.check_in(1, request=2)
    world.check_in(2)
    world.advance(1.5)
    (supply,) = world.driver.take(Supply)
    assert supply.seq == 1
    (bucket,) = supply.buckets
    assert bucket.distinct_devices == 2
    assert len(bucket.specs) == 2 * len(bucket.options)


def test_supply_repeats_the_last_buckets_and_all_to_a_new_scheduler() -> None:
    """A lost message is made good by the next one, a lost scheduler by sending all again."""
    world = World()
    for number in range(5):
        world.check_in(number)
        world.advance(1.0)
    world.advance(1.0)
    sent = world.driver.take(Supply)
    assert [(supply.seq, len(supply.buckets)) for supply in sent][-1] == (5, 3)
    world.restart("scheduler")
    (again,) = world.driver.take(Supply)
    assert (again.seq, len(again.buckets)) == (5, 5)


# --- the event log -------------------------------------------------------------------------------


def test_events_are_the_matchers_inputs_in_order() -> None:
    """Check-in, plan, offer, claim, answer, decline, time-outs: each once, in order.

    What tells the time stands between them: a batch ends, somebody's time may be over.
    """
    world = World()
    world.check_in(1, wait_s=60.0)
    world.plan(7, 8)
    world.accept(1, 7)
    world.refuse(world.claim(), "round_full")
    world.ask(1, Decline(rounds=[(8, 0)]), request=3)
    world.check_in(2)
    world.advance(11.0)
    kinds = [type(event) for event in world.driver.take_events()]
    assert [kind for kind in kinds if kind not in {TimeLooked, WaitingMatched}] == [
        MatcherStarted, SchedulerMet, CheckedIn, PlanApplied, Offered, Claimed, ClaimAnswered,
        Declined, CheckedIn, Offered, ClientForgotten,
    ]  # fmt: skip
    assert kinds[kinds.index(PlanApplied) + 1] is WaitingMatched
    assert kinds[-3:] == [TimeLooked, ClientForgotten, WaitingMatched]


def test_an_accept_of_what_was_not_offered_is_an_event() -> None:
    """The matcher was asked and said no: ``looked_up``, not ``claimed``."""
    world = World()
    offered(world, 7)
    world.accept(1, 9)
    events = world.driver.take_events()
    assert any(isinstance(event, LookedUp) for event in events)
    assert not any(isinstance(event, Claimed) for event in events)


def test_no_event_is_made_when_nobody_keeps_them() -> None:
    """With the event log off, nothing is recorded."""
    world = World(event_log=False)
    offered(world, 7)
    assert world.driver.take_events() == []


def test_same_inputs_give_the_same_outputs() -> None:
    """Two managers with one seed say the same bytes to the same conversation."""

    def conversation() -> list[tuple[str, bytes]]:
        world = World()
        world.plan(7, 8, quota=3)
        for device in range(10):
            world.check_in(device, wait_s=float(device))
        world.accept(0, 7)
        world.advance(12.0)
        return [(s.link, encode(s.header, s.message)[1]) for s in world.driver.sent]

    assert conversation() == conversation()


def test_batches_of_claims_and_answers_are_one_message_each() -> None:
    """What a batch gathers leaves as one message a peer."""
    world = World()
    world.plan(7, quota=50)
    for device in range(50):
        world.check_in(device)
    world.answers()
    frames = []
    for device in range(50):
        header = Header(kind="accept", sender=device_id(device), session=3, request=2)
        frames.append((1_000 + device, *encode(header, Accept(job=7, round=0))))
    from propius.messages import Forward

    world.say("load_balancer", Forward(items=frames))
    (claims,) = world.driver.take(Claims)
    assert len(claims.claims) == 50


def test_payload_of_an_offer_is_made_once() -> None:
    """Offers of the same rounds share their bytes; a new plan makes new ones."""
    world = World()
    world.plan(7, quota=5)
    for device in range(3):
        world.check_in(device)
    plans = world.core.clients.plans
    assert plans.offer_payload([(7, 0)]) is plans.offer_payload([(7, 0)])
    before = plans.offer_payload([(7, 0)])
    world.plan(7, quota=5)
    assert plans.offer_payload([(7, 0)]) != before
    assert encode_payload(CheckIn(schema="s", spec=[], option=0.0))  # another payload altogether


def test_welcome_again_is_no_new_peering() -> None:
    """A repeated welcome of the same incarnation sends nobody away."""
    world = World()
    world.check_in(1, wait_s=60.0)
    world.say("load_balancer", Welcome(incarnation=9))
    assert world.answers() == []
    assert world.core.gauges()["clients_waiting"] == 1
