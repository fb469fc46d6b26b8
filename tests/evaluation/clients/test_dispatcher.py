"""The lives of simulated clients, under a clock and with a job server of the test."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from evaluation.clients.behaviour import Behaviour, SimulatedClient, TaskCost, with_samples
from evaluation.clients.dispatcher import Dispatcher, DispatcherSettings, behaviour_settings
from evaluation.jobs.link import Answer
from propius import Task
from propius.engine import task_failure

TASK = SimpleNamespace(endpoint="tcp://job", job=4, round=0, token=b"", remaining_s=9.0)
PERIOD_S = 1_000.0


class FakeLink:
    """A job server whose tasks compute so many samples, and whose training takes so long."""

    def __init__(self, scene: Scene, samples: float, training_s: float) -> None:
        self.scene, self.samples, self.training_s = scene, samples, training_s
        self.steps = 0
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def ask(self, verb: str, **values: Any) -> Answer:
        self.asked.append((verb, values))
        if verb == "hand_in":
            self.scene.time_s += self.training_s
            return Answer(1)
        here = values["here"]
        cost = TaskCost(self.samples, 0.0, self.steps)
        cost = cost.within(here.left_s, here.speed_ms, here.kbps)
        return Answer(1, "", cost.samples, cost.kbit)


class Scene(Dispatcher):
    """A dispatcher whose time passes only where it sleeps or waits for a training."""

    def __init__(
        self,
        tasks_max: int | None,
        samples: float,
        training_s: float = 0.0,
        failures: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> None:
        behaviour = Behaviour(1, 3, PERIOD_S, ideal=True)
        super().__init__(
            DispatcherSettings(
                load_balancer="tcp://nobody", first=0, last=1, speed_up=1.0, tasks_max=tasks_max,
                behaviour=behaviour_settings(behaviour), failures=failures,
            )
        )  # fmt: skip
        self.time_s = 0.0
        self.link = FakeLink(self, samples, training_s)
        self.reported: list[str] = []

    def now_s(self) -> float:
        return self.time_s

    async def _sleep_until(self, at_s: float) -> None:
        self.time_s = max(self.time_s, at_s)

    async def _link(self, endpoint: str) -> Any:
        return self.link

    async def auto_assign(self, _wait_s: float) -> Any:
        return TASK

    async def report(self, _assignment: Any, outcome: str) -> None:
        self.reported.append(outcome)

    def stay(self, client: SimulatedClient, end_s: float) -> Any:
        """One session of the client, and what it has done by then."""
        asyncio.run(self._stay(client, self, end_s))  # type: ignore[arg-type]
        return self._uses[client.index].row(client.index)


@pytest.mark.parametrize("tasks_max, tasks", [(None, 9), (1, 1), (2, 2)])
def test_a_client_serves_as_often_as_it_may_each_time_it_is_there(
    tasks_max: int | None, tasks: int
) -> None:
    """Without a limit it serves until its session ends, in which the last task is dropped."""
    scene = Scene(tasks_max, samples=1_000.0)
    (client,) = scene.clients
    row = scene.stay(client, 8.5 * client.speed_ms)
    assert row.tasks == tasks
    assert row.dropped == (tasks_max is None)


@pytest.mark.parametrize("samples", [600.0, 1_400.0])
def test_nobody_works_for_longer_than_it_is_there(samples: float) -> None:
    """Waiting for a training, or being gone, is no work: a share of the time is at most all of it.

    The first client is done in time, and its training ends after its session; the second is not.
    """
    scene = Scene(1, samples, training_s=1e6)
    (client,) = scene.clients
    row = scene.stay(client, client.speed_ms)
    assert row.utilised_s == pytest.approx(min(samples / 1_000, 1.0) * client.speed_ms)
    assert scene.reported == ["completed" if samples < 1_000 else "dropped"]


@pytest.mark.parametrize("steps, tasks", [(0, []), (10, ["completed"])])
def test_a_client_that_is_soon_gone_does_fewer_steps_if_its_job_allows_that(
    steps: int, tasks: list[str]
) -> None:
    """It says how long it is there, and hands in before it goes; else it drops out at its end."""
    scene = Scene(1, samples=1_000.0)
    scene.link.steps = steps
    (client,) = scene.clients
    row = scene.stay(client, 0.55 * client.speed_ms)
    assert scene.reported == (tasks or ["dropped"])
    assert [verb for verb, _ in scene.link.asked] == ["start", "hand_in"][: 1 + len(tasks)]
    assert row.utilised_s == pytest.approx((0.5 if steps else 0.55) * client.speed_ms)


def test_a_client_declines_a_round_that_it_has_served() -> None:
    """It takes others of the same job, and what it dropped; a private constraint counts as ever."""
    scene = Scene(1, samples=1.0)
    [client] = scene.clients = with_samples(scene.clients, {"digits": [9]})
    offered = [Task(4, 0, {}), Task(4, 1, {}), Task(5, 0, {"dataset_size_digits": 1.0}),
               Task(6, 0, {"dataset_size_digits": 1e9})]  # fmt: skip
    assert scene._select(client, offered) == offered[:3]
    scene.stay(client, 1e-9)  # it drops out
    assert scene._select(client, offered) == offered[:3]
    scene.stay(client, scene.time_s + 9.0 * client.speed_ms)
    assert scene.reported == ["dropped", "completed"]
    assert scene._select(client, offered) == offered[1:3]


@pytest.mark.parametrize(
    "cause, reported, tasks",
    [("crash", ["failed"] * 2, 2), ("battery", [], 1), ("user", ["failed"], 1)],
)
def test_a_device_that_fails_in_the_middle_does_what_its_cause_says(
    cause: str, reported: list[str], tasks: int
) -> None:
    """After the time that the engine draws: it says so and stays, or goes; or it is gone silently.

    A crashed one asks again, and here gets the same task, which fails after as long.
    """
    rates = (
        3_600.0 * (cause == "crash"),
        3_600.0 * (cause == "battery"),
        3_600.0 * (cause == "user"),
    )
    scene = Scene(2, samples=1_000.0, failures=rates)  # once a second
    (client,) = scene.clients
    drawn = task_failure(3, client.index, TASK.job, TASK.round, rates)
    assert drawn is not None
    after_s, why = drawn
    assert why == cause
    scene.link.samples = 2_000.0 * after_s / client.speed_ms  # it would take twice as long
    row = scene.stay(client, 1e6)
    assert (row.tasks, row.failed, row.completed, row.dropped) == (tasks, tasks, 0, 0)
    assert scene.reported == reported
    assert row.utilised_s == scene.time_s == pytest.approx(tasks * after_s)
    assert [verb for verb, _ in scene.link.asked] == ["start"] * tasks


def test_a_task_that_is_done_before_it_would_fail_is_done() -> None:
    """And so is one whose session ends before."""
    rates = (3_600.0, 0.0, 0.0)
    scene = Scene(1, samples=1.0, failures=rates)
    (client,) = scene.clients
    drawn = task_failure(3, client.index, TASK.job, TASK.round, rates)
    assert drawn is not None
    scene.link.samples = 900.0 * drawn[0] / client.speed_ms
    assert scene.stay(client, 1e6).completed == 1
    scene.link.samples *= 2
    assert scene.stay(client, scene.time_s + 0.99 * drawn[0]).dropped == 1
    assert scene.reported == ["completed", "dropped"]
