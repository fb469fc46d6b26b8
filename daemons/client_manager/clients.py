"""The clients of one manager: what they ask, what they are offered, and what they claim.

One method for each verb of a client. The matcher decides who is offered what; here it is decided
what a request *is* (new, a repeat, stale), whom an answer still reaches, and what a device that
vanished leaves behind. Answers and claims gather until the core takes them at the end of a batch.

The events that are recorded are, in order, every input that the matcher saw and every decision it
made, so that :mod:`propius.driver` can be put through the same again. Reading the clock is an
input, too: it is recorded when somebody's time may be over (``time_looked``) and at the end of a
batch in which anything was recorded (``waiting_matched``); what was decided then follows it.

Not here: links and peers (:mod:`daemons.client_manager.core`), the table of requests
(:mod:`daemons.client_manager.exchanges`), slots (the job manager).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from daemons.client_manager.answers import Answers, refusal
from daemons.client_manager.exchanges import Exchange, Exchanges, Stage, digest_of
from daemons.client_manager.outbox import Outbox, OutboxLimits
from daemons.client_manager.plans import PlanBook
from daemons.client_manager.settings import ClientManagerSettings
from propius import driver, engine, messages
from propius.core import SECOND_NS, Core
from propius.messages import (
    CLIENT_REQUESTS,
    Accept,
    CheckIn,
    Claim,
    ClaimResult,
    ClaimResults,
    Decline,
    DecodeError,
    Error,
    ErrorCode,
    GetSchema,
    Header,
    Message,
    Ok,
    Plan,
    Report,
    ReportItem,
    ReportResult,
    RoundRef,
    decode_header,
    decode_payload,
)

_KINDS: Final = frozenset(cls.kind for cls in CLIENT_REQUESTS)


class Clients:
    """See the module. ``core`` is asked to count and to record, nothing else."""

    def __init__(
        self, core: Core, settings: ClientManagerSettings, *, manager: int, seed: int
    ) -> None:
        self.core = core
        self.settings = settings
        self._started = messages.MatcherStarted(
            manager=manager,
            dimensions=len(settings.schema.attributes),
            tasks_per_offer_max=settings.tasks_per_offer_max,
            offer_timeout_ns=_ns(settings.offer_timeout_s),
            waiting_max=settings.waiting_max,
            declined_max=settings.declined_max,
            supply_bucket_ns=_ns(settings.supply_bucket_s),
            supply_sample_max=settings.supply_sample_max,
            seed=seed,
        )
        self.matcher = driver.matcher_of(self._started)
        self._recorded = False  # something, since those who wait were last matched
        self.plans = PlanBook(self.matcher)
        self.exchanges = Exchanges(
            remembered_max=settings.remembered_max, remember_ns=_ns(settings.remember_s)
        )
        limits = OutboxLimits(
            items_max=settings.claims_max,
            again_ns=_ns(settings.claim_again_s),
            timeout_ns=_ns(settings.claim_timeout_s),
        )
        self.claims: Outbox[Claim] = Outbox(limits)
        self.reports: Outbox[ReportItem] = Outbox(limits)
        self.draining = False
        self.answers = Answers(core.name, settings, self.exchanges, self.plans, seed=seed)
        self._maxima = [most for _, most in settings.schema.attributes]

    # --- what the core calls -----------------------------------------------------------------

    def start(self, now_ns: int) -> None:
        """The log begins with what the matcher was made from."""
        self._record(now_ns, lambda: self._started)

    def met_scheduler(self, now_ns: int, incarnation: int) -> None:
        """A scheduler answered our hello."""
        if self.plans.met_scheduler(incarnation):
            self._record(now_ns, lambda: messages.SchedulerMet(incarnation=incarnation))

    def handle(self, now_ns: int, tag: int, header_frame: bytes, payload: bytes) -> None:
        """A device's request; it is answered now, or later to the same tag."""
        try:
            header = decode_header(header_frame)
        except DecodeError:  # the load balancer checks headers; nobody could be told
            self.core.count("refused_headers")
            return
        try:
            message = _decode(header, payload)
        except DecodeError as error:
            self.core.count("refused_requests")
            self.answers.tell(tag, header, error.reply())
            return
        if isinstance(message, GetSchema):  # changes nothing, and may come on a lane of its own
            self.answers.tell(tag, header, self.settings.schema)
            return
        exchange = self._open(now_ns, tag, header, payload)
        if exchange is not None:
            self._verb(now_ns, exchange, message)

    def apply_plan(self, now_ns: int, plan: Plan) -> None:
        """Work by this plan from here on, unless it is old. Raises EngineError."""
        if self.plans.apply(now_ns, plan):
            self.core.count("plans_applied")
            self._record(now_ns, lambda: messages.PlanApplied(plan=plan))

    def take_results(self, now_ns: int, results: ClaimResults) -> None:
        """The job manager answered claims and reports."""
        for result in results.claims:
            claim = self.claims.answered(result.device_id, result.session, result.request)
            if claim is None:
                self.core.count("late_results")
            else:
                self._claim_answered(now_ns, claim, result, results.seq)
        for report in results.reports:
            if self.reports.answered(report.device_id, report.session, report.request) is None:
                self.core.count("late_results")
            else:
                self._report_answered(now_ns, report)

    def cannot_reach(self, now_ns: int, tags: list[int]) -> None:
        """These answers found nobody, or will not: let go of what was promised to those devices."""
        for tag in tags:
            exchange = self.exchanges.by_tag(tag)
            if exchange is None or exchange.stage in {Stage.ASKED, Stage.LAPSED}:
                continue  # a claim under way is decided all the same
            self._let_go(now_ns, exchange.device, "undeliverable")
            if exchange.kind == CheckIn.kind:
                self.exchanges.settle(now_ns, exchange, Stage.LAPSED, None)

    def send_away(self, now_ns: int, why: str) -> None:
        """Answer everybody who waits: check in again."""
        error = Error(code=ErrorCode.CHECK_IN_AGAIN, text=f"{why}; check in again")
        for exchange in self.exchanges.in_stage(Stage.HELD):
            self._let_go(now_ns, exchange.device, "sent away")
            self.answers.give(now_ns, exchange, error)

    def expire(self, now_ns: int) -> None:
        """Holds, offers and claims whose time is over."""
        due_ns = self.matcher.due_ns()
        held, offered = self.matcher.expire(now_ns)
        if held or offered or (due_ns is not None and due_ns <= now_ns):
            self._record(now_ns, messages.TimeLooked)
        for device in held:
            self._forgotten(now_ns, device, driver.HOLD_OVER)
            exchange = self.exchanges.get(device)
            if exchange is not None and exchange.stage is Stage.HELD:
                self.answers.give(now_ns, exchange, self.answers.empty_offer(now_ns, exchange))
        for device in offered:
            self.core.count("offers_expired")
            self._forgotten(now_ns, device, driver.OFFER_OVER)
            exchange = self.exchanges.get(device)
            if exchange is not None and exchange.kind == CheckIn.kind:
                self.exchanges.settle(now_ns, exchange, Stage.LAPSED, None)
        for claim in self.claims.expire(now_ns):
            self._claim_given_up(now_ns, claim)
        for report in self.reports.expire(now_ns):
            self._busy_answer(now_ns, report.device_id, report.session, report.request)

    def offer_waiting(self, now_ns: int) -> None:
        """Offer what has become available to those who wait."""
        offers = self.matcher.match_waiting(now_ns)
        if self._recorded or offers:
            self._record(now_ns, messages.WaitingMatched)
        for device, rounds in offers:
            exchange = self.exchanges.get(device)
            assert exchange is not None, f"{device} is offered work but unknown"
            assert exchange.stage is Stage.HELD, f"{device} is offered work but does not wait"
            self._offer(now_ns, exchange, rounds)
        self._recorded = False

    def due_ns(self, *, sending: bool) -> int | None:
        """When ``expire``, or the sending of claims, has something to do."""
        times = (
            self.matcher.due_ns(),
            self.claims.due_ns(sending=sending),
            self.reports.due_ns(sending=sending),
        )
        return min((time for time in times if time is not None), default=None)

    def check(self, *, thorough: bool = True) -> None:
        """What holds after every step; raises AssertionError (or EngineError) where it does not."""
        self.matcher.check()
        self.claims.check()
        self.reports.check()
        if thorough:
            self.exchanges.check()
            self.plans.check()
        held = 0
        for exchange in self.exchanges:
            if exchange.stage is Stage.HELD:
                held += 1
            elif exchange.stage is Stage.ASKED:
                box = self.claims if exchange.kind == Accept.kind else self.reports
                item = box.get(exchange.device)
                assert item is not None, f"{exchange.device} waits for an answer that nobody owes"
                assert exchange.is_for(item.session, item.request), "the wrong answer is awaited"
        counts = self.matcher.counts()
        assert counts["waiting"] == held, "held check-ins and waiting clients differ"
        assert held <= self.settings.waiting_max
        real = sum(not claim.look_up for claim in self.claims)
        assert counts["claiming"] == real, "claims under way differ from the matcher's"

    # --- requests ----------------------------------------------------------------------------

    def _open(self, now_ns: int, tag: int, header: Header, payload: bytes) -> Exchange | None:
        """The exchange of a request that must be handled; None if it was answered here."""
        digest = digest_of(header.kind, payload)
        known = self.exchanges.get(header.sender)
        if known is not None and known.session == header.session:
            if header.request < known.request:
                text = f"request {known.request} of this session was answered already"
                self.answers.tell(tag, header, Error(code=ErrorCode.STALE_REQUEST, text=text))
                return None
            if header.request == known.request:
                return self._repeated(now_ns, tag, header, known, digest)
        if known is not None and known.stage is Stage.ASKED and known.kind == Accept.kind:
            text = "the accept of this device is being decided; ask again"
            self.answers.tell(tag, header, self.answers.busy(now_ns, header, text))
            return None
        if known is not None and known.stage is Stage.HELD:
            self._let_go(now_ns, known.device, "superseded")
            self.answers.drop(known.tag)
        return self.exchanges.begin(now_ns, tag, header, digest)

    def _repeated(
        self, now_ns: int, tag: int, header: Header, known: Exchange, digest: bytes
    ) -> Exchange | None:
        if known.digest != digest:
            text = f"request {header.request} was sent before with another body"
            self.answers.tell(
                tag, header, Error(code=ErrorCode.CONFLICT, text=text, field="request")
            )
            return None
        self.core.count("repeated_requests")
        if known.under_way and known.tag != tag:
            self.answers.drop(known.tag)
        self.exchanges.repeat(now_ns, known, tag)
        if known.reply is not None:
            self.answers.again(known)
        return known if known.stage is Stage.LAPSED else None

    def _verb(self, now_ns: int, exchange: Exchange, message: Message) -> None:
        match message:
            case CheckIn():
                self._check_in(now_ns, exchange, message)
            case Accept():
                self._accept(now_ns, exchange, message)
            case Decline():
                self._decline(now_ns, exchange, message)
            case Report():
                self._report(now_ns, exchange, message)
            case _:
                raise AssertionError(f"{message.kind} has no handler")

    def _check_in(self, now_ns: int, exchange: Exchange, message: CheckIn) -> None:
        error = self._misfit(message)
        if error is not None:
            self.answers.give(now_ns, exchange, error)
            return
        spec = [min(value, most) for value, most in zip(message.spec, self._maxima, strict=True)]
        device, hold_ns = exchange.device, now_ns + _ns(message.wait_s)
        self.core.count("check_ins")
        self._record(
            now_ns,
            lambda: messages.CheckedIn(
                device_id=device, spec=spec, option=message.option, hold_s=message.wait_s
            ),
        )
        try:
            rounds = self.matcher.check_in(now_ns, device, spec, message.option, hold_ns)
        except engine.EngineError as problem:  # too many wait, or this one's claim is undecided
            self.core.count("check_ins_refused")
            self.answers.give(now_ns, exchange, self.answers.busy(now_ns, exchange, str(problem)))
            return
        if rounds:
            self._offer(now_ns, exchange, rounds)
        elif message.wait_s > 0:
            exchange.stage, exchange.reply = Stage.HELD, None
        else:
            self.answers.give(now_ns, exchange, self.answers.empty_offer(now_ns, exchange))

    def _misfit(self, message: CheckIn) -> Error | None:
        """Why this check-in cannot be taken."""
        schema = self.settings.schema
        if message.schema != schema.schema:
            text = f"attribute schema {message.schema!r} is not the current {schema.schema!r}"
            return Error(code=ErrorCode.SCHEMA_CHANGED, text=text, field="schema")
        if len(message.spec) != len(self._maxima):
            text = f"a spec has {len(self._maxima)} values here, not {len(message.spec)}"
            return Error(code=ErrorCode.INVALID, text=text, field="spec")
        if self.draining:
            text = "this client manager is stopping; check in again"
            return Error(code=ErrorCode.CHECK_IN_AGAIN, text=text)
        return None

    def _accept(self, now_ns: int, exchange: Exchange, message: Accept) -> None:
        """Claim what was offered; what was not can only have been granted earlier: look it up."""
        # -1: the check-in was forgotten in a crowd. The matcher still knows what it offered.
        device, own = exchange.device, exchange.offer_session in {exchange.session, -1}
        if len(self.claims) >= self.settings.claims_max:
            self.core.count("accepts_put_off")
            text = "too many claims are under way; ask again"
            self.answers.give(now_ns, exchange, self.answers.busy(now_ns, exchange, text))
            return
        offered = own and self.matcher.accept(now_ns, device, message.job, message.round)
        if own:
            event = messages.Claimed if offered else messages.LookedUp
            self._record(
                now_ns, lambda: event(device_id=device, job=message.job, round=message.round)
            )
        claim = Claim(
            device_id=device,
            session=exchange.session,
            request=exchange.request,
            digest=exchange.digest,
            job=message.job,
            round=message.round,
            look_up=not offered,
        )
        self.core.count("claims" if offered else "look_ups")
        exchange.stage, exchange.reply = Stage.ASKED, None
        self.claims.add(now_ns, claim)

    def _decline(self, now_ns: int, exchange: Exchange, message: Decline) -> None:
        if exchange.offer_session not in {exchange.session, -1}:
            self.answers.give(
                now_ns, exchange, Ok()
            )  # a late word from an earlier life of the device
            return
        self.matcher.decline(now_ns, exchange.device, message.rounds)
        self._record(
            now_ns, lambda: messages.Declined(device_id=exchange.device, rounds=message.rounds)
        )
        self.answers.give(now_ns, exchange, Ok())

    def _report(self, now_ns: int, exchange: Exchange, message: Report) -> None:
        item = ReportItem(
            device_id=exchange.device,
            session=exchange.session,
            request=exchange.request,
            digest=exchange.digest,
            job=message.job,
            round=message.round,
            token=message.token,
            outcome=message.outcome,
        )
        if self.reports.add(now_ns, item):
            exchange.stage, exchange.reply = Stage.ASKED, None
        else:
            self.core.count("reports_put_off")
            text = "too many reports are under way; ask again"
            self.answers.give(now_ns, exchange, self.answers.busy(now_ns, exchange, text))

    # --- the job manager's answers -----------------------------------------------------------

    def _claim_answered(self, now_ns: int, claim: Claim, result: ClaimResult, seq: int) -> None:
        device = claim.device_id
        if not claim.look_up:
            if result.error:
                if result.error == ErrorCode.ALREADY_SERVED:
                    self.matcher.decline(now_ns, device, [(claim.job, claim.round)])
                self.matcher.refused(now_ns, device)
            else:
                self.matcher.assigned(now_ns, device, seq)
            self._record_answer(now_ns, claim, result.error, seq)
        exchange = self.exchanges.get(device)
        if exchange is None or not exchange.is_for(claim.session, claim.request):
            return
        if result.error:
            self.core.count("claims_refused")
            where = f"job {claim.job} round {claim.round}"
            self._refused(now_ns, exchange, result.error, where)
            return
        self.core.count("assigned")
        assignment = messages.Assignment(
            job=result.job,
            round=result.round,
            endpoint=result.endpoint,
            lease_s=result.lease_s,
            token=result.token,
        )
        self.answers.give(now_ns, exchange, assignment)

    def _claim_given_up(self, now_ns: int, claim: Claim) -> None:
        """Nobody answered. It may have been granted: asking again with the same number tells."""
        self.core.count("claims_given_up")
        if not claim.look_up:
            self.matcher.refused(now_ns, claim.device_id)
            self._record_answer(now_ns, claim, ErrorCode.BUSY.value, 0)
        self._busy_answer(now_ns, claim.device_id, claim.session, claim.request)

    def _report_answered(self, now_ns: int, result: ReportResult) -> None:
        exchange = self.exchanges.get(result.device_id)
        if exchange is not None and exchange.is_for(result.session, result.request):
            if result.error:
                self._refused(now_ns, exchange, result.error, "report")
            else:
                self.answers.give(now_ns, exchange, Ok())

    def _refused(self, now_ns: int, exchange: Exchange, error: str, what: str) -> None:
        """The job manager said no; or that it cannot decide now, and then when to ask again."""
        answer = refusal(error, what)
        if answer.code is ErrorCode.BUSY:
            text = "the job manager can store nothing now; ask again"
            answer = self.answers.busy(now_ns, exchange, text)
        elif answer.code is ErrorCode.LIMIT:
            busy = self.answers.busy(now_ns, exchange, answer.text)
            answer = msgspec.structs.replace(busy, code=answer.code)
        self.answers.give(now_ns, exchange, answer)

    def _busy_answer(self, now_ns: int, device: str, session: int, request: int) -> None:
        exchange = self.exchanges.get(device)
        if exchange is not None and exchange.is_for(session, request):
            text = "the job manager does not answer; ask again"
            self.answers.give(now_ns, exchange, self.answers.busy(now_ns, exchange, text))

    # --- what the matcher sees and says -------------------------------------------------------

    def _offer(self, now_ns: int, exchange: Exchange, rounds: list[RoundRef]) -> None:
        self.core.count("offers")
        self.answers.offer(now_ns, exchange, rounds)
        version = self.plans.version
        self._record(
            now_ns,
            lambda: messages.Offered(
                device_id=exchange.device, plan_version=version, rounds=rounds
            ),
        )

    def _let_go(self, now_ns: int, device: str, reason: str) -> None:
        self.matcher.forget(now_ns, device)
        self._forgotten(now_ns, device, reason)

    def _forgotten(self, now_ns: int, device: str, reason: str) -> None:
        self._record(now_ns, lambda: messages.ClientForgotten(device_id=device, reason=reason))

    def _record_answer(self, now_ns: int, claim: Claim, error: str, seq: int) -> None:
        self._record(
            now_ns,
            lambda: messages.ClaimAnswered(
                device_id=claim.device_id, job=claim.job, round=claim.round, error=error, seq=seq
            ),
        )

    def _record(self, now_ns: int, make: Callable[[], Message]) -> None:
        if self.settings.event_log:
            self._recorded = True
            self.core.record(now_ns, make())


def _decode(header: Header, payload: bytes) -> Message:
    if header.kind not in _KINDS:
        text = f"unknown message kind {header.kind!r}; a client may send {sorted(_KINDS)}"
        raise DecodeError(ErrorCode.UNKNOWN_KIND, text, "kind")
    return decode_payload(header.kind, payload)


def _ns(seconds: float) -> int:
    return int(seconds * SECOND_NS)
