"""The event log put through the engine again: are the decisions the same, and what if?

`replay(directory)` reads the inputs from the logs of the client managers and the scheduler, each
daemon by itself and each of its lives from the start, drives the engine with them
(:mod:`propius.driver`) and compares every decision with the one in the log: offers, clients whose
time was over, accepts of what was offered or not, plans with their order, tiers, parts and quotas.
Nothing that a daemon decided is given to the engine but the times at which it did.

`what_if(directory, policy=…)` makes the plans that another policy, seed or option would have made
at the same instants, of the same jobs and supply. It does not say what would have become of them:
the jobs still fill up as they did under the policy that ran (for that, ``propius simulate``).

Not here: segments (:mod:`propius.shell.event_log`), printing (:mod:`evaluation.replay_command`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from propius.driver import TIMED_OUT, MatcherDriver, PlannerDriver
from propius.engine import EngineError
from propius.messages import (
    Claimed,
    ClientForgotten,
    LogOpened,
    LookedUp,
    MatcherStarted,
    Message,
    Offered,
    PlanFailed,
    PlanMade,
    PlannerStarted,
    RoundRef,
)
from propius.shell.event_log import EventLogError, Reading, daemon_logs, read_events

__all__ = ["DaemonReplay", "Difference", "Instant", "ReplayReport", "order", "replay", "what_if"]

SCHEDULER: Final = "scheduler"
REPLAYED: Final = (SCHEDULER, "client_manager")  # daemons that decide by the engine
DIFFERENCES_MAX: Final = 5  # in one life; after that many it is compared no further
TOLD_MAX: Final = 400  # characters of an event in a difference
_ASKED: Final = (Claimed, LookedUp, PlanMade, PlanFailed)  # they say when, and what was decided

Driver: TypeAlias = MatcherDriver | PlannerDriver
Start: TypeAlias = MatcherStarted | PlannerStarted


@dataclass(frozen=True, slots=True)
class Difference:
    """One decision that came out otherwise; "" where one of the two made none."""

    now_ns: int
    logged: str
    replayed: str


@dataclass(slots=True)
class DaemonReplay:
    """What was compared of one daemon."""

    daemon: str
    lives: int = 0
    events: int = 0
    decisions: Counter[str] = field(default_factory=Counter)  # compared, by kind of event
    differences: list[Difference] = field(default_factory=list)  # the first of each life
    skipped: int = 0  # events before the first start in the log
    torn: list[str] = field(default_factory=list)


@dataclass(slots=True)
class ReplayReport:
    """All daemons of a log."""

    daemons: list[DaemonReplay] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Every decision is the one in the log."""
        return not any(daemon.differences for daemon in self.daemons)


@dataclass(frozen=True, slots=True)
class Instant:
    """A time at which a plan was made: the one in the log, and the other policy's."""

    now_ns: int
    logged: PlanMade | PlanFailed
    other: PlanMade | PlanFailed


def replay(directory: Path) -> ReplayReport:
    """Replay all logs below a directory.

    Raises EventLogError if one is damaged or has no start to begin at, EngineError if the policy
    of the log cannot be made here.
    """
    report = ReplayReport()
    for name, path in _logs(directory):
        daemon = DaemonReplay(name)
        report.daemons.append(daemon)
        for life in _lives(path, daemon):
            _replay_life(life, daemon)
        if not daemon.lives:
            raise _no_start(path)
    return report


def what_if(
    directory: Path,
    *,
    policy: str | None = None,
    options: Mapping[str, float] | None = None,
    seed: int | None = None,
) -> Iterator[Instant]:
    """The plans of another policy, seed or options beside those in the scheduler's log.

    Raises as `replay` does, and EngineError if there is no such policy or option.
    """
    paths = [path for name, path in _logs(directory) if name == SCHEDULER]
    if not paths:
        raise EventLogError(f"{directory}: no event log of the scheduler")
    daemon = DaemonReplay("scheduler")
    for life in _lives(paths[0], daemon):
        assert isinstance(life.start, PlannerStarted)
        driver = PlannerDriver(life.start, policy=policy, options=options, seed=seed)
        for now_ns, event in life.events:
            made = driver.take(now_ns, event)
            if isinstance(event, PlanMade | PlanFailed):
                (other,) = made
                assert isinstance(other, PlanMade | PlanFailed)
                yield Instant(now_ns, event, other)
    if not daemon.lives:
        raise _no_start(paths[0])


def order(plan: PlanMade | PlanFailed) -> list[RoundRef]:
    """The rounds of a plan by their rank; none if there was no plan."""
    if isinstance(plan, PlanFailed):
        return []
    rounds = [line for _, group in plan.groups for line in group]
    return [(job, number) for job, number, *_ in sorted(rounds, key=lambda line: line[2])]


# --- reading -------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Life:
    """One life of a daemon: what it started with, and its events. ``torn``: it was cut short."""

    start: Start
    events: Iterator[tuple[int, Message]]
    torn: bool = False


class _Tape:
    """A log's events one after the other, of which the next can be looked at."""

    def __init__(self, path: Path, daemon: DaemonReplay) -> None:
        self._reading = Reading(torn=daemon.torn)
        self._events = read_events(path, self._reading)
        self._next: tuple[int, Message] | None = next(self._events, None)

    @property
    def torn(self) -> int:
        """How many lives were found cut short so far."""
        return len(self._reading.torn)

    def peek(self) -> Message | None:
        """The next event; None at the end."""
        return None if self._next is None else self._next[1]

    def pull(self) -> tuple[int, Message]:
        """Take the next event, which must be there."""
        assert self._next is not None, "the log is at its end"
        taken, self._next = self._next, next(self._events, None)
        return taken


def _logs(directory: Path) -> list[tuple[str, Path]]:
    """The logs that can be replayed, and the name that each one's daemon gave itself."""
    logs = []
    for path in daemon_logs(directory).values():
        opened = next((event for _, event in read_events(path)), None)
        if isinstance(opened, LogOpened) and opened.daemon.startswith(REPLAYED):
            logs.append((opened.daemon, path))
    if not logs:
        raise EventLogError(f"{directory}: no event log of a client manager or the scheduler")
    return logs


def _no_start(path: Path) -> EventLogError:
    return EventLogError(
        f"{path}: cannot be replayed: it does not begin with a start of its daemon (an older"
        " release wrote it, or its first segments are gone)"
    )


def _lives(path: Path, daemon: DaemonReplay) -> Iterator[_Life]:
    """The lives that can be replayed: those of which the log has the start.

    The events of one must be taken before the next is asked for.
    """
    tape = _Tape(path, daemon)
    incarnation = -1
    while (event := tape.peek()) is not None:
        if isinstance(event, LogOpened):
            incarnation = event.incarnation
        elif isinstance(event, MatcherStarted | PlannerStarted):
            torn = tape.torn
            daemon.lives += 1
            tape.pull()
            life = _Life(event, iter(()))
            life.events = _events_of(tape, incarnation, daemon, life, torn)
            yield life
            continue
        else:
            daemon.skipped += 1
        tape.pull()


def _events_of(
    tape: _Tape, incarnation: int, daemon: DaemonReplay, life: _Life, torn: int
) -> Iterator[tuple[int, Message]]:
    while (event := tape.peek()) is not None:
        if isinstance(event, LogOpened):
            if event.incarnation != incarnation:
                break
            tape.pull()  # only a new segment
            continue
        daemon.events += 1
        yield tape.pull()
    life.torn = tape.torn > torn


# --- comparing -----------------------------------------------------------------------------------


class _Comparison:
    """Decisions that the engine made and the log has not shown yet, in order."""

    def __init__(self, daemon: DaemonReplay) -> None:
        self._daemon = daemon
        self._made: deque[tuple[int, Message]] = deque()
        self.differences = 0

    def made(self, now_ns: int, decisions: list[Message]) -> None:
        """The engine decided this."""
        self._made.extend((now_ns, decision) for decision in decisions)

    def logged(self, now_ns: int, event: Message) -> None:
        """The log has this decision next."""
        self._daemon.decisions[event.kind] += 1
        made = self._made.popleft() if self._made else None
        if made is None or made[1] != event:
            self._differ(now_ns, event, made[1] if made else None)
        elif made[0] != now_ns:
            self._note(Difference(now_ns, f"{event.kind} at {now_ns}", f"at {made[0]}"))

    def complete(self) -> None:
        """The log goes on: what was decided must have been in it."""
        while self._made:
            now_ns, decision = self._made.popleft()
            self._differ(now_ns, None, decision)

    def refused(self, now_ns: int, event: Message, why: str) -> None:
        """The engine did not take what it took in the log."""
        self._note(Difference(now_ns, _told(event, None), why))

    def _differ(self, now_ns: int, logged: Message | None, replayed: Message | None) -> None:
        self._note(Difference(now_ns, _told(logged, replayed), _told(replayed, logged)))

    def _note(self, difference: Difference) -> None:
        self.differences += 1
        self._daemon.differences.append(difference)


def _replay_life(life: _Life, daemon: DaemonReplay) -> None:
    driver = _driver(life.start)
    comparison = _Comparison(daemon)
    for now_ns, event in life.events:
        if comparison.differences < DIFFERENCES_MAX:  # else only read on to the next life
            _step(driver, comparison, now_ns, event)
    if not life.torn:
        comparison.complete()


def _driver(start: Start) -> Driver:
    return MatcherDriver(start) if isinstance(start, MatcherStarted) else PlannerDriver(start)


def _step(driver: Driver, comparison: _Comparison, now_ns: int, event: Message) -> None:
    if _follows(event):
        comparison.logged(now_ns, event)
        return
    comparison.complete()
    try:
        comparison.made(now_ns, driver.take(now_ns, event))
    except EngineError as error:
        comparison.refused(now_ns, event, f"{type(error).__name__}: {error}")
        return
    if isinstance(event, _ASKED):
        comparison.logged(now_ns, event)


def _follows(event: Message) -> bool:
    """A decision whose input stands before it."""
    timed_out = isinstance(event, ClientForgotten) and event.reason in TIMED_OUT
    return timed_out or isinstance(event, Offered)


def _told(event: Message | None, other: Message | None) -> str:
    """An event in words; beside another of its kind, only what is not the same."""
    if event is None:
        return ""
    alike = type(event) is type(other)
    said = [
        f"{name}={value}"
        for name, value in msgspec.structs.asdict(event).items()
        if name in {"device_id", "version"} or not alike or getattr(other, name) != value
    ]
    text = " ".join([event.kind, *said])
    return text if len(text) <= TOLD_MAX else text[: TOLD_MAX - 1] + "…"
