"""Random lives of jobs and devices, against a model that is a few dictionaries.

The model knows rounds, leases and outcomes in the plainest form; after every step the job manager
must agree with it, keep its invariants, and have acknowledged nothing that a crash takes back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from propius import tokens
from propius.core import SECOND_NS
from propius.messages import (
    Cancel,
    EndRequest,
    Error,
    ErrorCode,
    Ok,
    Outcome,
    Pause,
    Resume,
    StartRequest,
)
from tests.daemons.job_manager.rig import JobServer, Rig, device

DEVICES = st.integers(0, 5)
JOBS = st.integers(0, 1)
OUTCOMES = st.sampled_from([Outcome.COMPLETED, Outcome.FAILED, Outcome.DROPPED])
LEASE_S = 50.0
GRACE_S = 30.0


@dataclass
class ModelRound:
    """A round, said as plainly as possible."""

    demand: int
    reports_min: int
    deadline_ns: int
    state: str = "open"
    was_filled: bool = False
    held: dict[int, int] = field(default_factory=dict)  # device -> deadline_ns
    completed: int = 0
    lost: int = 0

    @property
    def live(self) -> bool:
        """Whether it has not ended."""
        return self.state in {"open", "filled"}

    def settle(self) -> None:
        """The state that follows from the counts."""
        if not self.live:
            return
        self.state = "filled" if len(self.held) + self.completed == self.demand else "open"
        self.was_filled = self.was_filled or self.state == "filled"
        if self.was_filled and self.completed >= self.reports_min:
            self.state = "completed"


class JobManagerMachine(RuleBasedStateMachine):
    """Two jobs, six devices, time, crashes."""

    @initialize()
    def begin(self) -> None:
        """Register two jobs."""
        self.rig = Rig(lease_default_s=LEASE_S, lease_grace_s=GRACE_S, job_silence_max_s=1e6)
        self.servers = [JobServer.registered(self.rig, f"server-{n}") for n in range(2)]
        self.rounds: list[list[ModelRound]] = [[], []]
        self.paused = [False, False]
        self.cancelled = [False, False]
        self.requests: dict[int, int] = {}
        self.tokens: dict[int, tuple[int, int, bytes]] = {}  # device -> job, round, its last token
        self.all_tokens: set[bytes] = set()
        self.lease_numbers: list[int] = []
        self.not_before_ns = self.rig.now_ns + int(GRACE_S * SECOND_NS)
        self.boots = 1

    # --- job servers ---------------------------------------------------------------------

    @rule(
        job=JOBS,
        demand=st.integers(1, 4),
        least=st.integers(0, 4),
        deadline=st.sampled_from([0, 70]),
    )
    def start_request(self, job: int, demand: int, least: int, deadline: int) -> None:
        """A round opens unless one is under way or the job is over."""
        answer = self.servers[job].do(
            StartRequest, demand=demand, reports_min=least, deadline_s=float(deadline)
        )
        rounds = self.rounds[job]
        if least > demand:
            assert isinstance(answer, Error)
            return
        if self.cancelled[job] or (rounds and rounds[-1].live):
            assert isinstance(answer, Error)
            assert answer.code is ErrorCode.WRONG_STATE
            return
        assert not isinstance(answer, Error)
        end_ns = self.rig.now_ns + deadline * SECOND_NS if deadline else -1
        rounds.append(ModelRound(demand, least or demand, end_ns))

    @rule(job=JOBS)
    def end_request(self, job: int) -> None:
        """The last round ends."""
        rounds = self.rounds[job]
        if rounds:
            assert self.servers[job].do(EndRequest, round=len(rounds) - 1) == Ok()
            if rounds[-1].live:
                rounds[-1].state = "ended"

    @rule(job=JOBS, pause=st.booleans())
    def pause_or_resume(self, job: int, pause: bool) -> None:
        """The flag changes while the job lives."""
        answer = self.servers[job].do(Pause if pause else Resume)
        assert isinstance(answer, Error) == self.cancelled[job]
        if not self.cancelled[job]:
            self.paused[job] = pause

    @precondition(lambda self: len(self.rounds[1]) > 3)
    @rule()
    def cancel(self) -> None:
        """The second job ends for good; the first lives on."""
        assert self.servers[1].do(Cancel) == Ok()
        self.cancelled[1] = True
        if self.rounds[1][-1].live:
            self.rounds[1][-1].state = "ended"

    # --- devices -------------------------------------------------------------------------

    @rule(
        who=DEVICES,
        job=JOBS,
        back=st.sampled_from([0, 0, 0, 1]),
        repeat=st.booleans(),
        after_s=st.sampled_from([0, 0, 20]),
    )
    def claim(self, who: int, job: int, back: int, repeat: bool, after_s: int) -> None:
        """A device wants a slot of the last or the last but one round; maybe says so twice."""
        self.time_passes(after_s)
        number = len(self.rounds[job]) - 1 - back
        if number < 0:
            return
        request = self.requests[who] = self.requests.get(who, 0) + 1
        result = self.rig.claim(who, job + 1, number, request=request)
        round_ = self.rounds[job][number]
        if self.paused[job] or not round_.live:
            expected = ErrorCode.ROUND_CLOSED.value
        elif round_.state == "filled":
            expected = ErrorCode.ROUND_FULL.value
        elif any(who in r.held for rounds in self.rounds for r in rounds):
            expected = ErrorCode.DEVICE_BUSY.value
        else:
            expected = ""
            round_.held[who] = self.rig.now_ns + int(LEASE_S * SECOND_NS)
            round_.settle()
            self._granted(who, job, number, result.token)
        assert result.error == expected
        if repeat:
            assert self.rig.claim(who, job + 1, number, request=request) == result

    @rule(who=DEVICES, outcome=OUTCOMES, repeat=st.booleans())
    def report(self, who: int, outcome: Outcome, repeat: bool) -> None:
        """A device reports with the last token it got, which may be stale by now."""
        if who not in self.tokens:
            return
        job, number, token = self.tokens[who]
        request = self.requests[who] = self.requests[who] + 1
        result = self.rig.report(who, job + 1, token, outcome, number, request=request)
        round_ = self.rounds[job][number]
        if who in round_.held:
            assert result.error == ""
            del round_.held[who]
            round_.completed += outcome is Outcome.COMPLETED
            round_.lost += outcome is not Outcome.COMPLETED
            round_.settle()
        else:
            assert result.error == ErrorCode.STALE_TOKEN
        if repeat:
            again = self.rig.report(who, job + 1, token, outcome, number, request=request)
            assert again == result

    # --- time and death ------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 20, 35, 55]))
    def time_passes(self, seconds: int) -> None:
        """Leases and rounds come to their ends."""
        self.rig.advance(seconds)
        self._expire()

    @rule(seconds=st.sampled_from([0, 10, 100]))
    def crash(self, seconds: int) -> None:
        """The job manager dies and comes back on the same boot."""
        self.rig.now_ns += seconds * SECOND_NS
        self.rig.start(f"boot-{self.boots}")
        self.not_before_ns = self.rig.now_ns + int(GRACE_S * SECOND_NS)
        self.rig.advance(0)
        self._expire()

    @rule()
    def crash_before_the_commit(self) -> None:
        """A request whose commit never happened leaves no trace; its repeat is answered."""
        server = self.servers[0]
        self.rig.commits = "held"
        assert server.say(server.about(Pause)) is None
        self.rig.commits = "done"
        self.rig.start(f"boot-{self.boots}")
        self.not_before_ns = self.rig.now_ns + int(GRACE_S * SECOND_NS)
        assert self.rig.job(1).paused == self.paused[0]
        assert server.ask(server.about(Pause), request=server.request) == Ok()
        self.paused[0] = True

    @rule(clock_s=st.sampled_from([1, 10**6]))
    def reboot(self, clock_s: int) -> None:
        """The machine restarts: leases are whole again, the clock is another."""
        before = self.rig.core.book.clock.saved_ns
        self.rig.now_ns = clock_s * SECOND_NS
        self.boots += 1
        self.rig.start(f"boot-{self.boots}")
        self.not_before_ns = self.rig.now_ns + int(GRACE_S * SECOND_NS)
        for round_ in (round_ for rounds in self.rounds for round_ in rounds):
            if round_.deadline_ns != -1:
                round_.deadline_ns += self.rig.now_ns - before
            for who in round_.held:
                round_.held[who] = self.rig.now_ns + int(LEASE_S * SECOND_NS)
        self.rig.advance(0)
        self._expire()

    # --- what must hold ------------------------------------------------------------------

    @invariant()
    def agrees_with_the_model(self) -> None:
        """Every round has the state, the holders and the counts of the model."""
        book = self.rig.core.book
        for job, rounds in enumerate(self.rounds):
            for number, round_ in enumerate(rounds):
                record = book.rounds[job + 1, number]
                holders = {book.leases[n].device_id for n in book.held[job + 1, number]}
                assert holders == {device(who) for who in round_.held}
                assert 0 <= record.allocated <= round_.demand
                assert record.allocated == len(round_.held) + round_.completed
                assert record.completed == round_.completed
                assert record.failed + record.expired == round_.lost
                assert record.state == round_.state

    @invariant()
    def is_stored(self) -> None:
        """What is in memory between batches is what the store has."""
        records, book = self.rig.store.load(), self.rig.core.book
        assert len(records.get("leases", {})) == len(book.leases)
        assert len(records.get("free_slots", {})) == sum(map(len, book.free.values()))
        assert len(records.get("rounds", {})) == len(book.rounds)

    def _granted(self, who: int, job: int, number: int, token: bytes) -> None:
        assert token not in self.all_tokens
        lease = tokens.verify(self.servers[job].secret, token)
        assert (lease.job, lease.round, lease.device_id) == (job + 1, number, device(who))
        assert not self.lease_numbers or lease.lease > self.lease_numbers[-1]
        self.lease_numbers.append(lease.lease)
        self.all_tokens.add(token)
        self.tokens[who] = (job, number, token)

    def _expire(self) -> None:
        """Leases and deadlines in order of time, as ticks come."""
        now_ns = self.rig.now_ns
        due: list[tuple[int, int, ModelRound, int]] = []
        for round_ in (round_ for rounds in self.rounds for round_ in rounds):
            for who, end_ns in round_.held.items():
                due.append((max(end_ns, self.not_before_ns), 1, round_, who))
            if round_.deadline_ns != -1:
                due.append((round_.deadline_ns, 0, round_, -1))
        for time_ns, _, round_, who in sorted(due, key=lambda item: item[:2]):
            if time_ns > now_ns:
                continue
            if who >= 0:
                del round_.held[who]
                round_.lost += 1
                round_.settle()
            elif round_.live:
                enough = round_.completed >= round_.reports_min
                round_.state = "closed" if enough else "failed"


JobManagerMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, derandomize=True, deadline=None
)
TestJobManagerMachine = JobManagerMachine.TestCase
