"""Hostile strangers: what anybody who reaches a port can send, and must get nothing for.

A stranger has a connection to every port. It sends garbage; headers with the names of others; the
very frames that others sent before; their headers with other bodies; wrong secrets; tokens that
were made for others; accepts of what it was never offered. It never has a secret of its own, so
whatever it makes up itself must be answered by an error, or not at all: anything else is a finding.
What a replay of true frames may do is judged by the oracle, as for any message that came twice.

Not here: joining a daemon's inside link with a well-made ``hello``. Inside ports are trusted.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from propius import messages
from propius.core import Frames
from propius.messages import DecodeError, Header, Message, Outcome, decode_header
from tests.simulation.clock import MILLISECOND_NS, SECOND_NS
from tests.simulation.durable import check
from tests.simulation.faults import Fault
from tests.simulation.host import Surroundings
from tests.simulation.oracle import Oracle

OUTSIDE: Final = ("clients", "jobs")
INSIDE: Final = ("balancer_inside", "job_manager_inside", "scheduler_inside")
_KINDS: Final = tuple(messages.MESSAGES)
_DEVICE_FORGERIES: Final = ("report", "accept", "check_in")  # kinds whose false bodies are errors

Trick = Callable[[], None]


class Stranger:
    """Somebody with bad intentions, until the faults end."""

    def __init__(self, name: str, around: Surroundings, oracle: Oracle, pause_s: float) -> None:
        self.name = name
        self.around, self.oracle = around, oracle
        self._pause_s = pause_s
        self._random: Random = around.faults.random
        self._forged: dict[tuple[str, int, int], str] = {}  # what was made up → its kind
        self._true: dict[tuple[str, int, int], None] = {}  # what was replayed: may be answered
        self._requests = 0
        self._tricks: list[Trick] = [
            self._garbage, self._wrong_kind, self._broken_body, self._accept_unoffered,
            self._steal_report, self._replay, self._replay, self._other_body, self._wrong_secret,
            self._wrong_secret, self._disturb_inside, self._false_spec,
        ]  # fmt: skip

    def start(self) -> None:
        """From now on it does something every now and then."""
        self.around.network.up(self)
        self._act_later()

    def deliver(self, link: str, peer: bytes, frames: Frames) -> None:
        """An answer: an error, if it is to anything that was made up."""
        try:
            header = decode_header(frames[0])
        except (DecodeError, IndexError):
            return  # torn on its way
        kind = self._forged.get((link, header.session, header.request))
        if kind is not None:
            check(header.kind in {"error", "reject"}, f"a stranger's {kind} got", header)

    def connected(self, link: str) -> None:
        """It does not care."""

    # --- sending ---------------------------------------------------------------------------------

    def _act_later(self) -> None:
        wait_ns = int(self._random.expovariate(1.0) * self._pause_s * SECOND_NS)
        self.around.clock.after(max(wait_ns, MILLISECOND_NS), self._act)

    def _act(self) -> None:
        if not self.around.faults.active:
            self.around.network.forget(self)
            return
        self._random.choice(self._tricks)()
        self._act_later()

    def _send(self, link: str, frames: Frames) -> None:
        self.around.faults.struck(Fault.STRANGER)
        self.around.faults.hit(Fault.STRANGER, frames)
        self.around.network.send(self, link, b"", frames)

    def _forge(self, link: str, header: Header, payload: bytes) -> None:
        key = (link, header.session, header.request)
        if key not in self._true:
            self._forged[key] = header.kind
        self._send(link, (messages.encode_header(header), payload))

    def _say(self, link: str, message: Message, *, sender: str = "", like: Header | None) -> None:
        """Send a message of its own, or under the header of another's request."""
        header = self._header(message.kind, sender) if like is None else like
        self._forge(link, header, messages.encode_payload(message))

    def _header(self, kind: str, sender: str = "") -> Header:
        self._requests += 1
        return Header(
            kind=kind,
            sender=sender or f"{self._random.getrandbits(128):032x}",
            session=1 + self._random.getrandbits(62),
            request=self._requests,
        )

    def _overheard(self, link: str) -> Frames | None:
        """Something that another one sent."""
        frames = self.around.overheard[link]
        return self._random.choice(frames) if frames else None

    def _some_round(self) -> tuple[int, int]:
        refs = list(self.oracle.durable.rounds)
        return self._random.choice(refs) if refs else (1, 0)

    # --- tricks ----------------------------------------------------------------------------------

    def _garbage(self) -> None:
        """Frames of any number, of anything."""
        random = self._random
        frames = tuple(random.randbytes(random.randrange(60)) for _ in range(random.randint(1, 4)))
        self._send(random.choice(OUTSIDE + INSIDE), frames)

    def _wrong_kind(self) -> None:
        """A kind that nobody may send here, in the name of a daemon."""
        link = self._random.choice(OUTSIDE)
        theirs = messages.CLIENT_REQUESTS if link == "clients" else messages.JOB_REQUESTS
        kinds = [kind for kind in _KINDS if kind not in {cls.kind for cls in theirs}]
        name = self._random.choice(("job_manager", "client_manager-0", "scheduler", ""))
        self._forge(link, self._header(self._random.choice(kinds), name), b"\x80")

    def _broken_body(self) -> None:
        """A good header before nonsense."""
        link = self._random.choice(OUTSIDE)
        kind = "report" if link == "clients" else "start_request"
        self._forge(link, self._header(kind), b"\xc1" + self._random.randbytes(20))

    def _accept_unoffered(self) -> None:
        """Take a slot without having been offered one."""
        job, number = self._some_round()
        self._say("clients", messages.Accept(job=job, round=number), like=None)

    def _steal_report(self) -> None:
        """Report on the lease of another device, in its own name or that of a third."""
        if not self.around.tokens:
            return
        task = self._random.choice(self.around.tokens)
        token = task.token
        if self._random.random() < 0.5:
            where = self._random.randrange(len(token))
            token = token[:where] + bytes([token[where] ^ 1]) + token[where + 1 :]
        outcome = self._random.choice((Outcome.COMPLETED, Outcome.FAILED, Outcome.DROPPED))
        report = messages.Report(job=task.job, round=task.round, token=token, outcome=outcome)
        self._say("clients", report, like=None)

    def _false_spec(self) -> None:
        """A check-in that no operator's schema allows."""
        random = self._random
        spec = [1.0] * random.choice((0, 2, 4, 200))
        schema = random.choice(("simulated", "simulated", "another"))
        self._say("clients", messages.CheckIn(schema=schema, spec=spec, option=1.0), like=None)

    def _replay(self) -> None:
        """What another one sent, to the byte."""
        link = self._random.choice(OUTSIDE)
        frames = self._overheard(link)
        if frames is None:
            return
        header = decode_header(frames[0])
        key = (link, header.session, header.request)
        self._true[key] = None
        self._forged.pop(key, None)
        self.oracle.replayed(header, frames)
        self._send(link, frames)

    def _other_body(self) -> None:
        """Another one's header, before a body that this one never sent."""
        link = self._random.choice(OUTSIDE)
        frames = self._overheard(link)
        if frames is None:
            return
        like = decode_header(frames[0])
        if link == "jobs":
            self._forge(link, like, messages.encode_payload(self._without_secret(like.kind)))
        elif like.kind in _DEVICE_FORGERIES:
            self.oracle.impersonated[like.sender] = None
            self._forge(link, like, messages.encode_payload(_false_body(like.kind)))

    def _wrong_secret(self) -> None:
        """A job's verb without its secret."""
        kinds = [cls.kind for cls in messages.JOB_REQUESTS if cls.kind != "get_schema"]
        message = self._without_secret(self._random.choice(kinds))
        self._say("jobs", message, sender=self.name, like=None)

    def _disturb_inside(self) -> None:
        """Talk on an inside link as if it had been welcomed there."""
        link = self._random.choice(INSIDE)
        message: Message = self._random.choice(
            (
                messages.Claims(claims=[], reports=[]),
                messages.Deliver(items=[(1, b"", b"")]),
                messages.Beat(ready=False),
                messages.JobEvents(first_seq=1, seq=9, changed=[], removed=[1]),
            )
        )
        names = ("client_manager-0", "job_manager", self.name)
        self._say(link, message, sender=self._random.choice(names), like=None)

    def _without_secret(self, kind: str) -> Message:
        """A request of a job server with a guessed secret, or one that cannot be right."""
        job, number = self._some_round()
        secret = self._random.randbytes(32)
        match kind:
            case "start_request":
                return messages.StartRequest(job=job, secret=secret, demand=1)
            case "end_request":
                return messages.EndRequest(job=job, secret=secret, round=number)
            case "watch_round":
                return messages.WatchRound(job=job, secret=secret, round=number)
            case "list_jobs":
                return messages.ListJobs(secret=secret)
            case "register" | "get_schema":
                return messages.Register(
                    name=self.name, schema="another", requirement=[], private_constraint={},
                    demand=1, rounds=1, endpoint="",
                )  # fmt: skip
            case _:
                cls = messages.MESSAGES[kind]
                return cls(job=job, secret=secret)


def _false_body(kind: str) -> Message:
    match kind:
        case "report":
            return messages.Report(job=1, round=0, token=b"mine", outcome=Outcome.FAILED)
        case "accept":
            return messages.Accept(job=10**9, round=7)
        case _:
            return messages.CheckIn(schema="another", spec=[], option=1.0)
