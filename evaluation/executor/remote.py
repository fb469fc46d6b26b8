"""A job's handle on a broker: asks, waits, and gives the updates as futures. Never loads torch.

One thread of its own talks to the broker; all methods only leave something for it. What is under
way is remembered, so that a broker that lost the connection hears of it again. While there are no
workers, requests wait; if the broker itself is silent for ``silent_s``, they fail.

Not here: a handle without a broker (:mod:`evaluation.executor.handle`).
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, TypeAlias, TypeVar

import zmq
from numpy.typing import NDArray

from evaluation.aggregators import Update
from evaluation.executor import messages as m
from evaluation.executor.arrays import pack
from evaluation.executor.dial import dial
from evaluation.executor.jobs import ExecutorError, JobModel, check_clients
from evaluation.executor.versions import check_finite, keep_last
from evaluation.training.specs import Hyper, Score
from propius.core import Frames
from propius.errors import ProtocolError
from propius.shell.wake import Wake

__all__ = ["OnEvent", "RemoteExecutor"]

BEAT_S: Final = 1.0
ATTACH_AGAIN_S: Final = 0.2
SILENT_S: Final = 30.0
CLOSE_S: Final = 5.0
LINGER_MS: Final = 500
RECEIVED_MAX: Final = 1_000
"""Messages taken in one turn."""

OnEvent: TypeAlias = Callable[[str, dict[str, m.Fact]], object]
Result = TypeVar("Result")


@dataclass
class _Pending:
    """A request that is under way."""

    future: Future[Any]
    frames: Frames
    clients: tuple[int, ...] = ()
    got: dict[int, Update] = field(default_factory=dict)


class RemoteExecutor:
    """See :class:`evaluation.executor.handle.Executor`.

    ``on_event`` hears what befalls the executor, in this object's thread: workers that come and go,
    tasks that are given to others, results that are refused. Raises ExecutorError for an endpoint
    that is none.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        name: str = "",
        on_event: OnEvent | None = None,
        silent_s: float = SILENT_S,
    ) -> None:
        self.endpoint = endpoint
        self.workers = 0
        """How many the broker had when it last said so."""
        self._name, self._on_event, self._silent_s = name or str(os.getpid()), on_event, silent_s
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._models: dict[int, Frames] = {}
        self._versions: dict[int, dict[int, Frames]] = {}
        self._pending: dict[int, _Pending] = {}
        self._outbox: deque[Frames] = deque()
        self._failure = ""  # why nothing can be asked any more
        self._attached = self._closing = False
        self._heard_s = self._due_s = 0.0
        self._socket = ExitStack()
        dealer = self._socket.enter_context(dial(endpoint, linger_ms=LINGER_MS))
        self._wake = Wake()
        self._thread = threading.Thread(
            target=self._run, args=(dealer,), name="executor-handle", daemon=True
        )
        self._thread.start()

    # --- what a job calls ------------------------------------------------------------------------

    def register(self, job: JobModel) -> None:
        """See :class:`evaluation.executor.handle.Executor`."""
        with self._lock:
            self._models[job.job] = m.encode(m.Register.of(job))
            self._outbox.append(self._models[job.job])
        self._wake.set()

    def set_weights(self, job: int, version: int, weights: Mapping[str, NDArray[Any]]) -> None:
        """See :class:`evaluation.executor.handle.Executor`; raises ProtocolError if too large."""
        check_finite(job, version, weights)
        heads, arrays = pack(weights)
        frames = m.encode(m.Weights(job, version, heads), arrays)
        with self._lock:
            own = self._versions.setdefault(job, {})
            own[version] = frames
            keep_last(own, sorted(own))
            self._outbox.append(frames)
        self._wake.set()

    def train(
        self,
        job: int,
        round_no: int,
        version: int,
        clients: Sequence[int],
        hyper: Hyper,
        steps: Sequence[int] | None = None,
    ) -> Future[list[Update]]:
        """See :class:`evaluation.executor.handle.Executor`."""
        check_clients(job, clients, steps, hyper.steps)
        task = m.Train(
            number=next(self._numbers),
            job=job,
            round=round_no,
            version=version,
            clients=list(clients),
            client_steps=None if steps is None else list(steps),
            **vars(hyper),
        )
        return self._ask(task.number, m.encode(task), tuple(clients))

    def score(self, job: int, version: int) -> Future[Score]:
        """See :class:`evaluation.executor.handle.Executor`."""
        task = m.ScoreTask(next(self._numbers), job, version)
        return self._ask(task.number, m.encode(task))

    def forget(self, job: int) -> None:
        """See :class:`evaluation.executor.handle.Executor`."""
        with self._lock:
            self._models.pop(job, None)
            self._versions.pop(job, None)
            self._outbox.append(m.encode(m.Forget(job)))
        self._wake.set()

    def close(self) -> None:
        """See :class:`evaluation.executor.handle.Executor`."""
        if self._closing:
            return
        self._closing = True
        self._wake.set()
        self._thread.join(CLOSE_S)
        for pending in list(self._pending.values()):
            pending.future.cancel()
        self._wake.close()

    def _ask(self, number: int, frames: Frames, clients: tuple[int, ...] = ()) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            failure = "it is closed" if self._closing else self._failure
            if not failure:
                self._pending[number] = _Pending(future, frames, clients)
                self._outbox.append(frames)
        if failure:
            future.set_exception(ExecutorError(f"executor {self.endpoint}: {failure}"))
            return future
        future.add_done_callback(lambda done: self._cancelled(number, done))
        self._wake.set()
        return future

    def _cancelled(self, number: int, future: Future[Any]) -> None:
        if future.cancelled() and not self._closing:
            with self._lock:
                self._pending.pop(number, None)
                self._outbox.append(m.encode(m.Cancel(number)))
            self._wake.set()

    # --- talking, in its own thread --------------------------------------------------------------

    def _run(self, dealer: zmq.Socket[bytes]) -> None:
        try:
            with self._socket:
                self._talk(dealer)
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
            self._break(f"{type(error).__name__}: {error}")

    def _talk(self, dealer: zmq.Socket[bytes]) -> None:
        poller = zmq.Poller()
        poller.register(dealer, zmq.POLLIN)
        poller.register(self._wake.fileno(), zmq.POLLIN)
        self._heard_s = time.monotonic()
        while not self._closing:
            self._tick(dealer)
            wait_s = max(0.0, self._due_s - time.monotonic())
            ready = dict(poller.poll(int(wait_s * 1_000) + 1))
            if self._wake.fileno() in ready:
                self._wake.clear()
            if dealer in ready:
                self._receive(dealer)
            if self._attached:
                self._flush(dealer)
        if self._attached:
            self._flush(dealer)
            self._send(dealer, m.encode(m.Leave()))

    def _tick(self, dealer: zmq.Socket[bytes]) -> None:
        """Say that we are here; give up a broker that is silent."""
        now_s = time.monotonic()
        if now_s < self._due_s:
            return
        if now_s - self._heard_s > self._silent_s:
            self._attached = False
            self._heard_s = now_s
            self._fail_all(f"no answer for {self._silent_s:g} s")
        self._due_s = now_s + (BEAT_S if self._attached else ATTACH_AGAIN_S)
        beat = m.Beat() if self._attached else m.Attach(self._name, self._on_event is not None)
        self._send(dealer, m.encode(beat))

    def _flush(self, dealer: zmq.Socket[bytes]) -> None:
        while True:
            with self._lock:
                if not self._outbox:
                    return
                frames = self._outbox.popleft()
            if not self._send(dealer, frames):
                with self._lock:
                    self._outbox.appendleft(frames)
                return

    def _send(self, dealer: zmq.Socket[bytes], frames: Frames) -> bool:
        try:
            dealer.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _receive(self, dealer: zmq.Socket[bytes]) -> None:
        with suppress(zmq.Again):
            for _ in range(RECEIVED_MAX):
                frames = tuple(dealer.recv_multipart(zmq.NOBLOCK))
                self._heard_s = time.monotonic()
                try:
                    message, arrays = m.decode(frames)
                except ProtocolError as error:
                    self._break(str(error))
                else:
                    self._take(message, arrays)

    def _take(self, message: m.Message, arrays: bytes) -> None:
        match message:
            case m.Attached():
                self.workers = message.workers
                if not self._attached:
                    self._say_all()
            case m.Beat():
                self.workers = message.workers
            case m.Trained():
                self._trained(message, arrays)
            case m.Scored():
                score = Score(
                    message.samples, message.loss_sum, message.correct, message.correct_top5
                )
                self._settle(message.number, score)
            case m.Refused() if message.number:
                self._settle(message.number, ExecutorError(message.text))
            case m.Refused():
                self._break(message.text)
            case m.Who():
                self._attached, self._due_s = False, 0.0
            case m.Happened() if self._on_event is not None:
                self._on_event(message.what, dict(message.facts))
            case _:
                pass

    def _say_all(self) -> None:
        """A broker that does not know us hears of everything, in order."""
        with self._lock:
            self._attached = True
            self._outbox.clear()
            self._outbox.extend(self._models.values())
            for own in self._versions.values():
                self._outbox.extend(own[version] for version in sorted(own))
            self._outbox.extend(pending.frames for pending in self._pending.values())

    def _trained(self, message: m.Trained, arrays: bytes) -> None:
        pending = self._pending.get(message.number)
        if pending is None:
            return
        try:
            updates = message.updates(arrays)
        except ProtocolError as error:
            self._settle(message.number, error)
            return
        for update in updates:
            pending.got.setdefault(update.client, update)
        if len(pending.got) == len(pending.clients):
            self._settle(message.number, [pending.got[client] for client in pending.clients])

    def _settle(self, number: int, result: object) -> None:
        with self._lock:
            pending = self._pending.pop(number, None)
        if pending is None or not pending.future.set_running_or_notify_cancel():
            return
        if isinstance(result, Exception):
            pending.future.set_exception(result)
        else:
            pending.future.set_result(result)

    def _fail_all(self, why: str) -> None:
        with self._lock:
            numbers = list(self._pending)
        for number in numbers:
            self._settle(number, ExecutorError(f"executor {self.endpoint}: {why}"))

    def _break(self, why: str) -> None:
        """Nothing more can come of this connection."""
        with self._lock:
            self._failure = why
        self._fail_all(why)
