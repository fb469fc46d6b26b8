"""FedAvg over the executor is FedAvg: the same as a plain loop, whoever trains what, and when.

The loop is written here with nothing but torch's autograd, and shares only the draw of batches and
the partition with what it is compared to.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from evaluation.aggregators import FedAvg, Update
from evaluation.data.partition import dirichlet_by_class
from evaluation.data.sources import load
from evaluation.executor import messages as m
from evaluation.executor.arrays import pack
from evaluation.executor.broker import BrokerSettings
from evaluation.executor.handle import Executor, InProcessExecutor, RemoteExecutor
from evaluation.executor.jobs import JobModel, PartitionSpec
from evaluation.executor.local import LocalExecutor
from evaluation.training.batches import draw_batches
from evaluation.training.initial import initial_weights
from evaluation.training.specs import Hyper, ModelSpec
from evaluation.training.trainer import Trainer

SPEC = ModelSpec("mlp", (1, 8, 8), 10)
CLIENTS = 16
MODEL = JobModel(
    4, SPEC, "digits", None, PartitionSpec("dirichlet_by_class", CLIENTS), "float64", seed=9
)
HYPER = Hyper(steps=5, batch_size=10, learning_rate=0.1, momentum=0.9, weight_decay=1e-3)
ROUNDS = 3
Weights = dict[str, NDArray[Any]]


def start() -> Weights:
    return initial_weights(SPEC, seed=2, dtype="float64")


@cache
def plain() -> dict[str, Any]:
    """Three rounds of FedAvg, one client after the other."""
    data = load("digits")
    parts = dirichlet_by_class(data.labels, CLIENTS, MODEL.seed)
    images = torch.from_numpy(data.images.reshape(-1, 64)).double()
    labels = torch.from_numpy(data.labels)
    weights = {name: torch.from_numpy(value) for name, value in start().items()}
    for round_no in range(ROUNDS):
        total = {name: torch.zeros_like(value) for name, value in weights.items()}
        for client, own in enumerate(parts):
            drawn = draw_batches(
                len(own),
                steps=HYPER.steps,
                batch_size=HYPER.batch_size,
                seed=(MODEL.seed, MODEL.job, round_no, client),
            )
            mine = {name: value.clone().requires_grad_() for name, value in weights.items()}
            speed = {name: torch.zeros_like(value) for name, value in weights.items()}
            for index, counts in zip(drawn.index, drawn.weight, strict=True):
                batch = torch.from_numpy(own[index[counts > 0]])
                hidden = torch.relu(images[batch] @ mine["1.weight"].T + mine["1.bias"])
                output = hidden @ mine["3.weight"].T + mine["3.bias"]
                loss = torch.nn.functional.cross_entropy(output, labels[batch])
                slopes = torch.autograd.grad(loss, list(mine.values()))
                for (name, value), slope in zip(mine.items(), slopes, strict=True):
                    with torch.no_grad():
                        speed[name] = 0.9 * speed[name] + slope + 1e-3 * value
                        value.sub_(0.1 * speed[name])
            for name, value in mine.items():
                total[name] += value.detach() * (len(own) / len(data.labels))
        weights = total
    return {name: value.numpy() for name, value in weights.items()}


def over(executor: Executor, between: Any = lambda _round, _future: None) -> Weights:
    """The same three rounds over an executor; ``between`` may do mischief while one is trained."""
    weights, rule = start(), FedAvg()
    executor.register(MODEL)
    for round_no in range(ROUNDS):
        executor.set_weights(MODEL.job, round_no, weights)
        future = executor.train(MODEL.job, round_no, round_no, range(CLIENTS), HYPER)
        between(round_no, future)
        updates = future.result(60)
        assert [update.client for update in updates] == list(range(CLIENTS))
        weights = rule.step(weights, updates)
    return weights


def check(weights: Mapping[str, NDArray[Any]]) -> None:
    for name, value in plain().items():
        np.testing.assert_allclose(weights[name], value, atol=1e-5, rtol=0)


def test_in_one_process_it_equals_a_plain_loop() -> None:
    """FedAvg in this process is the plain loop, to 1e-5."""
    executor = InProcessExecutor()
    check(over(executor))
    executor.close()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_with_any_number_of_workers_it_equals_a_plain_loop(site: Any, workers: int) -> None:
    """Three rounds with one, two and five workers give what the plain loop gives, to 1e-5."""
    for number in range(workers):
        site.worker(Trainer, f"w{number}")

    check(over(site.handle()))


@pytest.mark.parametrize("seed", range(4))
def test_in_any_order_of_completion_it_equals_a_plain_loop(hall: Any, seed: int) -> None:
    """Stacks that come back in any order, from workers of which some die, change nothing."""
    check(over(_Shuffled(type(hall)(BrokerSettings(stack_clients=3)), random.Random(seed))))


class _Shuffled:
    """An executor whose workers finish in an order drawn from a seed, and sometimes die."""

    def __init__(self, hall: Any, chance: random.Random) -> None:
        self.hall, self.chance = hall, chance
        self.trainer = Trainer()
        self.workers = 0
        self.tasks: list[tuple[bytes, m.Train]] = []
        self.versions: dict[int, Weights] = {}
        hall.say(b"j", m.Attach("j"))
        for _ in range(3):
            self._join()

    def _join(self) -> None:
        self.workers += 1
        self.hall.worker(b"w%d" % self.workers)

    def register(self, job: JobModel) -> None:
        self.trainer.register(job)
        self.hall.say(b"j", m.Register.of(job))

    def set_weights(self, job: int, version: int, weights: Mapping[str, NDArray[Any]]) -> None:
        self.versions[version] = dict(weights)
        heads, arrays = pack(weights)
        self.hall.say(b"j", m.Weights(job, version, heads), arrays)

    def train(
        self,
        job: int,
        round_no: int,
        version: int,
        clients: Sequence[int],
        hyper: Hyper,
        steps: Sequence[int] | None = None,
    ) -> Future[list[Update]]:
        hall = self.hall
        own, kept = list(clients), None if steps is None else list(steps)
        task = m.Train(version + 1, job, round_no, version, own, **vars(hyper), client_steps=kept)
        hall.say(b"j", task)
        got: dict[int, Update] = {}
        while len(got) < len(clients):
            for number in range(1, self.workers + 1):
                self.tasks += [(b"w%d" % number, task) for task in hall.tasks(b"w%d" % number)]
            worker, task = self.tasks.pop(self.chance.randrange(len(self.tasks)))
            if self.chance.random() < 0.2:
                hall.say(worker, m.Leave())
                self._join()
            else:
                self._hand_in(worker, task)
            self._collect(got)
        future: Future[list[Update]] = Future()
        future.set_result([got[client] for client in clients])
        return future

    def _hand_in(self, worker: bytes, task: m.Train) -> None:
        weights = self.versions[task.version]
        updates = self.trainer.train(
            task.job, task.round, weights, task.clients, task.hyper, task.client_steps
        )
        done, arrays = m.Trained.of(task.number, task.version, updates)
        self.hall.say(worker, done, arrays)

    def _collect(self, got: dict[int, Update]) -> None:
        inbox, self.hall.inboxes[b"j"] = self.hall.inboxes.get(b"j", []), []
        for message, arrays in inbox:
            if isinstance(message, m.Trained):
                for update in message.updates(arrays):
                    assert update.client not in got
                    got[update.client] = update

    def score(self, job: int, version: int) -> Any:
        raise NotImplementedError

    def forget(self, job: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


# --- real processes ------------------------------------------------------------------------------


class _Events:
    """What befell the executor, to be waited for."""

    def __init__(self) -> None:
        self.all: list[tuple[str, dict[str, Any]]] = []
        self._changed = threading.Condition()

    def __call__(self, what: str, facts: dict[str, Any]) -> None:
        with self._changed:
            self.all.append((what, facts))
            self._changed.notify_all()

    def count(self, what: str) -> int:
        return sum(kind == what for kind, _ in self.all)

    def wait(self, what: str, count: int = 1) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.count(what) >= count, 60), self.all


@pytest.mark.slow
def test_workers_killed_and_frozen_in_the_middle_change_nothing(tmp_path: Path) -> None:
    """Real workers: one is frozen while it has a task, one killed, then all are killed.

    The result is the plain loop's, to 1e-5; no result counts twice; the run hears of all of it.
    """
    events = _Events()

    def mischief(round_no: int, future: Future[list[Update]]) -> None:
        pids = local.pids
        if round_no == 0:
            future.result(60)
            os.kill(pids[0], signal.SIGSTOP)
        elif round_no == 1:  # worker 0 is frozen, and was given a task all the same
            events.wait("worker_lost")
            future.result(60)
            os.kill(pids[0], signal.SIGCONT)
            events.wait("worker_joined", 3)  # it says hello again, and begins with nothing
            os.kill(pids[1], signal.SIGSTOP)
        else:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            events.wait("worker_lost", 3)

    with LocalExecutor(2, tmp_path, device="cpu", stack_clients=2) as local:
        executor = RemoteExecutor(local.endpoint, on_event=events)
        events.wait("worker_joined", 2)
        check(over(executor, mischief))
        executor.close()
    assert events.count("task_reissued") >= 2
    assert any("silent for" in facts["why"] for what, facts in events.all if what == "worker_lost")
