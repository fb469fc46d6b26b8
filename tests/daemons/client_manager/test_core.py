"""The client manager's core, told as conversations on a virtual clock."""

from __future__ import annotations

import pytest

from propius.messages import (
    Assignment,
    CheckedIn,
    Decline,
    Error,
    ErrorCode,
    Ok,
    Report,
)
from tests.daemons.client_manager.kit import device_id
from tests.daemons.client_manager.manager_kit import World, jobs_of, offered, reportable

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


def test_device_is_not_offered_a_round_again_that_it_has_served() -> None:
    """The manager learns it from the refusal, for that device and that round only."""
    world = World()
    offered(world, 7, 8)
    world.accept(1, 7)
    world.refuse(world.claim(), "already_served")
    error = world.answer()
    assert error.code is ErrorCode.ALREADY_SERVED
    assert "next task" in error.text
    world.check_in(1, request=3)
    assert jobs_of(world.answer()) == [8]
    world.ask(1, Decline(rounds=[(8, 0)]), request=4)
    world.answers()
    world.check_in(2)
    assert jobs_of(world.answer()) == [7, 8]
    world.plan(7, 8, round=1, seq=2)
    world.check_in(1, request=5)
    assert jobs_of(world.answer()) == [7, 8]


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


@pytest.mark.parametrize("code", [ErrorCode.BUSY, ErrorCode.LIMIT])
def test_job_manager_that_cannot_take_more_is_busy_with_times_that_spread(code: ErrorCode) -> None:
    """What it says reaches the devices with a time of their own each."""
    world = World()
    world.plan(1, quota=40)
    for device in range(20):
        world.check_in(device)
        world.accept(device, 1, request=2)
    for claim in world.claims():
        world.refuse(claim, code.value)
    answers = [answer.message for answer in world.answers() if isinstance(answer.message, Error)]
    assert len(answers) == 20
    assert {answer.code for answer in answers} == {code}
    assert len({answer.retry_after_s for answer in answers}) > 10
    assert min(answer.retry_after_s for answer in answers) > 0


def test_report_without_an_answer_ends_in_busy() -> None:
    """The job manager is silent: the device is told to ask again, with the same number."""
    world = World()
    world.ask(1, Report(job=7, round=0, token=b"t", outcome=reportable()), request=5)
    world.advance(5.1, silent=("job_manager",))
    assert world.answer().code is ErrorCode.BUSY
