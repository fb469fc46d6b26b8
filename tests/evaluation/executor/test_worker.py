"""Workers and handles over a real broker, with trainers that the test makes up."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evaluation.aggregators import Update
from evaluation.data.images import DataError
from evaluation.executor.handle import InProcessExecutor
from evaluation.executor.jobs import ExecutorError, JobModel, MemoryShortError
from evaluation.executor.remote import RemoteExecutor
from evaluation.executor.worker import Worker, WorkerError
from evaluation.training.initial import initial_weights
from evaluation.training.specs import Hyper
from evaluation.training.trainer import Trainer

PATIENCE_S = 20


def asked(executor: Any, job: JobModel, weights: Any, clients: Sequence[int]) -> Any:
    """Register, set version 0, and ask for these clients."""
    executor.register(job)
    executor.set_weights(job.job, 0, weights)
    return executor.train(job.job, 0, 0, clients, Hyper())


def test_a_slow_task_is_waited_for(site: Any, fake: Any, job: JobModel, weights: Any) -> None:
    """Fault F6: a task slower than some seconds was dropped, and its clients with it.

    The worker trains for three times as long as a silent worker would be given.
    """
    trainer = fake(lambda _clients: threading.Event().wait(3.0))
    site.worker(lambda: trainer)

    updates = asked(site.handle(), job, weights, [1, 2]).result(PATIENCE_S)

    assert [update.client for update in updates] == [1, 2]
    assert trainer.trained == [(1, 2)]


def test_clients_with_their_own_steps_are_trained_the_same_in_process_and_by_workers(
    site: Any, job: JobModel
) -> None:
    """Each does its own number, whoever trains it: as if it had been asked for alone."""
    weights = initial_weights(job.spec, seed=1)
    clients, steps = range(6), [10, 1, 4, 10, 7, 2]
    site.worker(Trainer)
    found = []
    for executor in (site.handle(), InProcessExecutor(stack_clients=3)):
        executor.register(job)
        executor.set_weights(job.job, 0, weights)
        together = executor.train(job.job, 0, 0, clients, Hyper(), steps).result(PATIENCE_S)
        found.append(together)
    for client in clients:
        own = Hyper(steps=steps[client])
        found[0].append(executor.train(job.job, 0, 0, [client], own).result(PATIENCE_S)[0])
    with pytest.raises(ExecutorError, match="steps must be 1 to 10, one number for each client"):
        executor.train(job.job, 0, 0, clients, Hyper(), [11] * 6).result(PATIENCE_S)
    executor.close()
    remote, alone = found[0][:6], found[0][6:]
    for one, other, single in zip(remote, found[1], alone, strict=True):
        assert one.client == other.client == single.client
        assert one.loss == pytest.approx(other.loss, abs=1e-9)
        for name, value in one.weights.items():
            np.testing.assert_allclose(value, other.weights[name], rtol=0, atol=1e-9)
            np.testing.assert_allclose(value, single.weights[name], rtol=0, atol=1e-9)


def test_short_memory_leads_to_smaller_stacks(
    site: Any, fake: Any, job: JobModel, weights: Any
) -> None:
    """A worker that can hold one client at a time trains all of them all the same."""

    def short(clients: Sequence[int]) -> None:
        if len(clients) > 1:
            raise MemoryShortError("too many")

    trainer = fake(short)
    site.worker(lambda: trainer)

    updates = asked(site.handle(), job, weights, range(6)).result(PATIENCE_S)

    assert [update.client for update in updates] == list(range(6))
    assert sorted(trainer.trained) == [(client,) for client in range(6)]


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), DataError("a file is missing")])
def test_what_one_worker_cannot_do_another_does(
    site: Any, fake: Any, job: JobModel, weights: Any, error: Exception
) -> None:
    """A worker with a bug or without the data does not fail the job while another can do it."""
    joined = threading.Semaphore(0)

    def happened(what: str, _facts: object) -> None:
        if what == "worker_joined":
            joined.release()

    executor = site.handle(on_event=happened)

    def broken(_clients: Sequence[int]) -> None:
        raise error

    site.worker(lambda: fake(broken), "broken")
    site.worker(fake, "good")
    for _ in range(2):
        assert joined.acquire(timeout=PATIENCE_S)

    updates = asked(executor, job, weights, range(8)).result(PATIENCE_S)

    assert [update.client for update in updates] == list(range(8))


def test_what_no_worker_can_do_is_one_line(
    site: Any, fake: Any, job: JobModel, weights: Any
) -> None:
    """A file that every worker lacks is named, with who lacks it."""

    def broken(_clients: Sequence[int]) -> None:
        raise DataError("a file is missing")

    site.worker(lambda: fake(broken), "poor")

    with pytest.raises(ExecutorError, match=r"poor: a file is missing \(none of 1 workers can"):
        asked(site.handle(), job, weights, [1]).result(PATIENCE_S)


@pytest.mark.parametrize("endpoint", ["foo", "foo://there", "tcp://127.0.0.1"])
def test_an_endpoint_that_is_none_is_one_line(endpoint: str, fake: Any) -> None:
    """Worker and handle refuse at once what is no address, and say what one looks like."""
    for begin in (
        Worker(endpoint, fake, torch="2.0").run,
        lambda: RemoteExecutor(endpoint),
    ):
        with pytest.raises(ExecutorError, match=f"cannot connect to {endpoint} .*tcp://HOST:PORT"):
            begin()


def test_a_worker_with_another_torch_is_told_so(site: Any, fake: Any) -> None:
    """A worker that is refused ends with one line."""
    joined = threading.Event()
    site.handle(on_event=lambda *_: joined.set())
    site.worker(fake)
    assert joined.wait(PATIENCE_S)
    other = Worker(site.endpoint, fake, torch="9.9", name="odd")

    with pytest.raises(WorkerError, match=r"refuses this worker: worker odd has torch 9\.9"):
        other.run()


def test_jobs_wait_for_a_worker(site: Any, fake: Any, job: JobModel, weights: Any) -> None:
    """With no worker at all a request waits; with the first one it goes on."""
    executor = site.handle()
    executor.register(job)
    executor.set_weights(job.job, 0, weights)
    future = executor.score(job.job, 0)
    with pytest.raises(TimeoutError):
        future.result(0.3)

    site.worker(fake)

    assert future.result(PATIENCE_S).samples == 4


def test_two_handles_share_the_jobs(site: Any, fake: Any, job: JobModel, weights: Any) -> None:
    """One process registers a job, another has it trained."""
    site.worker(fake)
    parent, child = site.handle(), site.handle()
    asked(parent, job, weights, [0]).result(PATIENCE_S)

    child.set_weights(job.job, 1, {name: value + 10 for name, value in weights.items()})
    (update,) = child.train(job.job, 1, 1, [2], Hyper()).result(PATIENCE_S)

    assert update.weights["w"].tolist() == [12.0] * 3


def test_a_version_that_is_not_there_is_one_line(
    site: Any, fake: Any, job: JobModel, weights: Any
) -> None:
    """Training from weights that nobody has is refused."""
    site.worker(fake)
    executor = site.handle()
    asked(executor, job, weights, [0]).result(PATIENCE_S)

    with pytest.raises(ExecutorError, match="job 1: version 5 is not there; kept are 0"):
        executor.train(job.job, 5, 5, [0], Hyper()).result(PATIENCE_S)


def test_weights_that_are_not_finite_are_not_sent(site: Any, job: JobModel, weights: Any) -> None:
    """NaN in a job's weights is one line before any training."""
    executor = site.handle()
    with pytest.raises(ExecutorError, match="job 1, version 0: weights w are not finite"):
        executor.set_weights(job.job, 0, {"w": weights["w"] * float("nan")})


def test_a_cancelled_request_makes_room(site: Any, fake: Any, job: JobModel, weights: Any) -> None:
    """Cancelling a future leaves the worker to others."""
    go, begun = threading.Event(), threading.Event()

    def slow(_clients: Sequence[int]) -> None:
        begun.set()
        go.wait(PATIENCE_S)

    trainer = fake(slow)
    site.worker(lambda: trainer)
    executor = site.handle()
    first = asked(executor, job, weights, range(40))
    assert begun.wait(PATIENCE_S)

    assert first.cancel()
    second = executor.train(job.job, 0, 0, [7], Hyper())
    go.set()

    assert [update.client for update in second.result(PATIENCE_S)] == [7]
    assert len(trainer.trained) < 10  # all stacks of the first, and the second


def test_a_silent_broker_fails_the_requests(handle_to_nobody: Any, job: JobModel) -> None:
    """Where nobody answers, a request fails with the address, instead of waiting for ever."""
    future = handle_to_nobody.score(job.job, 0)

    with pytest.raises(ExecutorError, match=r"executor tcp://127.0.0.1:\d+: no answer for 0.3 s"):
        future.result(PATIENCE_S)


def test_a_broker_that_comes_back_hears_of_everything(
    sites: Any, fake: Any, job: JobModel, weights: Any
) -> None:
    """A handle whose broker was started anew says again what it registered, set and asked for."""
    first = sites()
    executor = first.handle(silent_s=30)
    future = asked(executor, job, weights, [1, 2])
    with pytest.raises(TimeoutError):
        future.result(0.5)

    second = sites(after=first)
    second.worker(fake)

    assert [update.client for update in future.result(PATIENCE_S)] == [1, 2]


def test_closing_cancels_what_is_under_way(site: Any, job: JobModel, weights: Any) -> None:
    """A closed handle leaves nobody waiting, and says so to those who ask afterwards."""
    executor = site.handle()
    future = asked(executor, job, weights, [1])
    executor.close()
    executor.close()

    assert future.cancelled()
    with pytest.raises(ExecutorError, match="it is closed"):
        executor.score(job.job, 0).result(0)


def test_a_worker_forgets_a_job_that_is_over(
    site: Any, fake: Any, job: JobModel, weights: Any
) -> None:
    """A finished job takes no memory of the workers."""
    trainer = fake()
    site.worker(lambda: trainer)
    executor = site.handle()
    asked(executor, job, weights, [1]).result(PATIENCE_S)
    other = JobModel(2, job.spec, job.dataset)

    executor.forget(job.job)
    asked(executor, other, weights, [1]).result(PATIENCE_S)

    assert trainer.registered == [2]


def test_a_loss_beyond_all_bounds_fails_its_job_only(
    site: Any, fake: Any, job: JobModel, weights: Any
) -> None:
    """The worker says so in one line, and goes on with the next job."""

    class Diverging(fake):  # type: ignore[misc]
        def train(self, number: int, *others: Any) -> list[Update]:
            updates: list[Update] = super().train(number, *others)
            loss = math.inf if number == 1 else 0.5
            return [replace(update, loss=loss) for update in updates]

    site.worker(Diverging)
    executor = site.handle()

    with pytest.raises(ExecutorError, match="losses"):
        asked(executor, job, weights, [1]).result(PATIENCE_S)
    updates = asked(executor, replace(job, job=2), weights, [1]).result(PATIENCE_S)
    assert [update.loss for update in updates] == [0.5]


def test_a_job_that_a_worker_cannot_even_begin_goes_to_another(
    site: Any, fake: Any, job: JobModel, weights: Any
) -> None:
    """A bug while the data is prepared costs one worker's try, and nobody waits for ever."""

    class Broken(fake):  # type: ignore[misc]
        def register(self, model: JobModel) -> None:
            raise RuntimeError("no such device")

    site.worker(Broken, "broken")

    with pytest.raises(ExecutorError, match="broken: RuntimeError: no such device"):
        asked(site.handle(), job, weights, [1]).result(PATIENCE_S)


def test_whoever_waits_hears_that_a_handle_broke(
    site: Any, fake: Any, job: JobModel, weights: Any
) -> None:
    """An event that its hearer cannot take (a full disk) fails the requests, now and later."""

    def full(_what: str, _facts: object) -> None:
        raise OSError("no space left")

    executor = site.handle(on_event=full)
    waiting = asked(executor, job, weights, [1])
    site.worker(fake)

    for future in (waiting, executor.score(job.job, 0)):
        with pytest.raises(ExecutorError, match="OSError: no space left"):
            future.result(PATIENCE_S)


def test_a_broker_at_an_ipv6_address_is_reached(
    ipv6_site: Any, fake: Any, job: JobModel, weights: Any
) -> None:
    """By workers and by handles."""
    ipv6_site.worker(fake)
    assert len(asked(ipv6_site.handle(), job, weights, [1, 2]).result(PATIENCE_S)) == 2
