"""Answers to clients: made, remembered where a repeat must get them again, and gathered.

Not here: which answer a request gets (:mod:`daemons.client_manager.clients`).
"""

from __future__ import annotations

from typing import Final, TypeAlias

from daemons.client_manager.exchanges import Exchange, Exchanges, Stage
from daemons.client_manager.plans import PlanBook
from daemons.client_manager.settings import ClientManagerSettings
from daemons.retry import Retry
from propius.messages import (
    Error,
    ErrorCode,
    Header,
    Message,
    Offer,
    RoundRef,
    encode,
    encode_header,
    encode_payload,
)

Delivery: TypeAlias = tuple[int, bytes, bytes]
"""(tag, header, payload) of an answer."""

# Only time mends these, so they are not remembered: the same request again is decided anew.
TRANSIENT: Final = frozenset(
    {ErrorCode.BUSY, ErrorCode.NOT_READY, ErrorCode.CHECK_IN_AGAIN, ErrorCode.LIMIT}
)
_CODES: Final = {code.value: code for code in ErrorCode}
_WHAT_TO_DO: Final = {
    ErrorCode.NOT_OFFERED: "it was not offered to this device, or the offer lapsed: check in again",
    ErrorCode.ROUND_FULL: "others were faster: take the next task of the offer, or check in again",
    ErrorCode.ROUND_CLOSED: "the round is over: take the next task of the offer, or check in again",
    ErrorCode.UNKNOWN_JOB: "the job is gone: take the next task of the offer, or check in again",
    ErrorCode.JOB_BACKS_OFF: "all its last devices failed: take the next task of the offer,"
    " or check in again",
    ErrorCode.ALREADY_SERVED: "this device served this round: take the next task of the offer,"
    " or check in again",
    ErrorCode.DEVICE_BUSY: "this device holds another lease: report its task first",
    ErrorCode.STALE_TOKEN: "the lease is over, or was never this device's",
    ErrorCode.CONFLICT: "this request number was used with another body",
    ErrorCode.STALE_REQUEST: "a later request of this session was answered already",
}


class Answers:
    """The answers of one manager, until the end of the batch."""

    def __init__(
        self,
        name: str,
        settings: ClientManagerSettings,
        exchanges: Exchanges,
        plans: PlanBook,
        *,
        seed: int,
    ) -> None:
        self._name = name
        self._idle_s = settings.retry_idle_s
        self._exchanges = exchanges
        self._plans = plans
        self._retry = Retry(
            min_s=settings.retry_min_s,
            max_s=settings.retry_max_s,
            per_s=settings.retries_per_s,
            seed=seed,
        )
        self._deliveries: list[Delivery] = []

    def take(self) -> list[Delivery]:
        """What has gathered."""
        deliveries, self._deliveries = self._deliveries, []
        return deliveries

    def give(self, now_ns: int, exchange: Exchange, message: Message) -> None:
        """Answer, and remember it, unless it says that asking again is the thing to do."""
        self._frames(now_ns, exchange, message.kind, encode_payload(message))
        if isinstance(message, Error) and message.code in TRANSIENT:
            self._exchanges.settle(now_ns, exchange, Stage.LAPSED, None)

    def offer(self, now_ns: int, exchange: Exchange, rounds: list[RoundRef]) -> None:
        """Answer with an offer of these rounds."""
        self._frames(now_ns, exchange, Offer.kind, self._plans.offer_payload(rounds))

    def again(self, exchange: Exchange) -> None:
        """Give the same answer again, if there is one yet."""
        if exchange.reply is not None:
            self._deliveries.append((exchange.tag, *exchange.reply))

    def drop(self, tag: int) -> None:
        """Nobody waits at this tag any more; the load balancer need not remember it."""
        self._deliveries.append((tag, b"", b""))

    def tell(self, tag: int, to: Header, message: Message) -> None:
        """Answer without remembering anything."""
        self._deliveries.append((tag, *encode(self._header(message.kind, to), message)))

    def empty_offer(self, now_ns: int, exchange: Exchange) -> Offer:
        """Nothing for this device now. It comes back soon if rounds are open, later if none is."""
        base_s = 0.0 if self._plans.open_rounds else self._idle_s
        retry_s = self._retry.after(now_ns, exchange.device, exchange.request, base_s)
        return Offer(tasks=[], plan_version=self._plans.version, retry_after_s=retry_s)

    def busy(self, now_ns: int, asker: Exchange | Header, text: str) -> Error:
        """Ask again, at a time of your own."""
        device = asker.device if isinstance(asker, Exchange) else asker.sender
        retry_after_s = self._retry.after(now_ns, device, asker.request)
        return Error(code=ErrorCode.BUSY, text=text, retry_after_s=retry_after_s)

    def _frames(self, now_ns: int, exchange: Exchange, kind: str, payload: bytes) -> None:
        frame = encode_header(self._header(kind, exchange))
        self._deliveries.append((exchange.tag, frame, payload))
        self._exchanges.settle(now_ns, exchange, Stage.ANSWERED, (frame, payload))

    def _header(self, kind: str, to: Exchange | Header) -> Header:
        return Header(kind=kind, sender=self._name, session=to.session, request=to.request)


def refusal(error: str, what: str) -> Error:
    """What a device hears when the job manager said no; ``error`` is a code's value."""
    code = _CODES.get(error, ErrorCode.INTERNAL)
    advice = _WHAT_TO_DO.get(code, "see the job manager's log" if code.value != error else error)
    return Error(code=code, text=f"{what}: {advice}")
