"""The checker sees each kind of violation in a history made by hand, and none in a good one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from propius.messages import JobStatus, RoundStatus
from tests.campaign.checker import RULES, Final, StoredRound, check
from tests.campaign.history import Event, Phase, Recorder, read_history

DEVICES = ("a" * 32, "b" * 32)
S = 1_000_000_000


class Story:
    """A history written line by line; ``at_s`` is when the next line happens."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.at_s = 0.0
        self.calls = 0
        self.final = Final()

    def tell(
        self, who: str, verb: str, answer: Phase = "ok", takes_s: float = 0.1, **v: Any
    ) -> None:
        """A request and its answer; values named ``re_…`` are the answer's alone."""
        self.calls += 1
        told = {name.removeprefix("re_"): v.pop(name) for name in list(v) if name[:3] == "re_"}
        asked = Event(
            at_ns=int(self.at_s * S), who=who, call=self.calls, phase="ask", verb=verb, **v
        )
        self.at_s += takes_s
        self.events += [
            asked,
            msgspec.structs.replace(asked, at_ns=int(self.at_s * S), phase=answer, **told),
        ]
        self.at_s += 0.1

    def accept(self, who: str, lease: int, slot: int, round_no: int = 0, **v: Any) -> None:
        """An accept that was acknowledged."""
        values = {"re_lease": lease, "re_slot": slot, "re_lease_s": 5.0, **v}
        self.tell(who, "accept", job=1, round=round_no, **values)

    def report(
        self, who: str, lease: int, answer: Phase = "ok", round_no: int = 0, **v: Any
    ) -> None:
        """A report."""
        values = {"outcome": "completed", **v}
        self.tell(who, "report", answer, job=1, round=round_no, lease=lease, **values)

    def watch(self, verb: str = "watch_round", round_no: int = 0, **changes: Any) -> None:
        """A job server learns the state of a round."""
        values = msgspec.structs.replace(ROUND, round=round_no, **changes)
        self.tell("job-0", verb, job=1, round=round_no, re_status=values)

    def check(self) -> list[str]:
        """What the checker says."""
        return check(sorted(self.events, key=lambda event: event.at_ns), self.final)


ROUND = RoundStatus(
    job=1, round=0, version=9, state="completed", demand=2, allocated=2, held=0, completed=2,
    failed=1, expired=0, reports_min=2, filled_after_s=1.0, ended_after_s=2.0, lost=[12],
)  # fmt: skip
JOB = JobStatus(
    job=1, name="job-0", state="completed", reason="", requirement=[], requirement_id=0, demand=2,
    rounds=1, rounds_done=1, round=0, round_state="completed", allocated=2, round_demand=2,
    devices_completed=2, devices_failed=1, devices_expired=0, registered_at_s=0.0, age_s=1.0,
    waiting_s=0.0, mean_scheduling_delay_s=1.0, mean_response_s=1.0, jct_s=1.0,
)  # fmt: skip
STORED = StoredRound(state="completed", version=9, demand=2, completed=2, failed=1, expired=0)


def good() -> Story:
    """One job, one round: device a fails once and comes again, device b does well."""
    story = Story()
    first, second = DEVICES
    story.tell("job-0", "register", re_job=1)
    story.tell("job-0", "start_request", job=1, demand=2, re_round=0)
    story.accept(first, lease=11, slot=0)
    story.accept(second, lease=12, slot=1)
    story.tell("job-0", "admit", lease=11, re_job=1, re_round=0, re_slot=0)
    story.watch(version=3, state="filled", held=2, completed=0, failed=0, lost=[])
    story.report(second, 12, outcome="failed")
    story.accept(second, lease=13, slot=1)
    story.report(second, 12, "refused", re_code="stale_token")
    story.report(first, 11, "unknown", re_code="TimeoutError")
    story.report(first, 11)
    story.report(second, 13)
    story.watch()
    story.watch("final")
    story.tell("job-0", "complete_job", job=1)
    story.final = Final([JOB], {1: "completed"}, {(1, 0): STORED})
    return story


def test_a_good_history_has_no_violation() -> None:
    """Failed, repeated, unanswered and stale reports are all in order."""
    assert good().check() == []


def edit(story: Story, verb: str, phase: Phase, number: int, /, **changes: Any) -> None:
    """Change the n-th line of this verb and phase."""
    places = [i for i, e in enumerate(story.events) if (e.verb, e.phase) == (verb, phase)]
    place = places[number]
    story.events[place] = msgspec.structs.replace(story.events[place], **changes)


def status(story: Story, verb: str, number: int, /, **changes: Any) -> None:
    """Change what the n-th answer of this verb says of the round."""
    told = [e for e in story.events if (e.verb, e.phase) == (verb, "ok")][number].status
    assert told is not None
    edit(story, verb, "ok", number, status=msgspec.structs.replace(told, **changes))


def final(story: Story, **changes: Any) -> None:
    """Change what is left in the end."""
    story.final = replace(story.final, **changes)


def listed(story: Story, **changes: Any) -> None:
    """Change the job in the operator's list."""
    final(story, jobs=[msgspec.structs.replace(JOB, **changes)])


def stored(story: Story, **changes: Any) -> None:
    """Change the round in the store."""
    final(story, stored_rounds={(1, 0): replace(STORED, **changes)})


def token_of_another(story: Story) -> None:
    """Lease 13 is told to a second device."""
    story.accept(DEVICES[0], lease=13, slot=1)
    edit(story, "accept", "ok", -1, slot=0)


def second_report(story: Story) -> None:
    """A lease is reported twice, and both are taken."""
    story.report(DEVICES[1], 13)


def report_of_a_lost_slot(story: Story) -> None:
    """A report is taken though its slot went to another meanwhile."""
    edit(story, "report", "ok", 0, phase="unknown", code="TimeoutError")
    edit(story, "report", "refused", 0, phase="ok")


def stale_too_early(story: Story) -> None:
    """A lease is over before its time."""
    edit(story, "report", "ok", 0, phase="refused", code="stale_token")


def round_twice(story: Story) -> None:
    """The same round is started again."""
    story.tell("job-0", "start_request", job=1, demand=2, re_round=0)


def two_at_once(story: Story) -> None:
    """A device gets a lease while it holds one."""
    story.at_s = 0.9
    story.accept(DEVICES[0], lease=20, slot=1)


def slot_twice(story: Story) -> None:
    """A slot is given again while it is held, to another device."""
    story.at_s = 0.9
    story.accept("c" * 32, lease=20, slot=0)


def completed_twice(story: Story) -> None:
    """One slot is completed by two leases."""
    edit(story, "report", "ask", 0, outcome="completed")


def admitted_backwards(story: Story) -> None:
    """A job server admits an older lease of a slot after a newer one."""
    for lease in (13, 12):
        story.tell("job-0", "admit", lease=lease, re_job=1, re_round=0, re_slot=1)


PLANTED: list[tuple[str, Callable[[Story], object]]] = [
    ("every_call_has_one_answer", lambda s: s.events.pop()),
    ("every_call_has_one_answer", lambda s: s.events.append(s.events[-1])),
    ("tokens_are_unique", token_of_another),
    ("tokens_are_unique", lambda s: edit(s, "accept", "ok", 2, lease=11)),
    ("an_accept_gets_what_it_asked_for", lambda s: edit(s, "accept", "ok", 0, round=1)),
    ("no_device_holds_two_leases", two_at_once),
    ("no_slot_is_given_twice", slot_twice),
    ("no_slot_is_given_twice", completed_twice),
    ("stale_tokens_are_refused", second_report),
    ("stale_tokens_are_refused", report_of_a_lost_slot),
    ("no_accept_is_lost", stale_too_early),
    ("job_servers_admit_no_stale_token", admitted_backwards),
    ("job_servers_admit_no_stale_token", lambda s: edit(s, "admit", "ok", 0, lease=99)),
    ("rounds_grow", round_twice),
    ("rounds_grow", lambda s: edit(s, "start_request", "ok", 0, round=1)),
    ("rounds_never_go_back", lambda s: status(s, "final", 0, version=8)),
    ("rounds_never_go_back", lambda s: status(s, "final", 0, failed=0, completed=1)),
    ("rounds_never_go_back", lambda s: status(s, "final", 0, state="ended")),
    ("demand_is_met_or_reported_short", lambda s: status(s, "watch_round", 0, allocated=3, held=3)),
    ("demand_is_met_or_reported_short", lambda s: status(s, "final", 0, allocated=1)),
    ("demand_is_met_or_reported_short", lambda s: status(s, "final", 0, state="open")),
    ("demand_is_met_or_reported_short", lambda s: status(s, "final", 0, state="ended")),
    ("demand_is_met_or_reported_short", lambda s: status(s, "final", 0, reports_min=3)),
    ("demand_is_met_or_reported_short", lambda s: status(s, "final", 0, filled_after_s=-1.0)),
    ("demand_is_met_or_reported_short", lambda s: status(s, "final", 0, demand=1)),
    ("demand_is_met_or_reported_short", lambda s: edit(s, "final", "ok", 0, phase="unknown")),
    ("no_report_is_lost", lambda s: status(s, "final", 0, completed=1)),
    ("no_report_is_lost", lambda s: status(s, "final", 0, completed=4)),
    ("no_report_is_lost", lambda s: status(s, "final", 0, failed=0)),
    ("no_lease_is_lost", lambda s: status(s, "final", 0, failed=0)),
    ("no_lease_is_lost", lambda s: status(s, "final", 0, expired=1)),
    ("no_job_is_lost", lambda s: final(s, jobs=[])),
    ("no_job_is_lost", lambda s: final(s, jobs=[JOB, msgspec.structs.replace(JOB, job=2)])),
    ("no_job_is_lost", lambda s: listed(s, state="idle")),
    ("no_job_is_lost", lambda s: listed(s, round=-1)),
    ("the_store_has_it_all", lambda s: final(s, stored_jobs={})),
    ("the_store_has_it_all", lambda s: final(s, stored_rounds={})),
    ("the_store_has_it_all", lambda s: stored(s, version=8)),
    ("the_store_has_it_all", lambda s: stored(s, completed=1)),
]


@pytest.mark.parametrize("rule,plant", PLANTED)
def test_a_planted_violation_is_seen(rule: str, plant: Callable[[Story], object]) -> None:
    """The rule that it breaks says so."""
    story = good()
    plant(story)
    assert rule in {line.partition(":")[0] for line in story.check()}


def test_every_rule_has_a_planted_violation() -> None:
    """No rule is on trust."""
    assert {rule.__name__ for rule in RULES} == {rule for rule, _ in PLANTED}


def test_what_is_uncertain_is_not_held_against_the_system() -> None:
    """A lease that may have run out may be given again; an unanswered accept may have got one."""
    story = good()
    first, second = DEVICES
    story.tell("job-0", "start_request", job=1, demand=1, re_round=1)
    story.accept(first, lease=14, slot=0, round_no=1, takes_s=4.0)
    story.at_s += 1.5  # 5.6 s after it was asked for
    story.accept(second, lease=15, slot=0, round_no=1)
    story.report(first, 14, "refused", round_no=1, re_code="stale_token")
    story.report(second, 15, round_no=1)
    story.tell(first, "accept", "unknown", job=1, round=1)
    story.watch("final", 1, demand=1, allocated=1, completed=1, failed=0, expired=2, reports_min=1)
    listed(story, round=1)
    kept = replace(STORED, demand=1, completed=1, failed=0, expired=2)
    final(story, stored_rounds={(1, 0): STORED, (1, 1): kept})
    assert story.check() == []


def test_a_history_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    """Two writers' calls are kept apart, and half a line at the end is nobody's."""
    paths = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for path in paths:
        recorder = Recorder(path)
        asked = recorder.ask("job-0", "watch_round", job=1, round_no=0)
        recorder.ok(asked, status=ROUND)
        recorder.close()
    with paths[1].open("ab") as file:
        file.write(b'{"at_ns":1,"who"')
    events = read_history(paths)
    assert [event.phase for event in events] == ["ask", "ok", "ask", "ok"]
    assert len({event.call for event in events}) == 2
    assert events[1].status == ROUND
