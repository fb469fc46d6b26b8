"""Who uses the SDK in a world: one long talk each over the SDK's real sessions, driven as its
drivers do.

What an actor is answered, it tells the oracle; what goes wrong with it (vanishing, failing, being
late, asking twice) is drawn from the seed while faults are on.

Not here: the lives of job servers (:mod:`tests.simulation.job_servers`), devices
(:mod:`tests.simulation.devices`) and operators (:mod:`tests.simulation.operators`); whether the
answers are right (:mod:`tests.simulation.oracle`).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

from propius.calls import Call, Calls
from propius.errors import BusyError, ProtocolError, RefusedError, RequestTimeoutError
from propius.messages import ErrorCode
from propius.session import Session, Talk
from tests.simulation.clock import SECOND_NS
from tests.simulation.faults import Fault
from tests.simulation.host import InvariantError, Surroundings
from tests.simulation.network import Frames
from tests.simulation.oracle import Oracle

TIMEOUT_S: Final = 15.0
LINK: Final = "sdk"


class Actor:
    """A process that uses the SDK over one connection, to its daemon's link ``outside``."""

    outside = ""

    def __init__(self, name: str, around: Surroundings, oracle: Oracle) -> None:
        self.name = name
        self.around, self.oracle = around, oracle
        self.finished = False
        self._random: Random = around.faults.random
        self._calls = Calls()
        self._call: Call[None] | None = None
        self._lives = 0
        # Every machine's monotonic clock began at another time.
        self._skew_ns = self._random.randrange(10**15)

    def life(self) -> Talk[None]:
        """What it does from its start on."""
        raise NotImplementedError

    def start(self) -> None:
        """The process starts (again), with new sessions."""
        if self.finished:  # it died for good meanwhile
            return
        self._lives += 1
        self._calls = Calls()
        self.around.network.up(self)
        self._call = self._calls.start(self._now_ns(), self.life())
        self._go_on()

    def vanish(self) -> bool:
        """The process dies, and comes back a little later."""
        if self.finished or self._call is None:
            return False
        self._stop()
        wait_ns = int(self._random.random() ** 2 * 10 * SECOND_NS)
        self.around.clock.after(wait_ns, self.start)
        return True

    def die(self) -> None:
        """The process dies, and nobody starts it again."""
        if not self.finished:
            if self._call is not None:
                self._stop()
            self.finished = True
            self.around.network.forget(self)

    def persist(self, session: Session, verb: Callable[[], Talk[Any]]) -> Talk[Any]:
        """Ask until there is an answer that can be believed: nothing else helps."""
        while True:
            try:
                return (yield from verb())
            except (RequestTimeoutError, BusyError, ProtocolError):
                yield from session.pause(self._random.uniform(0.1, 0.5))
            except RefusedError as error:
                if error.code != ErrorCode.INVALID:  # else it arrived torn
                    raise

    def deliver(self, link: str, peer: bytes, frames: Frames) -> None:
        """An answer arrived."""
        if self._call is not None:
            self._calls.receive(self._now_ns(), frames)
            self._go_on()

    def connected(self, link: str) -> None:
        """The connection stands (again)."""
        if self._call is not None:
            self._calls.reconnected(self._now_ns())
            self._go_on()

    def misfortune(self, probability: float) -> bool:
        """Whether something of this probability goes wrong now; never after the faults ended."""
        return self.around.faults.active and self._random.random() < probability

    def _now_ns(self) -> int:
        return self.around.clock.now_ns + self._skew_ns

    def _stop(self) -> None:
        self.around.trace.note(self.around.clock.now_ns, f"{self.name} dies")
        self._call = None
        self._lives += 1
        self._calls.close()
        self.around.network.down(self, Fault.VANISH)

    def _go_on(self) -> None:
        """Send what is to be sent, wake up when it is due, end when life is over."""
        call = self._call
        assert call is not None
        if self.around.network.is_connected(self.name, LINK):
            outbox = self._calls.outbox
            while outbox:
                frames = outbox.pop(next(iter(outbox)))
                self.around.overheard[self.outside].append(frames)
                self.around.network.send(self, LINK, b"", frames)
        if call.done:
            self.finished, self._call = True, None
            self.around.network.forget(self)
            self._end(call)
            return
        due_ns = self._calls.due_ns()
        assert due_ns is not None
        self.around.clock.at(due_ns - self._skew_ns, self._tick, self._lives, due_ns)

    def _end(self, call: Call[None]) -> None:
        try:
            call.result()
        except InvariantError:
            raise
        except Exception as error:
            text = f"{self.name}: the SDK raised {type(error).__name__}: {error}"
            raise InvariantError(text) from error

    def _tick(self, life: int, due_ns: int) -> None:
        if life == self._lives and self._call is not None and self._calls.due_ns() == due_ns:
            self._calls.tick(self._now_ns())
            self._go_on()
