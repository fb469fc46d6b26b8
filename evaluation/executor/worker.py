"""A worker of an executor: says hello to the broker, trains what it is told, one task at a time.

The main thread talks to the broker; a second one trains, so that a long task never keeps the worker
from saying that it is alive. A task's weights are looked up when it comes, and nothing that
training changes is kept (:mod:`evaluation.training.trainer`). If the broker is silent or has
forgotten the worker, it says hello again, and what it was doing is dropped when it is done.

Not here: what training is.
"""

from __future__ import annotations

import os
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol, TypeAlias

import msgspec
import zmq
from numpy.typing import NDArray

from evaluation.aggregators import Update, Weights
from evaluation.data.images import DataError
from evaluation.executor import messages as m
from evaluation.executor.arrays import unpack
from evaluation.executor.dial import dial
from evaluation.executor.jobs import ExecutorError, JobModel, MemoryShortError
from evaluation.executor.versions import Recent
from evaluation.training.specs import Hyper, Score
from propius.core import Frames
from propius.errors import PropiusError, ProtocolError
from propius.shell.wake import Wake

__all__ = ["Trains", "Worker", "WorkerError"]

HELLO_AGAIN_S: Final = 0.3
"""How long to wait for a welcome."""
LINGER_MS: Final = 200
TRAINER_STOP_S: Final = 1.0
TASKS_MAX: Final = 16
"""That may wait; a broker gives one at a time, or a short one ahead."""

Work: TypeAlias = "tuple[int, m.Train | m.ScoreTask, Mapping[str, NDArray[Any]]]"


class WorkerError(PropiusError):
    """The worker cannot work for this broker; one line."""


class Trains(Protocol):
    """What a worker needs of a :class:`evaluation.training.trainer.Trainer`."""

    def register(self, model: JobModel) -> None: ...
    def forget(self, job: int) -> None: ...
    def train(
        self, job: int, round_no: int, weights: Weights, clients: Any, hyper: Hyper, steps: Any
    ) -> list[Update]: ...
    def score(self, job: int, weights: Weights) -> Score: ...


class Worker:
    """One worker; :meth:`run` works until :meth:`stop`.

    ``trainer`` is made in the thread that uses it. ``free_bytes`` says how much memory a task may
    use; 0 if that is not known.
    """

    def __init__(
        self,
        endpoint: str,
        trainer: Callable[[], Trains],
        *,
        torch: str,
        name: str = "",
        device: str = "cpu",
        free_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self.is_training = False
        """Whether a task was still going on when the worker stopped."""
        self._endpoint, self._make_trainer, self._free_bytes = endpoint, trainer, free_bytes
        self._hello = m.Hello(self.name, secrets.randbits(62), torch, device, 0)
        self._wake = Wake()
        self._stop = threading.Event()
        self._tasks: queue.Queue[Work | m.Register | m.Forget | None] = queue.Queue()
        self._results: queue.Queue[tuple[int, Frames]] = queue.Queue(TASKS_MAX)
        self._weights: Recent[Mapping[str, NDArray[Any]]] = Recent()
        self._epoch = 0  # grows with each welcome; results of earlier ones are not sent
        self._heard_s = self._beat_due_s = 0.0
        self._beat_s = self._lost_s = HELLO_AGAIN_S
        self._welcome = False

    def stop(self) -> None:
        """End :meth:`run` soon; callable from any thread and from a signal handler."""
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Work until stopped.

        Raises :class:`WorkerError` if the broker refuses this worker, ExecutorError for an endpoint
        that is none.
        """
        thread = threading.Thread(target=self._work, name="trainer", daemon=True)
        thread.start()
        try:
            with dial(self._endpoint, linger_ms=LINGER_MS) as dealer:
                self._talk(dealer)
        finally:
            self._stop.set()
            self._tasks.put(None)
            thread.join(TRAINER_STOP_S)
            self.is_training = thread.is_alive()
            if not self.is_training:
                self._wake.close()

    # --- talking -----------------------------------------------------------------------------

    def _talk(self, dealer: zmq.Socket[bytes]) -> None:
        poller = zmq.Poller()
        poller.register(dealer, zmq.POLLIN)
        poller.register(self._wake.fileno(), zmq.POLLIN)
        self._say_hello(dealer)
        while not self._stop.is_set():
            self._turn(dealer, poller)
        self._send(dealer, m.encode(m.Leave()))

    def _turn(self, dealer: zmq.Socket[bytes], poller: zmq.Poller) -> None:
        wait_s = max(0.0, self._beat_due_s - time.monotonic())
        ready = dict(poller.poll(int(wait_s * 1_000) + 1))
        if self._wake.fileno() in ready:
            self._wake.clear()
        if dealer in ready:
            self._heard_s = time.monotonic()
            with suppress(zmq.Again):
                while not self._stop.is_set():
                    self._take(dealer, tuple(dealer.recv_multipart(zmq.NOBLOCK)))
        self._send_results(dealer)
        self._beat(dealer)

    def _say_hello(self, dealer: zmq.Socket[bytes]) -> None:
        """And forget all that an earlier broker, or an earlier hello, had us know."""
        self._epoch += 1
        self._welcome = False
        self._weights = Recent()
        hello = msgspec.structs.replace(self._hello, memory_free_bytes=self._free_bytes())
        self._send(dealer, m.encode(hello))
        self._heard_s = time.monotonic()
        self._beat_due_s = self._heard_s + HELLO_AGAIN_S

    def _beat(self, dealer: zmq.Socket[bytes]) -> None:
        now_s = time.monotonic()
        if now_s < self._beat_due_s:
            return
        self._beat_due_s = now_s + self._beat_s
        if not self._welcome or now_s - self._heard_s > self._lost_s:
            self._say_hello(dealer)
        else:
            self._send(dealer, m.encode(m.Beat(memory_free_bytes=self._free_bytes())))

    def _send(self, dealer: zmq.Socket[bytes], frames: Frames) -> None:
        """What a broker that is gone does not take is dropped: it will be asked for again."""
        with suppress(zmq.Again):
            dealer.send_multipart(frames, zmq.NOBLOCK)

    def _take(self, dealer: zmq.Socket[bytes], frames: Frames) -> None:
        try:
            message, arrays = m.decode(frames)
        except m.VersionError as error:
            raise WorkerError(f"{self._endpoint}: {error}") from error
        match message:
            case m.Refused():
                raise WorkerError(f"{self._endpoint} refuses this worker: {message.text}")
            case m.Welcome():
                self._beat_s, self._lost_s = message.beat_s, message.lost_s
                self._welcome = True
            case m.Who():
                if self._welcome:
                    self._say_hello(dealer)
            case m.Register():
                self._tasks.put(message)
            case m.Forget():
                self._weights.forget(message.job)
                self._tasks.put(message)
            case m.Weights():
                self._keep(message, arrays)
            case m.Train() | m.ScoreTask():
                self._begin(dealer, message)
            case _:
                pass  # a beat

    def _keep(self, message: m.Weights, arrays: bytes) -> None:
        try:
            self._weights.add(message.job, message.version, unpack(message.arrays, arrays))
        except ProtocolError:
            # The task that needs them says that they are not here.
            self._weights.forget(message.job)

    def _begin(self, dealer: zmq.Socket[bytes], task: m.Train | m.ScoreTask) -> None:
        try:
            weights = self._weights.get(task.job, task.version)
            if self._tasks.qsize() >= TASKS_MAX:
                raise ExecutorError(f"{TASKS_MAX} tasks wait here already")
        except ExecutorError as error:
            self._send(dealer, m.encode(m.Failed(task.number, "bug", f"{self.name}: {error}")))
        else:
            self._tasks.put((self._epoch, task, weights))

    def _send_results(self, dealer: zmq.Socket[bytes]) -> None:
        with suppress(queue.Empty):
            while True:
                epoch, frames = self._results.get_nowait()
                if epoch == self._epoch:
                    self._send(dealer, frames)

    # --- training, in its own thread ---------------------------------------------------------

    def _work(self) -> None:
        trainer = self._make_trainer()
        registered: dict[int, m.Register] = {}
        unfit: dict[int, Exception] = {}
        while not self._stop.is_set():
            item = self._tasks.get()
            match item:
                case None:
                    return
                case m.Register():
                    unfit.pop(item.job, None)
                    if registered.get(item.job) != item:
                        registered[item.job] = item
                        try:
                            trainer.register(item.job_model())
                        except Exception as error:  # noqa: BLE001 - its tasks will say so
                            unfit[item.job] = error
                            del registered[item.job]
                case m.Forget():
                    unfit.pop(item.job, None)
                    if registered.pop(item.job, None) is not None:
                        trainer.forget(item.job)
                case (epoch, task, weights):
                    if epoch == self._epoch:
                        self._results.put(
                            (epoch, _result(trainer, task, weights, unfit.get(task.job), self.name))
                        )
                        self._wake.set()


def _result(
    trainer: Trains,
    task: m.Train | m.ScoreTask,
    weights: Mapping[str, NDArray[Any]],
    unfit: Exception | None,
    name: str,
) -> Frames:
    """Do a task; whatever goes wrong becomes the answer."""
    why, text = "bug", ""
    try:
        if unfit is not None:
            raise unfit
        if isinstance(task, m.Train):
            answer = _trained(
                task,
                trainer.train(
                    task.job, task.round, weights, task.clients, task.hyper, task.client_steps
                ),
            )
        else:
            answer = _scored(task, trainer.score(task.job, weights))
        # What the broker could not read (a loss beyond all bounds) would end this worker.
        m.decode(answer)
        return answer
    except MemoryShortError as error:
        why, text = "memory", str(error)
    except DataError as error:
        why, text = "unfit", f"{name}: {error}"
    except PropiusError as error:
        why, text = "wrong", str(error)
    except Exception as error:  # noqa: BLE001 - a bug of one task must not end the worker
        text = f"{name}: {type(error).__name__}: {error}"
    return m.encode(m.Failed(task.number, why, text[:2_000]))  # type: ignore[arg-type]


def _trained(task: m.Train, updates: list[Update]) -> Frames:
    return m.encode(*m.Trained.of(task.number, task.version, updates))


def _scored(task: m.ScoreTask, score: Score) -> Frames:
    return m.encode(
        m.Scored(
            number=task.number,
            version=task.version,
            samples=score.samples,
            loss_sum=score.loss_sum,
            correct=score.correct,
            correct_top5=score.correct_top5,
        )
    )
