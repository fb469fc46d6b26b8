"""What policies read of a job's past, live against virtual time.

A simulated run says who was given a slot when, and how each task ended. The same is said to the job
manager's core, message by message, and what it tells the scheduler's table of jobs, which tells the
planner, has to be what the simulator's policy read (a test of ``simulate`` says that the record is
what it reads at each plan). The rounds' ends are each side's own.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from typing import Any, Final

import pytest

from daemons.scheduler.jobs import JobTable
from propius import messages
from propius.core import SECOND_NS
from propius.engine import Planner, Trace, simulate
from propius.messages import JobEvents, Outcome
from tests.daemons.job_manager.rig import JobServer, Rig

READERS: Final = ("las", "srsf-total", "srtf", "venn")
"""The built-in policies that read a history."""
SESSIONS: Final = 600
LEASE_S: Final = 80_000.0
JOBS: Final = [
    {"start_s": 10.0, "participants": 4, "rounds": 5, "deadline_s": 400.0, "requirement": 1,
     "min_response": 0.75},
    {"start_s": 50.0, "participants": 3, "rounds": 6, "deadline_s": 90.0, "requirement": 1,
     "min_response": 1.0},
    {"start_s": 90.0, "participants": 7, "rounds": 4, "deadline_s": 150.0, "requirement": 1,
     "min_response": 0.55},
]  # fmt: skip
History = tuple[int, ...]


def busy_trace() -> Trace:
    """A session every 7 s; some are too short for a task, whose times do not meet."""
    starts = [7.0 * number for number in range(SESSIONS)]
    return Trace.from_columns(
        array("d", starts),
        array("d", [start + 31.0 + 97 * i % 211 for i, start in enumerate(starts)]),
        array("d", [40.0 + 31 * i % 97 + i / 977 for i in range(SESSIONS)]),
        array("d", [9_000.0 + 97 * i % 9_000 for i in range(SESSIONS)]),
        array("H", [0b10] * SESSIONS),
    )


class Told:
    """A planner that remembers what it was last told of each job's history, by its open round."""

    def __init__(self, policy: str) -> None:
        self.planner = Planner(policy=policy, dimensions=2)
        self.histories: dict[tuple[int, int], History] = {}
        self._last: dict[int, History] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.planner, name)

    def set_history(self, job: int, *history: int) -> None:
        """As the planner takes it."""
        self.planner.set_history(job, *history)
        self._last[job] = history

    def note(self, opened: dict[int, int]) -> None:
        """These rounds are open now."""
        for job, round_ in opened.items():
            self.histories[job, round_] = self._last[job]


class Live:
    """The job manager's core with its job servers, and the scheduler's picture of it."""

    def __init__(self, policy: str) -> None:
        self.rig = Rig(backoff_after=10_000, job_silence_max_s=1e6)
        self.began_ns = self.rig.now_ns
        self.told = Told(policy)
        self.table = JobTable(self.told)  # type: ignore[arg-type]
        self.rig.welcome_scheduler()
        self.servers: dict[int, JobServer] = {}
        self.tokens: dict[tuple[int, int], bytes] = {}
        self.requests: defaultdict[int, int] = defaultdict(int)

    def advance(self, at_ns: int) -> None:
        """Until then; a round that ends is followed by the next in the same instant."""
        rig, at_ns = self.rig, self.began_ns + at_ns
        while (due_ns := rig.book_due_ns()) is not None and due_ns <= at_ns:
            self.at(max(rig.now_ns, due_ns))
            rig.tick()
            self.settle()
        self.at(at_ns)

    def at(self, now_ns: int) -> None:
        """It is then, and both peers are there (again, if the silence was long)."""
        self.rig.now_ns = now_ns
        self.rig.from_scheduler(messages.Beat())
        self.rig.welcome_scheduler()
        self.rig.hello()

    def settle(self) -> None:
        """Job servers open their next rounds, and the scheduler hears of everything."""
        for place, server in self.servers.items():
            job = self.rig.job(server.number)
            wanted = JOBS[place]
            if job.state != "idle":
                continue
            if job.rounds_succeeded == wanted["rounds"]:
                server.do(messages.CompleteJob)
                continue
            demand = int(wanted["participants"])
            reports = -int(-demand * wanted["min_response"] // 1)
            server.start(
                demand, reports_min=reports, deadline_s=wanted["deadline_s"], lease_s=LEASE_S
            )
        for _, message in self.rig.answers("scheduler"):
            if isinstance(message, messages.Snapshot):
                self.table.take_snapshot(1, message)
            elif isinstance(message, JobEvents):
                assert self.table.take_events(1, message)
        self.told.note(self.table.open_rounds)

    def arrive(self, place: int) -> None:
        """The job of this place in the list."""
        wanted = JOBS[place]
        sender, demand = f"server-{place}", int(wanted["participants"])
        self.servers[place] = JobServer.registered(self.rig, sender, demand=demand)

    def grant(self, device: int, place: int, round_: int) -> None:
        """It was granted in virtual time, so it must be here."""
        self.requests[device] += 1
        number = self.servers[place].number
        result = self.rig.claim(device, number, round_, request=self.requests[device])
        assert result.error == "", result
        self.tokens[device, place] = result.token

    def end(self, device: int, place: int, round_: int, how: str) -> None:
        """The task is over, in time or not."""
        self.requests[device] += 1
        number, token = self.servers[place].number, self.tokens.pop((device, place))
        outcome = Outcome.FAILED if how == "gone" else Outcome.COMPLETED
        request = self.requests[device]
        result = self.rig.report(device, number, token, outcome, round_, request=request)
        assert result.error == "", result


def scenario(tasks: list[Any]) -> list[tuple[int, int, Any]]:
    """What is said and when: in one instant ends of tasks, then arrivals, then grants."""
    said: list[tuple[int, int, Any]] = []
    for session, job, attempt, start_s, end_s, _steps, how in tasks:
        said.append((round(end_s * SECOND_NS), 0, (session, job, attempt, how)))
        said.append((round(start_s * SECOND_NS), 2, (session, job, attempt)))
    said += [(round(job["start_s"] * SECOND_NS), 1, (place,)) for place, job in enumerate(JOBS)]
    return sorted(said)


@pytest.mark.parametrize("policy", READERS)
def test_policies_read_the_same_of_the_past_live_and_simulated(policy: str) -> None:
    """Round by round, each number of the history, whoever decided who serves."""
    result = simulate(busy_trace(), JOBS, policy=policy, dispatch_s=0.0, as_daemons=True,
                      record=True, repeat=1)  # fmt: skip
    rounds, tasks = result["record"]
    live = Live(policy)
    for at_ns, order, what in scenario(tasks):
        live.advance(at_ns)
        (live.end, live.arrive, live.grant)[order](*what)
        live.settle()
    simulated = {(job + 1, attempt + 1): history for job, _, attempt, *_, history in rounds}
    told = {key: history for key, history in live.told.histories.items() if key[1] > 0}
    assert result["finished"] == len(JOBS)
    assert 0 not in (result["aborts"], result["failed"], result["late"]), "all there is happens"
    last = {(job, max(number for at, number in simulated if at == job)) for job, _ in simulated}
    assert told == {key: simulated[key] for key in simulated.keys() - last}
