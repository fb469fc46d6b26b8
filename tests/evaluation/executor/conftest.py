"""A broker without I/O with workers and jobs around it, and a real one in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import structlog
import zmq
from numpy.typing import NDArray

from evaluation.aggregators import Update
from evaluation.executor import messages as m
from evaluation.executor.arrays import pack, pack_stack
from evaluation.executor.broker import BrokerCore, BrokerSettings
from evaluation.executor.handle import RemoteExecutor
from evaluation.executor.jobs import ExecutorError, JobModel, PartitionSpec
from evaluation.executor.serve import serve
from evaluation.executor.worker import Worker
from evaluation.training.specs import Hyper, ModelSpec, Score
from propius.core import SECOND_NS, Frames, Say, Send
from propius.shell.wake import Shutdown

TORCH = "2.0"
JOB = JobModel(
    1, ModelSpec("softmax", (1, 8, 8), 10), "digits", None, PartitionSpec("iid", 40), "float64"
)
WEIGHTS = {"w": np.zeros(3)}


@dataclass
class FakeTrainer:
    """Adds the client's number to the weights; ``before`` may wait or raise."""

    before: Callable[[Sequence[int]], object] = lambda _clients: None
    trained: list[tuple[int, ...]] = field(default_factory=list)
    registered: list[int] = field(default_factory=list)

    def register(self, model: JobModel) -> None:
        self.registered.append(model.job)

    def forget(self, job: int) -> None:
        self.registered.remove(job)

    def train(
        self,
        job: int,
        round_no: int,
        weights: Mapping[str, NDArray[Any]],
        clients: Sequence[int],
        hyper: Hyper,
        steps: Sequence[int] | None = None,
    ) -> list[Update]:
        self.before(clients)
        self.trained.append(tuple(clients))
        return [
            Update(client, {name: value + client for name, value in weights.items()}, 1, 0.5)
            for client in clients
        ]

    def score(self, job: int, weights: Mapping[str, NDArray[Any]]) -> Score:
        self.before(())
        return Score(4, 2.0, 2, 3)


class Hall:
    """A broker's core among workers and jobs that the test plays, under a virtual clock."""

    def __init__(self, settings: BrokerSettings | None = None) -> None:
        self.core = BrokerCore(7, settings)
        self.now_ns = 0
        self.inboxes: dict[bytes, list[tuple[m.Message, bytes]]] = {}
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.core.start(0)

    def say(self, peer: bytes, message: m.Message, arrays: bytes | None = None) -> None:
        """A peer says something, and the broker does what follows."""
        self.raw(peer, m.encode(message, arrays))

    def raw(self, peer: bytes, frames: Frames) -> None:
        self.core.receive(self.now_ns, "executor", peer, frames)
        self._settle()

    def wait(self, seconds: float, *alive: bytes) -> None:
        """Time passes; only those named say that they are alive."""
        until_ns = self.now_ns + int(seconds * SECOND_NS)
        while self.now_ns < until_ns:
            self.now_ns = min(until_ns, self.now_ns + SECOND_NS // 10)
            for peer in alive:
                self.core.receive(self.now_ns, "executor", peer, m.encode(m.Beat()))
            due_ns = self.core.due_ns()
            if due_ns is not None and due_ns <= self.now_ns:
                self.core.tick(self.now_ns)
            self._settle()

    def _settle(self) -> None:
        self.core.flush(self.now_ns)
        for effect in self.core.take_effects():
            if isinstance(effect, Send):
                inbox = self.inboxes.setdefault(effect.peer, [])
                inbox.append(m.decode(effect.frames))
            elif isinstance(effect, Say):
                self.said.append((effect.event, effect.fields))

    def heard(self, peer: bytes, kind: type[Any]) -> list[Any]:
        """What a peer got of this kind; it is taken out."""
        inbox = self.inboxes.get(peer, [])
        self.inboxes[peer] = [each for each in inbox if not isinstance(each[0], kind)]
        return [message for message, _ in inbox if isinstance(message, kind)]

    def events(self, what: str) -> list[dict[str, Any]]:
        """What happened of this kind."""
        return [facts for kind, facts in self.said if kind == what]

    # --- jobs and workers --------------------------------------------------------------------

    def worker(self, name: bytes, *, memory: int = 0, torch: str = TORCH) -> None:
        self.say(name, m.Hello(name.decode(), hash(name) & 0xFFFF, torch, "cpu", memory))

    def job(self, peer: bytes, number: int = 1, *, watch: bool = False) -> None:
        """A job's process attaches, registers and sends version 0."""
        model = JobModel(number, JOB.spec, JOB.dataset, None, JOB.partition, JOB.dtype)
        self.say(peer, m.Attach(peer.decode(), watch))
        self.say(peer, m.Register.of(model))
        self.weights(peer, number, 0)

    def weights(self, peer: bytes, number: int, version: int) -> None:
        heads, arrays = pack({"w": np.full(3, float(version))})
        self.say(peer, m.Weights(number, version, heads), arrays)

    def train(
        self,
        peer: bytes,
        request: int,
        clients: Sequence[int],
        *,
        job: int = 1,
        version: int = 0,
        steps: list[int] | None = None,
    ) -> None:
        hyper = vars(Hyper())
        own = list(clients)
        self.say(peer, m.Train(request, job, version, version, own, **hyper, client_steps=steps))

    def tasks(self, worker: bytes) -> list[m.Train]:
        """What a worker was told to train since the last call."""
        return self.heard(worker, m.Train)

    def done(self, worker: bytes, task: m.Train, *, version: int | None = None) -> None:
        """A worker hands in its result."""
        heads, arrays = pack_stack([{"w": np.full(3, float(it))} for it in task.clients])
        count = len(task.clients)
        self.say(
            worker,
            m.Trained(
                task.number,
                task.version if version is None else version,
                task.clients,
                [1] * count,
                [0.5] * count,
                heads,
            ),
            arrays,
        )

    def clients_of(self, job: bytes) -> list[int]:
        """The clients whose updates a job got, in the order in which they came."""
        return [client for message in self.heard(job, m.Trained) for client in message.clients]


@pytest.fixture
def hall() -> Hall:
    """A broker that nobody has spoken to yet."""
    return Hall(BrokerSettings(stack_clients=2, lost_s=3.0))


@dataclass
class Site:
    """A real broker in a thread; workers in threads, with the trainers of the test."""

    endpoint: str
    admin: str
    stack: ExitStack

    def worker(self, trainer: Callable[[], Any], name: str = "w", torch: str = TORCH) -> Worker:
        worker = Worker(self.endpoint, trainer, torch=torch, name=name)
        thread = threading.Thread(target=worker.run, daemon=True)
        thread.start()
        self.stack.callback(thread.join, 10)
        self.stack.callback(worker.stop)
        return worker

    def handle(self, **options: Any) -> RemoteExecutor:
        executor = RemoteExecutor(self.endpoint, **options)
        self.stack.callback(executor.close)
        if "on_event" in options:  # an answer shows that it hears all that happens from now on
            with pytest.raises(ExecutorError, match="not registered"):
                executor.score(JOB.job + 999, 0).result(60)
        return executor


@contextmanager
def open_site(settings: BrokerSettings, endpoint: str = "tcp://127.0.0.1:0") -> Iterator[Site]:
    opened: queue.Queue[tuple[str, str]] = queue.Queue()
    shutdowns: queue.Queue[Shutdown] = queue.Queue()
    log = structlog.wrap_logger(structlog.PrintLogger(), processors=[_drop])
    thread = threading.Thread(
        target=serve,
        args=(endpoint, settings),
        kwargs={
            "admin": ("127.0.0.1", 0),
            "on_open": lambda *both: opened.put(both),
            "on_start": shutdowns.put,
            "log": log,
        },
    )
    thread.start()
    with ExitStack() as broker, ExitStack() as stack:
        broker.callback(thread.join, 10)
        broker.callback(shutdowns.get(timeout=60).request)
        yield Site(*opened.get(timeout=60), stack)


def _drop(*_: object) -> Any:
    raise structlog.DropEvent


@pytest.fixture
def site() -> Iterator[Site]:
    """A real broker that takes a worker for dead after a second."""
    with open_site(BrokerSettings(stack_clients=4, beat_s=0.1, lost_s=1.0)) as opened:
        yield opened


@pytest.fixture
def ipv6_site() -> Iterator[Site]:
    """A real broker at an IPv6 address."""
    with open_site(BrokerSettings(beat_s=0.1, lost_s=1.0), "tcp://[::1]:0") as opened:
        yield opened


@pytest.fixture
def sites() -> Iterator[Callable[..., Site]]:
    """Real brokers; ``after`` ends one and starts the next at its address."""
    with ExitStack() as stack:
        ends: dict[str, ExitStack] = {}

        def start(after: Site | None = None) -> Site:
            endpoint = "tcp://127.0.0.1:0"
            handles = ExitStack()
            if after is not None:
                endpoint = after.endpoint
                handles = after.stack.pop_all()  # they outlive their broker
                ends[endpoint].close()
            own = stack.enter_context(ExitStack())
            site = own.enter_context(open_site(BrokerSettings(beat_s=0.1, lost_s=1.0), endpoint))
            site.stack.push(handles)
            ends[site.endpoint] = own
            return site

        yield start


@pytest.fixture
def handle_to_nobody() -> Iterator[RemoteExecutor]:
    """A handle at whose address nobody listens."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as taken:
        port = taken.bind_to_random_port("tcp://127.0.0.1")
    executor = RemoteExecutor(f"tcp://127.0.0.1:{port}", silent_s=0.3)
    yield executor
    executor.close()


@pytest.fixture
def fake() -> type[FakeTrainer]:
    """Trainers that train nothing."""
    return FakeTrainer


@pytest.fixture
def job() -> JobModel:
    """A job."""
    return JOB


@pytest.fixture
def weights() -> dict[str, NDArray[Any]]:
    """Its weights."""
    return dict(WEIGHTS)
