"""The load balancer's decisions: which manager gets a request, and which device its answer.

A request is given a tag, forwarded (in one batch a manager) to the client manager that rendezvous
hashing names, and forgotten once the answer with that tag came back. Headers are checked; payloads
are passed on unread, so that garbage in them costs this process nothing.

What can go wrong, and what the device hears then:

* no manager is ready                 → ``not_ready`` with a retry time
* the table of requests is full, or its connection's share → ``busy`` with a retry time
* its manager died or was replaced    → ``check_in_again``; for an accept or a report ``busy``,
  because asking again with the same number is what finds out whether it had its effect
* the answer cannot be delivered      → nothing; the manager hears ``undeliverable``

Nothing here survives a restart, and nothing has to: devices ask again.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Final

from daemons.batches import Item, in_batches
from daemons.load_balancer.pending import Pending, PendingTable
from daemons.load_balancer.rendezvous import Rendezvous
from daemons.load_balancer.settings import LoadBalancerSettings
from daemons.retry import Retry
from propius.core import SECOND_NS, Core, Frames, Link, Send
from propius.messages import (
    CLIENT_REQUESTS,
    INSIDE_PAYLOAD_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    Beat,
    DecodeError,
    Deliver,
    Error,
    ErrorCode,
    Forward,
    GetSchema,
    Header,
    Hello,
    Undeliverable,
    decode_header,
    decode_payload,
)
from propius.peering import Listener, Peer

__all__ = ["LoadBalancerCore", "LoadBalancerSettings"]

CLIENTS: Final = "clients"
MANAGERS: Final = "managers"
SENT_MAX: Final = 8_192  # answers remembered in case that they turn out undeliverable
_KINDS: Final = frozenset(cls.kind for cls in CLIENT_REQUESTS)
_ASK_AGAIN: Final = frozenset({"accept", "report"})
_is_device_id: Final = re.compile(r"[0-9a-f]{32}").fullmatch


class LoadBalancerCore(Core):
    """See the module."""

    links = (Link(CLIENTS, "bind", outside=True), Link(MANAGERS, "bind", outside=False))

    def __init__(self, settings: LoadBalancerSettings, *, incarnation: int) -> None:
        super().__init__("load_balancer", incarnation)
        self.settings = settings
        self.listener = Listener(
            self,
            MANAGERS,
            roles=frozenset({"client_manager"}),
            package_version=settings.package_version,
            schema=settings.schema.schema,
        )
        # Tags of another life of this process must mean nothing: a manager may still hold some.
        self.pending = PendingTable(first_tag=(incarnation % (1 << 31) << 32) + 1)
        self._rendezvous = Rendezvous([])
        self._retry = Retry(
            min_s=settings.retry_min_s,
            max_s=settings.retry_max_s,
            per_s=settings.retries_per_s,
            seed=incarnation,
        )
        self._forwards: dict[str, list[Item]] = {}
        self._undeliverable: dict[str, list[int]] = {}
        # Answers that left lately: by tag, and by what the driver gives back if it fails.
        self._delivered: OrderedDict[int, tuple[bytes, bytes]] = OrderedDict()
        self._sent: dict[tuple[bytes, bytes], tuple[str, int]] = {}
        self._wake = False  # something was emitted outside a batch
        self._refused_in = (0, 0)  # a second, and the refusals that were answered in it
        self._now_ns = 0
        self._draining = False

    # --- the driver's side -------------------------------------------------------------------

    def start(self, now_ns: int) -> None:
        self._now_ns = now_ns

    def receive(self, now_ns: int, link: str, peer: bytes, frames: Frames) -> None:
        self._now_ns = now_ns
        super().receive(now_ns, link, peer, frames)

    def on_message(
        self, now_ns: int, link: str, peer: bytes, header: Header, frames: Frames
    ) -> None:
        if link == CLIENTS:
            self._from_device(now_ns, peer, header, frames)
        else:
            self._from_manager(now_ns, peer, header, frames)

    def undeliverable(self, now_ns: int, link: str, peer: bytes, frames: Frames) -> None:
        super().undeliverable(now_ns, link, peer, frames)
        if link == MANAGERS:
            self.listener.unreachable(now_ns, peer)
            self._not_forwarded(now_ns, frames)
        elif (found := self._sent.get((peer, frames[0]))) is not None:
            manager, tag = found
            self._undeliverable.setdefault(manager, []).append(tag)
            self._wake = True

    def due_ns(self) -> int | None:
        if self._wake:
            return self._now_ns
        times = (self.listener.due_ns(), self.pending.due_ns())
        return min((time for time in times if time is not None), default=None)

    def tick(self, now_ns: int) -> None:
        self._now_ns = now_ns
        for lost in self.listener.tick(now_ns, Beat(ready=not self._draining)):
            self._give_up(now_ns, lost.name)
        self._managers_changed()
        while (overdue := self.pending.overdue(now_ns)) is not None:
            self.count("expired_requests")
            self._answer_lost(now_ns, overdue)

    def flush(self, now_ns: int) -> None:
        self._wake = False
        forwards, self._forwards = self._forwards, {}
        for name, items in forwards.items():
            if (peer := self.listener.peers.get(name)) is not None:
                for batch in in_batches(items):
                    self.listener.send(now_ns, peer, Forward(items=batch))
        undeliverable, self._undeliverable = self._undeliverable, {}
        for name, tags in undeliverable.items():
            if (peer := self.listener.peers.get(name)) is not None:
                self.listener.send(now_ns, peer, Undeliverable(tags=tags))

    def drain(self, now_ns: int) -> None:
        self._draining = True
        for entry in self.pending.all():
            self._answer_lost(now_ns, entry)

    def drained(self) -> bool:
        return not len(self.pending)

    def not_ready(self) -> str:
        if self._draining:
            return "stopping"
        return "" if self._rendezvous.managers else "no client manager is ready"

    def gauges(self) -> dict[str, float]:
        return {
            "pending_requests": len(self.pending),
            "managers": len(self.listener.peers),
            "managers_ready": len(self._rendezvous.managers),
        }

    def peers(self) -> list[dict[str, str | int | float | bool]]:
        """The client managers, by number."""
        return [
            {
                "manager": peer.manager,
                "incarnation": peer.incarnation,
                "ready": peer.ready,
                "requests": self.pending.count_of_manager(peer.name),
            }
            for peer in sorted(self.listener.peers.values(), key=lambda peer: peer.manager)
        ]

    def refuse(self, link: str, peer: bytes, to: Header | None, error: DecodeError) -> None:
        """Tell the sender, but spend only so many answers a second on garbage."""
        second, answered = self._now_ns // SECOND_NS, self._refused_in
        count = answered[1] + 1 if answered[0] == second else 1
        self._refused_in = (second, count)
        self.count("refused_messages")
        if count <= self.settings.refusals_per_s:
            super().refuse(link, peer, to, error)

    def check_invariants(self, *, thorough: bool = True) -> None:
        """What holds after every step; raises AssertionError where it does not.

        Not ``thorough``: without a look at every pending request.
        """
        assert len(self.pending) <= self.settings.pending_max
        assert len(self._sent) <= len(self._delivered) <= SENT_MAX
        ready = {peer.name for peer in self.listener.peers.values() if peer.ready}
        assert set(self._rendezvous.managers) == ready, "devices are sent to the wrong managers"
        waited_for = self.pending.managers()
        assert waited_for <= self.listener.peers.keys(), "a request waits for a lost manager"
        if thorough:
            self.pending.check()

    # --- devices -----------------------------------------------------------------------------

    def _from_device(self, now_ns: int, peer: bytes, header: Header, frames: Frames) -> None:
        error = self._misfit(header, frames[1])
        if error is not None:
            self.refuse(CLIENTS, peer, header, error)
        elif header.kind == GetSchema.kind:
            self.reply(CLIENTS, peer, header, self.settings.schema)
        else:
            self._pass_on(now_ns, peer, header, frames)

    def _misfit(self, header: Header, payload: bytes) -> DecodeError | None:
        if header.kind not in _KINDS:
            text = f"unknown message kind {header.kind!r}; a client may send {sorted(_KINDS)}"
            return DecodeError(ErrorCode.UNKNOWN_KIND, text, "kind")
        if not _is_device_id(header.sender):
            text = "sender must be a device id: 32 digits of 0-9 a-f"
            return DecodeError(ErrorCode.INVALID, text, "sender")
        if len(payload) > PAYLOAD_BYTES_MAX:
            text = f"payload of {len(payload)} bytes, at most {PAYLOAD_BYTES_MAX} allowed"
            return DecodeError(ErrorCode.TOO_LARGE, text, "payload")
        return None

    def _pass_on(self, now_ns: int, peer: bytes, header: Header, frames: Frames) -> None:
        manager = None if self._draining else self._rendezvous.pick(header.sender)
        if manager is None:
            text = "no client manager is ready; ask again later"
            self._send_away(now_ns, peer, header, ErrorCode.NOT_READY, text)
            return
        entry = self._entry(now_ns, peer, header, manager)
        if entry is None:
            text = "too many requests are under way, here or over this connection; ask again later"
            self._send_away(now_ns, peer, header, ErrorCode.BUSY, text)
            return
        self.count("forwarded")
        self._forwards.setdefault(manager, []).append((entry.tag, frames[0], frames[1]))

    def _entry(self, now_ns: int, peer: bytes, header: Header, manager: str) -> Pending | None:
        """The table's entry for this request; None if there is no room for it.

        A repeat of the request under way keeps its tag, so that the answer to either finds home.
        """
        known = self.pending.of_device(peer, header.sender)
        if known is not None:
            same = (known.header.session, known.header.request) == (header.session, header.request)
            if same and known.manager == manager:
                return known
            self.pending.remove(known)
            if known.manager != manager:  # it holds a check-in of a device that went elsewhere
                self._undeliverable.setdefault(known.manager, []).append(known.tag)
        limits = self.settings
        if len(self.pending) >= limits.pending_max:
            return None
        if self.pending.count_of_peer(peer) >= limits.pending_per_connection_max:
            self.count("connection_limits_hit")
            return None
        return self.pending.add(now_ns, peer, header, manager)

    def _send_away(
        self, now_ns: int, peer: bytes, header: Header, code: ErrorCode, text: str
    ) -> None:
        self.count(f"sent_away_{code.value}")
        retry_after_s = self._retry.after(now_ns, header.sender, header.request)
        self.reply(CLIENTS, peer, header, Error(code=code, text=text, retry_after_s=retry_after_s))

    # --- client managers ---------------------------------------------------------------------

    def _from_manager(self, now_ns: int, address: bytes, header: Header, frames: Frames) -> None:
        try:
            message = decode_payload(header.kind, frames[1], bytes_max=INSIDE_PAYLOAD_BYTES_MAX)
        except DecodeError as error:
            self.say("warning", "refused_inside_message", sender=header.sender, why=str(error))
            self.refuse(MANAGERS, address, header, error)
            return
        peer, fresh = self.listener.heard(now_ns, address, header, message)
        if peer is None:
            return
        if isinstance(message, Hello):  # it is new, or the link was cut: what it had is lost
            self._give_up(now_ns, peer.name)
        if fresh:
            self.say("info", "manager_joined", manager=peer.name)
        self._managers_changed()
        if isinstance(message, Deliver):
            self._deliver(peer, message)

    def _managers_changed(self) -> None:
        ready = sorted(peer.name for peer in self.listener.peers.values() if peer.ready)
        if tuple(ready) != self._rendezvous.managers:
            self._rendezvous = Rendezvous(ready)

    def _deliver(self, peer: Peer, message: Deliver) -> None:
        for tag, header, payload in message.items:
            entry = self.pending.get(tag)
            if entry is None or entry.manager != peer.name:
                self.count("unknown_tags")
                if (
                    header and tag not in self._delivered
                ):  # the device went elsewhere; else it is a repeat
                    self._undeliverable.setdefault(peer.name, []).append(tag)
                continue
            self.pending.remove(entry)
            if not header:  # the device asked again over another connection
                continue
            self._remember_sent(tag, entry.peer, header, peer.name)
            self.emit(Send(CLIENTS, entry.peer, (header, payload)))
            self.count("delivered")

    def _remember_sent(self, tag: int, peer: bytes, header: bytes, manager: str) -> None:
        self._delivered[tag] = (peer, header)
        self._sent[peer, header] = (manager, tag)
        if len(self._delivered) > SENT_MAX:
            oldest, key = self._delivered.popitem(last=False)
            if self._sent.get(key, ("", -1))[1] == oldest:
                del self._sent[key]

    def _not_forwarded(self, now_ns: int, frames: Frames) -> None:
        """A batch did not reach its manager: the devices need not wait until they find out."""
        header = decode_header(frames[0])
        if header.kind != Forward.kind:
            return
        batch = decode_payload(header.kind, frames[1], bytes_max=INSIDE_PAYLOAD_BYTES_MAX)
        assert isinstance(batch, Forward)
        for tag, _, _ in batch.items:
            if (entry := self.pending.get(tag)) is not None:
                self._answer_lost(now_ns, entry)
                self._wake = True

    def _give_up(self, now_ns: int, manager: str) -> None:
        """The manager is gone: tell the devices that wait for it."""
        self._forwards.pop(manager, None)
        self._undeliverable.pop(manager, None)
        for entry in self.pending.of_manager(manager):
            self._answer_lost(now_ns, entry)

    def _answer_lost(self, now_ns: int, entry: Pending) -> None:
        self.pending.remove(entry)
        if entry.header.kind in _ASK_AGAIN:
            text = f"the manager that had this {entry.header.kind} is gone; ask again"
            self._send_away(now_ns, entry.peer, entry.header, ErrorCode.BUSY, text)
            return
        text = "the client manager is gone; check in again"
        self._send_away(now_ns, entry.peer, entry.header, ErrorCode.CHECK_IN_AGAIN, text)
