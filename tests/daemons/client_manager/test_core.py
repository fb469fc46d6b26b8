"""The client manager's core, told as conversations on a virtual clock."""

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
    Offer,
    Offered,
    Ok,
    PlanApplied,
    Reject,
    Report,
    Supply,
    Undeliverable,
    Welcome,
    encode,
    encode_header,
    encode_payload,
)
from tests.daemons.client_manager.kit import SCHEMA, device_id
from tests.daemons.client_manager.manager_kit import World, reportable


def jobs_of(offer: Offer) -> list[int]:
    return [task.job for task in offer.tasks]


# --- check-in and offer --------------------------------------------------------------------------


def test_check_in_is_offered_the_plans_rounds_in_order() -> None:
    """A device that checks in hears at once what it may serve, with the private constraints."""
    world = World()
    world.plan(7, 8)
    tag = world.check_in(1)
    (answer,) = world.answers()
    assert (answer.tag, answer.header.session, answer.header.request) == (tag, 3, 1)
    assert answer.header.sender == "client_manager-0"
    assert jobs_of(answer.message) == [7, 8]
    assert answer.message.tasks[0].private_constraint == {"images": 7.0}
    assert answer.message.plan_version == 1


def test_spec_that_misses_the_requirement_is_offered_nothing() -> None:
    """A device that does not meet a requirement hears an empty offer and when to come back."""
    world = World()
    world.plan(7)
    world.check_in(1, spec=(4.0, 1.0))
    offer = world.answer()
    assert offer.tasks == []
    assert 0 < offer.retry_after_s <= world.settings.retry_max_s


def test_values_above_the_maximum_are_clamped() -> None:
    """A spec above the operator's maximum counts as the maximum."""
    world = World()
    world.check_in(1, spec=(1e9, 1e9))
    (event,) = [e for e in world.driver.take_events() if isinstance(e, CheckedIn)]
    assert event.spec == [10.0, 16.0]


def test_held_check_in_is_answered_by_a_later_plan() -> None:
    """Nothing is open: the answer waits, and comes with the batch that brings the plan."""
    world = World()
    tag = world.check_in(1, wait_s=30.0)
    world.advance(10.0)
    assert world.answers() == []
    world.plan(7)
    (answer,) = world.answers()
    assert (answer.tag, jobs_of(answer.message)) == (tag, [7])


def test_hold_that_runs_out_ends_in_an_empty_offer() -> None:
    """After wait_s the device hears an empty offer with a retry time, once."""
    world = World()
    world.check_in(1, wait_s=2.0)
    world.advance(1.9)
    assert world.answers() == []
    world.advance(0.2)
    offer = world.answer()
    assert offer.tasks == []
    assert offer.retry_after_s > 0
    world.plan(7)
    assert world.answers() == []
    assert world.core.gauges()["clients_waiting"] == 0


def test_repeated_check_in_that_is_held_is_answered_once_to_the_repeat() -> None:
    """A repeat replaces where the answer goes; there are never two answers."""
    world = World()
    first = world.check_in(1, wait_s=30.0)
    second = world.check_in(1, wait_s=30.0)
    world.plan(7)
    (answer,) = world.answers()
    assert answer.tag == second
    assert world.dropped == [first]


def test_repeated_check_in_gets_the_same_offer() -> None:
    """A check-in whose offer got lost on the way hears the same offer, charged once."""
    world = World()
    world.plan(7)
    world.check_in(1)
    first = world.answers()[0]
    world.check_in(1)
    again = world.answers()[0]
    assert again.message == first.message
    world.check_in(2)
    assert world.answer().tasks == []  # the one slot is charged to device 1


def test_check_in_again_after_the_offer_lapsed_is_decided_anew() -> None:
    """A repeat of a check-in is not answered with an offer that timed out."""
    world = World()
    world.plan(7)
    world.check_in(1)
    world.advance(11.0)
    world.plan(8)
    world.answers()
    world.check_in(1)
    assert jobs_of(world.answer()) == [8]


def test_offer_that_times_out_gives_its_quota_back() -> None:
    """Someone else who waits is offered the slot that was not answered in time."""
    world = World()
    world.plan(7)
    world.check_in(1)
    world.check_in(2, wait_s=60.0)
    assert [answer.header.request for answer in world.answers()] == [1]
    world.advance(10.5)
    (answer,) = world.answers()
    assert jobs_of(answer.message) == [7]
    assert world.core.counters["offers_expired"] == 1


def test_newer_check_in_supersedes_a_held_one() -> None:
    """A device that checks in with a new number is held once."""
    world = World()
    world.check_in(1, wait_s=60.0)
    second = world.check_in(1, request=2, wait_s=60.0)
    assert world.core.gauges()["clients_waiting"] == 1
    world.plan(7, quota=5)
    (answer,) = world.answers()
    assert (answer.tag, answer.header.request) == (second, 2)


def test_waiting_room_is_bounded() -> None:
    """Past waiting_max a check-in hears busy, with retry times that differ."""
    world = World(waiting_max=3)
    for device in range(3):
        world.check_in(device, wait_s=60.0)
    for device in range(3, 23):
        world.check_in(device, wait_s=60.0)
    refused = [answer.message for answer in world.answers()]
    assert {error.code for error in refused} == {ErrorCode.BUSY}
    assert len({error.retry_after_s for error in refused}) > 10


def test_empty_offers_to_a_large_fleet_spread_over_time() -> None:
    """Thousands that get nothing are told to return at about the welcome rate, not as a wave."""
    world = World(retries_per_s=10.0, retry_idle_s=1.0)
    for device in range(400):
        world.check_in(device)
    waits = [answer.message.retry_after_s for answer in world.answers()]
    last = sorted(waits[-100:])
    assert last[-1] - last[0] > 10.0
    assert last[-1] <= world.settings.retry_max_s


def test_retry_is_sooner_while_rounds_are_open() -> None:
    """With open rounds a device that got nothing comes back sooner than when nothing is open."""
    idle, busy = World(), World()
    busy.plan(7, bound=9.0)
    for world in (idle, busy):
        world.check_in(1)
    assert busy.answer().retry_after_s < idle.answer().retry_after_s


# --- accept, claim, assignment -------------------------------------------------------------------


def offered(world: World, *jobs: int, device: int = 1) -> None:
    """A device that holds an offer of these jobs."""
    world.plan(*jobs)
    world.check_in(device)
    assert jobs_of(world.answer()) == list(jobs)


def test_accept_becomes_a_claim_and_then_an_assignment() -> None:
    """An offered task is claimed at the job manager, and its grant is the device's assignment."""
    world = World()
    offered(world, 7)
    tag = world.accept(1, 7)
    claim = world.claim()
    assert (claim.device_id, claim.session, claim.request) == (device_id(1), 3, 2)
    assert (claim.job, claim.round, claim.look_up) == (7, 0, False)
    assert world.answers() == []
    world.grant(claim)
    (answer,) = world.answers()
    assert answer.tag == tag
    assert answer.message == Assignment(
        job=7, round=0, endpoint="tcp://127.0.0.1:5000", lease_s=60.0, token=b"token"
    )


def test_refused_device_takes_the_next_task_of_its_offer() -> None:
    """After round_full the device may claim another task of the same offer."""
    world = World()
    offered(world, 7, 8)
    world.accept(1, 7)
    world.refuse(world.claim(), "round_full")
    error = world.answer()
    assert error.code is ErrorCode.ROUND_FULL
    assert "next task" in error.text
    world.accept(1, 8, request=3)
    claim = world.claim()
    assert (claim.job, claim.look_up) == (8, False)
    world.grant(claim)
    assert world.answer().job == 8


def test_duplicate_accept_gets_the_same_answer_and_makes_no_second_claim() -> None:
    """The same accept, before and after the answer: one claim, and the same bytes."""
    world = World()
    offered(world, 7)
    world.accept(1, 7)
    second = world.accept(1, 7)
    world.grant(world.claim())
    (first,) = world.answers()
    assert first.tag == second
    third = world.accept(1, 7)
    (again,) = world.answers()
    assert (again.tag, again.message, again.header) == (third, first.message, first.header)
    assert world.claims() == []


def test_same_number_with_another_body_is_a_conflict() -> None:
    """Request 2 accepted job 7; request 2 cannot accept job 8."""
    world = World()
    offered(world, 7, 8)
    world.accept(1, 7)
    world.grant(world.claim())
    world.answers()
    world.accept(1, 8)
    error = world.answer()
    assert (error.code, error.field) == (ErrorCode.CONFLICT, "request")


def test_older_number_is_stale() -> None:
    """What a network delivers late is not acted upon."""
    world = World()
    offered(world, 7)
    world.accept(1, 7)
    world.check_in(1, request=1)
    assert world.answer().code is ErrorCode.STALE_REQUEST


def test_accept_of_what_was_never_offered_is_looked_up_only() -> None:
    """It can only have been granted through another manager; it is never a new claim."""
    world = World()
    world.plan(7)
    world.accept(1, 7)
    claim = world.claim()
    assert claim.look_up
    world.refuse(claim, "not_offered")
    assert world.answer().code is ErrorCode.NOT_OFFERED


def test_look_up_that_finds_a_lease_is_an_assignment() -> None:
    """A manager that never saw the offer passes on what an earlier one got."""
    world = World()
    world.accept(1, 7)
    world.grant(world.claim())
    assert isinstance(world.answer(), Assignment)


def test_accept_after_the_offer_timed_out_is_looked_up_only() -> None:
    """The quota was given back, so it is no claim any more."""
    world = World()
    offered(world, 7)
    world.advance(10.1)
    world.accept(1, 7)
    assert world.claim().look_up


def test_accept_of_another_session_than_the_offers_is_looked_up_only() -> None:
    """A late accept from a device's earlier life cannot take what its new life was offered."""
    world = World()
    offered(world, 7)
    world.accept(1, 7, session=99, request=50)
    assert world.claim().look_up


def test_claim_is_sent_again_until_it_is_answered() -> None:
    """A claim that got no answer goes out again each second."""
    world = World()
    offered(world, 7)
    world.accept(1, 7)
    first = world.claim()
    world.advance(2.5)
    again = world.claims()
    assert again == [first, first]


def test_claim_waits_for_the_job_manager_and_is_sent_when_it_is_back() -> None:
    """A job manager that restarts gets every claim that it has not answered."""
    world = World()
    offered(world, 7)
    world.accept(1, 7)
    first = world.claim()
    world.restart("job_manager")
    assert world.claim() == first
    world.grant(first)
    assert isinstance(world.answer(), Assignment)


def test_claim_without_an_answer_ends_in_busy_and_a_repeat_is_looked_up() -> None:
    """After the time-out nobody knows; asking again with the same number finds out."""
    world = World()
    offered(world, 7)
    world.accept(1, 7)
    claim = world.claim()
    world.advance(5.1, silent=("job_manager",))
    error = world.answer()
    assert error.code is ErrorCode.BUSY
    assert error.retry_after_s > 0
    assert world.core.gauges()["claims_under_way"] == 0
    world.grant(claim)  # late; the job manager is not welcomed, so it is ignored
    world.welcome("job_manager")
    world.claims()
    world.accept(1, 7)
    repeat = world.claim()
    assert repeat.look_up
    assert repeat.digest == claim.digest
    world.grant(repeat)
    assert isinstance(world.answer(), Assignment)


def test_claims_under_way_are_bounded() -> None:
    """Past claims_max an accept hears busy, and may be repeated."""
    world = World(claims_max=1)
    world.plan(7, quota=5)
    for device in (1, 2):
        world.check_in(device)
        world.accept(device, 7)
    assert [a.message.code for a in world.answers() if isinstance(a.message, Error)] == ["busy"]
    world.grant(world.claim())
    world.accept(2, 7)
    assert world.claim().look_up is False


def test_device_whose_claim_is_undecided_cannot_check_in() -> None:
    """A check-in in the middle of a claim hears busy; the claim goes on."""
    world = World()
    offered(world, 7)
    world.accept(1, 7)
    world.check_in(1, request=3)
    assert world.answer().code is ErrorCode.BUSY
    world.grant(world.claim())
    assert isinstance(world.answer(), Assignment)


def test_late_and_repeated_results_change_nothing() -> None:
    """A result that answers nothing (any more) is counted and dropped."""
    world = World()
    offered(world, 7)
    world.accept(1, 7)
    claim = world.claim()
    world.grant(claim)
    world.answers()
    world.grant(claim)
    world.refuse(claim, "round_full")
    assert world.answers() == []
    assert world.core.counters["late_results"] == 2


def test_late_result_of_an_earlier_request_is_no_answer_to_a_later_one() -> None:
    """The refusal of a claim that was given up does not refuse the claim after it."""
    world = World()
    offered(world, 7, 8)
    world.accept(1, 7)
    given_up = world.claim()
    world.advance(5.1, silent=("job_manager",))
    world.welcome("job_manager")
    world.answers()
    world.accept(1, 8, request=3)
    world.refuse(given_up, "round_full")
    assert world.answers() == []
    world.grant(world.claims()[-1])
    assert world.answer().job == 8


def test_assignment_keeps_its_charge_until_a_plan_has_seen_it() -> None:
    """A plan from before the grant does not wake a second device for the same slot."""
    world = World()
    offered(world, 7)
    world.accept(1, 7)
    world.grant(world.claim(), seq=10)
    world.answers()
    world.plan(7, seq=9)
    world.check_in(2)
    assert world.answer().tasks == []
    world.plan(7, seq=10)
    world.check_in(3)
    assert jobs_of(world.answer()) == [7]


# --- decline and report --------------------------------------------------------------------------


def test_declined_rounds_are_not_offered_to_the_device_again() -> None:
    """Decline ends the offer, gives the quota back, and is remembered for that device only."""
    world = World()
    offered(world, 7)
    world.ask(1, Decline(rounds=[(7, 0)]), request=2)
    assert world.answer() == Ok()
    world.check_in(1, request=3)
    assert world.answer().tasks == []
    world.check_in(2)
    assert jobs_of(world.answer()) == [7]


def test_report_is_passed_on_and_answered() -> None:
    """The report's outcome and token reach the job manager; ok comes back."""
    world = World()
    report = Report(job=7, round=0, token=b"t", outcome=reportable())
    world.ask(1, report, request=5)
    (item,) = world.reports()
    assert (item.job, item.token, item.request) == (7, b"t", 5)
    world.answer_report(item)
    assert world.answer() == Ok()
    world.ask(1, report, request=5)
    assert world.answer() == Ok()
    assert world.reports() == []


def test_report_with_a_stale_token_is_refused_by_name() -> None:
    """The job manager's reason becomes the error's code."""
    world = World()
    world.ask(1, Report(job=7, round=0, token=b"t", outcome=reportable()), request=5)
    world.answer_report(world.reports()[0], "stale_token")
    assert world.answer().code is ErrorCode.STALE_TOKEN


def test_report_without_an_answer_ends_in_busy() -> None:
    """The job manager is silent: the device is told to ask again, with the same number."""
    world = World()
    world.ask(1, Report(job=7, round=0, token=b"t", outcome=reportable()), request=5)
    world.advance(5.1, silent=("job_manager",))
    assert world.answer().code is ErrorCode.BUSY


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
    """Check-in, plan, offer, claim, answer, decline, time-outs: each once, in order."""
    world = World()
    world.check_in(1, wait_s=60.0)
    world.plan(7, 8)
    world.accept(1, 7)
    world.refuse(world.claim(), "round_full")
    world.ask(1, Decline(rounds=[(8, 0)]), request=3)
    world.check_in(2)
    world.advance(11.0)
    kinds = [type(event) for event in world.driver.take_events()]
    assert kinds == [
        CheckedIn, PlanApplied, Offered, Claimed, ClaimAnswered, Declined,
        CheckedIn, Offered, ClientForgotten,
    ]  # fmt: skip


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
