"""Does an event log keep the promises? Eligible offers and leases, never too many, one a device.

``check(directory)`` reads the logs of all daemons below a directory, each in its own order, and
returns a :class:`Report`. What is checked:

* every offer, claim and lease: the device's checked-in spec meets the job's requirement;
* every lease granted or ended: ``0 ≤ allocated ≤ demand``, and ``allocated`` is what the events
  before it add up to;
* no lease of a job while it backs off, and no more than allowed while a few devices try it;
* a device holds one lease at a time; lease ids are unique and grow;
* the scheduler counts supply only of client managers that are there, and none comes or goes twice.

A job manager that was killed may have granted what it had no time to log. So when it was started
again, sums begin anew and leases from before count as uncertain, while ids must still grow.

Not here: reading segments (:mod:`propius.shell.event_log`) and printing (the command).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from propius.messages import (
    BackOffChanged,
    CheckedIn,
    Claimed,
    JobRegistered,
    LeaseEnded,
    LeaseGranted,
    LogOpened,
    ManagerJoined,
    ManagerLeft,
    Message,
    Offered,
    Outcome,
    RoundChanged,
    RoundOpened,
    RoundRef,
    SupplyReceived,
)
from propius.shell.event_log import Reading, daemon_logs, read_events

JOB_MANAGER: Final = "job_manager"
SCHEDULER: Final = "scheduler"
VIOLATIONS_KEPT_MAX: Final = 1_000
_KEEPS_SLOT: Final = frozenset({Outcome.COMPLETED})


@dataclass(slots=True)
class Report:
    """What was checked, and what was found wrong."""

    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    violations: list[str] = field(default_factory=list)
    violations_count: int = 0
    torn: list[str] = field(default_factory=list)

    def violation(self, text: str) -> None:
        """Note something wrong; the first of them are kept in full."""
        self.violations_count += 1
        if len(self.violations) < VIOLATIONS_KEPT_MAX:
            self.violations.append(text)


def check(directory: Path) -> Report:
    """Check all logs below a directory; raises EventLogError on a damaged one."""
    report = Report()
    logs = daemon_logs(directory)
    requirements = _requirements(logs)
    specs = Specs()
    for name, path in logs.items():
        if name.startswith("client_manager"):
            _check_manager(name, _events(path, report), requirements, specs, report)
    if JOB_MANAGER in logs:
        leases = LeaseCheck(requirements, specs, report)
        for now_ns, event in _events(logs[JOB_MANAGER], report):
            leases.take(now_ns, event)
    if SCHEDULER in logs:
        _check_scheduler(_events(logs[SCHEDULER], report), report)
    report.counts["daemons"] = len(logs)
    report.counts["devices"] = len(specs.by_device)
    return report


class Specs:
    """What each device said of itself, by time."""

    def __init__(self) -> None:
        self.by_device: dict[str, list[tuple[int, Sequence[float]]]] = defaultdict(list)

    def add(self, now_ns: int, device_id: str, spec: Sequence[float]) -> None:
        """Remember a check-in, if it says anything new."""
        known = self.by_device[device_id]
        if not known or known[-1][1] != spec:
            known.append((now_ns, spec))

    def at(self, now_ns: int, device_id: str) -> Sequence[float] | None:
        """The last spec before this time; without one (another boot's clock) the last of all."""
        known = self.by_device.get(device_id)
        if not known:
            return None
        known.sort(key=lambda item: item[0])  # a device may have come to several managers
        place = bisect_right(known, now_ns, key=lambda item: item[0])
        return known[place - 1][1]


def _events(path: Path, report: Report) -> Iterator[tuple[int, Message]]:
    reading = Reading()
    for now_ns, event in read_events(path, reading):
        report.counts["events"] += 1
        yield now_ns, event
    report.torn += reading.torn


def _requirements(logs: dict[str, Path]) -> dict[int, Sequence[float]]:
    if JOB_MANAGER not in logs:
        return {}
    return {
        event.job: event.requirement
        for _, event in read_events(logs[JOB_MANAGER])
        if isinstance(event, JobRegistered)
    }


def _meets(spec: Sequence[float], requirement: Sequence[float]) -> bool:
    return len(spec) == len(requirement) and all(
        has >= needs for has, needs in zip(spec, requirement, strict=True)
    )


def _check_scheduler(events: Iterator[tuple[int, Message]], report: Report) -> None:
    """Client managers come, send supply and go, in this order."""
    present: dict[int, int] = {}  # id → incarnation
    writer = -1

    for now_ns, event in events:
        match event:
            case LogOpened():
                report.counts["starts of daemons"] += event.incarnation != writer
                if event.incarnation != writer:
                    present.clear()
                writer = event.incarnation
            case ManagerJoined():
                report.counts["client managers joined"] += 1
                if event.manager in present:
                    report.violation(f"scheduler at {now_ns}: manager {event.manager} joined twice")
                present[event.manager] = event.incarnation
            case ManagerLeft():
                report.counts["client managers left"] += 1
                if present.pop(event.manager, -1) != event.incarnation:
                    report.violation(
                        f"scheduler at {now_ns}: manager {event.manager} left, but was not there"
                    )
            case SupplyReceived() if event.manager not in present:
                report.violation(
                    f"scheduler at {now_ns}: supply of manager {event.manager}, which is not there"
                )


def _check_manager(
    name: str,
    events: Iterator[tuple[int, Message]],
    requirements: dict[int, Sequence[float]],
    specs: Specs,
    report: Report,
) -> None:
    """Every offer and claim of one client manager."""
    present: dict[str, Sequence[float]] = {}  # what the manager knew when it offered
    incarnation = -1

    def judge(now_ns: int, what: str, device_id: str, rounds: Sequence[RoundRef]) -> None:
        spec = present.get(device_id)
        if spec is None:
            report.violation(f"{name} at {now_ns}: {what} to {device_id}, which never checked in")
            return
        for job, round_no in rounds:
            requirement = requirements.get(job)
            if requirement is None:
                report.counts["offered rounds of jobs that no log tells of"] += 1
            elif not _meets(spec, requirement):
                report.violation(
                    f"{name} at {now_ns}: {what} of job {job} round {round_no} to {device_id}:"
                    f" {list(spec)} does not meet {list(requirement)}"
                )

    for now_ns, event in events:
        match event:
            case LogOpened():
                report.counts["starts of daemons"] += event.incarnation != incarnation
                incarnation = event.incarnation
            case CheckedIn():
                report.counts["check-ins"] += 1
                present[event.device_id] = event.spec
                specs.add(now_ns, event.device_id, event.spec)
            case Offered():
                report.counts["offers"] += 1
                report.counts["offered rounds"] += len(event.rounds)
                judge(now_ns, "offer", event.device_id, event.rounds)
            case Claimed() if event.device_id in present:
                # Without a check-in it is only a look-up, after a manager's death.
                report.counts["claims"] += 1
                judge(now_ns, "claim", event.device_id, [(event.job, event.round)])


@dataclass(slots=True)
class _Round:
    demand: int = -1  # unknown: opened before the log began
    allocated: int = -1  # unknown


class LeaseCheck:
    """The job manager's events, one after the other."""

    def __init__(
        self, requirements: dict[int, Sequence[float]], specs: Specs, report: Report
    ) -> None:
        self._requirements = requirements
        self._specs = specs
        self._report = report
        self._rounds: dict[RoundRef, _Round] = {}
        self._held: dict[str, int] = {}  # device → its lease
        # job → its last round, and who had a lease of it (None: may have several)
        self._served: dict[int, tuple[int, set[str] | None]] = {}
        self._allowed: dict[int, int] = {}  # job that backs off → leases that it may still get
        self._last_lease = -1
        self._incarnation = -1

    def take(self, now_ns: int, event: Message) -> None:
        """Check one event."""
        counts = self._report.counts
        match event:
            case LogOpened():
                counts["starts of daemons"] += event.incarnation != self._incarnation
                self._opened(event)
            case JobRegistered():
                counts["jobs"] += 1
            case RoundOpened():
                counts["rounds"] += 1
                self._rounds[event.job, event.round] = _Round(event.demand, 0)
                self._served[event.job] = (event.round, set() if event.once_per_device else None)
            case LeaseGranted():
                counts["leases granted"] += 1
                self._granted(now_ns, event)
            case LeaseEnded():
                counts["leases ended"] += 1
                self._ended(now_ns, event)
            case RoundChanged():
                self._allocated(now_ns, event, 0)
            case BackOffChanged():
                counts["changes of back-offs"] += 1
                self._backs_off(event)

    def _opened(self, event: LogOpened) -> None:
        """A segment begins; if another process writes it, what the log missed is unknown."""
        if event.incarnation == self._incarnation:
            return
        self._incarnation = event.incarnation
        self._held.clear()
        self._allowed.clear()
        for round_ in self._rounds.values():
            round_.allocated = -1

    def _backs_off(self, event: BackOffChanged) -> None:
        before = self._allowed.pop(event.job, 0)
        if event.state == "waiting":
            self._allowed[event.job] = 0
        elif event.state == "probing":
            self._allowed[event.job] = before + event.probes

    def _granted(self, now_ns: int, event: LeaseGranted) -> None:
        where = self._where(now_ns, event)
        if event.lease <= self._last_lease:
            self._report.violation(
                f"{where}: lease {event.lease} granted after lease {self._last_lease}"
            )
        self._last_lease = max(self._last_lease, event.lease)
        held = self._held.get(event.device_id)
        if held is not None:
            self._report.violation(
                f"{where}: lease {event.lease} granted to {event.device_id}, which holds {held}"
            )
        self._held[event.device_id] = event.lease
        self._once(event, where)
        self._allocated(now_ns, event, 1)
        self._eligible(now_ns, event, where)
        if event.job in self._allowed:
            self._allowed[event.job] -= 1
            if self._allowed[event.job] < 0:
                self._report.violation(f"{where}: lease {event.lease} while the job backs off")

    def _once(self, event: LeaseGranted, where: str) -> None:
        """No device gets two leases of a round; a job has one live round at a time."""
        number, served = self._served.get(event.job, (-1, None))
        if number != event.round or served is None:
            return
        if event.device_id in served:
            self._report.violation(
                f"{where}: lease {event.lease} granted to {event.device_id}, which had one before"
            )
        served.add(event.device_id)

    def _eligible(self, now_ns: int, event: LeaseGranted, where: str) -> None:
        requirement = self._requirements.get(event.job)
        spec = self._specs.at(now_ns, event.device_id)
        if requirement is None or spec is None:
            self._report.counts["leases without spec or job in the logs"] += 1
        elif not _meets(spec, requirement):
            self._report.violation(
                f"{where}: lease {event.lease} granted to {event.device_id}:"
                f" {list(spec)} does not meet {list(requirement)}"
            )

    def _ended(self, now_ns: int, event: LeaseEnded) -> None:
        held = self._held.get(event.device_id)
        if held is not None and held != event.lease:
            where = self._where(now_ns, event)
            self._report.violation(
                f"{where}: lease {event.lease} of {event.device_id} ended, but it holds {held}"
            )
        self._held.pop(event.device_id, None)
        self._allocated(now_ns, event, 0 if event.outcome in _KEEPS_SLOT else -1)

    def _allocated(
        self, now_ns: int, event: LeaseGranted | LeaseEnded | RoundChanged, change: int
    ) -> None:
        round_ = self._rounds.setdefault((event.job, event.round), _Round())
        where = self._where(now_ns, event)
        most = round_.demand if round_.demand >= 0 else event.allocated
        if not 0 <= event.allocated <= most:
            self._report.violation(f"{where}: {event.allocated} allocated of {most}")
        expected = round_.allocated + change
        if round_.allocated >= 0 and event.allocated != expected:
            self._report.violation(
                f"{where}: {event.kind} leaves {event.allocated} allocated,"
                f" the events before it {expected}"
            )
        round_.allocated = event.allocated

    def _where(self, now_ns: int, event: LeaseGranted | LeaseEnded | RoundChanged) -> str:
        return f"{JOB_MANAGER} at {now_ns}: job {event.job} round {event.round}"
