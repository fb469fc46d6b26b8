"""The virtual network: connections with the semantics of ROUTER and DEALER over TCP.

* A dialler has at most one connection a link; the binding side knows it by a peer id which it
  made itself, and which is another one after every reconnect.
* Messages of one connection arrive in order and once, unless a fault says otherwise.
* While there is no connection, a dialler's messages wait (boundedly), as in a DEALER's queue.
* When a dialler dies, what it had sent may still arrive; when the binding side dies, all that was
  under way is lost. The binding side learns of a dead peer a little later; until then what it
  sends is lost silently, afterwards it is undeliverable.

Every frame that is sent is searched for the marker of private specs.

Not here: which faults strike (:mod:`tests.simulation.faults`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from tests.simulation.clock import MILLISECOND_NS, SECOND_NS, Clock
from tests.simulation.faults import Fault, Faults
from tests.simulation.trace import Trace

Frames = tuple[bytes, ...]
WAITING_MAX: Final = 100  # messages that a dialler without a connection keeps


class Process(Protocol):
    """Who sends and receives: a daemon, a device, a job server."""

    name: str

    def deliver(self, link: str, peer: bytes, frames: Frames) -> None:
        """A message arrived."""

    def connected(self, link: str) -> None:
        """A dialling link has a connection (again)."""


class Connection:
    """One TCP connection between a dialler's link and a binder's link."""

    __slots__ = (
        "arrival_ns", "bind_link", "binder", "broken_by", "dial_link", "dialler", "held", "lingers",
        "open", "peer",
    )  # fmt: skip

    def __init__(self, dial: Dial, peer: bytes) -> None:
        self.dialler, self.dial_link = dial.owner, dial.link
        self.binder, self.bind_link = dial.target, dial.target_link
        self.peer = peer
        self.open = True
        self.broken_by = Fault.CUT  # while not open
        self.lingers = False  # closed, but what the dialler had sent still arrives
        self.arrival_ns = [0, 0]  # of the last message to the dialler, to the binder
        self.held: list[tuple[bool, Frames]] = []  # waiting for the end of a partition


class Dial:
    """A dialling link: where it leads, and its present connection."""

    __slots__ = ("connection", "link", "owner", "target", "target_link", "waiting")

    def __init__(self, owner: Process, link: str, target: Process, target_link: str) -> None:
        self.owner, self.link = owner, link
        self.target, self.target_link = target, target_link
        self.connection: Connection | None = None
        self.waiting: deque[Frames] = deque(maxlen=WAITING_MAX)


class Network:
    """All links of a world."""

    def __init__(self, clock: Clock, faults: Faults, trace: Trace, markers: list[bytes]) -> None:
        self.clock, self.faults, self.trace = clock, faults, trace
        self.delivered = 0
        self.sent = 0
        self.leaked: Callable[[str, Frames], None] = lambda _sender, _frames: None
        self._markers = markers
        self._random = faults.random
        self._up: set[str] = set()
        self._dials: dict[tuple[str, str], Dial] = {}
        self._bound: dict[tuple[str, str], dict[bytes, Connection]] = {}
        self._partitions: dict[frozenset[str], bool] = {}  # pair -> cut (else stalled)
        self._peers = 0

    # --- processes come and go -----------------------------------------------------------------

    def bind(self, owner: Process, link: str) -> None:
        """This process listens on this link."""
        self._bound[owner.name, link] = {}

    def dial(self, owner: Process, link: str, target: Process, target_link: str) -> None:
        """This process connects there, now or as soon as both are up."""
        self._dials[owner.name, link] = Dial(owner, link, target, target_link)
        if owner.name in self._up:
            self._connect_soon(self._dials[owner.name, link])

    def forget(self, owner: Process) -> None:
        """This process will never come back."""
        self.down(owner)
        for key in [key for key in self._dials if key[0] == owner.name]:
            del self._dials[key]

    def up(self, owner: Process) -> None:
        """The process runs: its links connect, and others connect to it."""
        self._up.add(owner.name)
        for dial in self._dials.values():
            if owner.name in {dial.owner.name, dial.target.name}:
                self._connect_soon(dial)

    def down(self, owner: Process, why: Fault = Fault.CRASH) -> None:
        """The process died: its connections break, its own queues are lost."""
        self._up.discard(owner.name)
        for dial in self._dials.values():
            if dial.owner is owner:
                dial.waiting.clear()
                self._break(dial, why, lingers=self._random.random() < 0.5)
            elif dial.target is owner:
                self._break(dial, why, lingers=False)
                self._bound[owner.name, dial.target_link].clear()

    def cut(self, owner: str, link: str) -> None:
        """One connection breaks, both ends live."""
        dial = self._dials[owner, link]
        self._break(dial, Fault.CUT, lingers=self._random.random() < 0.5)
        self._connect_soon(dial)

    def partition(self, one: str, other: str, *, cut: bool) -> None:
        """These two cannot talk: their connections break, or only stall."""
        self._partitions[frozenset((one, other))] = cut
        for dial in self._between(one, other):
            if cut:
                self._break(dial, Fault.PARTITION, lingers=False)

    def heal(self, one: str, other: str) -> None:
        """These two can talk again."""
        self._partitions.pop(frozenset((one, other)), None)
        for dial in self._between(one, other):
            connection = dial.connection
            if connection is None:
                self._connect_soon(dial)
                continue
            held, connection.held = connection.held, []
            for to_binder, frames in held:
                self._post(connection, frames, to_binder)

    def is_connected(self, owner: str, link: str) -> bool:
        """Whether a dialling link has a connection now."""
        return self._dials[owner, link].connection is not None

    def dialler(self, owner: str, link: str, peer: bytes) -> str:
        """Who is at the other end of a binding link; "" once that is known to be gone."""
        connection = self._bound[owner, link].get(peer)
        return "" if connection is None else connection.dialler.name

    def dialled(self) -> list[tuple[str, str]]:
        """All dialling links that are connected, as (process, link)."""
        return [key for key, dial in self._dials.items() if dial.connection is not None]

    # --- messages --------------------------------------------------------------------------------

    def send(self, owner: Process, link: str, peer: bytes, frames: Frames) -> bool:
        """Put a message on a link; False if this peer is known to be gone."""
        self.sent += 1
        message = b"".join(frames)
        for marker in self._markers:
            if marker in message:
                self.leaked(owner.name, frames)
        bound = self._bound.get((owner.name, link))
        if bound is None:
            dial = self._dials[owner.name, link]
            if dial.connection is None:
                dial.waiting.append(frames)
            else:
                self._route(dial.connection, frames, to_binder=True)
            return True
        connection = bound.get(peer)
        if connection is None:
            return False
        self._route(connection, frames, to_binder=False)
        return True

    def _route(self, connection: Connection, frames: Frames, *, to_binder: bool) -> None:
        if self._partitions:
            pair = frozenset((connection.dialler.name, connection.binder.name))
            if pair in self._partitions:
                self.faults.hit(Fault.PARTITION, frames)
                if not self._partitions[pair]:
                    connection.held.append((to_binder, frames))
                return
        if self.faults.active:
            kind = self.faults.strike()
            if kind is not None:
                self._strike(kind, connection, frames, to_binder)
                return
        self._post(connection, frames, to_binder)

    def _strike(self, kind: Fault, connection: Connection, frames: Frames, to_binder: bool) -> None:
        self.faults.struck(kind)
        self.faults.hit(kind, frames)
        self.trace.note(self.clock.now_ns, f"fault: {kind} of the next message")
        self.trace.message(
            self.clock.now_ns, kind, connection.dialler.name, connection.binder.name, frames
        )
        random = self._random
        match kind:
            case Fault.DUPLICATE:
                self._post(connection, frames, to_binder)
                again_ns = int(random.random() ** 3 * 3 * SECOND_NS)
                self._post(connection, frames, to_binder, more_ns=again_ns, in_order=False)
            case Fault.REORDER:
                more_ns = int(random.random() ** 2 * 200 * MILLISECOND_NS)
                self._post(connection, frames, to_binder, more_ns=more_ns, in_order=False)
            case Fault.DELAY:
                more_ns = int(random.random() ** 2 * 3 * SECOND_NS)
                self._post(connection, frames, to_binder, more_ns=more_ns)
            case Fault.TEAR:
                self._post(connection, self.faults.tear(frames), to_binder)
            case _:
                return  # dropped

    def _post(
        self,
        connection: Connection,
        frames: Frames,
        to_binder: bool,
        *,
        more_ns: int = 0,
        in_order: bool = True,
    ) -> None:
        arrival_ns = self.clock.now_ns + 100_000 + int(self._random.random() * 1_500_000) + more_ns
        if in_order:
            last_ns = connection.arrival_ns[to_binder]
            arrival_ns = max(arrival_ns, last_ns)
            connection.arrival_ns[to_binder] = arrival_ns
        self.clock.at(arrival_ns, self._arrive, connection, frames, to_binder)

    def _arrive(self, connection: Connection, frames: Frames, to_binder: bool) -> None:
        if not connection.open and not (to_binder and connection.lingers):
            self.faults.hit(connection.broken_by, frames)
            return
        self.delivered += 1
        if to_binder:
            sender, receiver = connection.dialler, connection.binder
            link, peer = connection.bind_link, connection.peer
        else:
            sender, receiver = connection.binder, connection.dialler
            link, peer = connection.dial_link, b""
        self.trace.message(self.clock.now_ns, link, sender.name, receiver.name, frames)
        receiver.deliver(link, peer, frames)

    # --- connections -----------------------------------------------------------------------------

    def _between(self, one: str, other: str) -> list[Dial]:
        pair = {one, other}
        return [d for d in self._dials.values() if {d.owner.name, d.target.name} == pair]

    def _connect_soon(self, dial: Dial) -> None:
        wait_ns = int(self._random.random() ** 2 * 300 * MILLISECOND_NS)
        self.clock.after(wait_ns, self._connect, dial)

    def _connect(self, dial: Dial) -> None:
        both_up = dial.owner.name in self._up and dial.target.name in self._up
        if dial.connection is not None or not both_up:
            return
        if self._partitions.get(frozenset((dial.owner.name, dial.target.name))):
            return
        if self._dials.get((dial.owner.name, dial.link)) is not dial:
            return
        self._peers += 1
        connection = Connection(dial, b"\0" + self._peers.to_bytes(4, "big"))
        dial.connection = connection
        self._bound[dial.target.name, dial.target_link][connection.peer] = connection
        waiting = list(dial.waiting)
        dial.waiting.clear()
        for frames in waiting:
            self._route(connection, frames, to_binder=True)
        dial.owner.connected(dial.link)

    def _break(self, dial: Dial, why: Fault, *, lingers: bool) -> None:
        connection, dial.connection = dial.connection, None
        if connection is None:
            return
        connection.open, connection.broken_by, connection.lingers = False, why, lingers
        connection.held.clear()
        self.clock.after(int(self._random.random() * SECOND_NS), self._notice, connection)

    def _notice(self, connection: Connection) -> None:
        self._bound[connection.binder.name, connection.bind_link].pop(connection.peer, None)
