"""What the executor's broker adds to a task, and whether it keeps workers busy.

* **A task through the broker.** A broker process; the bench plays job and worker on two sockets.
  One task at a time: the job asks, the worker gets the task and hands in its result, the job gets
  it. That is two ways through the broker. In turn, the same frames go through a bare pyzmq process
  that passes them on in the same way; the difference is what the broker adds.
* **Eight sleeping workers.** Real workers in threads, whose tasks sleep for 50 ms; how much of the
  time they sleep, from the first task to the last result.
"""

from __future__ import annotations

import importlib.metadata
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import zmq
from numpy.typing import NDArray

from evaluation.aggregators import Update
from evaluation.executor import messages as m
from evaluation.executor.arrays import pack, pack_stack
from evaluation.executor.handle import JobModel, PartitionSpec, RemoteExecutor
from evaluation.executor.local import LocalExecutor
from evaluation.executor.worker import Worker
from evaluation.training.specs import Hyper, ModelSpec, Score

TASKS: Final = 300
WAIT_MS: Final = 10_000
TASK_S: Final = 0.05
WORKERS: Final = 8
JOB: Final = JobModel(1, ModelSpec("softmax", (1, 8, 8), 10), "digits", None,
                      PartitionSpec("iid", 1_000))  # fmt: skip
WEIGHTS: Final = {"w": np.zeros(650, dtype=np.float32)}
PASS_ON: Final = """\
import sys, zmq
context = zmq.Context()
router = context.socket(zmq.ROUTER)
router.linger = 0
router.bind("tcp://127.0.0.1:*")
print("executor: " + router.getsockopt_string(zmq.LAST_ENDPOINT), flush=True)
peers = []
while router.poll():
    try:
        while True:
            peer, *frames = router.recv_multipart(zmq.NOBLOCK)
            if peer not in peers:
                peers.append(peer)
            else:
                router.send_multipart([peers[1 - peers.index(peer)], *frames])
    except zmq.Again:
        pass
"""


class Played:
    """The bench as one job and one worker."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self.job, self.worker = (context.socket(zmq.DEALER) for _ in range(2))
        for socket in (self.job, self.worker):
            socket.linger = 0
            socket.connect(endpoint)

    def hello(self) -> None:
        """As the broker wants it; the bare process takes only note of who is there."""
        self.job.send_multipart(m.encode(m.Attach("bench")))
        self.job.send_multipart(m.encode(m.Register.of(JOB)))
        heads, arrays = pack(WEIGHTS)
        self.job.send_multipart(m.encode(m.Weights(1, 0, heads), arrays))
        torch = ""
        for _ in range(2):  # the second time as the broker's own torch
            self.worker.send_multipart(m.encode(m.Hello("bench", 5, torch or "0", "cpu", 0)))
            answer = self.get(self.worker, m.Welcome, m.Refused)
            if isinstance(answer, m.Welcome):
                break
            torch = answer.text.partition("the others have ")[2].partition(";")[0]

    def get(self, socket: zmq.Socket[bytes], *kinds: type[Any]) -> Any:
        """The next message of these kinds."""
        while socket.poll(WAIT_MS):
            message, _ = m.decode(tuple(socket.recv_multipart()))
            if isinstance(message, kinds):
                return message
        raise TimeoutError(f"nothing of {kinds} came")

    def beat(self) -> None:
        """Both are alive."""
        for socket in (self.job, self.worker):
            socket.send_multipart(m.encode(m.Beat()))

    def task(self, number: int) -> float:
        """One task there and back; microseconds."""
        ask = m.encode(m.Train(number, 1, 0, 0, [number], **vars(Hyper())))
        began_ns = time.perf_counter_ns()
        self.job.send_multipart(ask)
        given = self.get(self.worker, m.Train)
        heads, arrays = pack_stack([WEIGHTS])
        done = m.Trained(given.number, 0, [number], [1], [0.5], heads)
        self.worker.send_multipart(m.encode(done, arrays))
        self.get(self.job, m.Trained)
        return (time.perf_counter_ns() - began_ns) / 1_000


@contextmanager
def bare() -> Iterator[str]:
    """A process that passes messages on between its first two peers."""
    command = [sys.executable, "-c", PASS_ON]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[1]
        finally:
            process.kill()


def test_a_task_through_the_broker(benchmark: Any, tmp_path: Path) -> None:
    """The broker adds at most a millisecond to a task (median)."""
    with ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        broker = stack.enter_context(LocalExecutor(0, tmp_path))
        through = Played(context, broker.endpoint)
        through.hello()
        direct = Played(context, stack.enter_context(bare()))
        for socket in (direct.job, direct.worker):
            socket.send_multipart(m.encode(m.Beat()))
            time.sleep(0.1)  # who comes first is no matter, but each must have been heard
        stack.callback(context.destroy, linger=0)
        numbers = iter(range(1, 1_000_000))
        times: dict[str, list[float]] = {"broker": [], "bare": []}

        def both() -> None:
            for _ in range(TASKS // 10):
                number = next(numbers)
                times["broker"].append(through.task(number))
                times["bare"].append(direct.task(number))
            through.beat()

        benchmark.pedantic(both, rounds=10, iterations=1)
    figures = {name: statistics.median(values) for name, values in times.items()}
    figures["added"] = figures["broker"] - figures["bare"]
    benchmark.extra_info.update({f"{name}_us": round(value) for name, value in figures.items()})
    assert figures["added"] <= 1_000, figures


class _Sleeper:
    """A trainer that sleeps, and counts how long."""

    slept_s = 0.0
    lock = threading.Lock()

    def register(self, model: JobModel) -> None:
        """Nothing to do."""

    def forget(self, job: int) -> None:
        """Nothing to do."""

    def train(
        self,
        job: int,
        round_no: int,
        weights: Mapping[str, NDArray[Any]],
        clients: Sequence[int],
        hyper: Hyper,
        steps: Sequence[int] | None = None,
    ) -> list[Update]:
        """Sleep."""
        began_s = time.monotonic()
        time.sleep(TASK_S)
        with self.lock:
            type(self).slept_s += time.monotonic() - began_s
        return [Update(client, WEIGHTS, 1, 0.5) for client in clients]

    def score(self, job: int, weights: Mapping[str, NDArray[Any]]) -> Score:
        """Not asked for."""
        raise NotImplementedError


def test_sleeping_workers_are_kept_busy(benchmark: Any, tmp_path: Path) -> None:
    """Eight workers with tasks of 50 ms sleep at least 95 % of the time."""
    with LocalExecutor(0, tmp_path, stack_clients=1) as broker, ExitStack() as stack:
        executor = RemoteExecutor(broker.endpoint, on_event=lambda *_: joined.release())
        joined = threading.Semaphore(0)
        stack.callback(executor.close)
        torch = importlib.metadata.version("torch")
        for number in range(WORKERS):
            worker = Worker(broker.endpoint, _Sleeper, torch=torch, name=str(number))
            thread = threading.Thread(target=worker.run)
            thread.start()
            stack.callback(thread.join)
            stack.callback(worker.stop)
        for _ in range(WORKERS):
            assert joined.acquire(timeout=30)
        executor.register(JOB)
        executor.set_weights(1, 0, WEIGHTS)
        executor.train(1, 0, 0, range(WORKERS), Hyper()).result(30)
        _Sleeper.slept_s, began_s = 0.0, time.monotonic()

        def work() -> None:
            updates = executor.train(1, 0, 0, range(400), Hyper()).result(60)
            assert len(updates) == 400

        benchmark.pedantic(work, rounds=1, iterations=1)
        share = _Sleeper.slept_s / (WORKERS * (time.monotonic() - began_s))
    benchmark.extra_info["busy_percent"] = round(100 * share, 1)
    assert share >= 0.95, share
