"""The broker of an executor: knows jobs and workers, gives out tasks, passes results on.

A core without I/O (:mod:`propius.core`), run by the shared shell. It holds the newest weights of
each job and sends them to a worker once; results go through it and are not kept. What it promises:

1. Of every client of a request exactly one update reaches the job, whoever trained it how often.
2. A result counts only from the worker that has the task now, for the version that was asked for.
   A worker that was taken for dead and comes back is told to say hello, and begins with nothing.
3. What a lost worker had is given to others; with no worker at all, requests wait.
4. One job's requests never wait for another's to be over (:mod:`evaluation.executor.placement`).

Not here: who trains (:mod:`evaluation.executor.worker`), where tasks go
(:mod:`evaluation.executor.placement`), and what jobs asked (:mod:`evaluation.executor.ledger`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec

from evaluation.executor import messages as m
from evaluation.executor.arrays import FRAME_BYTES_MAX
from evaluation.executor.jobs import STACK_CLIENTS
from evaluation.executor.ledger import Ledger
from evaluation.executor.placement import TRIES_MAX, Placement, Request, Unit, Worker
from evaluation.executor.versions import Recent
from propius.core import SECOND_NS, Core, Frames, Link, Send
from propius.errors import ProtocolError

__all__ = ["LINK", "BrokerCore", "BrokerSettings"]

LINK: Final = Link("executor", "bind", outside=False, frame_bytes_max=FRAME_BYTES_MAX)

WORKERS_MAX: Final = 1_024
HANDLES_MAX: Final = 10_000
HANDLE_LOST_S: Final = 60.0


@dataclass(frozen=True)
class BrokerSettings:
    """``torch``: the version that workers must have; "": that of the first one."""

    stack_clients: int = STACK_CLIENTS
    beat_s: float = 0.5
    lost_s: float = 3.0
    torch: str = ""


@dataclass
class _Handle:
    watch: bool
    seen_ns: int


@dataclass
class _WorkerState:
    """What a worker was sent; :class:`Worker` has what placement knows of it."""

    hello: m.Hello
    seen_ns: int
    jobs: set[int] = field(default_factory=set)
    held: Recent[None] = field(default_factory=Recent)  # the versions that it keeps as well


class BrokerCore(Core):
    """See the module. ``settings`` are the same for all jobs."""

    links = (LINK,)

    def __init__(self, incarnation: int, settings: BrokerSettings | None = None) -> None:
        super().__init__("executor", incarnation)
        self.settings = settings or BrokerSettings()
        self.placement = Placement()
        self._ledger = Ledger()
        self._handles: dict[bytes, _Handle] = {}
        self._workers: dict[bytes, _WorkerState] = {}
        self._due_ns: int | None = None
        self._workers_gone = False  # there were some; until it is said
        self._torch = self.settings.torch

    # --- the driver's side -------------------------------------------------------------------

    def receive(self, now_ns: int, link: str, peer: bytes, frames: Frames) -> None:
        """One message, of two frames or of three."""
        try:
            message, _ = m.decode(frames)
        except m.VersionError as error:
            self.count("refused_versions")
            self._refuse(peer, 0, str(error))
            self._happened("peer_refused", why=str(error))
            return
        except ProtocolError as error:
            self.count("refused_messages")
            self._refuse(peer, 0, str(error))
            return
        self._take(now_ns, peer, message, frames)

    def _take(self, now_ns: int, peer: bytes, message: m.Message, frames: Frames) -> None:
        match message:
            case m.Hello():
                self._hello(now_ns, peer, message)
            case m.Attach():
                self._attach(now_ns, peer, message)
            case m.Trained() | m.Scored() | m.Failed() | m.Beat() | m.Leave() if (
                peer in self._workers
            ):
                self._workers[peer].seen_ns = now_ns
                self._from_worker(now_ns, peer, message, frames)
            case _ if peer in self._handles:
                self._handles[peer].seen_ns = now_ns
                self._from_handle(peer, message, frames)
            case m.Trained() | m.Scored() | m.Failed():
                self._stale(message.number, "", "it was taken for dead")
                self._send(peer, m.Who())
            case m.Leave():
                pass
            case _:
                self._send(peer, m.Who())

    def undeliverable(self, now_ns: int, link: str, peer: bytes, frames: Frames) -> None:
        """A peer is gone; its worker's tasks are for others."""
        super().undeliverable(now_ns, link, peer, frames)
        if peer in self._workers:
            self._lose(now_ns, peer, "worker_lost", "it takes no messages any more")
        elif peer in self._handles:
            self._detach(peer)

    def due_ns(self) -> int | None:
        """The next look at who is silent."""
        return self._due_ns

    def tick(self, now_ns: int) -> None:
        """Give up those that are silent."""
        lost_ns = int(self.settings.lost_s * SECOND_NS)
        for peer, worker in list(self._workers.items()):
            if now_ns - worker.seen_ns > lost_ns:
                silent_s = (now_ns - worker.seen_ns) / SECOND_NS
                self._lose(now_ns, peer, "worker_lost", f"silent for {silent_s:.1f} s")
        for peer, handle in list(self._handles.items()):
            if now_ns - handle.seen_ns > HANDLE_LOST_S * SECOND_NS:
                self._detach(peer)
        self._set_due(now_ns)

    def flush(self, now_ns: int) -> None:
        """Give out what waits."""
        for worker, task, unit in self.placement.place(now_ns):
            self._give(worker, task, unit)
        if self._workers_gone and self.placement.waiting:
            self._workers_gone = False
            self._happened("no_workers", waiting=self.placement.waiting)

    def not_ready(self) -> str:
        """Without a worker nothing is trained."""
        return "" if self._workers else "no worker is here"

    def gauges(self) -> dict[str, float]:
        """How much there is to do, and for whom."""
        return {
            "executor_workers": len(self._workers),
            "executor_jobs": len(self._ledger.jobs),
            "executor_requests": len(self._ledger.asked),
            "executor_units_waiting": self.placement.waiting,
            "executor_units_running": sum(len(w.has) for w in self.placement.workers.values()),
        }

    def peers(self) -> list[dict[str, str | int | float | bool]]:
        """The workers, with what they did."""
        return [
            {"name": it.name, "done": it.done, "busy_s": it.busy_s, "slowness": it.slowness}
            for it in self.placement.workers.values()
        ]

    # --- workers -----------------------------------------------------------------------------

    def _hello(self, now_ns: int, peer: bytes, hello: m.Hello) -> None:
        for other, known in list(self._workers.items()):
            if known.hello.session != hello.session:
                continue
            if other == peer and not self.placement.workers[peer].has:
                known.jobs.clear()  # it says hello twice before it hears the answer
                known.held = Recent()
                self._welcome(peer)
                return
            self._lose(now_ns, other, "worker_lost", "it connected anew")
        wrong = self._wrong_with(hello)
        if wrong:
            self._refuse(peer, 0, wrong)
            self._happened("peer_refused", name=hello.name, why=wrong)
            return
        self._torch = self._torch or _release(hello.torch)
        self._workers_gone = False
        self._workers[peer] = _WorkerState(hello, now_ns)
        self.placement.workers[peer] = Worker(peer, hello.name, hello.memory_free_bytes)
        self._welcome(peer)
        self._happened("worker_joined", name=hello.name, device=hello.device)
        self._set_due(now_ns)

    def _welcome(self, peer: bytes) -> None:
        self._send(peer, m.Welcome(self.settings.beat_s, self.settings.lost_s))

    def _wrong_with(self, hello: m.Hello) -> str:
        if self._torch and _release(hello.torch) != _release(self._torch):
            return (
                f"worker {hello.name} has torch {hello.torch}, the others have {self._torch}; "
                "install the same version everywhere"
            )
        if len(self._workers) >= WORKERS_MAX:
            return f"{WORKERS_MAX} workers are here already"
        return ""

    def _from_worker(self, now_ns: int, peer: bytes, message: m.Message, frames: Frames) -> None:
        match message:
            case m.Beat():
                self.placement.workers[peer].memory_free_bytes = message.memory_free_bytes
                self._send(peer, m.Beat(workers=len(self._workers)))
            case m.Leave():
                self._lose(now_ns, peer, "worker_left", "it was stopped")
            case m.Trained() | m.Scored():
                self._result(now_ns, peer, message, frames)
            case m.Failed():
                self._failed(peer, message)

    def _result(
        self, now_ns: int, peer: bytes, message: m.Trained | m.Scored, frames: Frames
    ) -> None:
        worker = self.placement.workers[peer]
        placed = worker.has.get(message.number)
        if placed is None:
            self._stale(message.number, worker.name, "it does not have this task")
            return
        wrong = _misfit(placed.unit, message)
        if wrong:
            self._stale(message.number, worker.name, wrong)
            self._give_up_on(peer, message.number, wrong)
            return
        unit = self.placement.finish(peer, message.number, now_ns)
        request = unit.request
        request.left.difference_update(unit.clients)
        if not request.wanted:
            return  # nobody waits for it any more
        answer = msgspec.structs.replace(message, number=request.key[1])
        self.emit(Send(LINK.name, request.key[0], m.encode(answer, *frames[2:])))
        if not request.left:
            request.wanted = False
            del self._ledger.asked[request.key]

    def _failed(self, peer: bytes, message: m.Failed) -> None:
        worker = self.placement.workers[peer]
        placed = worker.has.get(message.number)
        if placed is None:
            self._stale(message.number, worker.name, "it does not have this task")
            return
        if message.why == "memory":
            clients = len(placed.unit.clients)
            job = placed.unit.request.job
            self._happened("out_of_memory", name=worker.name, job=job, clients=clients)
        self._give_up_on(peer, message.number, message.text, why=message.why)

    def _give_up_on(self, peer: bytes, task: int, text: str, *, why: str = "bug") -> None:
        """A worker failed at a task: the next one gets it, or the request has failed."""
        request = self.placement.workers[peer].has[task].unit.request
        never = self.placement.fail(peer, task, memory=why == "memory", unfit=why == "unfit")
        if why == "wrong" or never:
            self._fail(request, f"{text} ({never})" if never else text)
        else:
            self.count("tasks_reissued")
            self._happened("task_reissued", job=request.job, round=request.round, why=text[:500])

    def _lose(self, now_ns: int, peer: bytes, what: str, why: str) -> None:
        state = self._workers.pop(peer)
        units = self.placement.lose(peer)
        self.count("workers_left" if what == "worker_left" else "workers_lost")
        self._happened(what, name=state.hello.name, why=why, tasks=len(units))
        for unit in units:
            request = unit.request
            if not request.wanted:
                continue
            if unit.tries >= TRIES_MAX:
                self._fail(request, f"job {request.job}: {unit.tries} workers were lost with it")
                continue
            self.count("tasks_reissued")
            self._happened(
                "task_reissued",
                job=request.job,
                round=request.round,
                clients=len(unit.clients),
                why=f"{state.hello.name}: {why}",
            )
        if not self._workers:
            self._torch = self.settings.torch
            self._workers_gone = True
        self._set_due(now_ns)

    def _stale(self, task: int, name: str, why: str) -> None:
        self.count("refused_results")
        self._happened("stale_result_refused", task=task, name=name, why=why)

    # --- tasks -------------------------------------------------------------------------------

    def _give(self, worker: Worker, number: int, unit: Unit) -> None:
        """Send a task, and before it what the worker lacks for it."""
        request = unit.request
        state, asked = self._workers[worker.key], self._ledger.asked[request.key]
        if request.job not in state.jobs:
            state.jobs.add(request.job)
            self._send(worker.key, self._ledger.jobs[request.job].register)
        if not state.held.has(request.job, request.version):
            state.held.add(request.job, request.version, None)
            self.count("weights_sent")
            self.emit(Send(LINK.name, worker.key, asked.weights))
        task = msgspec.structs.replace(asked.task, number=number)
        if isinstance(task, m.Train):
            clients = list(unit.clients)
            steps = [request.steps[client] for client in clients] if request.steps else None
            task = msgspec.structs.replace(task, clients=clients, client_steps=steps)
        self._send(worker.key, task)

    # --- jobs --------------------------------------------------------------------------------

    def _attach(self, now_ns: int, peer: bytes, attach: m.Attach) -> None:
        if len(self._handles) >= HANDLES_MAX:
            self._refuse(peer, 0, f"{HANDLES_MAX} job processes are here already")
            return
        self._handles[peer] = _Handle(attach.watch, now_ns)
        self._send(peer, m.Attached(self.incarnation, len(self._workers)))
        self._set_due(now_ns)

    def _from_handle(self, peer: bytes, message: m.Message, frames: Frames) -> None:
        match message:
            case m.Register():
                self._refuse_if(peer, self._ledger.register(peer, message))
            case m.Weights():
                wrong = self._ledger.set_weights(message, frames)
                self._refuse_if(peer, wrong)
                if not wrong:
                    self.placement.job(message.job).model_bytes = len(frames[2])
            case m.Train() | m.ScoreTask():
                self._request(peer, message)
            case m.Cancel():
                known = self._ledger.asked.get((peer, message.number))
                if known is not None:
                    self._close(known.request)
            case m.Forget():
                self._forget(message.job)
            case m.Beat():
                self._send(peer, m.Beat(workers=len(self._workers)))
            case m.Leave():
                self._detach(peer)
            case _:
                self.count("refused_messages")
                self._refuse(peer, 0, f"{message.kind} is not for a job to say")

    def _request(self, peer: bytes, task: m.Train | m.ScoreTask) -> None:
        key = (peer, task.number)
        wrong = self._ledger.wrong_with(key, task)
        if wrong:
            self._refuse(peer, task.number, wrong)
        else:
            self.placement.add(self._ledger.ask(key, task, self.settings.stack_clients))

    def _close(self, request: Request) -> None:
        """Nobody wants it any more."""
        del self._ledger.asked[request.key]
        self.placement.cancel(request)

    def _fail(self, request: Request, text: str) -> None:
        if request.wanted:
            self._close(request)
            self._refuse(*request.key, text)

    def _forget(self, number: int) -> None:
        if self._ledger.jobs.pop(number, None) is None:
            return
        for request in self._ledger.requests(job=number):
            self._fail(request, f"job {number} was forgotten")
        self.placement.forget(number)
        for peer, worker in self._workers.items():
            worker.held.forget(number)
            if number in worker.jobs:
                worker.jobs.remove(number)
                self._send(peer, m.Forget(number))

    def _detach(self, peer: bytes) -> None:
        """A job's process is gone: nobody waits for its results, and its jobs are over."""
        del self._handles[peer]
        for request in self._ledger.requests(peer=peer):
            self._close(request)
        for number in self._ledger.leave(peer):
            self._forget(number)

    # --- saying ------------------------------------------------------------------------------

    def _send(self, peer: bytes, message: m.Message) -> None:
        self.emit(Send(LINK.name, peer, m.encode(message)))

    def _refuse(self, peer: bytes, number: int, text: str) -> None:
        self._send(peer, m.Refused(number, text[:2_000]))

    def _refuse_if(self, peer: bytes, wrong: str) -> None:
        if wrong:
            self._refuse(peer, 0, wrong)

    def _happened(self, what: str, **facts: m.Fact) -> None:
        """Tell those who watch, and the log."""
        self.say("info", what, **facts)
        frames = m.encode(m.Happened(what, facts))
        for peer, handle in self._handles.items():
            if handle.watch:
                self.emit(Send(LINK.name, peer, frames))

    def _set_due(self, now_ns: int) -> None:
        anybody = self._workers or self._handles
        self._due_ns = now_ns + int(self.settings.beat_s * SECOND_NS) if anybody else None


def _misfit(unit: Unit, message: m.Trained | m.Scored) -> str:
    """Why a result is not that of the task, "" if it is."""
    if message.version != unit.request.version:
        return f"version {message.version}, not {unit.request.version}"
    if isinstance(message, m.Scored) != unit.request.is_score:
        return f"{message.kind} is not what was asked for"
    if isinstance(message, m.Trained):
        if tuple(message.clients) != unit.clients:
            return "its clients are not those of the task"
        if not len(message.clients) == len(message.samples) == len(message.losses):
            return "samples and losses are not one for each client"
    return ""


def _release(version: str) -> str:
    """A version without what it was built for: a GPU worker may work beside a CPU worker."""
    return version.partition("+")[0]
