"""Client managers are added, drained, killed, frozen and started twice while real clients run."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq
from typer.testing import CliRunner

from propius import AsyncClient, Job
from propius.cli.client_managers import add, app, drain, managers
from propius.cli.cluster import Cluster
from propius.cli.status import run_info
from propius.config import config_yaml, load_config
from propius.errors import PropiusError, UsageError
from propius.messages import CheckIn, Header, decode_header, decode_payload, encode
from propius.shell import exit_codes
from tests.daemons.test_processes import Site, ended, until

DEVICES = 30
NOTICED_S = 3.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A ready system with two client managers."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


class Fleet:
    """Devices that take whatever they are offered, and remember what they were promised."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.assigned = 0
        self.reported: set[int] = set()  # devices, since last cleared
        self.broken: list[str] = []  # promises
        self._stop = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._all(),))

    async def _all(self) -> None:
        await asyncio.gather(*(self._device(number) for number in range(DEVICES)))

    async def _device(self, number: int) -> None:
        async with AsyncClient(
            self.endpoint, spec={"ram": 8.0}, device_id=f"{number:032x}", timeout_s=60.0
        ) as client:
            while not self._stop.is_set():
                assignment = await client.auto_assign(wait_s=1.0)
                if assignment is None:
                    continue
                self.assigned += 1
                try:
                    await assignment.report("completed")
                    self.reported.add(number)
                except PropiusError as error:
                    self.broken.append(f"device {number}: {error}")

    def all_served(self) -> None:
        """Wait until each device has done a task from now on."""
        self.reported.clear()
        until(lambda: len(self.reported) == DEVICES, "each device served")

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Run from here to the end of the block."""
        self._thread.start()
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(90)
            assert not self._thread.is_alive()
            self._loop.close()


@contextmanager
def rounds_for_ever(cluster: Cluster) -> Iterator[None]:
    """A job that asks for devices, round after round."""
    done = threading.Event()
    endpoint = cluster.endpoint("job_manager", "jobs")
    job = Job(endpoint, name="endless", requirement={}, demand=20)

    def run() -> None:
        with job:
            while not done.is_set():
                number = job.start_request(demand=20, once_per_device=False)
                seen, state = 0, ""
                while not done.is_set() and state not in {"completed", "ended"}:
                    found = job.watch_round(number, seen=seen, wait_s=0.5)
                    seen, state = found.version, found.state
                if state not in {"completed", "ended"}:
                    job.end_request(number)
            job.cancel()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(60)
        assert not thread.is_alive()


def ready(cluster: Cluster) -> dict[int, int]:
    """The client managers that serve devices, and their incarnations."""
    found = managers(cluster.directory)
    return {each.manager: each.incarnation for each in found if each.state == "ready"}


def test_managers_come_and_go_and_no_accept_is_lost(cluster: Cluster) -> None:
    """One is added, one drained, one killed: each promise is kept and every device is served."""
    fleet = Fleet(cluster.endpoint("load_balancer", "clients"))
    with rounds_for_ever(cluster), fleet.at_work():
        fleet.all_served()
        assert add(cluster.directory, None, 30) == 2
        assert sorted(ready(cluster)) == [0, 1, 2]
        until(lambda: {m.manager: m.clients for m in managers(cluster.directory)}[2] > 0, "clients")
        fleet.all_served()
        assert drain(cluster.directory, 1, 15)
        until(lambda: sorted(ready(cluster)) == [0, 2], "no more devices for the drained one")
        assert not drain(cluster.directory, 1, 15)
        fleet.all_served()
        killed = cluster.kill("client_manager-0")
        fleet.all_served()
        until(lambda: sorted(ready(cluster)) == [0, 2], "restart of client_manager-0")
        fleet.all_served()
    assert cluster.pid("client_manager-0") not in {0, killed}
    assert cluster.pid("client_manager-1") == 0
    assert fleet.assigned > 4 * DEVICES
    assert not fleet.broken
    assert add(cluster.directory, None, 30) == 1
    assert drain(cluster.directory, 2, 15)
    cluster.wait_ready()


def test_unknown_and_running_ids_are_errors(cluster: Cluster) -> None:
    """What was never here cannot be drained, what runs cannot be added; the line names them."""
    with pytest.raises(UsageError, match=r"no client manager 9 here \(there are: 0, 1\)"):
        drain(cluster.directory, 9, 1)
    with pytest.raises(UsageError, match="client manager 0 is here already"):
        add(cluster.directory, 0, 1)


def test_commands_say_in_one_line_what_was_done(cluster: Cluster) -> None:
    """list as a table and as JSON; add and drain with the number, twice the same is no harm."""
    at = ["--state-dir", str(cluster.directory)]

    def said(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, [*arguments, *at])
        assert done.exit_code == code, done.output
        return done.output

    assert said("add") == "client manager 2 serves devices\n"
    rows = json.loads(said("list", "--json"))
    assert [(row["manager"], row["state"]) for row in rows] == [
        (0, "ready"), (1, "ready"), (2, "ready")
    ]  # fmt: skip
    assert rows[2]["pid"] == cluster.pid("client_manager-2")
    assert str(rows[2]["incarnation"]) in said("list")
    assert said("drain", "2").startswith("client manager 2 drained: ")
    assert said("drain", "2") == "client manager 2 does not run\n"
    assert "no client manager 9 here (there are: 0, 1)" in said("drain", "9", code=1)
    assert [status.state for status in cluster.statuses()] == ["ready"] * 5


class Devices:
    """Devices by hand, all over one connection: what each hears, and when."""

    def __init__(self, endpoint: str) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(endpoint)
        self.schema = load_config(None).schema_message

    def check_in(self, request: int, wait_s: float) -> None:
        spec = [1.0] * len(self.schema.attributes)
        message = CheckIn(schema=self.schema.schema, spec=spec, option=1.0, wait_s=wait_s)
        for number in range(DEVICES):
            header = Header(
                kind="check_in", sender=f"{number + 1_000:032x}", session=1, request=request
            )
            self.socket.send_multipart(encode(header, message))

    def heard(self, count: int, wait_s: float) -> list[str]:
        """The first ``count`` answers within ``wait_s``: kinds, or the codes of errors."""
        answers: list[str] = []
        deadline_s = time.monotonic() + wait_s
        while len(answers) < count and (left_s := deadline_s - time.monotonic()) > 0:
            if self.socket.poll(int(left_s * 1_000) + 1):
                header, payload = self.socket.recv_multipart()
                message = decode_payload(decode_header(header).kind, payload)
                answers.append(getattr(message, "code", message.kind))
        return answers

    def close(self) -> None:
        self.socket.close()
        self.context.term()


def requests(cluster: Cluster) -> dict[int, int]:
    """How many requests wait for the answer of each connected client manager."""
    found = managers(cluster.directory)
    return {each.manager: each.requests for each in found if each.state == "ready"}


def test_frozen_manager_is_noticed_and_its_devices_told_within_3_s(cluster: Cluster) -> None:
    """SIGSTOP: waiting devices hear check_in_again, others take over; SIGCONT: it serves again."""
    cluster.wait_ready()
    incarnation = ready(cluster)[0]
    pid = cluster.pid("client_manager-0")
    devices = Devices(cluster.endpoint("load_balancer", "clients"))
    try:
        devices.check_in(1, wait_s=60.0)
        until(lambda: sum(requests(cluster).values()) == DEVICES, "check-ins held")
        waiting = requests(cluster)[0]
        assert 0 < waiting < DEVICES
        os.kill(pid, signal.SIGSTOP)
        frozen_s = time.monotonic()
        told = devices.heard(waiting, 10.0)
        noticed_s = time.monotonic() - frozen_s
        assert told == ["check_in_again"] * waiting
        assert noticed_s < NOTICED_S
        until(lambda: 0 not in ready(cluster), "no more devices for the frozen one")
        devices.check_in(2, wait_s=1.0)
        assert devices.heard(DEVICES, 20.0) == ["offer"] * DEVICES
        os.kill(pid, signal.SIGCONT)
        until(lambda: ready(cluster).get(0) == incarnation, "the frozen one is back")
        assert devices.heard(1, 1.0) == []  # nothing of what it had before
        devices.check_in(3, wait_s=0.0)
        assert devices.heard(DEVICES, 20.0) == ["offer"] * DEVICES
        until(lambda: sum(requests(cluster).values()) == 0, "nothing left to answer")
    finally:
        os.kill(pid, signal.SIGCONT)
        devices.close()


def test_second_manager_of_one_id_ends_and_the_first_goes_on(site: Site) -> None:
    """The line names the id and the living one; the exit code is the one that is not restarted."""
    for daemon in ("load_balancer", "job_manager", "scheduler", "client_manager-4"):
        site.start(daemon)
    site.wait("client_manager-4", "ready")
    first = managers(site.state)
    other = site.folder / "other.yml"
    other.write_text(config_yaml({"state_dir": str(site.folder / "elsewhere"), **site.values}))
    own, site.config = site.config, other
    code, line = ended(site.start("client_manager-4"))
    assert code == exit_codes.CONFIGURATION
    assert "client_manager-4 is taken" in line
    assert f"incarnation {first[0].incarnation}" in line
    assert [(m.incarnation, m.state) for m in managers(site.state)] == [
        (first[0].incarnation, "ready")
    ]
    site.config = own
    code, line = ended(site.start("client_manager-4"))
    assert code == exit_codes.CANNOT_BIND
    assert f"(pid {run_info(site.state, 'client_manager-4')['pid']})" in line


def test_killed_manager_gets_its_id_back(site: Site) -> None:
    """Nobody takes the one that comes back for a second one."""
    for daemon in ("load_balancer", "job_manager", "scheduler"):
        site.start(daemon)
    process = site.start("client_manager-4")
    site.wait("client_manager-4", "ready")
    process.kill()
    process.wait(30)
    again = site.start("client_manager-4")
    site.wait("client_manager-4", "ready")
    assert [m.state for m in managers(site.state)] == ["ready"]
    assert again.poll() is None


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """An empty site."""
    site = Site(tmp_path)
    yield site
    site.end()
