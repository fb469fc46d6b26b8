"""What goes wrong in a run: which faults, how often, on what; all drawn from the seed.

Each seed draws its own mix ("swarm"): a fault kind may be absent, rare or frequent, so that some
runs have crashes on a perfect network and others a terrible network on which nothing crashes.

Not here: how a fault is carried out (:mod:`tests.simulation.network`, ``host``, ``store``) and
when the large ones strike (:mod:`tests.simulation.nemesis`).
"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Final

from propius.messages import DecodeError, decode_header


class Fault(enum.StrEnum):
    """The kinds of faults."""

    DROP = "drop"  # one message is lost
    DUPLICATE = "duplicate"  # one message arrives twice
    REORDER = "reorder"  # one message is overtaken, or overtakes
    DELAY = "delay"  # one message, and what follows it on its connection, is late
    TEAR = "tear"  # one message arrives torn: truncated, garbage, another number of frames
    CUT = "cut"  # one connection breaks; the dialler comes back as a new peer
    PARTITION = "partition"  # two processes cannot talk for a while
    CRASH = "crash"  # a process dies, with all that it had not committed, and is started again
    FREEZE = "freeze"  # a process does nothing for a while (SIGSTOP)
    DRAIN = "drain"  # a process is told to stop (SIGTERM), and is started again
    REBOOT = "reboot"  # all daemons die, the monotonic clock starts anew
    SLOW_COMMIT = "slow_commit"  # the store takes long
    FAILED_COMMIT = "failed_commit"  # the store cannot write, for a while
    VANISH = "vanish"  # a device or job server dies, and is started again with a new session
    JOIN = "join"  # one more client manager is started
    LEAVE = "leave"  # a client manager is drained or killed, and not started again
    TWIN = "twin"  # a second client manager is started under the number of one; not drawn
    STRANGER = "stranger"  # somebody sends what nobody should


MESSAGE_FAULTS: Final = (Fault.DROP, Fault.DUPLICATE, Fault.REORDER, Fault.DELAY, Fault.TEAR)
NEMESIS_FAULTS: Final = (
    Fault.CUT,
    Fault.PARTITION,
    Fault.CRASH,
    Fault.FREEZE,
    Fault.DRAIN,
    Fault.REBOOT,
    Fault.SLOW_COMMIT,
    Fault.FAILED_COMMIT,
    Fault.VANISH,
    Fault.JOIN,
    Fault.LEAVE,
)


@dataclass
class Faults:
    """The faults of one run: their rates, and what they have hit so far."""

    random: Random
    rates: dict[Fault, float]  # message faults: probability for each message
    nemesis: dict[Fault, float]  # the others: relative frequency
    strangers: int = 0  # how many of them there are
    active: bool = True
    counts: Counter[Fault] = field(default_factory=Counter)
    coverage: Counter[tuple[str, Fault]] = field(default_factory=Counter)

    @classmethod
    def drawn(cls, random: Random) -> Faults:
        """A mix of faults for one seed."""
        rates = {kind: 10 ** random.uniform(-3, -1.5) for kind in MESSAGE_FAULTS}
        nemesis = {kind: random.uniform(0.2, 1.0) for kind in NEMESIS_FAULTS}
        for mix in (rates, nemesis):
            for kind in list(mix):
                if random.random() < 0.35:
                    mix[kind] = 0.0
        if not any(nemesis.values()):
            nemesis[Fault.CRASH] = 1.0
        strangers = random.choice((0, 1, 1, 2))
        return cls(random, rates, nemesis, strangers)

    @classmethod
    def none(cls, random: Random) -> Faults:
        """A perfect world."""
        return cls(random, {}, {}, active=False)

    def strike(self) -> Fault | None:
        """The fault that hits the next message, or None."""
        draw = self.random.random()
        for kind, rate in self.rates.items():
            if draw < rate:
                return kind
            draw -= rate
        return None

    def struck(self, kind: Fault) -> None:
        """Count a fault."""
        self.counts[kind] += 1

    def hit(self, kind: Fault, frames: tuple[bytes, ...]) -> None:
        """Count a message that a fault has touched."""
        self.coverage[message_kind(frames), kind] += 1

    def tear(self, frames: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """The message as it arrives torn. What is left never reads as another valid message."""
        if not frames:  # a stranger sent nothing at all: nothing can be torn
            return frames
        random = self.random
        which = random.randrange(len(frames))
        frame = frames[which]
        match random.randrange(4):
            case 0:  # truncated: MessagePack notices always
                torn = frame[: random.randrange(max(1, len(frame)))]
            case 1:  # 0xc1 begins no MessagePack value
                torn = b"\xc1" + random.randbytes(random.randrange(40))
            case 2:
                return frames[:which] + frames[which + 1 :]
            case _:
                return (*frames, random.randbytes(3))
        return (*frames[:which], torn, *frames[which + 1 :])


def message_kind(frames: tuple[bytes, ...]) -> str:
    """The kind of a message, for tables and traces."""
    try:
        return decode_header(frames[0]).kind if frames else "nothing"
    except DecodeError:
        return "unreadable"
