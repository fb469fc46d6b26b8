from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from evaluation.clients.behaviour import Behaviour, SimulatedClient, TaskCost, with_samples
from evaluation.harness.config import FailuresConfig, RunConfig
from evaluation.harness.experiment import PlannedJob
from evaluation.harness.rounds import Attempt, VirtualRounds, simulate_rounds
from evaluation.jobs.profiles import JobProfile
from evaluation.jobs.yaml_file import SettingsError
from evaluation.population import Availability
from propius.engine import simulate, task_failure

CONFIG = RunConfig(availability_period_s=20_000.0, tasks_per_session=0)
SEED = 5
FAILED = {"crash", "battery", "user"}


def profile(**changes: object) -> JobProfile:
    values = {"demand": 6, "total_round": 4, "over_selection": 1.5, "sched_timeout": 600,
              "exec_timeout": 400, "public_constraint": {"cpu_f": 3}}  # fmt: skip
    return JobProfile.model_validate(values | changes)


def clients(count: int = 80, period_s: float = 20_000.0) -> list[SimulatedClient]:
    drawn = Behaviour(count, SEED, period_s, availability=Availability(600.0, 900.0)).draw()
    return with_samples(drawn, {"digits": [10 * number for number in range(count)]})


def run(
    profiles: list[JobProfile],
    people: list[SimulatedClient] | None = None,
    policy: str = "irs",
    config: RunConfig = CONFIG,
) -> VirtualRounds:
    jobs = [PlannedJob(n, 100.0 * n, n, each) for n, each in enumerate(profiles)]
    costs = [TaskCost.of(each, 4_000.0) for each in profiles]
    return simulate_rounds(jobs, people or clients(), costs, config, policy=policy, seed=SEED)


def test_participants_are_eligible_clients_and_as_many_as_the_round_asks_for() -> None:
    """Whoever takes part meets the job's constraints, the private one too, and is there once."""
    picky = profile(public_constraint={"cpu_f": 6}, private_constraint={"dataset_size": 300})
    people = clients()
    rounds = run([profile(), picky], people)
    done = [it for it in rounds.attempts if it.state == "completed"]
    assert len(done) == 8
    for attempt in done:
        assert all(people[client].suits([profile(), picky][attempt.job])
                   for client in attempt.clients)  # fmt: skip
        assert len(set(attempt.clients)) == len(attempt.clients) == attempt.completed == 6
        assert attempt.demand == 9


@pytest.mark.parametrize("tasks_per_session", [0, 1])
def test_a_round_needs_as_many_clients_as_results(tasks_per_session: int) -> None:
    """Nobody serves a round twice, in one session or in two: it has results of ``demand`` clients.

    Few slow rounds and few clients: those who are done long before the round is filled come back.
    """
    config = RunConfig(availability_period_s=5_000.0, tasks_per_session=tasks_per_session)
    people = Behaviour(14, SEED, 5_000.0, availability=Availability(300.0, 900.0)).draw()
    hard = profile(public_constraint={}, sched_timeout=4_000, total_round=12)
    rounds = run([hard], people, config=config)
    done = [it for it in rounds.attempts if it.state == "completed"]
    assert len(done) == 12
    assert {it.completed for it in done} == {6}
    assert max(it.filled_s - it.opened_s for it in done if it.filled_s is not None) > 900.0


FAILING = {"crash_per_hour": 20.0, "battery_per_hour": 8.0, "user_per_hour": 12.0}


def test_tasks_fail_when_and_of_what_the_engine_draws_for_live_devices_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each task of each device that failed did so at its own moment; who was done was done before.

    Jobs count from 1, as at the job manager, and rounds with the failed attempts.
    """
    kept: dict[str, Any] = {}

    def noted(trace: Any, jobs: Any, **options: Any) -> dict[str, Any]:
        kept.update(simulate(trace, jobs, **options), owners=options["owners"])
        return kept

    monkeypatch.setattr("evaluation.harness.rounds.simulate", noted)
    config = CONFIG.model_copy(update={"failures": FailuresConfig.model_validate(FAILING)})
    rounds = run([profile(total_round=12), profile(total_round=12)], config=config)
    rates, owners = config.failures.rates, kept["owners"]
    causes: Counter[str] = Counter()
    tasks = [(owners[task[0] % len(owners)], task[1], task[2]) for task in kept["record"][1]]
    assert len(set(tasks)) == len(tasks), "a client that failed or left served the attempt again"
    for session, job, attempt, start_s, end_s, _steps, how in kept["record"][1]:
        owner = owners[session % len(owners)]
        drawn = task_failure(SEED, owner, job + 1, attempt, rates)
        assert drawn is not None
        if how in FAILED:
            causes[how] += 1
            assert (end_s - start_s, how) == (pytest.approx(drawn[0], abs=1e-6), drawn[1])
        else:
            assert end_s - start_s <= drawn[0] + 1e-6
    assert set(causes) == FAILED
    assert causes == Counter(kept["failures"])
    assert sum(use.failed for use in rounds.clients) == sum(causes.values())
    calm = run([profile(total_round=12), profile(total_round=12)])
    assert sum(use.failed for use in calm.clients) == 0


@pytest.mark.parametrize("cause, comes_back", [("battery", False), ("user", True)])
def test_a_slot_comes_back_from_who_says_that_it_failed(cause: str, comes_back: bool) -> None:
    """Of who is gone without a word it stays given, for the lease is as long as the attempt."""
    failures = FailuresConfig.model_validate({f"{cause}_per_hour": 60.0})
    config = CONFIG.model_copy(update={"failures": failures})
    rounds = run([profile(total_round=12)], config=config)
    assert sum(use.failed for use in rounds.clients) > 20
    gone = sum(use.dropped for use in rounds.clients)
    again = sum(max(0, it.allocated - it.demand) for it in rounds.attempts)
    assert (again > gone) == comes_back
    assert (sum(it.failed for it in rounds.attempts) > gone) == comes_back


def test_the_same_seed_gives_the_same_rounds_whatever_was_run_before() -> None:
    """A run depends on its configuration and nothing else."""
    profiles = [profile(demand=14, total_round=12)] * 4
    assert run(profiles) == run(profiles)
    assert run(profiles, policy="random") != run(profiles)


def test_rounds_go_on_after_the_availability_has_been_played_once() -> None:
    """Fault F15: a job longer than the clients' traces finishes, with clients that come back."""
    long = profile(total_round=60)
    config = CONFIG.model_copy(update={"availability_period_s": 1_000.0})
    rounds = run([long], clients(period_s=1_000.0), config=config)
    assert rounds.finished_s[0] is not None
    assert rounds.finished_s[0] > 2_000.0
    assert sum(attempt.state == "completed" for attempt in rounds.attempts) == 60


def test_ideal_clients_serve_again_and_again() -> None:
    """They are there all the time, and neither a limit of tasks nor a period's end stops them.

    A run with them ends before one with clients that come and go.
    """
    long = profile(total_round=40, public_constraint={"cpu_f": 8})
    finished, tasks = [], []
    for ideal in (True, False):
        config = RunConfig(availability_period_s=2_000.0, ideal_client=ideal)
        people = Behaviour(
            60, SEED, config.period_s, ideal=ideal, availability=Availability(600.0, 900.0)
        ).draw()
        rounds = run([long], people, config=config)
        assert rounds.finished_s[0] is not None
        finished.append(rounds.finished_s[0])
        tasks.append(max(use.tasks for use in rounds.clients))
        assert ideal == (sum(use.dropped for use in rounds.clients) == 0)
    assert finished[0] < finished[1]
    assert tasks[0] > 1 + finished[0] / 2_000.0


def test_a_fed_prox_client_does_what_fits_its_time_where_others_are_gone() -> None:
    """Devices that fed-avg loses count with fewer steps, and end with their session at the latest.

    Who has time for all steps does all of them; no attempt of fed-avg says anything of steps.
    """
    slow = {"local_steps": 300, "exec_timeout": 2_000, "total_round": 6}
    people, prox = clients(), profile(gradient_policy="fed-prox", **slow)
    whole, rounds = run([profile(**slow)], people), run([prox], people)
    assert {it.steps for it in whole.attempts} == {None}
    assert sum(it.dropped for it in rounds.clients) < sum(it.dropped for it in whole.clients)
    told = [(*pair, it) for it in rounds.attempts if it.steps is not None
            for pair in zip(it.clients, it.steps, strict=True)]  # fmt: skip
    assert len(told) >= 6 * 6
    assert max(steps for _, steps, _ in told) == 300
    assert 1 <= min(steps for _, steps, _ in told) < 300
    cost = TaskCost.of(prox, 4_000.0)
    for number, steps, attempt in told:
        took_s = people[number].task_s(TaskCost(cost.samples * steps / 300, cost.kbit))
        assert took_s <= attempt.ended_s - attempt.opened_s + 1e-3
        assert took_s <= max(end_s - start_s for start_s, end_s in people[number].sessions) + 1e-3
    for use, client in zip(rounds.clients, people, strict=True):
        assert use.utilised_s <= client.active_s(rounds.end_s) + 1e-6


def tally(attempts: list[Attempt]) -> Counter[str]:
    return Counter(attempt.state for attempt in attempts)


def test_a_round_that_is_not_filled_in_time_is_tried_again() -> None:
    """It has the row of a scheduling time-out, at exactly its time, and the next attempt."""
    rounds = run([profile(demand=30, sched_timeout=20)])
    failed = [it for it in rounds.attempts if it.state == "timed_out_scheduling"]
    assert failed
    for attempt in failed:
        assert attempt.filled_s is None
        assert attempt.ended_s - attempt.opened_s == pytest.approx(20.0)
    numbers = [(it.round, it.attempt) for it in rounds.attempts]
    assert numbers == sorted(numbers)
    assert numbers[0] == (0, 0)


def test_a_round_with_too_few_results_ends_after_its_execution_time_out() -> None:
    """The time counts from the fill; devices that never report end the round as it says."""
    rounds = run([profile(exec_timeout=20, total_round=2)],
                 config=CONFIG.model_copy(update={"periods_max": 1}))  # fmt: skip
    failed = [it for it in rounds.attempts if it.state == "timed_out_response"]
    assert failed
    for attempt in failed:
        assert attempt.filled_s is not None
        assert attempt.ended_s - attempt.filled_s == pytest.approx(20.0)
        assert attempt.completed < 6


def test_static_partition_serves_more_jobs_than_the_originals_five() -> None:
    """Any number of jobs has its part of the clients; each is served only by those who suit it.

    Fault F11: there were quotas for five jobs, and a sixth was an IndexError.
    """
    profiles = [profile(demand=2, total_round=2, sched_timeout=5_000)] * 8
    rounds = run(profiles, policy="static-partition")
    assert all(finished is not None for finished in rounds.finished_s)


@pytest.mark.parametrize("policy", ["random-per-client", "static-partition"])
def test_baselines_check_the_jobs_own_constraint(policy: str) -> None:
    """A job's devices meet the constraint of its own profile, whatever the profile's number.

    Fault F11: the constraint was checked of another profile than that of the job it went to.
    """
    people = clients()
    picky = profile(public_constraint={"cpu_f": 8}, demand=3)
    jobs = [PlannedJob(0, 0.0, 1, picky), PlannedJob(1, 0.0, 0, profile(demand=3))]
    costs = [TaskCost.of(job.profile, 4_000.0) for job in jobs]
    rounds = simulate_rounds(jobs, people, costs, CONFIG, policy=policy, seed=SEED)
    served = {client for it in rounds.attempts if it.job == 0 for client in it.clients}
    assert served
    assert all(people[client].suits(picky) for client in served)


def test_what_clients_did_adds_up() -> None:
    """Tasks of clients are those of the attempts, and nobody works longer than it is there."""
    people = clients()
    rounds = run([profile(), profile()], people)
    assert sum(use.tasks for use in rounds.clients) >= sum(it.completed for it in rounds.attempts)
    for use, client in zip(rounds.clients, people, strict=True):
        assert use.tasks == use.completed + use.dropped
        assert use.utilised_s <= client.active_s(rounds.end_s) + 1e-6


def test_more_kinds_of_constraints_than_the_simulator_knows_are_refused() -> None:
    """One line says how many there are and may be."""
    profiles = [profile(public_constraint={"cpu_f": n / 10}) for n in range(11)]
    with pytest.raises(SettingsError, match="11 different constraints; a virtual run takes 10"):
        run(profiles)
