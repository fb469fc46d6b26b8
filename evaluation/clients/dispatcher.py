"""A process that lives the lives of simulated clients, each over the public asyncio SDK.

``python -m evaluation.clients.dispatcher SETTINGS``, with :class:`DispatcherSettings` as JSON. A
client asks for work while it is available; it starts at the job server, works for as long as its
device would, or as many of the steps as fit its time where the job allows that, hands in, which is
answered when its training is over too, and reports. If its time is over first, it is gone, and says
so. If it fails in the middle (:func:`propius.engine.task_failure`), it says so and stays, or says
so and is gone for the session, or is gone without a word, by the cause. Thousands of clients share
a few connections to the load balancer, and one to each job server.

It prints lines of :mod:`evaluation.jobs.told`, begins when a line with the start (nanoseconds of
the monotonic clock) comes on its standard input, and ends with SIGTERM.

Not here: which clients (the parent shares them out, so that no two dispatchers have the same), and
how they are made (:mod:`evaluation.clients.behaviour`).
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from time import monotonic_ns
from typing import Any, Final, Literal

import msgspec
import numpy as np
import zmq.asyncio

from evaluation.children import complain, tell
from evaluation.clients.behaviour import Behaviour, SimulatedClient, TaskCost, with_samples
from evaluation.jobs.link import Here, TaskLink
from evaluation.jobs.told import ClientsTold, Ready
from evaluation.results.rows import ClientRow
from propius import Assignment, AsyncClient, AsyncConnection, Task
from propius.client_session import suits
from propius.engine import task_failure
from propius.errors import (
    PropiusError,
    RefusedError,
    RequestTimeoutError,
    StaleTokenError,
)

__all__ = ["Dispatcher", "DispatcherSettings", "behaviour_settings", "main", "read_behaviour"]

CLIENTS_PER_CONNECTION: Final = 250
OFFER_WAIT_S: Final = 30.0
PAUSE_AFTER_ERROR_S: Final = 0.5
START_TIMEOUT_S: Final = 10.0
TELL_EVERY_S: Final = 2.0


class DispatcherSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the parent tells a dispatcher: its clients are ``first`` to ``last`` - 1.

    ``samples`` is an ``npz`` file: by data set, how many samples each client of the run has; "" if
    no job asks. ``failures`` are rates an hour, as of :func:`propius.engine.task_failure`.
    """

    load_balancer: str
    first: int
    last: int
    behaviour: dict[str, Any]
    speed_up: float
    tasks_max: int | None
    samples: str = ""
    failures: tuple[float, float, float] = (0.0, 0.0, 0.0)


def behaviour_settings(behaviour: Behaviour) -> dict[str, Any]:
    """As JSON takes it; :func:`read_behaviour` reads it."""
    made: dict[str, Any] = msgspec.to_builtins(behaviour, enc_hook=str)  # of its files' paths
    return made


def read_behaviour(settings: dict[str, Any]) -> Behaviour:
    """What :func:`behaviour_settings` made of it."""
    return msgspec.convert(settings, Behaviour, dec_hook=lambda kind, value: kind(value))


@dataclass
class _Use:
    """What a client has done so far."""

    utilised_s: float = 0.0
    tasks: int = 0
    completed: int = 0
    dropped: int = 0
    failed: int = 0
    served: dict[int, int] = field(default_factory=dict)
    """By job at Propius: the last round that it reported to; it declines that one from then on."""

    def row(self, client: int) -> ClientRow:
        """Without the time that it was there, which the parent knows."""
        counts = (self.tasks, self.completed, self.dropped, self.failed)
        return ClientRow(client, 0.0, self.utilised_s, *counts)


@dataclass(frozen=True)
class _End:
    """How a task ended on its device: when, as what, whether it says so, and whether it stays."""

    at_s: float
    outcome: Literal["completed", "dropped", "failed"]
    reports: bool = True
    stays: bool = True


class Dispatcher:
    """Some clients, and what they share."""

    def __init__(self, settings: DispatcherSettings) -> None:
        self.settings = settings
        behaviour = read_behaviour(settings.behaviour)
        self.clients = behaviour.draw(range(settings.first, settings.last))
        self._seed = behaviour.seed
        if settings.samples:
            with np.load(settings.samples, allow_pickle=False) as sizes:
                own = {name: sizes[name] for name in sizes.files}
            self.clients = with_samples(self.clients, own)
        self.start_ns = 0
        self._uses = {client.index: _Use() for client in self.clients}
        self._changed: set[int] = set()
        self._connections: list[AsyncConnection] = []
        self._context: zmq.asyncio.Context | None = None  # while it runs
        self._links: dict[str, TaskLink] = {}
        self._stack = AsyncExitStack()

    async def run(self, start_ns: int) -> None:
        """Live until SIGTERM or SIGINT."""
        self.start_ns = start_ns
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with self._stack:
            self._context = zmq.asyncio.Context()
            self._stack.callback(self._context.destroy, linger=0)
            for _ in range(1 + len(self.clients) // CLIENTS_PER_CONNECTION):
                connection = AsyncConnection(self.settings.load_balancer)
                self._connections.append(await self._stack.enter_async_context(connection))
            tasks = [asyncio.create_task(self._live(client)) for client in self.clients]
            tasks.append(asyncio.create_task(self._tell()))
            stopped = asyncio.create_task(stop.wait())
            await self._until(stopped, tasks)

    async def _until(self, stopped: asyncio.Task[Any], tasks: list[asyncio.Task[None]]) -> None:
        try:
            alive = {stopped, *tasks}
            while not stopped.done():
                done, alive = await asyncio.wait(alive, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # a client without any availability ends; a bug is loud
        finally:
            for task in (stopped, *tasks):
                task.cancel()
            await asyncio.gather(stopped, *tasks, return_exceptions=True)
            self._tell_changes()

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            self._tell_changes()

    def _tell_changes(self) -> None:
        if not self._changed:
            return
        rows = [self._uses[index].row(index) for index in sorted(self._changed)]
        self._changed.clear()
        tell(ClientsTold(rows))

    # --- one client ------------------------------------------------------------------------------

    async def _live(self, client: SimulatedClient) -> None:
        """One client, from one session to the next."""
        connection = self._connections[client.index % len(self._connections)]
        async with AsyncClient(
            connection=connection,
            spec=client.spec,
            private_spec=client.private_spec,
            select=partial(self._select, client),
            option=client.option,
            device_id=client.device_id,
        ) as device:
            for start_s, end_s in client.all_sessions():
                await self._sleep_until(start_s)
                await self._stay(client, device, end_s)

    def _select(self, client: SimulatedClient, tasks: Sequence[Task]) -> list[Task]:
        """Those that suit its private spec, and that it has not done already."""
        served, private = self._uses[client.index].served, client.private_spec
        return [
            task for task in tasks if suits(private, task) and served.get(task.job) != task.round
        ]

    async def _stay(self, client: SimulatedClient, device: AsyncClient, end_s: float) -> None:
        """Ask for work and do it while the session lasts, and tasks are allowed."""
        tasks_max = self.settings.tasks_max
        done = 0
        while (left_s := self._real_s(end_s)) > 0 and (tasks_max is None or done < tasks_max):
            try:
                assignment = await device.auto_assign(min(left_s, OFFER_WAIT_S))
                if assignment is None:
                    continue
                done += 1
                if not await self._work(client, device, assignment, end_s):
                    return
            except PropiusError as error:
                complain(f"client {client.index}: {error}")
                await asyncio.sleep(PAUSE_AFTER_ERROR_S)

    async def _work(
        self, client: SimulatedClient, device: AsyncClient, assignment: Assignment, end_s: float
    ) -> bool:
        """One task, from its slot to its report; whether the device is still there."""
        began_s = self.now_s()
        try:
            end = await self._task(client, assignment, began_s, end_s)
        except (RefusedError, RequestTimeoutError):
            # The job is gone, or its round was over before we began.
            end = _End(self.now_s(), "dropped")
        use = self._uses[client.index]
        if end.outcome == "completed":
            use.served[assignment.job] = assignment.round
        until_s = min(end_s, end.at_s)
        use.utilised_s += max(0.0, until_s - began_s)  # who waits for its training does not work
        use.tasks += 1
        use.completed += end.outcome == "completed"
        use.dropped += end.outcome == "dropped"
        use.failed += end.outcome == "failed"
        self._changed.add(client.index)
        try:
            if end.reports:
                await device.report(assignment, end.outcome)
        except StaleTokenError:
            pass  # its lease was over; the slot went to another device
        return end.stays

    async def _task(
        self, client: SimulatedClient, assignment: Assignment, began_s: float, end_s: float
    ) -> _End:
        """How it ends, when it has."""
        link = await self._link(assignment.endpoint)
        here = Here(max(0.0, end_s - began_s), client.speed_ms, client.bandwidth_kbps)
        started = await link.ask(
            "start", round_no=assignment.round, token=assignment.token, client=client.index,
            timeout_s=START_TIMEOUT_S, here=here,
        )  # fmt: skip
        done_s = began_s + client.task_s(TaskCost(started.samples, started.kbit))
        failure = task_failure(
            self._seed, client.index, assignment.job, assignment.round, self.settings.failures
        )
        if failure is not None and (fails_s := began_s + failure[0]) < min(done_s, end_s):
            await self._sleep_until(fails_s)
            cause = failure[1]
            return _End(fails_s, "failed", reports=cause != "battery", stays=cause == "crash")
        if done_s > end_s:
            await self._sleep_until(end_s)
            return _End(end_s, "dropped")
        await self._sleep_until(done_s)
        try:
            await link.ask(
                "hand_in", round_no=assignment.round, token=assignment.token,
                client=client.index, timeout_s=max(assignment.remaining_s, START_TIMEOUT_S),
            )  # fmt: skip
        except RefusedError:
            pass  # the round is over: the work is done, and wasted
        return _End(done_s, "completed")

    async def _link(self, endpoint: str) -> TaskLink:
        """The shared connection to a job server."""
        if endpoint not in self._links:
            self._links[endpoint] = link = TaskLink(endpoint, self._context)
            await self._stack.enter_async_context(link)
        return self._links[endpoint]

    # --- time ------------------------------------------------------------------------------------

    def now_s(self) -> float:
        """Seconds of the devices' time since the run's start."""
        return (monotonic_ns() - self.start_ns) / 1e9 * self.settings.speed_up

    def _real_s(self, at_s: float) -> float:
        return (at_s - self.now_s()) / self.settings.speed_up

    async def _sleep_until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, self._real_s(at_s)))


def main() -> None:
    """Run until SIGTERM."""
    settings = msgspec.json.decode(sys.argv[1], type=DispatcherSettings)
    dispatcher = Dispatcher(settings)
    tell(Ready())
    asyncio.run(dispatcher.run(int(sys.stdin.readline())))


if __name__ == "__main__":
    main()
