"""Do histories keep the promises? Pure functions: events and the final state in, complaints out.

Each rule yields one line for each violation. The argument is always in real time: what was
acknowledged before something was asked must be true for it; what is uncertain (an accept that
nobody answered, a lease in its last moments) is never held against the system.

Not here: how histories come about (:mod:`tests.campaign.devices`,
:mod:`tests.campaign.job_servers`) and how the final state is read (:mod:`tests.campaign.run`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from propius.messages import JobStatus, RoundStatus
from tests.campaign.history import Event

RoundRef: TypeAlias = tuple[int, int]
Slot: TypeAlias = tuple[int, int, int]
OVER = frozenset({"completed", "ended", "closed", "failed"})
LOSSES = frozenset({"failed", "dropped"})


@dataclass(frozen=True)
class StoredRound:
    """A round as the job manager's store has it after everything was stopped."""

    state: str
    version: int
    demand: int
    completed: int
    failed: int
    expired: int


@dataclass(frozen=True)
class Final:
    """What is left in the end: the operator's list, and the store's file."""

    jobs: Sequence[JobStatus] = ()
    stored_jobs: dict[int, str] = field(default_factory=dict)  # job -> state
    stored_rounds: dict[RoundRef, StoredRound] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """A request and what became of it."""

    asked: Event
    answer: Event | None

    @property
    def acknowledged(self) -> bool:
        """Whether the caller was told that it happened."""
        return self.answer is not None and self.answer.phase == "ok"

    @property
    def done(self) -> Event:
        """The acknowledgement."""
        assert self.answer is not None
        return self.answer

    @property
    def ref(self) -> RoundRef:
        """The round that it is about."""
        return self.asked.job, self.asked.round

    @property
    def slot(self) -> Slot:
        """The slot that an acknowledged accept got."""
        return self.done.job, self.done.round, self.done.slot


@dataclass(frozen=True)
class Held:
    """A lease, for as long as it was surely held: a span that can be argued from."""

    call: Call
    from_ns: int  # acknowledged
    to_ns: int  # its report is under way, or its time may be over

    @property
    def lease(self) -> int:
        """Its number."""
        return self.call.done.lease

    def __str__(self) -> str:
        return f"lease {self.lease} of {self.call.asked.who}"


class History:
    """The calls of all callers, by verb, in the order in which they were asked."""

    def __init__(self, events: Sequence[Event]) -> None:
        asked: dict[int, Event] = {}
        answers: dict[int, list[Event]] = defaultdict(list)
        for event in events:
            if event.phase == "ask":
                asked[event.call] = event
            else:
                answers[event.call].append(event)
        self.answers = answers
        self.calls: dict[str, list[Call]] = defaultdict(list)
        for number, event in asked.items():
            self.calls[event.verb].append(Call(event, next(iter(answers[number]), None)))

    def acknowledged(self, *verbs: str) -> list[Call]:
        """The calls of these verbs that were acknowledged, in order of the acknowledgement."""
        calls = [call for verb in verbs for call in self.calls[verb] if call.acknowledged]
        return sorted(calls, key=lambda call: call.done.at_ns)

    @cached_property
    def accepts(self) -> list[Call]:
        """The acknowledged accepts."""
        return self.acknowledged("accept")

    @cached_property
    def reports(self) -> dict[int, list[Call]]:
        """All reports of each lease, in order of asking."""
        reports: dict[int, list[Call]] = defaultdict(list)
        for call in self.calls["report"]:
            reports[call.asked.lease].append(call)
        return reports

    @cached_property
    def held(self) -> list[Held]:
        """The leases, as long as they were surely held."""
        spans = []
        for call in self.accepts:
            # The lease began between question and answer: its end counts from the question.
            to_ns = call.asked.at_ns + int(call.done.lease_s * 1e9)
            for report in self.reports[call.done.lease]:
                to_ns = min(to_ns, report.asked.at_ns)
            spans.append(Held(call, call.done.at_ns, to_ns))
        return spans

    @cached_property
    def statuses(self) -> dict[RoundRef, list[Call]]:
        """What watchers were told of each round, in the order of the answers."""
        statuses: dict[RoundRef, list[Call]] = defaultdict(list)
        for call in self.acknowledged("watch_round", "final"):
            statuses[call.ref].append(call)
        return statuses

    @cached_property
    def finals(self) -> dict[RoundRef, RoundStatus]:
        """Each round as its job server saw it last, when no device was at work any more."""
        finals = {}
        for call in self.acknowledged("final"):
            assert call.done.status is not None
            finals[call.ref] = call.done.status
        return finals


Complaints: TypeAlias = Iterator[str]
Rule: TypeAlias = Callable[[History, Final], Complaints]


def every_call_has_one_answer(history: History, final: Final) -> Complaints:
    """Callers were not cut off themselves: each question has exactly one line of answer."""
    for calls in history.calls.values():
        for call in calls:
            number = len(history.answers[call.asked.call])
            if number != 1:
                yield f"{call.asked.verb} of {call.asked.who} has {number} answers"


def tokens_are_unique(history: History, final: Final) -> Complaints:
    """A lease number means one device in one slot of one round, for ever."""
    known: dict[int, Call] = {}
    for call in history.accepts:
        first = known.setdefault(call.done.lease, call)
        if (first.asked.who, first.slot) != (call.asked.who, call.slot):
            yield (
                f"lease {call.done.lease} is {first.asked.who}'s in slot {first.slot}"
                f" and {call.asked.who}'s in slot {call.slot}"
            )


def an_accept_gets_what_it_asked_for(history: History, final: Final) -> Complaints:
    """The slot is one of the round that was accepted."""
    for call in history.accepts:
        if (call.done.job, call.done.round) != call.ref:
            yield f"{call.asked.who} accepted {call.ref} and got slot {call.slot}"


def no_device_holds_two_leases(history: History, final: Final) -> Complaints:
    """At no instant does a device surely hold two leases."""
    yield from _overlaps(history, lambda held: held.call.asked.who, "device")


def no_slot_is_given_twice(history: History, final: Final) -> Complaints:
    """At no instant is a slot surely held by two leases, and it is completed at most once."""
    yield from _overlaps(history, lambda held: held.call.slot, "slot")
    completed: dict[Slot, int] = {}
    slots = {call.done.lease: call.slot for call in history.accepts}
    for lease, reports in history.reports.items():
        if lease in slots and any(_is_completed(report) for report in reports):
            first = completed.setdefault(slots[lease], lease)
            if first != lease:
                yield f"slot {slots[lease]} was completed by lease {first} and by lease {lease}"


def _is_completed(report: Call) -> bool:
    return report.acknowledged and report.asked.outcome == "completed"


def _overlaps(history: History, key: Callable[[Held], object], what: str) -> Complaints:
    """Of one device or slot, the spans that overlap."""
    latest: dict[object, Held] = {}
    for held in sorted(history.held, key=lambda held: held.from_ns):
        if held.to_ns <= held.from_ns:
            continue  # it was acknowledged when it may have been over
        before = latest.get(key(held))
        if before is not None and before.lease != held.lease and before.to_ns > held.from_ns:
            for_s = (before.to_ns - held.from_ns) / 1e9
            yield f"{what} {key(held)}: {before} and {held} overlap for at least {for_s:.3f} s"
        if before is None or held.to_ns > before.to_ns:
            latest[key(held)] = held


def stale_tokens_are_refused(history: History, final: Final) -> Complaints:
    """No report counts after its lease was reported, or its slot was given to another."""
    takers: dict[Slot, list[Call]] = defaultdict(list)
    slots: dict[int, Slot] = {}
    for call in history.accepts:
        takers[call.slot].append(call)
        slots[call.done.lease] = call.slot
    for lease, reports in history.reports.items():
        settled = None
        for report in (report for report in reports if report.acknowledged):
            if settled is not None and settled.done.at_ns < report.asked.at_ns:
                yield f"lease {lease}: a second report of {report.asked.who} was taken"
            settled = settled or report
            for taker in takers[slots[lease]] if lease in slots else ():
                if taker.done.lease > lease and taker.done.at_ns < report.asked.at_ns:
                    yield (
                        f"lease {lease}: the report of {report.asked.who} was taken after slot"
                        f" {taker.slot} was lease {taker.done.lease}'s"
                    )


def no_accept_is_lost(history: History, final: Final) -> Complaints:
    """A lease that was acknowledged is good for its time: no first report is stale within it."""
    for call in history.accepts:
        reports = history.reports[call.done.lease]
        if not reports or reports[0].answer is None or reports[0].answer.code != "stale_token":
            continue
        good_for_s = call.done.lease_s
        passed_s = (reports[0].answer.at_ns - call.asked.at_ns) / 1e9
        if passed_s < good_for_s:
            yield (
                f"lease {call.done.lease} of {call.asked.who}: stale after {passed_s:.3f} s,"
                f" though it was given for {good_for_s:g} s"
            )


def job_servers_admit_no_stale_token(history: History, final: Final) -> Complaints:
    """Whom a job server admits was given that lease, and no newer one of the slot came before."""
    given_ns = {call.done.lease: call.done.at_ns for call in reversed(history.accepts)}
    newest: dict[Slot, int] = {}
    for call in history.acknowledged("admit"):
        lease, slot = call.done.lease, call.slot
        if given_ns.get(lease, call.done.at_ns) >= call.done.at_ns:
            yield f"{call.asked.who} admitted lease {lease}, which no device was given by then"
        if lease < newest.get(slot, -1):
            yield f"{call.asked.who} admitted lease {lease} after {newest[slot]} of slot {slot}"
        newest[slot] = max(lease, newest.get(slot, -1))


def rounds_grow(history: History, final: Final) -> Complaints:
    """Round numbers of a job grow, none is acknowledged twice, and none was not asked for."""
    last: dict[int, int] = {}
    for call in history.acknowledged("start_request"):
        job, number = call.done.job, call.done.round
        if number <= last.get(job, -1):
            yield f"job {job}: round {number} was started after round {last[job]}"
        asked = sum(
            1
            for other in history.calls["start_request"]
            if other.asked.job == job and other.asked.at_ns <= call.done.at_ns
        )
        if number >= asked:
            yield f"job {job}: round {number} was started by {asked} requests"
        last[job] = max(number, last.get(job, -1))


def rounds_never_go_back(history: History, final: Final) -> Complaints:
    """A status that was asked for after another was told is as new, or newer."""
    for ref, calls in history.statuses.items():
        newest: RoundStatus | None = None
        newest_ns = 0
        for call in calls:
            status = call.done.status
            assert status is not None
            if newest is not None and newest_ns < call.asked.at_ns:
                yield from _went_back(ref, newest, status)
            if newest is None or status.version > newest.version:
                newest, newest_ns = status, call.done.at_ns


def _went_back(ref: RoundRef, before: RoundStatus, after: RoundStatus) -> Complaints:
    if after.version < before.version:
        yield f"round {ref}: version {after.version} after {before.version}"
    for name in ("completed", "failed", "expired"):
        was, now = getattr(before, name), getattr(after, name)
        if now < was:
            yield f"round {ref}: {name} fell from {was} to {now}"
    if before.state in OVER and after.state != before.state:
        yield f"round {ref} was {before.state} and is {after.state}"


def demand_is_met_or_reported_short(history: History, final: Final) -> Complaints:
    """A round never has more than it asked for, and how it ended is what its counts say."""
    demands = {
        (call.done.job, call.done.round): call.asked.demand
        for call in history.acknowledged("start_request")
    }
    for ref, calls in history.statuses.items():
        for call in calls:
            assert call.done.status is not None
            yield from _adds_up(ref, call.done.status, demands.get(ref))
    for ref in demands:
        if ref not in history.finals:
            yield f"round {ref} was acknowledged, and its end was never told"
        elif history.finals[ref].state not in OVER:
            yield f"round {ref} never ended: it is {history.finals[ref].state}"
    ended = {call.ref for call in history.calls["end_request"]}
    for ref, status in history.finals.items():
        if status.state == "ended" and ref not in ended:
            yield f"round {ref} was ended, and nobody asked for that"


def _adds_up(ref: RoundRef, status: RoundStatus, demand: int | None) -> Complaints:
    if demand is not None and status.demand != demand:
        yield f"round {ref}: demand is {status.demand}, asked for {demand}"
    if not 0 <= status.allocated <= status.demand:
        yield f"round {ref}: {status.allocated} allocated of {status.demand}"
    if status.allocated != status.held + status.completed:
        yield f"round {ref}: {status.allocated} allocated, {status.held} held"
    enough = status.completed >= status.reports_min
    if status.state in {"completed", "closed"} and not enough:
        yield f"round {ref} is {status.state} with {status.completed} of {status.reports_min}"
    if status.state == "completed" and status.filled_after_s < 0:
        yield f"round {ref} is completed and was never filled"


def no_report_is_lost(history: History, final: Final) -> Complaints:
    """A round counts each report that was acknowledged, and none that was not sent."""
    for ref, status in history.finals.items():
        reports = [call for call in history.calls["report"] if call.ref == ref]
        for name, outcomes, count in (
            ("completed", {"completed"}, status.completed),
            ("failed", LOSSES, status.failed),
        ):
            ours = [call for call in reports if call.asked.outcome in outcomes]
            asked = len({call.asked.lease for call in ours})
            low = len({call.asked.lease for call in ours if call.acknowledged})
            if not low <= count <= asked:
                yield f"round {ref}: {count} {name}; {low} acknowledged, {asked} sent"


def no_lease_is_lost(history: History, final: Final) -> Complaints:
    """The leases of a round are those that were given: each is held, or ended in one way."""
    acknowledged = Counter[RoundRef]()
    for slots in {call.done.lease: call.slot for call in history.accepts}.values():
        acknowledged[slots[:2]] += 1
    asked = Counter(call.ref for call in history.calls["accept"])
    for ref, status in history.finals.items():
        leases = status.held + status.completed + status.failed + status.expired
        if not acknowledged[ref] <= leases <= asked[ref]:
            given = acknowledged[ref]
            yield f"round {ref}: {leases} leases; {given} acknowledged, {asked[ref]} asked for"


def no_job_is_lost(history: History, final: Final) -> Complaints:
    """Every registered job is there in the end, in the state that it was told, and no other."""
    listed = {status.job: status for status in final.jobs}
    for call in history.acknowledged("register"):
        status = listed.get(call.done.job)
        if status is None or status.name != call.asked.who:
            yield f"job {call.done.job} ({call.asked.who}) was registered, and is not there"
    asked = Counter(call.asked.who for call in history.calls["register"])
    for name, number in Counter(status.name for status in final.jobs).items():
        if number > asked[name]:
            yield f"{name} is there {number} times, and was registered {asked[name]} times"
    for call in history.acknowledged("complete_job"):
        status = listed.get(call.asked.job)
        if status is not None and status.state != "completed":
            yield f"job {call.asked.job} was completed, and is {status.state}"
    for call in history.acknowledged("start_request"):
        status = listed.get(call.done.job)
        if status is not None and status.round < call.done.round:
            yield f"job {status.job}: round {call.done.round} is gone, the last is {status.round}"


def the_store_has_it_all(history: History, final: Final) -> Complaints:
    """What callers were told last is in the file when everything has stopped."""
    for status in final.jobs:
        stored = final.stored_jobs.get(status.job)
        if stored != status.state:
            yield f"job {status.job} is {status.state}, in the store {stored}"
    for ref, told in history.finals.items():
        round_ = final.stored_rounds.get(ref)
        if round_ is None:
            yield f"round {ref} is not in the store"
            continue
        if round_.version < told.version:
            yield f"round {ref}: version {told.version}, in the store {round_.version}"
        counts = (told.state, told.demand, told.completed, told.failed)
        kept = (round_.state, round_.demand, round_.completed, round_.failed)
        if kept != counts or round_.expired < told.expired:
            yield f"round {ref} is {counts}, in the store {kept}"


RULES: tuple[Rule, ...] = (
    every_call_has_one_answer,
    tokens_are_unique,
    an_accept_gets_what_it_asked_for,
    no_device_holds_two_leases,
    no_slot_is_given_twice,
    stale_tokens_are_refused,
    no_accept_is_lost,
    job_servers_admit_no_stale_token,
    rounds_grow,
    rounds_never_go_back,
    demand_is_met_or_reported_short,
    no_report_is_lost,
    no_lease_is_lost,
    no_job_is_lost,
    the_store_has_it_all,
)


def check(events: Sequence[Event], final: Final) -> list[str]:
    """Every violation of every rule, each as one line."""
    history = History(events)
    return [f"{rule.__name__}: {line}" for rule in RULES for line in rule(history, final)]
