"""Live decisions are those of the engine alone: logs of whole systems, put through it again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from daemons.client_manager.settings import ClientManagerSettings
from daemons.scheduler.core import SchedulerCore
from daemons.scheduler.settings import SchedulerSettings
from evaluation import replay as module
from evaluation.replay import ReplayReport, order, replay, what_if
from evaluation.replay_command import app
from propius.core import Record
from propius.driver import PlannerDriver
from propius.engine import POLICIES, EngineError
from propius.messages import (
    CheckedIn,
    JobsReceived,
    LogOpened,
    MatcherStarted,
    Message,
    Offered,
    Plan,
    PlanApplied,
    PlanMade,
    PlannedGroup,
    PlannedRound,
    PlannerStarted,
    SchedulerMet,
    SupplyReceived,
    WaitingMatched,
)
from propius.policy import Snapshot
from propius.shell.event_log import EventLogError, EventLogWriter, read_events, segments
from tests.daemons.scheduler.kit import World as SchedulerWorld
from tests.daemons.scheduler.kit import job
from tests.simulation import cluster
from tests.simulation.host import Host
from tests.simulation.trace import Trace
from tests.simulation.world import World

SEEDS = (3, 8)
DEVICE = "d" * 32
Log = list[tuple[int, Message]]


class LoggedWorld:
    """A simulated system under faults, whose client managers and scheduler keep event logs."""

    def __init__(self, seed: int, policy: str, directory: Path) -> None:
        self._directory, self._writers = directory, dict[tuple[str, int], EventLogWriter]()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cluster, "POLICIES", (policy,))
            for settings in (ClientManagerSettings, SchedulerSettings):
                patch.setattr(cluster, settings.__name__, partial(settings, event_log=True))
            watch = World._watch
            patch.setattr(World, "_watch", lambda world, host: self._watch(watch, world, host))
            World(seed, Trace(50), None, 0).live()
        for writer in self._writers.values():
            writer.close()

    def _watch(self, watch: Callable[[World, Host], None], world: World, host: Host) -> None:
        watch(world, host)
        if host.name.startswith(module.REPLAYED):
            host.recorded = self._recorded

    def _recorded(self, host: Host, record: Record) -> None:
        assert host.core is not None
        life = (host.name, host.core.incarnation)
        if life not in self._writers:
            opened = partial(opened_by, *life)
            self._writers[life] = EventLogWriter(
                self._directory / host.name, opened, pytest.fail, segment_bytes_max=50_000
            )
        self._writers[life].append(record.now_ns, record.event)
        self._writers[life].flush(record.now_ns)


def opened_by(daemon: str, incarnation: int, _now_ns: int) -> LogOpened:
    """The first event of a segment."""
    return LogOpened(
        daemon=daemon,
        incarnation=incarnation,
        package_version="1",
        schema="s",
        attributes=[("ram", 16.0)],
        wall_s=0.0,
    )


Logs = Callable[[str, int], Path]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Logs:
    """The logs of a system that ran by a policy, from a seed; each is run once."""
    run = dict[tuple[str, int], Path]()

    def made(policy: str, seed: int) -> Path:
        if (policy, seed) not in run:
            run[policy, seed] = tmp_path_factory.mktemp("log")
            LoggedWorld(seed, policy, run[policy, seed])
        return run[policy, seed]

    return made


@pytest.fixture(scope="module")
def one(logs: Logs) -> Path:
    """The logs of one system."""
    return logs("random", 8)


def changed(
    directory: Path, to: Path, daemon: str, change: Callable[[Log], Iterator[tuple[int, Message]]]
) -> Path:
    """A copy of a daemon's log with a change made to its events."""
    incarnation = 0
    writer: EventLogWriter | None = None
    for now_ns, event in change(list(read_events(directory / daemon))):
        if isinstance(event, LogOpened):
            incarnation, old = event.incarnation, incarnation
            if writer is None or incarnation != old:
                writer = EventLogWriter(
                    to / daemon, partial(opened_by, daemon, incarnation), pytest.fail
                )
            continue
        assert writer is not None
        writer.append(now_ns, event)
        writer.flush(now_ns)
    return to


def first(kind: type[Message], make: Callable[[Any], list[Message] | None]) -> Any:
    """A change of the first event of this kind for which something is made."""

    def change(log: Log) -> Iterator[tuple[int, Message]]:
        done = False
        for now_ns, event in log:
            made = make(event) if isinstance(event, kind) and not done else None
            done = done or made is not None
            yield from ((now_ns, each) for each in ([event] if made is None else made))
        assert done, f"no {kind.__name__} to change"

    return change


def without(kind: type[Message]) -> Any:
    """A change that leaves all events of this kind out."""
    return lambda log: (item for item in log if not isinstance(item[1], kind))


def every(kind: type[Message], field: str, value: int) -> Any:
    """A change of a field in all events of this kind."""

    def change(log: Log) -> Iterator[tuple[int, Message]]:
        for now_ns, event in log:
            if isinstance(event, kind):
                yield now_ns, msgspec.structs.replace(event, **{field: value})
            else:
                yield now_ns, event

    return change


def differing(report: ReplayReport) -> list[str]:
    """The daemons that decided otherwise."""
    return [daemon.daemon for daemon in report.daemons if daemon.differences]


# --- the same decisions --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("policy", POLICIES)
def test_decisions_under_faults_are_the_engines_alone(policy: str, seed: int, logs: Logs) -> None:
    """For every policy, through crashes and reboots of all daemons: each offer, each plan."""
    directory = logs(policy, seed)
    report = replay(directory)
    assert report.same, [daemon.differences for daemon in report.daemons]
    decisions = [daemon.decisions for daemon in report.daemons]
    assert sum(each["plan_made"] for each in decisions) > 10
    assert sum(each["offered"] for each in decisions) > 10
    assert not any(daemon.skipped for daemon in report.daemons)


def test_every_policy_but_the_live_one_can_be_asked_what_if(one: Path) -> None:
    """As many plans as in the log, of the same rounds; the live policy's are those in the log."""
    for policy in POLICIES:
        instants = list(what_if(one, policy=policy))
        assert len(instants) > 10
        for each in instants:
            assert sorted(order(each.other)) == sorted(order(each.logged))
        if policy == "random":
            assert all(each.other == each.logged for each in instants)


class Moody:
    """A policy of one's own: the newest first, but it raises while one job is there alone."""

    def order(self, snapshot: Snapshot) -> list[tuple[int, int]]:
        """The open rounds, first served first."""
        if snapshot.jobs == 1:
            raise ValueError("alone")
        return [(each.job, each.round) for each in reversed(snapshot.rounds)]


def test_a_policy_of_ones_own_is_replayed_with_its_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plans that it made and those that it failed to make; and it can be asked what if."""
    monkeypatch.setitem(sys.modules, "moody", sys.modules[__name__])
    recorded: Log = []
    monkeypatch.setattr(
        SchedulerCore, "record", lambda _, now_ns, event: recorded.append((now_ns, event))
    )
    world = SchedulerWorld(policy="moody:Moody")
    world.snapshot(job(1), seq=10)
    world.driver.advance(0.1)
    world.events(job(2), job(3), first=11)
    world.driver.advance(0.1)
    writer = EventLogWriter(tmp_path / "scheduler", partial(opened_by, "scheduler", 1), pytest.fail)
    for item in recorded:
        writer.append(*item)
    writer.flush(0)
    report = replay(tmp_path)
    assert report.same, report.daemons[0].differences
    decisions = report.daemons[0].decisions
    assert decisions["plan_failed"] >= 1
    assert decisions["plan_made"] >= 1
    *_, last = what_if(tmp_path, policy="fifo")
    assert (order(last.logged), order(last.other)) == (
        [(3, 0), (2, 0), (1, 0)],
        [(1, 0), (2, 0), (3, 0)],
    )


# --- other decisions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy,constant",
    [
        ("random", {"seed": 4242}),
        ("random-per-client", {"seed": 4242}),
        ("irs", {"options": {"fairness": 5.0}}),
        ("irs", {"options": {"supply_window_s": 5.0}}),
        ("venn", {"options": {"fairness": 5.0}}),
        ("static-partition", {"options": {"partitions": 3.0}}),
    ],
    ids=str,
)
def test_another_constant_of_the_policy_is_noticed(
    policy: str, constant: dict[str, Any], logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planner that the log is put through differs from the live one by one number."""
    monkeypatch.setattr(module, "PlannerDriver", partial(PlannerDriver, **constant))
    # An even seed: without fairness; one in which rounds wait that have no device yet.
    report = replay(logs(policy, 12))
    assert differing(report) == ["scheduler"]
    (scheduler,) = (each for each in report.daemons if each.differences)
    found = scheduler.differences[0]
    assert found.logged.startswith("plan_made version=")
    assert found.logged != found.replayed


def one_slot_less(event: JobsReceived) -> list[Message] | None:
    """The state of an open round with one slot more given out."""
    for place, state in enumerate(event.changed):
        if state.round >= 0 and state.allocated + 1 < state.demand:
            states = list(event.changed)
            states[place] = msgspec.structs.replace(state, allocated=state.allocated + 1)
            return [msgspec.structs.replace(event, changed=states)]
    return None


def an_offer_more(event: WaitingMatched) -> list[Message]:
    """An offer that nobody made."""
    return [event, Offered(device_id=DEVICE, plan_version=1, rounds=[(1, 0)])]


@pytest.mark.parametrize(
    "daemon,change",
    [
        ("scheduler", first(JobsReceived, one_slot_less)),
        ("scheduler", first(PlanMade, lambda _: [])),
        ("client_manager-0", first(Offered, lambda _: [])),
        ("client_manager-0", first(WaitingMatched, an_offer_more)),
        ("client_manager-0", first(CheckedIn, lambda _: [])),
        ("client_manager-0", every(MatcherStarted, "offer_timeout_ns", 1_000_000)),
    ],
    ids=["slot", "no plan", "no offer", "an offer", "no check-in", "timeout"],
)
def test_a_change_of_one_event_is_noticed(
    daemon: str, change: Any, one: Path, tmp_path: Path
) -> None:
    """An input that differs, a decision that is missing, one too many."""
    report = replay(changed(one, tmp_path, daemon, change))
    assert differing(report) == [daemon]


def test_another_seed_in_the_log_is_noticed(logs: Logs, tmp_path: Path) -> None:
    """Where rounds that have no device yet wait for their turn, the draw orders them."""
    change = every(PlannerStarted, "seed", 4242)
    report = replay(changed(logs("random", 12), tmp_path, "scheduler", change))
    assert differing(report) == ["scheduler"]


def plan_of(version: int) -> PlanApplied:
    """A plan with one round for anybody."""
    round_ = PlannedRound(1, 0, 0, 1, {})
    group = PlannedGroup(0, [0.0], [round_])
    plan = Plan(version=version, seq=1, ranked=True, groups=[group], preferences=[], fallback=[0])
    return PlanApplied(plan=plan)


@pytest.mark.parametrize("known", [True, False])
def test_a_new_scheduler_is_an_input(known: bool, tmp_path: Path) -> None:
    """It numbers its plans from anew: without the event, its first plan would be an old one."""
    events: list[Message] = [
        MatcherStarted(
            manager=0, dimensions=1, tasks_per_offer_max=20, offer_timeout_ns=10, waiting_max=9,
            declined_max=9, supply_bucket_ns=10, supply_sample_max=9, seed=0,
        ),
        SchedulerMet(incarnation=1),
        plan_of(version=5),
        *([SchedulerMet(incarnation=2)] if known else []),
        plan_of(version=1),
        CheckedIn(device_id=DEVICE, spec=[1.0], option=1.0, hold_s=0.0),
        Offered(device_id=DEVICE, plan_version=1, rounds=[(1, 0)]),
    ]  # fmt: skip
    name = "client_manager-0"
    writer = EventLogWriter(tmp_path / name, partial(opened_by, name, 1), pytest.fail)
    for event in events:
        writer.append(1, event)
    writer.flush(1)
    report = replay(tmp_path)
    assert report.same == known
    if not known:
        assert "is older" in report.daemons[0].differences[0].replayed


def test_supply_is_an_input_of_plans(logs: Logs, tmp_path: Path) -> None:
    """Buckets that the log does not have change the shares of a plan, and so it is noticed."""
    log = logs("irs", 3)
    report = replay(changed(log, tmp_path, "scheduler", without(SupplyReceived)))
    assert differing(report) == ["scheduler"]


# --- logs that cannot be replayed ----------------------------------------------------------------


def test_a_log_without_a_start_is_refused_in_one_line(one: Path, tmp_path: Path) -> None:
    """An older release did not write it; or the first segments are gone."""
    changed(one, tmp_path, "scheduler", without(PlannerStarted))
    with pytest.raises(EventLogError, match="does not begin with a start of its daemon"):
        replay(tmp_path)
    done = CliRunner().invoke(app, [str(tmp_path)])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("propius: replay: ")


def test_a_log_that_begins_in_the_middle_is_replayed_from_the_next_start(
    one: Path, tmp_path: Path
) -> None:
    """What stands before it is counted, and compared with nothing."""
    log = list(read_events(one / "scheduler"))
    starts = [place for place, (_, event) in enumerate(log) if isinstance(event, PlannerStarted)]
    assert len(starts) > 1, "take a seed in which the scheduler is killed"
    changed(one, tmp_path, "scheduler", lambda log: iter([log[0], *log[starts[0] + 1 :]]))
    report = replay(tmp_path)
    assert report.same
    assert report.daemons[0].skipped > 0
    assert report.daemons[0].lives == len(starts) - 1


def test_a_log_cut_in_a_record_is_compared_up_to_there(one: Path, tmp_path: Path) -> None:
    """Its program was killed; what it had decided and not written is no difference."""
    changed(one, tmp_path, "client_manager-0", iter)
    path = segments(tmp_path / "client_manager-0")[-1]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 + 1])
    report = replay(tmp_path)
    assert report.same, report.daemons[0].differences
    assert report.daemons[0].torn
    assert report.daemons[0].decisions.total() > 0


def test_a_damaged_log_is_refused_in_one_line(one: Path, tmp_path: Path) -> None:
    """Bytes that are no record: the file and the offset are named."""
    changed(one, tmp_path, "scheduler", iter)
    path = segments(tmp_path / "scheduler")[0]
    data = bytearray(path.read_bytes())
    data[200:220] = bytes(20)
    path.write_bytes(data)
    done = CliRunner().invoke(app, [str(tmp_path)])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert path.name in done.stderr


def test_a_folder_without_logs_is_refused_in_one_line(tmp_path: Path) -> None:
    """Nothing there that decides by the engine."""
    done = CliRunner().invoke(app, [str(tmp_path)])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)


# --- the command ---------------------------------------------------------------------------------


def test_command_tells_what_was_compared(one: Path) -> None:
    """For people and, with --json, for programs; exit code 0."""
    done = CliRunner().invoke(app, [str(one)])
    assert done.exit_code == 0, done.output
    assert "the same decisions" in done.stdout
    done = CliRunner().invoke(app, [str(one), "--json"])
    told = json.loads(done.stdout)
    assert told["same"] is True
    assert {daemon["daemon"] for daemon in told["daemons"]} >= {"scheduler", "client_manager-0"}


def test_command_shows_differences(one: Path, tmp_path: Path) -> None:
    """Both values, and exit code 1."""
    changed(one, tmp_path, "client_manager-0", first(Offered, lambda _: []))
    done = CliRunner().invoke(app, [str(tmp_path)])
    assert done.exit_code == 1
    assert "in the log: nothing" in done.stdout
    assert "replayed:   offered device_id=" in done.stdout


def test_command_shows_what_if(one: Path) -> None:
    """The orders that differ; an unknown policy or option is one line."""
    done = CliRunner().invoke(app, [str(one), "--policy", "las"])
    assert done.exit_code == 0, done.output
    assert "plans have another order of rounds" in done.stdout
    done = CliRunner().invoke(app, [str(one), "--seed", "77", "--json"])
    assert len(json.loads(done.stdout)["plans"]) > 10
    for arguments in (["--policy", "best"], ["--option", "hurry=1"]):
        done = CliRunner().invoke(app, [str(one), *arguments])
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output


def test_unknown_policy_is_an_error_of_the_engine(one: Path) -> None:
    """Before any plan is made."""
    with pytest.raises(EngineError, match="best"):
        list(what_if(one, policy="best"))
