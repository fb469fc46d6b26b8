"""The fake answers as the daemons do; what becomes of rounds is in ``tests/golden/rounds``."""

from __future__ import annotations

import pytest

from propius import messages
from propius.fence import Fence
from propius.messages import ErrorCode, Message, Outcome
from propius.testing import TinyPropius, TinyRound
from propius.tokens import verify


class Talk:
    """Devices and a job server that say one thing at a time; no time passes."""

    def __init__(self) -> None:
        self.tiny = TinyPropius()
        self.requests = 0

    def ask(self, sender: str, message: Message) -> Message:
        """The answer to this very request."""
        self.requests += 1
        header = messages.Header(kind=message.kind, sender=sender, session=1, request=self.requests)
        answers = self.tiny.receive(0.0, header, message)
        return next(answer for to, answer in answers if to.request == self.requests)

    def accept(self, device: int, round_: TinyRound) -> Message:
        """A device takes a slot, or is refused."""
        return self.ask(f"{device:032x}", messages.Accept(job=round_.job, round=round_.number))

    def token(self, device: int, round_: TinyRound) -> bytes:
        """The token of a slot that it gets."""
        answer = self.accept(device, round_)
        assert isinstance(answer, messages.Assignment), answer
        return answer.token

    def verb(self, cls: type[Message], round_: TinyRound, **fields: object) -> Message:
        """The round's job server asks for something."""
        return self.ask("server", cls(job=round_.job, secret=self.secret(round_), **fields))

    def secret(self, round_: TinyRound) -> bytes:
        """The job's."""
        return self.tiny._secret(round_.job)


@pytest.fixture
def talk() -> Talk:
    """A fake without jobs."""
    return Talk()


def code(message: Message) -> str:
    """Of an error."""
    assert isinstance(message, messages.Error), message
    return message.code


def test_after_a_loss_both_living_leases_pass_the_fence(talk: Talk) -> None:
    """The slot that came back is given again, and not the slot of a device that still works."""
    round_ = talk.tiny.open_round(demand=3)
    first, second = talk.token(1, round_), talk.token(2, round_)
    report = messages.Report(job=round_.job, round=0, token=first, outcome=Outcome.FAILED)
    assert talk.ask(f"{1:032x}", report) == messages.Ok()
    third = talk.token(3, round_)
    fence = Fence(round_.job, talk.secret(round_), 0)
    fence.lose(0, round_.lost)
    assert [fence.admit(token).slot for token in (third, second)] == [0, 1]
    assert verify(talk.secret(round_), first).slot == 0


def test_full_and_over_are_told_apart(talk: Talk) -> None:
    """As the job manager does: a full round may lack a device again, one that is over will not."""
    round_ = talk.tiny.open_round(demand=1)
    talk.token(1, round_)
    assert code(talk.accept(2, round_)) == ErrorCode.ROUND_FULL
    assert talk.verb(messages.EndRequest, round_, round=0) == messages.Ok()
    assert code(talk.accept(2, round_)) == ErrorCode.ROUND_CLOSED


@pytest.mark.parametrize("verb", [messages.CompleteJob, messages.Cancel])
def test_the_end_of_a_job_is_the_end_of_its_round(talk: Talk, verb: type[Message]) -> None:
    """Nobody is offered it any more, and the job starts no other."""
    round_ = talk.tiny.open_round(demand=2)
    assert talk.verb(verb, round_) == messages.Ok()
    assert round_.state == "ended"
    assert code(talk.verb(messages.StartRequest, round_, demand=1)) == ErrorCode.WRONG_STATE
    assert code(talk.verb(messages.CompleteJob, round_)) == ErrorCode.WRONG_STATE


def test_more_reports_than_devices_are_refused(talk: Talk) -> None:
    """As the job manager refuses it."""
    round_ = talk.tiny.open_round(demand=1)
    talk.verb(messages.EndRequest, round_, round=0)
    wrong = talk.verb(messages.StartRequest, round_, demand=2, reports_min=3)
    assert code(wrong) == ErrorCode.INVALID
