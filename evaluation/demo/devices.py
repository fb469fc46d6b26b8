"""All devices of the demo in one asyncio process, each a public :class:`propius.AsyncClient`.

``python -m evaluation.demo.devices SETTINGS`` where SETTINGS is :class:`DeviceSettings` as JSON.
Every device comes and goes by its own availability; while it is on it asks Propius for work, pulls
the round's model from the job server, trains on its own digits, and pushes its update after the
time that a phone of its speed would have taken. Some tasks fail, and some devices vanish in the
middle of one without a word, as the population model draws it. SIGTERM ends the process.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from evaluation.children import complain, tell
from evaluation.data_link import AsyncModelClient
from evaluation.demo.progress import Devices
from evaluation.digits import Digits
from evaluation.fedavg import LOCAL_EPOCHS, local_train
from evaluation.population import Availability, Device, Outcome, Population
from propius import (
    Assignment,
    AsyncClient,
    AsyncConnection,
    PropiusError,
    RefusedError,
    RequestTimeoutError,
    StaleTokenError,
)

__all__ = ["DeviceSettings", "main"]

CONNECTIONS: Final = 4
"""Connections that all devices share, as behind a gateway."""
OFFER_WAIT_S: Final = 20.0
PAUSE_AFTER_ERROR_S: Final = 1.0
MODEL_TIMEOUT_S: Final = 5.0
"""A job server that says nothing for so long is gone: its job has ended."""
AVAILABILITY: Final = Availability(on_median_s=12.0, off_median_s=36.0)
"""About a quarter of the devices are on at any time, so that the jobs compete for them."""


class DeviceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the parent tells the devices."""

    endpoint: str  # of the load balancer, for clients
    clients: int
    seed: int
    start_ns: int
    speed_up: float  # how many times faster than the real phones


def main() -> None:
    """Run all devices until SIGTERM."""
    settings = msgspec.json.decode(sys.argv[1], type=DeviceSettings)
    asyncio.run(Fleet(settings).run())


class Fleet:
    """The devices, what they share, and how their tasks ended."""

    def __init__(self, settings: DeviceSettings) -> None:
        self.settings = settings
        self.population = Population.generate(
            settings.clients, settings.seed, availability=AVAILABILITY
        )
        self.digits = Digits.load(settings.clients, settings.seed)
        self.ended: Counter[str] = Counter()
        self.online = 0
        self.working = 0
        self.connections: list[AsyncConnection] = []
        self._models: dict[str, AsyncModelClient] = {}
        self._stack = AsyncExitStack()

    async def run(self) -> None:
        """Start every device and report once a second, until SIGTERM or SIGINT."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with self._stack:
            for _ in range(CONNECTIONS):
                connection = AsyncConnection(self.settings.endpoint)
                self.connections.append(await self._stack.enter_async_context(connection))
            tasks = [asyncio.create_task(self.live(device)) for device in self.population]
            tasks.append(asyncio.create_task(self.tell()))
            stopped = asyncio.create_task(stop.wait())
            done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in (stopped, *tasks):
                task.cancel()
            await asyncio.gather(stopped, *tasks, return_exceptions=True)
            for task in done - {stopped}:
                task.result()  # a device never ends by itself: this is its bug, loudly

    async def tell(self) -> None:
        """Print the fleet's state once a second."""
        while True:
            await asyncio.sleep(1.0)
            line = Devices(
                t_s=self.elapsed_s(),
                online=self.online,
                working=self.working,
                completed=self.ended["completed"],
                failed=self.ended["failed"] + self.ended["dropped"],
                vanished=self.ended["vanished"],
            )
            tell(line)

    async def live(self, device: Device) -> None:
        """One device, from one availability interval to the next, for ever."""
        connection = self.connections[device.index % len(self.connections)]
        client = AsyncClient(
            connection=connection,
            spec=device.spec,
            private_spec={"dataset_size": float(device.dataset_size)},
            option=device.option,
            device_id=device.device_id,
        )
        task_no = 0
        async with client:
            for start_s, end_s in device.availability():
                await asyncio.sleep(start_s - self.elapsed_s())
                self.online += 1
                try:
                    task_no = await self.stay(device, client, end_s, task_no)
                finally:
                    self.online -= 1

    async def stay(self, device: Device, client: AsyncClient, end_s: float, task_no: int) -> int:
        """Ask for work and do it until ``end_s``; returns the number of the next task."""
        while (left_s := end_s - self.elapsed_s()) > 0:
            try:
                assignment = await client.auto_assign(min(left_s, OFFER_WAIT_S))
                if assignment is None:
                    continue
                self.working += 1
                try:
                    stays = await self.work(device, client, assignment, end_s, task_no)
                finally:
                    self.working -= 1
                task_no += 1
                if not stays:
                    return task_no
            except PropiusError as error:
                complain(f"device {device.index}: {error}")
                await asyncio.sleep(PAUSE_AFTER_ERROR_S)
        return task_no

    async def work(
        self,
        device: Device,
        client: AsyncClient,
        assignment: Assignment,
        end_s: float,
        task_no: int,
    ) -> bool:
        """One task; False if the device is gone afterwards (vanished, or its time is over)."""
        began_s = self.elapsed_s()
        fate = device.fate(task_no)
        duration_s = self.duration_s(device)
        done_s = began_s + duration_s * fate.at_share
        if done_s > end_s:
            await asyncio.sleep(end_s - self.elapsed_s())
            await self.report(client, assignment, "dropped")
            return False
        if fate.outcome is Outcome.COMPLETE:
            await self.train(device, client, assignment, done_s, task_no)
            return True
        await asyncio.sleep(done_s - self.elapsed_s())
        if fate.outcome is Outcome.VANISH:
            self.ended["vanished"] += 1
            return False
        await self.report(client, assignment, "failed")
        return True

    async def train(
        self,
        device: Device,
        client: AsyncClient,
        assignment: Assignment,
        done_s: float,
        task_no: int,
    ) -> None:
        """Pull, train, take as long as the phone would, push, report."""
        model = await self.model_client(assignment.endpoint)
        job, round_no, token = assignment.job, assignment.round, assignment.token
        try:
            weights = await model.pull(job=job, round_no=round_no, token=token)
            x, y = self.digits.client(device.index)
            rng = np.random.default_rng([self.settings.seed, device.index, task_no])
            trained: list[NDArray[Any]] = local_train(weights, x, y, rng=rng)
            await asyncio.sleep(done_s - self.elapsed_s())
            await model.push(
                job=job, round_no=round_no, token=token, samples=len(y), weights=trained
            )
        except (RefusedError, RequestTimeoutError):
            # The round ended without us, or our lease did: the work is wasted, the device is not.
            await self.report(client, assignment, "dropped")
            return
        await self.report(client, assignment, "completed")

    async def report(self, client: AsyncClient, assignment: Assignment, outcome: str) -> None:
        """Say how the task ended; a lease that is over already is no error."""
        self.ended[outcome] += 1
        try:
            await client.report(assignment, outcome)
        except StaleTokenError as error:
            complain(f"report of {assignment.job}/{assignment.round}: {error}")

    async def model_client(self, endpoint: str) -> AsyncModelClient:
        """The shared connection to a job server."""
        if endpoint not in self._models:
            model = AsyncModelClient(endpoint, timeout_s=MODEL_TIMEOUT_S)
            self._models[endpoint] = model
            await self._stack.enter_async_context(model)
        return self._models[endpoint]

    def duration_s(self, device: Device) -> float:
        """How long a task takes on this phone: all its samples, each epoch, sped up."""
        real_s = LOCAL_EPOCHS * device.dataset_size * device.speed_ms / 1000
        return real_s / self.settings.speed_up

    def elapsed_s(self) -> float:
        """Seconds since the demo's start."""
        return (time.monotonic_ns() - self.settings.start_ns) / 1e9


if __name__ == "__main__":
    main()
