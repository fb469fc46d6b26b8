"""A virtual process around one real core: the driver's loop of :mod:`propius.core`, to the letter.

A host lives through crashes: each start makes a new core with a new incarnation from what is
durable. After every step of the core its invariants are checked, and it must not ask to be woken
for ever without time passing.

Not here: which core, from what (:mod:`tests.simulation.world`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from propius.core import Commit, Core, Record, Say, Send
from propius.messages import Assignment
from tests.simulation.clock import MILLISECOND_NS, Clock
from tests.simulation.faults import Fault, Faults
from tests.simulation.network import Frames, Network
from tests.simulation.store import VirtualStore
from tests.simulation.trace import Trace

SPINS_MAX: Final = 200  # wake-ups in a row for a due time that has passed already
INBOX_MAX: Final = 100_000
BEAT: Final = b"\xa4beat"  # in the header of a beat
OVERHEARD_MAX: Final = 200  # requests of each outside link that strangers can repeat


class InvariantError(AssertionError):
    """Something that must hold did not."""


@dataclass
class Surroundings:
    """What every process of a world shares."""

    clock: Clock
    network: Network
    faults: Faults
    trace: Trace
    ill: set[str] = field(default_factory=set)  # endpoints of job servers that serve nobody
    boot_ns: int = 0  # taken from the virtual time to get the machine's monotonic clock
    # What strangers on the wire have seen: requests by outside link, and lease tokens.
    overheard: dict[str, deque[Frames]] = field(
        default_factory=lambda: {link: deque(maxlen=OVERHEARD_MAX) for link in ("clients", "jobs")}
    )
    tokens: deque[Assignment] = field(default_factory=lambda: deque(maxlen=OVERHEARD_MAX))


class Host:
    """One daemon: up or down, frozen or not; ``retired`` when it will not be started again."""

    def __init__(
        self,
        name: str,
        make: Callable[[int], Core],
        around: Surroundings,
        *,
        store: VirtualStore | None = None,
    ) -> None:
        self.name = name
        self.core: Core | None = None
        self.frozen = False
        self.stepped: Callable[[Host], None] = lambda _host: None  # the world's checks
        self.drained: Callable[[Host], None] = lambda _host: None  # checks, before it stops
        self.recorded: Callable[[Host, Record], None] = lambda _host, _record: None
        self.sending: Callable[[Send], None] = lambda _send: None  # before it is sent
        self.arrived: Callable[[str, bytes, Frames], None] = lambda _link, _peer, _frames: None
        self.exited: Callable[[], None] = lambda: None  # after a drain, the supervisor's part
        self.ended: Callable[[Host], None] = lambda _host: None  # by its own will, for good
        self.retired = False
        self.resumed_ns = 0  # virtual time since which it has been running without a break
        self.steps = 0
        self.busy = True  # the last step took or said more than beats
        self._make, self._around, self._store = make, around, store
        self._inbox: list[tuple[str, bytes, Frames]] = []
        self._news: list[tuple[int, str | None]] = []  # finished commits, and why one failed
        self._awake = False  # a step is on its way
        self._timer_ns: int | None = None
        self._spins = 0
        self._life = 0
        self._draining = False
        if store is not None:
            store.committed = lambda number: self._commit_news(number, None)
            store.failed = self._commit_news

    # --- life and death -------------------------------------------------------------------------

    @property
    def now_ns(self) -> int:
        """The machine's monotonic clock."""
        return self._around.clock.now_ns - self._around.boot_ns

    def start(self) -> None:
        """Start the process (again)."""
        if self.core is not None or self.retired:
            return
        self._life += 1
        self.resumed_ns = self._around.clock.now_ns
        self._note("starts")
        self.core = self._guarded(self._make, self._around.faults.random.getrandbits(62))
        self._around.network.up(self)
        self._guarded(self.core.start, self.now_ns)
        self._finish_step()

    def crash(self) -> None:
        """The process dies now; what it had not committed is gone."""
        if self.core is None:
            return
        self._note("dies")
        for _link, _peer, frames in self._inbox:
            self._around.faults.hit(Fault.CRASH, frames)
        self.core = None
        self.frozen = self._draining = False
        self._inbox.clear()
        self._news.clear()
        self._life += 1
        self._awake, self._timer_ns, self._spins = False, None, 0
        if self._store is not None:
            self._store.crash()
        self._around.network.down(self)

    def freeze(self) -> None:
        """The process does nothing more, but what arrives is kept (SIGSTOP)."""
        if self.core is not None:
            self._note("is frozen")
            self.frozen = True

    def thaw(self) -> None:
        """The process goes on (SIGCONT)."""
        if self.frozen:
            self._note("thaws")
            self.frozen = False
            self.resumed_ns = self._around.clock.now_ns
            self._wake()

    def drain(self) -> None:
        """The process is asked to stop (SIGTERM)."""
        if self.core is not None and not self._draining:
            self._note("drains")
            self._draining = True
            self._guarded(self.core.drain, self.now_ns)
            self._wake()

    # --- what happens to it ---------------------------------------------------------------------

    def stop_by_force(self) -> None:
        """SIGKILL, if it was asked to stop and has not done so."""
        if self._draining:
            self.crash()
            self.exited()

    @property
    def stores(self) -> bool:
        """Whether this process has the store."""
        return self._store is not None

    def deliver(self, link: str, peer: bytes, frames: Frames) -> None:
        """A message arrived; it is handled with all that arrives until the step."""
        if self.core is None:
            return
        if self.frozen:
            self._around.faults.hit(Fault.FREEZE, frames)
        self.arrived(link, peer, frames)
        if len(self._inbox) < INBOX_MAX:
            self._inbox.append((link, peer, frames))
        self._wake()

    def connected(self, link: str) -> None:
        """Daemons notice by their own hellos and beats."""

    def _commit_news(self, number: int, reason: str | None) -> None:
        self._news.append((number, reason))
        self._wake()

    def _wake(self) -> None:
        if not self._awake and not self.frozen:
            self._awake = True
            wait_ns = int(self._around.faults.random.random() ** 3 * 3 * MILLISECOND_NS)
            self._around.clock.after(wait_ns, self._step, self._life)

    def _step(self, life: int) -> None:
        if life != self._life:
            return
        self._awake = False
        core = self.core
        if core is None or self.frozen:
            return
        now_ns = self.now_ns
        self._guarded(self._batch, core, now_ns)
        self._finish_step()

    def _batch(self, core: Core, now_ns: int) -> None:
        inbox, self._inbox = self._inbox, []
        news, self._news = self._news, []
        self.busy = bool(news)
        for link, peer, frames in inbox:
            self.busy = self.busy or not _is_beat(frames)
            core.receive(now_ns, link, peer, frames)
        for number, reason in news:
            if reason is None:
                core.committed(now_ns, number)
            else:
                core.commit_failed(now_ns, number, reason)
        due_ns = core.due_ns()
        if due_ns is not None and due_ns <= now_ns:
            core.tick(now_ns)

    def _finish_step(self) -> None:
        core = self.core
        assert core is not None
        self.steps += 1
        self._guarded(core.flush, self.now_ns)
        self._carry_out(core)
        self.stepped(self)
        if why := core.must_end():
            self._note(f"ends: {why}")
            self.retired = True
            self.crash()
            self.ended(self)
            return
        if self._draining and core.drained():
            self._note("has drained and stops")
            self.drained(self)
            self.crash()
            self.exited()
            return
        self._set_timer(core)

    def _carry_out(self, core: Core) -> None:
        """Do the effects in their order; what could not be delivered is told at once."""
        while effects := core.take_effects():
            lost: list[Send] = []
            for effect in effects:
                match effect:
                    case Send(link, peer, frames):
                        self.busy = self.busy or not _is_beat(frames)
                        self.sending(effect)
                        if not self._around.network.send(self, link, peer, frames):
                            lost.append(effect)
                    case Commit():
                        assert self._store is not None, f"{self.name} has no store"
                        self.busy = True
                        self._store.commit(effect)
                    case Record():
                        self.recorded(self, effect)
                    case Say(_level, event, fields):
                        self._note(f"says {event} {fields}" if fields else f"says {event}")
            for send in lost:
                self._guarded(core.undeliverable, self.now_ns, send.link, send.peer, send.frames)
            if lost:
                self._guarded(core.flush, self.now_ns)

    def _set_timer(self, core: Core) -> None:
        due_ns = core.due_ns()
        if due_ns is None:
            self._timer_ns = None
            return
        now_ns = self.now_ns
        if due_ns <= now_ns:
            self._spins += 1
            if self._spins > SPINS_MAX:
                text = f"{self.name}: due {now_ns - due_ns} ns ago, and tick does nothing about it"
                raise InvariantError(text)
            due_ns = now_ns + MILLISECOND_NS // 4
        else:
            self._spins = 0
        if self._timer_ns is None or due_ns < self._timer_ns or self._timer_ns <= now_ns:
            self._timer_ns = due_ns
            self._around.clock.at(due_ns + self._around.boot_ns, self._ring, self._life, due_ns)

    def _ring(self, life: int, due_ns: int) -> None:
        if life == self._life and self._timer_ns == due_ns:
            self._timer_ns = None
            self._wake()

    def _guarded(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call into the core; whatever it raises is a finding."""
        try:
            return call(*arguments)
        except InvariantError:
            raise
        except Exception as error:
            name = getattr(call, "__name__", str(call))
            raise InvariantError(
                f"{self.name}.{name} raised {type(error).__name__}: {error}"
            ) from error

    def _note(self, text: str) -> None:
        self._around.trace.note(self._around.clock.now_ns, f"{self.name} {text}")


def _is_beat(frames: Frames) -> bool:
    return len(frames) == 2 and BEAT in frames[0]
