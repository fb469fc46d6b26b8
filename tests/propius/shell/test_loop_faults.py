"""The loop on fake sockets: short drains, EAGAIN within a batch, deaf peers, reconnects, SIGTERM.

Time is virtual: the clock moves when it is looked at, and by the whole of a wait in vain.
"""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
import zmq

from propius.core import SECOND_NS, Change, Frames, Link
from propius.messages import Header, Ok, decode_header, encode
from propius.shell import runtime
from propius.shell import socket as shell_socket
from propius.shell.health import Health, Metrics
from propius.shell.runtime import DRAIN_NS, LAST_WORDS_NS, Loop, Surroundings, open_writer
from propius.shell.socket import LinkSocket
from propius.shell.wake import Shutdown, Wake
from tests.propius.shell.test_runtime import DEVICE, Toy
from tests.propius.shell.test_socket import FakeSocket

DOOR = Link("door", "bind", outside=True)
LOOK_NS = SECOND_NS // 1_000  # what a look at the clock takes
LOOKS_MAX = 20_000


class Door(FakeSocket):
    """A fake socket whose answers are kept as (peer, request)."""

    def __init__(self) -> None:
        super().__init__()
        self.answered: list[tuple[bytes, int]] = []
        self.full_after: dict[bytes, int] = {}  # a peer takes so many more messages
        self._peer = b""

    def ask(self, peer: bytes, request: int) -> None:
        """A message is there."""
        header = Header(kind="ok", sender=DEVICE, session=1, request=request)
        self.push([peer, *encode(header, Ok())])

    def send(self, data: bytes, flags: int) -> None:
        if flags & zmq.SNDMORE and not self._peer:  # the routing id
            if self.full_after.get(data, 1) <= 0:
                raise zmq.Again
            super().send(data, flags)
            self._peer = data
        elif flags & zmq.SNDMORE:
            self.answered.append((self._peer, decode_header(data).request))
        else:
            if self._peer in self.full_after:
                self.full_after[self._peer] -= 1
            self._peer = b""


class FakePoller:
    """The door is readable while it has frames; a wait in vain is virtual time."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.interest: dict[object, int] = {}

    def register(self, thing: object, flags: int) -> None:
        """What is worth waking up for."""
        self.interest[thing] = flags

    def poll(self, wait_ms: int) -> list[tuple[object, int]]:
        """What is readable now."""
        door = self.stage.door
        if door.frames and self.interest[door] & zmq.POLLIN:
            return [(door, zmq.POLLIN)]
        self.stage.waited()
        wake = self.stage.wake.fileno()
        if select.select([wake], [], [], 0)[0]:
            return [(wake, zmq.POLLIN)]
        self.stage.now_ns += wait_ms * SECOND_NS // 1_000
        return []


class GatedStore:
    """A store whose commits wait for ``go``, and fail while ``error`` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.entered = threading.Event()
        self.done = threading.Event()
        self.error = ""
        self.commits = 0

    def commit(self, changes: Sequence[Change]) -> None:
        self.entered.set()
        assert self.go.wait(10)
        if self.error:
            raise OSError(self.error)
        self.commits += 1
        self.done.set()


class Stage:
    """A loop over a toy core and a fake door; ``waited`` is called when nothing is there."""

    def __init__(self, core: Toy, store: GatedStore | None = None) -> None:
        self.core, self.door, self.store = core, Door(), store
        self.wake = Wake()
        self.shutdown = Shutdown(self.wake)
        self.now_ns = SECOND_NS
        self.looks = 0
        self.waited: Callable[[], object] = lambda: None
        health = Health(core.name)
        metrics = Metrics(health)
        self.writer = open_writer(store, self.wake, metrics, (OSError,))
        if self.writer is not None:
            self.writer._retry_s = 0.001
        self.around = Surroundings(
            self.wake, self.shutdown, health, metrics, self.writer, clock=self.clock
        )
        self.link = LinkSocket(DOOR, self.door)
        self.loop = Loop(core, {"door": self.link}, self.around)
        self.loop._poller = FakePoller(self)  # type: ignore[assignment]

    def clock(self) -> int:
        """Virtual time."""
        self.looks += 1
        assert self.looks < LOOKS_MAX, "the loop does not end"
        self.now_ns += LOOK_NS
        return self.now_ns

    def turn(self, times: int = 1) -> None:
        """Let the loop turn."""
        for _ in range(times):
            self.loop._turn()

    def until(self, condition: Callable[[], object]) -> None:
        """Let the loop turn until something is so."""
        while not condition():
            self.turn()

    def close(self) -> None:
        """End the writer, close the descriptors."""
        if self.writer is not None and self.store is not None:
            self.store.go.set()
            self.writer.stop(5)
        self.wake.close()


@pytest.fixture
def stage() -> Iterator[Callable[..., Stage]]:
    """Makes stages; all are closed at the end."""
    made: list[Stage] = []

    def make(core: Toy | None = None, store: GatedStore | None = None) -> Stage:
        made.append(Stage(core or Toy(), store))
        return made[-1]

    yield make
    for each in made:
        each.close()


# --- reading and writing --------------------------------------------------------------------------


def test_a_short_drain_is_gone_on_with(
    stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one turn's share leaves is taken by the next turns, in order, and nothing twice."""
    monkeypatch.setattr(shell_socket, "MESSAGES_PER_DRAIN_MAX", 3)
    daemon = stage()
    for number in range(8):
        daemon.door.ask(b"a", number)
    daemon.turn(3)
    assert daemon.core.batches == [3, 3, 2]
    assert daemon.door.answered == [(b"a", number) for number in range(8)]


def test_eagain_in_the_middle_of_a_batch_of_answers(stage: Callable[..., Stage]) -> None:
    """One peer takes no more after its first answer: the others do; it gets its rest in order."""
    daemon = stage()
    daemon.door.full_after = {b"slow": 1}
    for number in range(3):
        daemon.door.ask(b"slow", number)
        daemon.door.ask(b"fast", number)
    daemon.turn()
    assert daemon.door.answered == [(b"slow", 0), (b"fast", 0), (b"fast", 1), (b"fast", 2)]
    daemon.door.full_after = {}
    daemon.until(lambda: len(daemon.door.answered) == 6)
    assert daemon.door.answered[4:] == [(b"slow", 1), (b"slow", 2)]
    assert not daemon.core.lost


def test_a_peer_that_never_reads(stage: Callable[..., Stage]) -> None:
    """What it does not take is bounded and given up in time; others are served all the while."""
    daemon = stage()
    daemon.door.full = {b"deaf"}
    most = daemon.link.limits.messages_per_peer
    for number in range(most + 10):
        daemon.door.ask(b"deaf", number)
    daemon.until(lambda: len(daemon.core.lost) == 10)
    assert daemon.link.queued_messages == most
    daemon.door.ask(b"fast", 1)
    daemon.turn()
    assert daemon.door.answered == [(b"fast", 1)]
    daemon.now_ns += daemon.link.limits.age_ns
    daemon.until(lambda: len(daemon.core.lost) == most + 10)
    assert (daemon.link.queued_messages, daemon.link.queued_bytes) == (0, 0)


def test_a_peer_that_reconnects(stage: Callable[..., Stage]) -> None:
    """While it is away its answers come back to the core at once; afterwards it is served again."""
    daemon = stage()
    daemon.door.gone = {b"a"}
    daemon.door.ask(b"a", 1)
    daemon.turn()
    assert [decode_header(frames[0]).request for frames in daemon.core.lost] == [1]
    daemon.door.gone = set()
    daemon.door.ask(b"a", 2)
    daemon.turn()
    assert daemon.door.answered == [(b"a", 2)]
    assert len(daemon.core.lost) == 1


def test_a_peer_that_is_told_more_whenever_it_is_lost(stage: Callable[..., Stage]) -> None:
    """A core that answers a lost message with another one cannot hold up the loop."""

    class Insistent(Toy):
        def undeliverable(self, now_ns: int, link: str, peer: bytes, frames: Frames) -> None:
            super().undeliverable(now_ns, link, peer, frames)
            self.reply(link, peer, decode_header(frames[0]), Ok())

    daemon = stage(Insistent())
    daemon.door.gone = {b"a"}
    daemon.door.ask(b"a", 1)
    daemon.turn()
    assert len(daemon.core.lost) == runtime.EFFECT_PASSES_MAX


# --- SIGTERM, in each phase -----------------------------------------------------------------------


def test_sigterm_before_the_first_turn(stage: Callable[..., Stage]) -> None:
    """What came while the daemon started is answered, and it ends."""
    daemon = stage()
    daemon.door.ask(b"a", 1)
    daemon.shutdown.request()
    assert daemon.loop.run() == 0
    assert daemon.door.answered == [(b"a", 1)]
    assert daemon.core.draining.is_set()


def test_sigterm_between_batches(stage: Callable[..., Stage]) -> None:
    """A daemon with nothing to do ends within a turn."""
    daemon = stage()
    daemon.door.ask(b"a", 1)
    daemon.turn(3)
    daemon.shutdown.request()
    looks = daemon.looks
    assert daemon.loop.run() == 0
    assert daemon.looks - looks < 20
    assert daemon.door.answered == [(b"a", 1)]


def test_sigterm_during_a_commit(stage: Callable[..., Stage]) -> None:
    """It is waited for: what was asked before the signal is durable and answered."""
    store = GatedStore()
    daemon = stage(Toy(durable=True), store)
    daemon.door.ask(b"a", 1)
    daemon.turn()
    assert store.entered.wait(10)
    daemon.shutdown.request()
    daemon.turn(5)
    assert daemon.core.draining.is_set()
    assert daemon.door.answered == []
    store.go.set()
    daemon.waited = lambda: store.done.wait(10)
    assert daemon.loop.run() == 0
    assert daemon.door.answered == [(b"a", 1)]
    assert store.commits == 1


def test_sigterm_during_a_commit_that_nobody_is_to_be_told_of(
    stage: Callable[..., Stage],
) -> None:
    """The writer's backlog is waited for, also when the core has promised nothing by it."""

    class Careless(Toy):
        def drained(self) -> bool:
            return True

    store = GatedStore()
    daemon = stage(Careless(durable=True), store)
    daemon.door.ask(b"a", 1)
    daemon.turn()
    assert store.entered.wait(10)
    daemon.shutdown.request()
    daemon.turn(5)
    store.go.set()
    daemon.waited = lambda: store.done.wait(10)
    assert daemon.loop.run() == 0
    assert store.commits == 1
    assert daemon.door.answered == [(b"a", 1)]


def test_sigterm_while_commits_fail(stage: Callable[..., Stage]) -> None:
    """The drain ends in time; what is not durable was not answered."""
    store = GatedStore()
    store.error = "disk full"
    store.go.set()
    daemon = stage(Toy(durable=True), store)
    daemon.door.ask(b"a", 1)
    daemon.waited = lambda: store.entered.wait(10)
    daemon.until(lambda: daemon.core.failures)
    daemon.shutdown.request()
    began_ns = daemon.now_ns
    assert daemon.loop.run() == 0
    assert DRAIN_NS <= daemon.now_ns - began_ns < DRAIN_NS + SECOND_NS // 10
    assert daemon.door.answered == []


def test_second_sigterm_during_a_commit(stage: Callable[..., Stage]) -> None:
    """The second one does not wait for anything."""
    store = GatedStore()
    daemon = stage(Toy(durable=True), store)
    daemon.door.ask(b"a", 1)
    daemon.turn()
    daemon.shutdown.request()
    daemon.turn(2)
    daemon.shutdown.request()
    looks = daemon.looks
    assert daemon.loop.run() == 0
    assert daemon.looks - looks < 10
    assert daemon.door.answered == []


def test_sigterm_while_draining(stage: Callable[..., Stage]) -> None:
    """What arrives in the drain is still handed to the core, and drained is said once."""

    class Counting(Toy):
        drains = 0

        def drain(self, now_ns: int) -> None:
            self.drains += 1

    core = Counting()
    core.held = True
    daemon = stage(core)
    daemon.shutdown.request()
    daemon.turn()
    daemon.door.ask(b"a", 1)
    daemon.turn(3)
    assert daemon.door.answered == [(b"a", 1)]
    core.held = False
    assert daemon.loop.run() == 0
    assert core.drains == 1
    assert daemon.around.health.not_ready == "stopping"


def test_a_deaf_peer_does_not_hold_up_the_end(stage: Callable[..., Stage]) -> None:
    """Last words that nobody takes are waited for, but not for the whole drain."""
    daemon = stage()
    daemon.door.full = {b"deaf"}
    daemon.door.ask(b"deaf", 1)
    daemon.turn()
    daemon.shutdown.request()
    began_ns = daemon.now_ns
    assert daemon.loop.run() == 0
    assert LAST_WORDS_NS <= daemon.now_ns - began_ns < LAST_WORDS_NS + SECOND_NS // 10
