"""Job servers of a campaign: real SDK jobs in one process, which write down all that they are told.

Each starts round after round, watches it to its end, and admits devices by their tokens; some end a
round early, are content with fewer reports, or attach anew in the middle. ``python -m
tests.campaign.job_servers`` is started by the campaign. It takes two lines on standard input: at
the first, current rounds come to their end (it says ``drained``); at the second, when no device
works any more, each job looks at all its rounds once more and completes.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from propius import AsyncJob, StaleTokenError
from propius.messages import RoundStatus
from tests.campaign.checker import OVER
from tests.campaign.devices import line_of_stdin
from tests.campaign.history import Recorder, lease_of, told

DEMAND: Final = (8, 40)
LEASE_S: Final = 4.0
DEADLINE_S: Final = 25.0
WATCH_S: Final = 3.0
ASK_S: Final = 60.0  # more than any fault lasts
ENDS_EARLY: Final = 0.1
ATTACHES: Final = 0.15
FEWER_REPORTS: Final = 0.5


@dataclass
class Server:
    """One job and its job server."""

    endpoint: str
    name: str
    recorder: Recorder
    dice: Random
    job: AsyncJob | None = None
    asked: int = 0
    rounds: set[int] = field(default_factory=set)

    async def open(self, port: int) -> None:
        """Register the job."""
        self.job = AsyncJob(
            self.endpoint,
            name=self.name,
            requirement={"cpu_f": self.dice.uniform(0.0, 8.0)},
            demand=DEMAND[1],
            server_endpoint=f"127.0.0.1:{port}",
            timeout_s=ASK_S,
        )
        asked = self.recorder.ask(self.name, "register")
        number = await self.recorder.follow(asked, self.job.register())
        if number is not None:
            self.recorder.ok(asked, job=number)

    async def train(self, draining: asyncio.Event) -> None:
        """One round after the other."""
        while not draining.is_set():
            if self.dice.random() < ATTACHES:
                await self._attach()
            number = await self._start()
            if number is None:
                await asyncio.sleep(0.2)  # refused, or unknown: the job server tries again
                continue
            self.rounds.add(number)
            await self._see_through(number)

    async def finish(self) -> None:
        """Look at every round once more; then the job is done."""
        assert self.job is not None
        for number in sorted(self.rounds):
            await self._watch("final", number, 0, 0.0)
        asked = self.recorder.ask(self.name, "complete_job", job=self.job.id)
        if await self.recorder.follow(asked, told(self.job.complete_job())):
            self.recorder.ok(asked)
        await self.job.close()

    async def _attach(self) -> None:
        """The job server dies, and another one goes on with the id and secret."""
        assert self.job is not None
        number, secret = self.job.id, self.job.secret
        asked = self.recorder.ask(self.name, "attach", job=number)
        attached = AsyncJob.attach(self.endpoint, number, secret, timeout_s=ASK_S)
        job = await self.recorder.follow(asked, attached)
        if job is not None:
            self.recorder.ok(asked)
            old, self.job = self.job, job
            await old.close()

    async def _start(self) -> int | None:
        assert self.job is not None
        demand = self.dice.randint(*DEMAND)
        fewer = self.dice.random() < FEWER_REPORTS
        reports_min = max(1, int(demand * 0.8)) if fewer else 0
        asked = self.recorder.ask(self.name, "start_request", job=self.job.id, demand=demand)
        started = self.job.start_request(
            demand, reports_min=reports_min, deadline_s=DEADLINE_S, lease_s=LEASE_S
        )
        number = await self.recorder.follow(asked, started)
        if number is not None:
            self.recorder.ok(asked, round=number)
        return number

    async def _see_through(self, number: int) -> None:
        """Watch a round to its end."""
        seen, changes = 0, 0
        ends_after = self.dice.randint(2, 12) if self.dice.random() < ENDS_EARLY else 0
        while True:
            status = await self._watch("watch_round", number, seen, WATCH_S)
            if status is None:
                continue
            seen = status.version
            changes += 1
            if status.state in OVER:
                return
            if changes == ends_after:
                await self._end(number)

    async def _watch(self, verb: str, number: int, seen: int, wait_s: float) -> RoundStatus | None:
        assert self.job is not None
        asked = self.recorder.ask(self.name, verb, job=self.job.id, round_no=number)
        watched = self.job.watch_round(number, seen=seen, wait_s=wait_s)
        status = await self.recorder.follow(asked, watched)
        if status is not None:
            self.recorder.ok(asked, status=status)
        return status

    async def _end(self, number: int) -> None:
        assert self.job is not None
        asked = self.recorder.ask(self.name, "end_request", job=self.job.id, round_no=number)
        if await self.recorder.follow(asked, told(self.job.end_request(number))):
            self.recorder.ok(asked)

    # --- the data plane --------------------------------------------------------------------------

    async def admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A device shows its token."""
        try:
            token = bytes.fromhex((await reader.readline()).decode().strip())
            writer.write(b"welcome\n" if self._judge(token) else b"stale\n")
            await writer.drain()
        except (OSError, ValueError):
            pass  # the device is gone, or was no device
        finally:
            writer.close()

    def _judge(self, token: bytes) -> bool:
        assert self.job is not None
        shown = lease_of(token)
        asked = self.recorder.ask(self.name, "admit", lease=shown.lease)
        try:
            lease = self.job.admit(token)
        except StaleTokenError:
            self.recorder.refused(asked, "stale_token")
            return False
        self.recorder.ok(asked, job=lease.job, round=lease.round, slot=lease.slot)
        return True


async def run(endpoint: str, jobs: int, seed: int, path: Path) -> None:
    """Train until the first line, finish at the second."""
    recorder = Recorder(path)
    orders = await line_of_stdin()
    servers = [
        Server(endpoint, f"job-{number}", recorder, Random(f"{seed}/{number}"))
        for number in range(jobs)
    ]
    doors = [await asyncio.start_server(server.admit, "127.0.0.1", 0) for server in servers]
    draining = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for server, door in zip(servers, doors, strict=True):
            await server.open(door.sockets[0].getsockname()[1])
            group.create_task(server.train(draining))
        await orders.readline()
        draining.set()
    print("drained", flush=True)
    await orders.readline()
    for server in servers:
        await server.finish()
    for door in doors:
        door.close()
    recorder.close()


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--jobs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--history", type=Path, required=True)
    asked = parser.parse_args()
    asyncio.run(run(asked.endpoint, asked.jobs, asked.seed, asked.history))


if __name__ == "__main__":
    main()
