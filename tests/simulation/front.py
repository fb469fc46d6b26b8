"""What the load balancer owes devices and managers, judged by what goes in and comes out.

* One device's requests go to one manager: which one depends on the managers that are ready and on
  nothing else, and when a manager comes or goes only those move that it takes or leaves.
* A manager that nothing was heard of for 3 s gets no devices.
* A request that was taken is answered, unless its device has asked something newer.

Not here: what the answers are (:mod:`tests.simulation.oracle`).
"""

from __future__ import annotations

from typing import Final

from daemons.load_balancer.core import LoadBalancerCore
from daemons.load_balancer.pending import Pending
from propius.core import Frames, Send
from propius.messages import (
    INSIDE_PAYLOAD_BYTES_MAX,
    DecodeError,
    Deliver,
    Forward,
    decode_header,
    decode_payload,
)
from tests.simulation.clock import SECOND_NS, Clock
from tests.simulation.cluster import TWIN
from tests.simulation.durable import check
from tests.simulation.host import Host
from tests.simulation.network import Network

SILENCE_NS: Final = 3 * SECOND_NS
NAME: Final = "load_balancer"
CLIENTS: Final = "clients"
MANAGERS: Final = "managers"


class Front:
    """Looks at every step of the one load balancer."""

    def __init__(self, clock: Clock, network: Network) -> None:
        self._clock, self._network = clock, network
        self._core: LoadBalancerCore | None = None  # that the rest below is about
        self._ready: tuple[str, ...] = ()  # managers, at the end of its last step
        self._pending: dict[int, Pending] = {}  # at the end of its last step
        self._newest: dict[str, int] = {}  # device → greatest tag
        self._given_up: dict[int, None] = {}  # tags whose manager said that nobody waits
        self._answered: dict[tuple[bytes, int, int], None] = {}  # in this step
        self._forwarded: list[tuple[str, str]] = []  # (device, manager), in this step
        self._heard_ns: dict[str, int] = {}  # manager → its last message
        self._picks: dict[str, dict[tuple[str, ...], str]] = {}  # device → ready → manager

    def arrived(self, link: str, peer: bytes, frames: Frames) -> None:
        """A message for the load balancer."""
        if link != MANAGERS:
            return
        dialler = self._network.dialler(NAME, MANAGERS, peer).partition(TWIN)[0]
        if dialler:
            self._heard_ns[dialler] = self._clock.now_ns
        try:
            header = decode_header(frames[0])
            if not dialler:  # late words of one that is gone by now
                self._heard_ns[header.sender] = self._clock.now_ns
            if header.kind != Deliver.kind:
                return
            message = decode_payload(Deliver.kind, frames[1], bytes_max=INSIDE_PAYLOAD_BYTES_MAX)
        except (DecodeError, IndexError):
            return
        assert isinstance(message, Deliver)
        self._given_up.update((tag, None) for tag, header, _ in message.items if not header)

    def sent(self, send: Send) -> None:
        """The load balancer sends this."""
        header = decode_header(send.frames[0])
        if send.link == CLIENTS:
            self._answered[send.peer, header.session, header.request] = None
        elif header.kind == Forward.kind:
            batch = decode_payload(Forward.kind, send.frames[1], bytes_max=INSIDE_PAYLOAD_BYTES_MAX)
            assert isinstance(batch, Forward)
            manager = self._network.dialler(NAME, MANAGERS, send.peer).partition(TWIN)[0]
            for tag, frame, _ in batch.items:
                device = decode_header(frame).sender
                self._newest[device] = max(tag, self._newest.get(device, 0))
                if manager:
                    self._forwarded.append((device, manager))

    def stepped(self, host: Host, core: LoadBalancerCore) -> None:
        """The load balancer has finished a step."""
        if core is not self._core:  # it was started anew: nothing of the last life counts
            self._core, self._ready, self._pending = core, (), {}
            self._newest.clear()
            self._given_up.clear()
        ready = core._rendezvous.managers
        if ready == self._ready:
            for device, manager in self._forwarded:
                self._picked(device, ready, manager)
        self._ready = ready
        self._check_silence(host, ready)
        self._check_answers(core)
        self._forwarded.clear()
        self._answered.clear()

    def _picked(self, device: str, ready: tuple[str, ...], manager: str) -> None:
        picks = self._picks.setdefault(device, {})
        if picks.get(ready) == manager:
            return
        for others, other in picks.items():
            moved = manager in others and other in ready and manager != other
            check(not moved, f"{device} went to {other} of {others}, now of {ready} to", manager)
        picks[ready] = manager

    def _check_silence(self, host: Host, ready: tuple[str, ...]) -> None:
        for manager in ready:
            silent_ns = self._clock.now_ns - max(self._heard_ns[manager], host.resumed_ns)
            check(silent_ns <= SILENCE_NS, f"ready after {silent_ns / 1e9} s of silence", manager)

    def _check_answers(self, core: LoadBalancerCore) -> None:
        pending = {entry.tag: entry for entry in core.pending.all()}
        for tag, entry in self._pending.items():
            if tag in pending or tag in self._given_up:
                continue
            # Answered itself, or another of the session, which took its place and went in this
            # step: a newer one of the device, or an old one that a stranger repeats.
            answered = any(
                peer == entry.peer and session == entry.header.session
                for peer, session, _ in self._answered
            )
            newer = self._newest.get(entry.header.sender, 0) > tag
            check(answered or newer, "a request was forgotten", entry)
        for tag, entry in pending.items():
            device = entry.header.sender
            self._newest[device] = max(tag, self._newest.get(device, 0))
        self._pending = pending
