"""The rounds of a run in virtual time: who took part in which attempt, as the simulator decided.

Clients become sessions of a trace, and each distinct pair of a public and a private constraint
becomes a class of requirement, which a client meets or not. (Live, the scheduler sees the public
constraint only, and a client declines what its private one forbids; who can serve whom is the
same.) A device that serves a job twice is two sessions or two tasks of one, but one client.

Not here: training those who took part (:mod:`evaluation.harness.virtual`).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from evaluation.clients.behaviour import SimulatedClient, TaskCost
from evaluation.harness.config import RunConfig
from evaluation.harness.experiment import PlannedJob
from evaluation.jobs.profiles import JobProfile
from evaluation.jobs.yaml_file import SettingsError
from evaluation.results.rows import ClientRow
from propius.engine import Trace, simulate

__all__ = ["Attempt", "VirtualRounds", "simulate_rounds"]

CAUSES: Final = frozenset({"crash", "battery", "user"})
"""Of failures in the middle of a task."""
CLASSES_MAX: Final = 10
MS_OF_UNIT: Final = 78.0
KBPS_OF_UNIT: Final = 13_736.0
"""What the simulator's units of computation and communication are relative to."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at a round. ``clients``: whose results count, in the order in which they came.

    ``steps``: how many each of them did; None of a job whose clients all do the same. ``allocated``
    counts a slot again that was given again.
    """

    job: int
    round: int
    attempt: int
    state: str
    opened_s: float
    filled_s: float | None
    ended_s: float
    demand: int
    allocated: int
    completed: int
    failed: int
    clients: tuple[int, ...]
    steps: tuple[int, ...] | None


@dataclass(frozen=True)
class VirtualRounds:
    """A run of the simulator. ``attempts`` in order of their ends, failed ones too."""

    attempts: list[Attempt]
    clients: list[ClientRow]
    finished_s: list[float | None]
    end_s: float


def simulate_rounds(
    jobs: Sequence[PlannedJob],
    clients: Sequence[SimulatedClient],
    costs: Sequence[TaskCost],
    config: RunConfig,
    *,
    policy: str,
    seed: int,
) -> VirtualRounds:
    """Play the clients' availability to the jobs; raises EngineError, SettingsError."""
    kinds = _kinds(jobs)
    trace, clients_of_rows = _trace(clients, kinds)
    result = simulate(
        trace,
        [_job(job, kinds, cost) for job, cost in zip(jobs, costs, strict=True)],
        policy=policy,
        policy_options=config.policy_options,
        seed=seed,
        repeat=config.periods,
        period_s=config.period_s,
        replan_s=config.replan_s,
        managers=config.client_managers,
        tasks_max=config.tasks_max,
        dispatch_s=0.0,
        as_daemons=True,
        record=True,
        owners=array("I", clients_of_rows),
        failures=config.failures.rates,
    )
    rounds, tasks = result["record"]
    return VirtualRounds(
        attempts=_attempts(rounds, tasks, clients_of_rows, jobs),
        clients=_client_rows(tasks, clients_of_rows, clients, result["end_s"]),
        finished_s=[job["finish_s"] for job in result["per_job"]],
        end_s=result["end_s"],
    )


# --- into the simulator --------------------------------------------------------------------------


def _constraint(profile: JobProfile) -> tuple[tuple[str, float], ...]:
    """Both constraints; a private attribute never has a public one's name."""
    public = sorted(profile.public_constraint.items())
    private = sorted(profile.private_bounds.items())
    return (*public, *((f"private {name}", low) for name, low in private))


def _kinds(jobs: Sequence[PlannedJob]) -> dict[tuple[tuple[str, float], ...], JobProfile]:
    """One profile for each distinct pair of constraints, in the order of the jobs."""
    kinds: dict[tuple[tuple[str, float], ...], JobProfile] = {}
    for job in jobs:
        kinds.setdefault(_constraint(job.profile), job.profile)
    if len(kinds) > CLASSES_MAX:
        raise SettingsError(
            f"the jobs have {len(kinds)} different constraints; a virtual run takes {CLASSES_MAX}"
        )
    return kinds


def _trace(
    clients: Sequence[SimulatedClient], kinds: dict[Any, JobProfile]
) -> tuple[Trace, list[int]]:
    """Everybody's sessions by start, and the client of each."""
    classes = {
        client.index: sum(1 << bit for bit, kind in enumerate(kinds.values()) if client.suits(kind))
        for client in clients
    }
    rows = sorted(
        (start_s, client.index, end_s, client)
        for client in clients
        for start_s, end_s in client.sessions
    )
    if not rows:
        raise SettingsError("no client is ever available")
    trace = Trace.from_columns(
        array("d", [row[0] for row in rows]),
        array("d", [row[2] for row in rows]),
        array("d", [row[3].speed_ms for row in rows]),
        array("d", [row[3].bandwidth_kbps for row in rows]),
        array("H", [classes[row[1]] for row in rows]),
    )
    return trace, [row[1] for row in rows]


def _job(job: PlannedJob, kinds: dict[Any, JobProfile], cost: TaskCost) -> dict[str, Any]:
    profile = job.profile
    return {
        "start_s": job.at_s,
        "participants": profile.devices,
        "rounds": profile.total_round,
        "requirement": [*kinds].index(_constraint(profile)),
        "min_response": profile.demand / profile.devices,
        "workload": cost.samples * MS_OF_UNIT / 1000,
        "communication": cost.kbit / 2 / KBPS_OF_UNIT,
        "steps": cost.steps or None,
        "scheduling_timeout_s": profile.sched_timeout,
        "response_timeout_s": profile.exec_timeout,
    }


# --- out of it -----------------------------------------------------------------------------------


def _attempts(
    rounds: Sequence[Any], tasks: Sequence[Any], rows: Sequence[int], jobs: Sequence[PlannedJob]
) -> list[Attempt]:
    took_part: dict[tuple[int, int], dict[int, int]] = {}
    for session, job, attempt, _start_s, _end_s, steps, how in tasks:
        if how == "counted":
            took_part.setdefault((job, attempt), {}).setdefault(rows[session % len(rows)], steps)
    tries: dict[tuple[int, int], int] = {}
    attempts = []
    for job, round_no, number, times, counts, succeeded, _history in rounds:
        opened_s, filled_s, ended_s = times
        again = tries.get((job, round_no), 0)
        tries[job, round_no] = again + 1
        state = "completed" if succeeded else _failure(filled_s)
        steps_of = took_part.get((job, number), {})
        clients = [*steps_of][: jobs[job].profile.demand if succeeded else None]
        steps = tuple(steps_of[client] for client in clients)
        allocated, _reports, failed = counts
        attempts.append(
            Attempt(
                job=job,
                round=round_no,
                attempt=again,
                state=state,
                opened_s=opened_s,
                filled_s=filled_s,
                ended_s=ended_s,
                demand=jobs[job].profile.devices,
                allocated=allocated,
                completed=len(clients),
                failed=failed,
                clients=tuple(clients),
                steps=steps if any(steps) else None,
            )
        )
    return sorted(attempts, key=lambda it: (it.ended_s, it.job))


def _failure(filled_s: float | None) -> str:
    return "timed_out_scheduling" if filled_s is None else "timed_out_response"


def _client_rows(
    tasks: Sequence[Any],
    rows: Sequence[int],
    clients: Sequence[SimulatedClient],
    end_s: float,
) -> list[ClientRow]:
    """What each client did until the run ended."""
    spent = [0.0] * len(clients)
    completed, dropped, failed = ([0] * len(clients) for _ in range(3))
    for session, _job, _attempt, start_s, task_end_s, _steps, how in tasks:
        client = rows[session % len(rows)]
        spent[client] += task_end_s - start_s
        ended = failed if how in CAUSES else dropped if how == "gone" else completed
        ended[client] += 1
    return [
        ClientRow(
            client=place,
            active_s=client.active_s(end_s),
            utilised_s=spent[place],
            tasks=completed[place] + dropped[place] + failed[place],
            completed=completed[place],
            dropped=dropped[place],
            failed=failed[place],
        )
        for place, client in enumerate(clients)
    ]
