"""Check-in → offer through a real client manager process, beside a bare echo of the same bytes.

The benchmark plays the manager's three peers: it welcomes it, gives it one plan, and then, as its
load balancer, forwards batches of check-ins of ever new devices and counts the offers.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from pytest_benchmark.fixture import BenchmarkFixture

from propius.cli.cluster import free_ports
from propius.config import config_yaml, load_config
from propius.messages import (
    INSIDE_PAYLOAD_BYTES_MAX,
    Beat,
    CheckIn,
    Deliver,
    Forward,
    Header,
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

BATCH = 500  # check-ins in one forwarded batch
ROUNDS = 20
OPEN_ROUNDS = 10
WAIT_MS = 10_000
ECHO = """
import sys, zmq
dealer = zmq.Context().socket(zmq.DEALER)
dealer.connect(sys.argv[1])
dealer.send(b"here")
while True:
    dealer.send_multipart(dealer.recv_multipart())
"""


class Peers:
    """The three daemons that a client manager talks to, played by the benchmark."""

    def __init__(self, folder: Path) -> None:
        self.context = zmq.Context()
        ports = free_ports(3)
        names = ("load_balancer", "scheduler", "job_manager")
        self.sockets = {name: self.context.socket(zmq.ROUTER) for name in names}
        for (name, socket), port in zip(self.sockets.items(), ports, strict=True):
            socket.bind(f"tcp://127.0.0.1:{port}")
            self.sockets[name] = socket
        values = {
            "state_dir": str(folder),
            "load_balancer": {"inside_port": ports[0]},
            "scheduler": {"port": ports[1]},
            "job_manager": {"inside_port": ports[2]},
            "client_manager": {"admin_port_base": 0},
        }
        path = folder / "config.yml"
        path.write_text(config_yaml(values))
        self.schema = load_config(str(path)).schema_message
        program = Path(sys.executable).with_name("propius-controller-client-manager")
        command = [str(program), "0", "--config", str(path)]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self.addresses: dict[str, bytes] = {}
        self.devices = 0

    def greet(self) -> None:
        """Welcome the manager on every link, and give it the plan."""
        for name, socket in self.sockets.items():
            assert socket.poll(WAIT_MS), f"the manager does not say hello to its {name}"
            self.addresses[name] = socket.recv_multipart()[0]
            self.say(name, Welcome(incarnation=1))
        rounds = [PlannedRound(job, 0, job, 1_000_000, {}) for job in range(1, OPEN_ROUNDS + 1)]
        group = PlannedGroup(1, [0.0] * len(self.schema.attributes), rounds)
        plan = Plan(version=1, seq=1, ranked=True, groups=[group], preferences=[], fallback=[1])
        self.say("scheduler", plan)

    def say(self, name: str, message: Message) -> None:
        """Send as that daemon."""
        header = Header(kind=message.kind, sender=name, session=1, request=0)
        self.sockets[name].send_multipart([self.addresses[name], *encode(header, message)])

    def batch(self) -> Forward:
        """Check-ins of devices that were never seen; the peers beat, too."""
        for name in self.sockets:
            self.say(name, Beat())
        check_in = CheckIn(
            schema=self.schema.schema,
            spec=[1.0] * len(self.schema.attributes),
            option=1.0,
            wait_s=30.0,
        )
        items = []
        for _ in range(BATCH):
            self.devices += 1
            header = Header(kind="check_in", sender=f"{self.devices:032x}", session=1, request=1)
            items.append((self.devices, *encode(header, check_in)))
        return Forward(items=items)

    def offers(self) -> list[Offer]:
        """The next batch of answers."""
        socket = self.sockets["load_balancer"]
        answers: list[Offer] = []
        while len(answers) < BATCH:
            assert socket.poll(WAIT_MS), "no answer"
            _, head, body = socket.recv_multipart()
            if decode_header(head).kind != Deliver.kind:
                continue
            delivered = decode_payload(Deliver.kind, body, bytes_max=INSIDE_PAYLOAD_BYTES_MAX)
            assert isinstance(delivered, Deliver)
            for _, _, answer in delivered.items:
                offer = decode_payload(Offer.kind, answer)
                assert isinstance(offer, Offer)
                answers.append(offer)
        return answers

    def close(self) -> None:
        """End the manager and the sockets."""
        self.process.terminate()
        self.process.wait(WAIT_MS / 1000)
        self.context.destroy(linger=0)


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[Peers]:
    """A client manager that has its plan."""
    played = Peers(tmp_path)
    try:
        played.greet()
        yield played
    finally:
        played.close()


@pytest.mark.bench
@pytest.mark.benchmark(group=f"{BATCH} check-ins through another process")
def test_check_in_to_offer_through_a_client_manager(
    benchmark: BenchmarkFixture, peers: Peers
) -> None:
    """Every device of every batch is offered all open rounds."""

    def cycle(batch: Forward) -> list[Offer]:
        peers.say("load_balancer", batch)
        return peers.offers()

    def fresh() -> tuple[tuple[Forward], dict[str, object]]:
        return (peers.batch(),), {}

    offers = benchmark.pedantic(cycle, setup=fresh, rounds=ROUNDS, warmup_rounds=2)  # type: ignore[no-untyped-call]
    assert len(offers) == BATCH
    assert all(len(offer.tasks) == OPEN_ROUNDS for offer in offers)


@pytest.mark.bench
@pytest.mark.benchmark(group=f"{BATCH} check-ins through another process")
def test_bare_echo_of_as_many_messages(benchmark: BenchmarkFixture) -> None:
    """The floor: as many two-frame messages to a pyzmq process and back, nothing decided."""
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.RCVHWM, 0)
    router.setsockopt(zmq.SNDHWM, 0)
    endpoint = f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}"
    process = subprocess.Popen([sys.executable, "-c", ECHO, endpoint])
    try:
        assert router.poll(WAIT_MS)
        address, _ = router.recv_multipart()
        frames = [b"h" * 60, b"p" * 70]

        def cycle() -> int:
            for _ in range(BATCH):
                router.send_multipart([address, *frames])
            return sum(router.recv_multipart()[1:] == frames for _ in range(BATCH))

        assert benchmark.pedantic(cycle, rounds=ROUNDS, warmup_rounds=2) == BATCH  # type: ignore[no-untyped-call]
    finally:
        process.terminate()
        process.wait(WAIT_MS / 1000)
        context.destroy(linger=0)
