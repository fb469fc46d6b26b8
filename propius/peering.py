"""How two daemons find each other, and notice that the other one died, froze or was replaced.

One end of an inside link dials (:class:`Dialer`), the other binds (:class:`Listener`, many peers).
The dialler says ``hello`` until it is answered ``welcome``; afterwards both send a ``beat`` when
they have nothing else to say, and treat whatever arrives as a beat. Three things end a
peering: silence longer than ``SILENCE_NS``, a message of another incarnation, and an
``unknown_session`` error from a listener that lost its memory. Each leads back to ``hello``, so the
owner of the link re-synchronises in one place: when :attr:`Dialer.up` turns true, or when a
listener reports a new peer.

A name belongs to the peer that lives. Who says hello under the name of another incarnation is
refused (``taken``) as long as that one is heard, and welcomed as soon as it is silent or cannot be
reached: a process that was restarted takes its place at once, a second one never.

Sans-I/O: time comes in, messages go out through the core's ``send``. Not here: what is said once
the peering stands; that is each core's own business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from propius.core import SECOND_NS, Core
from propius.messages import (
    PROTOCOL_VERSION,
    Beat,
    Error,
    ErrorCode,
    Header,
    Hello,
    Message,
    Reject,
    Welcome,
)

BEAT_NS: Final = SECOND_NS // 3  # a frozen peer must be noticed within 3 s
SILENCE_NS: Final = 5 * BEAT_NS
HELLO_AGAIN_NS: Final = SECOND_NS // 2
TAKEN_AGAIN_NS: Final = SECOND_NS // 10  # as a rule the other one is dead already
PEERS_MAX: Final = 1_024  # of one listener
TAKEN_NS: Final = 3 * SECOND_NS  # a dead peer does not keep its name for so long


class Dialer:
    """The dialling end of an inside link."""

    def __init__(self, core: Core, link: str, hello: Hello) -> None:
        self.core = core
        self.link = link
        self.up = False  # welcomed, and heard from lately
        self.incarnation = -1  # the listener's, once welcomed
        self.peer_ready = False  # what its last beat said
        self.rejected = ""  # why the listener will not have us
        self.taken = False  # for so long because another one has our name that it must live
        self._hello = hello
        self._numbers = 0
        self._heard_ns = 0
        self._spoke_ns = 0
        self._hello_ns: int | None = None
        self._again_ns = HELLO_AGAIN_NS
        self._taken_since_ns: int | None = None
        self._refused_ns = 0

    def start(self, now_ns: int) -> None:
        """Say hello for the first time."""
        self._say_hello(now_ns)

    def send(self, now_ns: int, message: Message) -> None:
        """Say something to the peer; it also serves as a beat."""
        self._numbers += 1
        self._spoke_ns = now_ns
        header = Header(
            kind=message.kind,
            sender=self.core.name,
            session=self.core.incarnation,
            request=self._numbers,
        )
        self.core.send(self.link, b"", header, message)

    def heard(self, now_ns: int, header: Header, message: Message) -> bool:
        """Take a message from the link; True if it just brought the peering up.

        Welcome, beat, reject and unknown_session are dealt with here. For any other message the
        caller goes on only while :attr:`up` is true: it is from the welcomed incarnation then.
        """
        match message:
            case Welcome():
                fresh = not self.up or message.incarnation != self.incarnation
                self.up, self.incarnation, self.rejected = True, message.incarnation, ""
                self._heard_ns, self._hello_ns = now_ns, None
                self._taken_since_ns, self.taken = None, False
                return fresh
            case Reject():
                self._rejected(now_ns, message)
                return False
            case Error(code=ErrorCode.UNKNOWN_SESSION):
                self._down(now_ns, "the peer does not know us")
                return False
        if self.up and header.session != self.incarnation:
            self._down(now_ns, "the peer was replaced")
        elif self.up and now_ns >= self._heard_ns + SILENCE_NS:
            # We were frozen: the peer has given us up, and what it said before is out of date.
            self._down(now_ns, "the peer is silent")
        elif self.up:
            self._heard_ns = now_ns
            if isinstance(message, Beat):
                self.peer_ready = message.ready
        return False

    def due_ns(self) -> int:
        """When ``tick`` has something to do."""
        if self._hello_ns is not None:
            return self._hello_ns + self._again_ns
        return min(self._spoke_ns + BEAT_NS, self._heard_ns + SILENCE_NS)

    def tick(self, now_ns: int, beat: Beat) -> None:
        """Beat, say hello again, or find that the peer is silent."""
        if self._hello_ns is not None:
            if now_ns >= self._hello_ns + self._again_ns:
                self._say_hello(now_ns)
            return
        if now_ns >= self._heard_ns + SILENCE_NS:
            self._down(now_ns, "the peer is silent")
        elif now_ns >= self._spoke_ns + BEAT_NS:
            self.send(now_ns, beat)

    def _rejected(self, now_ns: int, reject: Reject) -> None:
        if reject.text != self.rejected:
            level: Literal["info", "error"] = "info" if reject.taken else "error"
            self.core.say(level, "peer_rejected_us", link=self.link, why=reject.text)
        self.up, self.rejected = False, reject.text
        self._hello_ns = now_ns
        self._again_ns = TAKEN_AGAIN_NS if reject.taken else HELLO_AGAIN_NS
        if not reject.taken:
            self._taken_since_ns, self.taken = None, False
        elif self._taken_since_ns is None or now_ns >= self._refused_ns + SILENCE_NS:
            # After a gap we were frozen or cut off: what was refused before it proves nothing now.
            self._taken_since_ns = now_ns
        else:
            self.taken = now_ns >= self._taken_since_ns + TAKEN_NS
        self._refused_ns = now_ns

    def _down(self, now_ns: int, why: str) -> None:
        if self.up:
            self.core.say("warning", "peer_lost", link=self.link, why=why)
        self.up = self.peer_ready = False
        if self._hello_ns is None:
            self._say_hello(now_ns)

    def _say_hello(self, now_ns: int) -> None:
        self._hello_ns, self._again_ns = now_ns, HELLO_AGAIN_NS
        self.send(now_ns, self._hello)


@dataclass(slots=True)
class Peer:
    """A welcomed dialler, as the listener knows it."""

    address: bytes  # of its present connection
    name: str
    manager: int
    incarnation: int
    heard_ns: int
    spoke_ns: int
    ready: bool = True
    seq: int = 0  # of its last beat


class Listener:
    """The binding end: the peers that said hello, by name."""

    def __init__(
        self, core: Core, link: str, *, roles: frozenset[str], package_version: str, schema: str
    ) -> None:
        self.core = core
        self.link = link
        self.peers: dict[str, Peer] = {}
        self._roles = roles
        self._package_version = package_version
        self._schema = schema
        self._by_address: dict[bytes, Peer] = {}

    def heard(
        self, now_ns: int, address: bytes, header: Header, message: Message
    ) -> tuple[Peer | None, bool]:
        """Take a message: (who spoke, whether it is a new peer or incarnation).

        (None, False) means that it was answered or ignored here. A hello that only repeats itself
        is welcomed again and is not new.
        """
        if isinstance(message, Hello):
            return self._greet(now_ns, address, header, message)
        peer = self._by_address.get(address)
        if peer is None or peer.incarnation != header.session or peer.name != header.sender:
            text = f"{self.core.name} does not know {header.sender}; say hello first"
            self.core.reply(
                self.link, address, header, Error(code=ErrorCode.UNKNOWN_SESSION, text=text)
            )
            return None, False
        peer.heard_ns = now_ns
        if isinstance(message, Beat):
            peer.ready, peer.seq = message.ready, message.seq
        return peer, False

    def send(self, now_ns: int, peer: Peer, message: Message) -> None:
        """Say something to a peer; it also serves as a beat."""
        peer.spoke_ns = now_ns
        header = Header(
            kind=message.kind, sender=self.core.name, session=self.core.incarnation, request=0
        )
        self.core.send(self.link, peer.address, header, message)

    def due_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        peers = self.peers.values()
        if not peers:
            return None
        spoke_ns, heard_ns = min([p.spoke_ns for p in peers]), min([p.heard_ns for p in peers])
        return min(spoke_ns + BEAT_NS, heard_ns + SILENCE_NS)

    def tick(self, now_ns: int, beat: Beat) -> list[Peer]:
        """Beat where nothing was said lately; the peers that fell silent, already forgotten."""
        lost = [p for p in self.peers.values() if now_ns >= p.heard_ns + SILENCE_NS]
        for peer in lost:
            self.core.say("warning", "peer_lost", link=self.link, peer=peer.name, why="silent")
            self.forget(peer)
        for peer in self.peers.values():
            if now_ns >= peer.spoke_ns + BEAT_NS:
                self.send(now_ns, peer, beat)
        return lost

    def unreachable(self, now_ns: int, address: bytes) -> None:
        """What was sent there found no taker: a peer that is not heard again at once is lost."""
        peer = self._by_address.get(address)
        if peer is not None:
            peer.heard_ns = min(peer.heard_ns, now_ns - SILENCE_NS)

    def forget(self, peer: Peer) -> None:
        """The peer is gone; whatever it says next must be a hello."""
        self.peers.pop(peer.name, None)
        self._by_address.pop(peer.address, None)

    def _greet(
        self, now_ns: int, address: bytes, header: Header, hello: Hello
    ) -> tuple[Peer | None, bool]:
        known = self.peers.get(header.sender)
        fresh = known is None or known.incarnation != header.session
        why, taken = self._misfit(hello), False
        if not why and known is not None and fresh and known.address != address:
            taken = now_ns < known.heard_ns + SILENCE_NS
        if taken and known is not None:
            why = (
                f"{header.sender} is taken by another process (incarnation {known.incarnation}),"
                f" which lives; {self.core.name} does not serve two of one name"
            )
        elif not why and known is None and len(self.peers) >= PEERS_MAX:
            why = f"{self.core.name} serves {PEERS_MAX} peers already, and not {header.sender}"
        if why:
            self.core.count("refused_hellos")
            self.core.reply(self.link, address, header, Reject(text=why, taken=taken))
            return None, False
        if known is not None:
            self._by_address.pop(known.address, None)
        if known is None or fresh:
            known = Peer(address, header.sender, hello.manager, header.session, now_ns, now_ns)
            self.peers[header.sender] = known
        known.address, known.heard_ns = address, now_ns
        self._by_address[address] = known
        welcome = Welcome(incarnation=self.core.incarnation)
        reply = Header(
            kind=welcome.kind, sender=self.core.name, session=self.core.incarnation, request=0
        )
        self.core.send(self.link, address, reply, welcome)
        known.spoke_ns = now_ns
        return known, fresh

    def _misfit(self, hello: Hello) -> str:
        """Why this hello cannot be welcomed, in one line that names both sides."""
        me = f"{self.core.name} {self._package_version} (protocol {PROTOCOL_VERSION})"
        if hello.role not in self._roles:
            return f"{me} serves {', '.join(sorted(self._roles))} on {self.link}, not {hello.role}"
        if hello.package_version != self._package_version:
            return f"{me} cannot work with {hello.role} {hello.package_version}: run one version"
        if hello.schema != self._schema:
            return f"{me} has attribute schema {self._schema}, {hello.role} has {hello.schema}"
        return ""
