"""Check-in to offer through a real client manager process, beside an echo of the same frames.

The bench plays the manager's three peers: it binds their sockets, welcomes and beats, sends one
plan with room for all, and then forwards batches of check-ins of devices never seen before, one
batch at a time. The time is that from the batch's send to its last delivered offer. In turn with
it, the same two frames go through a process that only receives and sends with pyzmq, so that a
figure can be read as a ratio on any machine, busy or not; and each check-in goes through that
process as a message of its own, all in flight at once, as devices would send them.

Not here: the load balancer (one more hop), and claims.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import zmq

from propius import engine
from propius.cli.status import status
from propius.config import Config, config_yaml, load_config
from propius.messages import (
    INSIDE_PAYLOAD_BYTES_MAX,
    Beat,
    CheckIn,
    Deliver,
    Forward,
    Header,
    Hello,
    Message,
    Offer,
    Plan,
    PlannedGroup,
    PlannedRound,
    Welcome,
    decode_header,
    decode_payload,
    encode,
)
from propius.peering import BEAT_NS

DAEMON: Final = "client_manager-0"
PEERS: Final = ("load_balancer", "scheduler", "job_manager")
SESSION: Final = 1  # of each peer
GROUPS: Final = 10
ROUNDS_PER_GROUP: Final = 10
WAIT_S: Final = 20.0
ECHO: Final = """
import sys, zmq
with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
    socket.set_hwm(0)
    socket.linger = 0
    socket.connect(sys.argv[1])
    socket.send(b"here")
    while socket.poll():
        try:
            while True:
                socket.send_multipart(socket.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            pass
"""
Frames = tuple[bytes, bytes]


@pytest.fixture(autouse=True)
def _release_build() -> None:
    """A figure of a debug build would be read as one of the manager."""
    if engine.build_profile != "release":
        pytest.fail("propius._core is a debug build: run `make setup`")


class Peers:
    """The load balancer, scheduler and job manager of one client manager, in one loop."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.sockets = {name: bound(context) for name in PEERS}
        self.poller = zmq.Poller()
        self.names: dict[Any, str] = {}
        for name, socket in self.sockets.items():
            self.poller.register(socket, zmq.POLLIN)
            self.names[socket] = name
        self.manager: dict[str, bytes] = {}  # its routing id on each link
        self.spoke_ns = 0
        self.delivered: list[tuple[int, bytes, bytes]] = []

    def port(self, name: str) -> int:
        return int(endpoint(self.sockets[name]).rpartition(":")[2])

    def say(self, name: str, message: Message) -> None:
        self.send(name, frames_of(name, message))

    def send(self, name: str, frames: Frames) -> None:
        self.sockets[name].send_multipart([self.manager[name], *frames])

    def turn(self, wait_ms: int = 100) -> None:
        """Wait a little for the manager, hear all that it says, and beat when it is time."""
        for socket, _ in self.poller.poll(wait_ms):
            for frames in drained(socket):
                self._heard(self.names[socket], frames)
        if time.monotonic_ns() >= self.spoke_ns + BEAT_NS:
            self.spoke_ns = time.monotonic_ns()
            for name in self.manager:
                self.say(name, Beat())

    def _heard(self, name: str, frames: list[bytes]) -> None:
        routing_id, header, payload = frames
        kind = decode_header(header).kind
        if kind == Hello.kind:
            self.manager[name] = routing_id
            self.say(name, Welcome(incarnation=SESSION))
        elif kind == Deliver.kind:
            message = decode_payload(kind, payload, bytes_max=INSIDE_PAYLOAD_BYTES_MAX)
            assert isinstance(message, Deliver)
            self.delivered += message.items

    def close(self) -> None:
        for socket in self.sockets.values():
            socket.close(0)


class Manager:
    """A client manager process that has a plan, and whose peers are here."""

    def __init__(self, peers: Peers, config: Config) -> None:
        self.peers = peers
        self.schema = config.schema_message
        self.plan = self._plan()
        self.devices = itertools.count()

    def become_ready(self, process: subprocess.Popen[bytes], state: Path) -> None:
        """Welcome it, send the plan, and wait until the manager itself says that it is ready."""
        deadline_s = time.monotonic() + WAIT_S
        planned = False
        while status(state, DAEMON).state != "ready":
            assert process.poll() is None, "the client manager ended; its log is above"
            assert time.monotonic() < deadline_s, status(state, DAEMON).why
            self.peers.turn()
            if not planned and "scheduler" in self.peers.manager:
                self.peers.say("scheduler", self.plan)
                planned = True

    def check_ins(self, count: int) -> list[tuple[int, bytes, bytes]]:
        """Requests of devices that were never here, of 144 kinds; the device is the tag."""
        return [(tag, *self._check_in(tag)) for tag in itertools.islice(self.devices, count)]

    def exchange(self, batch: Frames, count: int) -> float:
        """Forward a batch; the seconds until as many answers were delivered."""
        peers = self.peers
        peers.turn(0)  # a beat that is due now would be timed otherwise
        peers.delivered.clear()
        start_s = time.perf_counter()
        peers.send("load_balancer", batch)
        while len(peers.delivered) < count:
            peers.turn()
            assert time.perf_counter() < start_s + WAIT_S, f"{len(peers.delivered)} of {count}"
        return time.perf_counter() - start_s

    def assert_offers(self, requests: list[tuple[int, bytes, bytes]]) -> None:
        """Each request was answered once, to its device, with an offer of something."""
        answers = {tag: (header, payload) for tag, header, payload in self.peers.delivered}
        assert len(answers) == len(self.peers.delivered) == len(requests)
        for tag, _, _ in requests:
            header, payload = answers[tag]
            offer = decode_payload(decode_header(header).kind, payload)
            assert isinstance(offer, Offer), offer
            assert offer.tasks, "an empty offer"

    def _check_in(self, number: int) -> Frames:
        levels = (number % 12 / 11, number // 12 % 12 / 11)
        spec = [most * levels[place % 2] for place, (_, most) in enumerate(self.schema.attributes)]
        message = CheckIn(schema=self.schema.schema, spec=spec, option=1.0)
        return encode(
            Header(kind=message.kind, sender=f"{number:032x}", session=1, request=1), message
        )

    def _plan(self) -> Plan:
        """Requirements from nothing at all up to nearly everything, and room for every device."""
        jobs = itertools.count(1)
        groups = [
            PlannedGroup(
                group,
                [most * group / GROUPS for _, most in self.schema.attributes],
                [PlannedRound(job, 0, job, 2**32 - 1, {}) for job in taken(jobs)],
            )
            for group in range(GROUPS)
        ]
        return Plan(version=1, seq=0, ranked=True, groups=groups, preferences=[], fallback=[0])


class Echo:
    """A process that sends back what it gets."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.socket = socket
        assert socket.poll(int(WAIT_S * 1000)), "the echo process does not start"
        self.address, _ = socket.recv_multipart()

    def exchange(self, messages: list[Frames]) -> float:
        """Send all; the seconds until all are back."""
        start_s = time.perf_counter()
        for frames in messages:
            self.socket.send_multipart([self.address, *frames])
        back = 0
        while back < len(messages):
            assert self.socket.poll(int(WAIT_S * 1000)), f"{back} of {len(messages)} came back"
            back += sum(1 for _ in drained(self.socket))
        return time.perf_counter() - start_s


def taken(jobs: Iterator[int]) -> list[int]:
    return list(itertools.islice(jobs, ROUNDS_PER_GROUP))


def bound(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.ROUTER)
    socket.set_hwm(0)
    socket.bind("tcp://127.0.0.1:*")
    return socket


def endpoint(socket: zmq.Socket[bytes]) -> str:
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)


def drained(socket: zmq.Socket[bytes]) -> Iterator[list[bytes]]:
    """The messages that are there."""
    while True:
        try:
            yield socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return


def frames_of(name: str, message: Message) -> Frames:
    return encode(Header(kind=message.kind, sender=name, session=SESSION, request=0), message)


@pytest.fixture(scope="module")
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    """All sockets of this file."""
    with zmq.Context() as context:
        yield context


@pytest.fixture(scope="module")
def manager(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Manager]:
    """A ready client manager, started by its console script with the packaged limits."""
    folder = tmp_path_factory.mktemp("check_in")
    peers = Peers(context)
    values = {
        "state_dir": str(folder / "state"),
        "log": {"level": "warning"},
        "load_balancer": {"inside_port": peers.port("load_balancer")},
        "scheduler": {"port": peers.port("scheduler")},
        "job_manager": {"inside_port": peers.port("job_manager")},
        "client_manager": {"admin_port_base": 0},
    }
    file = folder / "config.yml"
    file.write_text(config_yaml(values))
    script = Path(sys.executable).with_name("propius-controller-client-manager")
    with subprocess.Popen([str(script), "0", "--config", str(file)]) as process:
        try:
            manager = Manager(peers, load_config(file))
            manager.become_ready(process, folder / "state")
            yield manager
            assert process.poll() is None
        finally:
            process.kill()
            peers.close()


@pytest.fixture(scope="module")
def echo(context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Echo]:
    """An echo process that is connected."""
    socket = bound(context)
    with subprocess.Popen([sys.executable, "-c", ECHO, endpoint(socket)]) as process:
        try:
            yield Echo(socket)
        finally:
            process.kill()
            socket.close(0)


@pytest.mark.parametrize("batch, rounds", [(1, 1000), (100, 100), (1000, 20)])
def test_check_in_through_a_manager(
    benchmark: Any,
    capsys: pytest.CaptureFixture[str],
    manager: Manager,
    echo: Echo,
    batch: int,
    rounds: int,
) -> None:
    """Every check-in of a batch gets a non-empty offer, and an echo tells what of it is ZeroMQ."""
    times_s: dict[str, list[float]] = {"offer": [], "echo": [], "echo one by one": []}
    requests: list[tuple[int, bytes, bytes]] = []

    def next_batch() -> tuple[tuple[Frames], dict[str, Any]]:
        requests[:] = manager.check_ins(batch)
        frames = frames_of("load_balancer", Forward(items=requests))
        times_s["echo"].append(echo.exchange([frames]))
        singly = [(header, payload) for _, header, payload in requests]
        times_s["echo one by one"].append(echo.exchange(singly))
        return (frames,), {}

    def check_in(frames: Frames) -> None:
        times_s["offer"].append(manager.exchange(frames, batch))

    def assert_offers(frames: Frames) -> None:
        manager.assert_offers(requests)

    benchmark.pedantic(check_in, setup=next_batch, teardown=assert_offers, rounds=rounds)
    us = {what: statistics.median(times) / batch * 1e6 for what, times in times_s.items()}
    benchmark.extra_info.update({f"{what}, us per check-in": time for what, time in us.items()})
    with capsys.disabled():
        print(
            f"\ncheck-in to offer, {batch} at once: median {us['offer']:.1f} us each;"
            f" the same frames echoed {us['echo']:.1f} us (ratio {us['offer'] / us['echo']:.1f}),"
            f" echoed one by one {us['echo one by one']:.1f} us"
            f" (ratio {us['offer'] / us['echo one by one']:.1f})"
        )
