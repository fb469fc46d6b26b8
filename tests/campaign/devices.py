"""Devices of a campaign: real SDK clients in one process, which write down all that they are told.

Each device checks in, mostly accepts, shows its token to the job server, works for 50 to 300 ms and
reports. Some decline, some fail, some vanish with a lease and come back when it is over, and some
die while they accept. ``python -m tests.campaign.devices`` is started by the campaign; a line on
standard input ends it when every device has finished what it does.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from propius import AsyncClient, AsyncConnection
from propius.aio import AsyncAssignment
from propius.messages import Offer, Task
from tests.campaign.history import Recorder, lease_of, told

CLIENTS_PER_CONNECTION: Final = 30
WAIT_S: Final = 2.0  # how long a check-in is held
ASK_S: Final = 60.0  # more than any fault lasts
SHOW_S: Final = 5.0
WORK_S: Final = (0.05, 0.3)
# Of all offers, and of all leases.
DECLINES: Final = 0.05
DIES_ACCEPTING: Final = 0.02
VANISHES: Final = 0.04
FAILS: Final = 0.06


@dataclass
class World:
    """What the devices of this process share."""

    recorder: Recorder
    stopping: asyncio.Event

    async def pause(self, seconds: float) -> None:
        """Let time pass, or the end come."""
        try:
            await asyncio.wait_for(self.stopping.wait(), seconds)
        except TimeoutError:
            pass  # time has passed


class Phone:
    """One device."""

    def __init__(self, world: World, connection: AsyncConnection, number: int, seed: int) -> None:
        self.world = world
        self.dice = Random(f"{seed}/{number}")
        self.device_id = f"{self.dice.getrandbits(128):032x}"
        self.spec = {"cpu_f": self.dice.uniform(1, 20), "ram": self.dice.uniform(2, 16)}
        self.connection = connection
        self.client = self._start()

    async def live(self) -> None:
        """Serve until the end."""
        while not self.world.stopping.is_set():
            offer = await self._check_in()
            if offer is None or not offer.tasks:
                await self.world.pause(max(0.05, offer.retry_after_s if offer else 0.5))
                continue
            task = self.dice.choice(offer.tasks[:3])
            if self.dice.random() < DECLINES:
                await self._decline(offer)
            elif (assignment := await self._accept(task)) is not None:
                await self._serve(assignment)
            else:
                await self.world.pause(0.05)

    def _start(self) -> AsyncClient:
        """The application on the device starts (again): the same device, another session."""
        return AsyncClient(
            spec=self.spec,
            option=self.dice.uniform(0.5, 2.0),
            device_id=self.device_id,
            timeout_s=ASK_S,
            connection=self.connection,
        )

    async def _check_in(self) -> Offer | None:
        recorder = self.world.recorder
        asked = recorder.ask(self.device_id, "check_in")
        offer = await recorder.follow(asked, self.client.check_in(WAIT_S))
        if offer is not None:
            recorder.ok(asked)
        return offer

    async def _decline(self, offer: Offer) -> None:
        recorder = self.world.recorder
        asked = recorder.ask(self.device_id, "decline")
        done = self.client.decline(offer.tasks)
        if await recorder.follow(asked, told(done)):
            recorder.ok(asked)

    async def _accept(self, task: Task) -> AsyncAssignment | None:
        recorder = self.world.recorder
        asked = recorder.ask(self.device_id, "accept", job=task.job, round_no=task.round)
        dies = self.dice.random() < DIES_ACCEPTING
        limit_s = self.dice.uniform(0.0, 0.01) if dies else None
        given = await recorder.follow(asked, asyncio.wait_for(self.client.accept(task), limit_s))
        if given is None:
            if dies:
                self.client = self._start()
            return None
        lease = lease_of(given.token)
        recorder.ok(
            asked,
            job=given.job,
            round=given.round,
            lease=lease.lease,
            slot=lease.slot,
            lease_s=given.lease_s,
        )
        return given

    async def _serve(self, given: AsyncAssignment) -> None:
        if self.dice.random() < VANISHES:
            await self.world.pause(given.remaining_s + self.dice.uniform(0.0, 1.0))
            self.client = self._start()
            await self._report(given, "completed")
            return
        if not await show_token(given.endpoint, given.token):
            await self._report(given, "dropped")
            return
        await asyncio.sleep(self.dice.uniform(*WORK_S))  # its work
        await self._report(given, "failed" if self.dice.random() < FAILS else "completed")

    async def _report(self, given: AsyncAssignment, outcome: str) -> None:
        recorder = self.world.recorder
        asked = recorder.ask(
            self.device_id,
            "report",
            job=given.job,
            round_no=given.round,
            lease=lease_of(given.token).lease,
            outcome=outcome,
        )
        if await recorder.follow(asked, told(self.client.report(given, outcome))):
            recorder.ok(asked)


async def show_token(endpoint: str, token: bytes) -> bool:
    """Whether the job server admits this token (a job server that does not answer does not)."""
    host, _, port = endpoint.rpartition(":")
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), SHOW_S)
        try:
            writer.write(token.hex().encode() + b"\n")
            return await asyncio.wait_for(reader.readline(), SHOW_S) == b"welcome\n"
        finally:
            writer.close()
    except (OSError, TimeoutError):
        return False


async def line_of_stdin() -> asyncio.StreamReader:
    """Standard input as a stream."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def run(endpoint: str, count: int, seed: int, path: Path) -> None:
    """Live until a line comes."""
    recorder = Recorder(path)
    world = World(recorder, asyncio.Event())
    orders = await line_of_stdin()
    connections = [AsyncConnection(endpoint) for _ in range(-(-count // CLIENTS_PER_CONNECTION))]
    phones = [
        Phone(world, connections[number % len(connections)], number, seed)
        for number in range(count)
    ]
    async with asyncio.TaskGroup() as group:
        for phone in phones:
            group.create_task(phone.live())
        await orders.readline()
        world.stopping.set()
    for connection in connections:
        await connection.close()
    recorder.close()


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--history", type=Path, required=True)
    asked = parser.parse_args()
    asyncio.run(run(asked.endpoint, asked.count, asked.seed, asked.history))


if __name__ == "__main__":
    main()
