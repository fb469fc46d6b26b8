"""The loop with a toy core on real sockets: batches, timers, commits, drain, hostile peers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import zmq

from propius.core import SECOND_NS, Change, Commit, Core, Frames, Link, Put
from propius.messages import CheckedIn, Header, LogOpened, Ok, encode
from propius.shell import runtime
from propius.shell.event_log import EventLogWriter, read_events
from propius.shell.health import Health, Metrics
from propius.shell.runtime import Surroundings, open_writer, run
from propius.shell.socket import Binding
from propius.shell.wake import Shutdown, Wake
from propius.shell.writer import Store

DEVICE = "ab" * 16


class Toy(Core):
    """Echoes: at once, or after a commit if ``durable``; ticks every ``tick_ns`` if set."""

    links = (Link("door", "bind", outside=True),)

    def __init__(self, *, durable: bool = False, tick_ns: int = 0) -> None:
        super().__init__("toy", 1)
        self.durable = durable
        self.tick_ns = tick_ns
        self.ticks = 0
        self.commits = 0
        self.staged: dict[int, list[tuple[bytes, Header]]] = {}
        self.batch: list[tuple[bytes, Header]] = []
        self.batches: list[int] = []
        self.failures: list[str] = []
        self.lost: list[Frames] = []
        self.held = False  # while it is, the core is not drained
        self.draining = threading.Event()
        self.ready = True

    def on_message(
        self, now_ns: int, link: str, peer: bytes, header: Header, frames: Frames
    ) -> None:
        self.batch.append((peer, header))
        event = CheckedIn(device_id=DEVICE, spec=[], option=0.0, hold_s=0.0)
        self.record(now_ns, event)

    def flush(self, now_ns: int) -> None:
        batch, self.batch = self.batch, []
        if not batch:
            return
        self.batches.append(len(batch))
        if not self.durable:
            self.answer(batch)
            return
        self.commits += 1
        self.staged[self.commits] = batch
        self.emit(Commit(self.commits, (Put("t", str(self.commits), b""),)))

    def committed(self, now_ns: int, number: int) -> None:
        for each in sorted(n for n in self.staged if n <= number):
            self.answer(self.staged.pop(each))

    def commit_failed(self, now_ns: int, number: int, reason: str) -> None:
        self.failures.append(reason)

    def answer(self, batch: list[tuple[bytes, Header]]) -> None:
        for peer, header in batch:
            self.reply("door", peer, header, Ok())

    def undeliverable(self, now_ns: int, link: str, peer: bytes, frames: Frames) -> None:
        self.lost.append(frames)

    def due_ns(self) -> int | None:
        return (self.ticks + 1) * self.tick_ns if self.tick_ns else None

    def tick(self, now_ns: int) -> None:
        self.ticks = now_ns // self.tick_ns

    def drain(self, now_ns: int) -> None:
        self.draining.set()

    def drained(self) -> bool:
        return not self.held and not self.staged

    def not_ready(self) -> str:
        return "" if self.ready else "no peer"

    def gauges(self) -> dict[str, float]:
        return {"toys": 1.0}


class ListStore:
    """A store that fails while ``error`` is set."""

    def __init__(self) -> None:
        self.error = ""
        self.changes: list[Change] = []

    def commit(self, changes: Sequence[Change]) -> None:
        if self.error:
            raise OSError(self.error)
        self.changes += changes


@dataclass
class Running:
    """A loop in a thread, and a way to talk to it."""

    core: Toy
    around: Surroundings
    endpoint: str
    code: Future[int]
    context: zmq.Context[zmq.Socket[bytes]] = field(default_factory=zmq.Context)
    peers: list[zmq.Socket[bytes]] = field(default_factory=list)

    def peer(self) -> zmq.Socket[bytes]:
        """A new connection to the door."""
        socket = self.context.socket(zmq.DEALER)
        socket.linger = 0
        socket.rcvtimeo = 10_000
        socket.connect(self.endpoint)
        self.peers.append(socket)
        return socket

    def ask(self, peer: zmq.Socket[bytes], request: int = 1) -> bytes:
        """Send a right message and wait for the answer's header."""
        peer.send_multipart(encode(header(request), Ok()))
        return peer.recv_multipart()[0]


def header(request: int) -> Header:
    """A request's header."""
    return Header(kind="ok", sender=DEVICE, session=1, request=request)


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """Starts loops; all are stopped at the end."""
    running: list[Running] = []
    wakes: list[Wake] = []
    with ThreadPoolExecutor() as pool:

        def begin(core: Toy, store: Store | None = None, **others: Any) -> Running:
            wake = Wake()
            wakes.append(wake)
            health = Health(core.name)
            metrics = Metrics(health)
            writer = open_writer(store, wake, metrics, (OSError,))
            if writer is not None:
                writer._retry_s = 0.001
            around = Surroundings(wake, Shutdown(wake), health, metrics, writer, **others)
            opened: Future[str] = Future()
            binding = Binding(Toy.links[0], "tcp://127.0.0.1:0")

            def on_open(endpoints: dict[str, str]) -> None:
                opened.set_result(endpoints["door"])

            code = pool.submit(run, core, [binding], around, on_open=on_open)
            running.append(Running(core, around, opened.result(10), code))
            return running[-1]

        yield begin
        for each in running:
            each.around.shutdown.request()
            each.around.shutdown.request()
            each.code.result(10)
            if each.around.writer is not None:
                each.around.writer.stop(5)
            for peer in each.peers:
                peer.close()
            each.context.term()
    for wake in wakes:
        wake.close()


def until(condition: Callable[[], object]) -> None:
    """Wait for what another thread is about to do."""
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        threading.Event().wait(0.005)


def test_request_is_answered(start: Callable[..., Running]) -> None:
    """A message in, an answer out, over a real socket."""
    daemon = start(Toy())
    assert b"ok" in daemon.ask(daemon.peer())


def test_burst_is_handled_in_few_batches(start: Callable[..., Running]) -> None:
    """What has arrived together is flushed together, and every answer comes."""
    daemon = start(Toy())
    peer = daemon.peer()
    for number in range(500):
        peer.send_multipart(encode(header(number), Ok()))
    for _ in range(500):
        peer.recv_multipart()
    assert sum(daemon.core.batches) == 500
    assert len(daemon.core.batches) < 250


def test_timer_is_served_without_messages(start: Callable[..., Running]) -> None:
    """The core's timers fire on their own."""
    daemon = start(Toy(tick_ns=SECOND_NS // 100))
    first = daemon.core.ticks
    until(lambda: daemon.core.ticks > first + 2)


class Late(Toy):
    """A message sets a timer to a time long ago, as a scheduler that was idle for long does."""

    due: int | None = None

    def on_message(
        self, now_ns: int, link: str, peer: bytes, header: Header, frames: Frames
    ) -> None:
        super().on_message(now_ns, link, peer, header, frames)
        self.due = now_ns - 40 * SECOND_NS

    def due_ns(self) -> int | None:
        return self.due

    def tick(self, now_ns: int) -> None:
        self.due = None
        self.ticks += 1


def test_idle_time_is_no_lag(start: Callable[..., Running]) -> None:
    """A timer that was set just now, to long ago, was waited for by nobody."""
    daemon = start(Late())
    daemon.ask(daemon.peer())
    until(lambda: daemon.core.ticks)
    lag_s = daemon.around.metrics.lag_s
    assert lag_s._sum.get() < 1.0


def test_answer_waits_for_its_commit(start: Callable[..., Running]) -> None:
    """While the store fails nothing is answered; when it works again everything is."""
    store = ListStore()
    store.error = "disk full"
    daemon = start(Toy(durable=True), store)
    peer = daemon.peer()
    peer.send_multipart(encode(header(1), Ok()))
    until(lambda: daemon.core.failures)
    assert daemon.core.failures == ["OSError: disk full"]
    assert not peer.poll(20)
    store.error = ""
    assert peer.recv_multipart()
    assert store.changes == [Put("t", "1", b"")]


def test_strangers_wait_while_the_store_is_far_behind(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With too many commits outstanding, outside links are not read; later they are."""
    monkeypatch.setattr(runtime, "BACKLOG_MAX", 1)
    store = ListStore()
    store.error = "disk full"
    daemon = start(Toy(durable=True), store)
    peer = daemon.peer()
    peer.send_multipart(encode(header(1), Ok()))
    until(lambda: daemon.core.failures)
    peer.send_multipart(encode(header(2), Ok()))
    assert not peer.poll(50)
    assert daemon.core.commits == 1
    store.error = ""
    peer.recv_multipart()
    peer.recv_multipart()


def test_shutdown_drains_and_returns_ok(start: Callable[..., Running]) -> None:
    """Asked once, the loop goes on until the core has nothing outstanding."""
    core = Toy()
    core.held = True
    daemon = start(core)
    peer = daemon.peer()
    daemon.ask(peer)
    daemon.around.shutdown.request()
    assert core.draining.wait(10)
    daemon.ask(peer)  # still served
    assert daemon.around.health.not_ready == "stopping" or not daemon.code.done()
    core.held = False
    daemon.around.wake.set()
    assert daemon.code.result(10) == 0


def test_last_answers_reach_a_slow_reader(start: Callable[..., Running]) -> None:
    """What was answered just before the end is delivered, not thrown away with the socket."""
    daemon = start(Toy())
    peer = daemon.peer()
    daemon.ask(peer)
    for number in range(200):
        peer.send_multipart(encode(header(number), Ok()))
    until(lambda: sum(daemon.core.batches) == 201)
    daemon.around.shutdown.request()
    assert daemon.code.result(10) == 0
    for _ in range(200):
        peer.recv_multipart()


def test_second_request_stops_at_once(start: Callable[..., Running]) -> None:
    """A core that never drains does not hold up the second signal."""
    core = Toy()
    core.held = True
    daemon = start(core)
    daemon.around.shutdown.request()
    assert core.draining.wait(10)
    daemon.around.shutdown.request()
    assert daemon.code.result(10) == 0


def test_drain_has_a_time_limit(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A core that never drains is stopped in the end."""
    monkeypatch.setattr(runtime, "DRAIN_NS", SECOND_NS // 10)
    core = Toy()
    core.held = True
    daemon = start(core)
    daemon.around.shutdown.request()
    assert daemon.code.result(10) == 0


def test_hostile_messages_do_not_disturb_an_honest_peer(start: Callable[..., Running]) -> None:
    """One frame, three, hundreds, garbage: counted; the honest request is answered."""
    daemon = start(Toy())
    evil, honest = daemon.peer(), daemon.peer()
    for frames in ([b""], [b"x"] * 3, [b"x"] * 500, [b"\xc1" * 200, b""], [b"", b""]):
        evil.send_multipart(frames)
    assert b"ok" in daemon.ask(honest)
    until(lambda: "refused_headers" in daemon.core.counters)
    until(lambda: daemon.around.health.links["door"].endless_messages == 1)
    assert daemon.core.counters["refused_frames"] == 2


def test_answer_to_a_departed_peer_comes_back_to_the_core(start: Callable[..., Running]) -> None:
    """The core hears of what could not be delivered."""
    core = Toy(durable=True)
    store = ListStore()
    store.error = "wait"
    daemon = start(core, store)
    peer = daemon.peer()
    peer.send_multipart(encode(header(1), Ok()))
    until(lambda: core.failures)
    peer.close()
    until(lambda: daemon.around.health.links["door"].disconnected == 1)
    store.error = ""
    until(lambda: core.lost)


def test_events_are_logged_once_a_turn(start: Callable[..., Running], tmp_path: Path) -> None:
    """Recorded events are in the file before the loop waits again."""
    opened = LogOpened(
        daemon="toy", incarnation=1, package_version="1", schema="s", attributes=[], wall_s=0.0
    )
    daemon = start(Toy(), event_log=EventLogWriter(tmp_path, lambda _: opened, pytest.fail))
    daemon.ask(daemon.peer())
    until(lambda: len([*read_events(tmp_path)]) == 2)


def test_readiness_and_levels_are_published(start: Callable[..., Running]) -> None:
    """What the core says of itself is seen outside within a moment, also when it changes."""
    core = Toy(tick_ns=SECOND_NS // 50)
    daemon = start(core)
    until(lambda: daemon.around.health.not_ready == "")
    core.ready = False
    until(lambda: daemon.around.health.not_ready == "no peer")
    assert daemon.around.health.gauges == {"toys": 1.0}


def test_commit_without_a_store_is_a_bug(start: Callable[..., Running]) -> None:
    """A core that commits must be given a store; the loop does not swallow it."""
    daemon = start(Toy(durable=True))
    daemon.peer().send_multipart(encode(header(1), Ok()))
    with pytest.raises(RuntimeError, match="given no store"):
        daemon.code.result(10)
    daemon.code = Future()
    daemon.code.set_result(0)


def test_links_and_bindings_must_agree() -> None:
    """A link without an address is refused before anything is opened."""
    wake = Wake()
    health = Health("toy")
    around = Surroundings(wake, Shutdown(wake), health, Metrics(health))
    with pytest.raises(ValueError, match="door"):
        run(Toy(), [], around)
    wake.close()
