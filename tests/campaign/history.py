"""What callers write down: each request before it is sent, and each answer when it has come.

A history is a file of JSON lines, written by one process, each line by one ``write``; so what was
acknowledged is on record whatever dies next. Times are the machine's monotonic clock, which all
processes share. Not here: what must hold (:mod:`tests.campaign.checker`).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from propius import tokens
from propius.errors import BusyError, PropiusError, RefusedError, StaleTokenError
from propius.messages import RoundStatus

T = TypeVar("T")
Phase = Literal["ask", "ok", "refused", "unknown"]
"""``refused``: answered with an error; ``unknown``: no answer, it may have had its effect."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line: a caller asks, or learns the answer to its ``call``."""

    at_ns: int
    who: str  # a device_id, or a job's name
    call: int  # the same number in the line of the question and in that of the answer
    phase: Phase
    verb: str
    job: int = -1
    round: int = -1
    demand: int = -1
    lease: int = -1
    slot: int = -1
    lease_s: float = 0.0
    outcome: str = ""
    code: str = ""  # why it was refused, or what is unknown
    status: RoundStatus | None = None


def lease_of(token: bytes) -> tokens.Lease:
    """What a token says, read without its key."""
    return msgspec.msgpack.decode(token[: -tokens.TAG_BYTES], type=tokens.Lease)


async def told(done: Awaitable[None]) -> bool:
    """An answer that says nothing but that it is done, as one that is not None."""
    await done
    return True


class Recorder:
    """The history of one process."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600)
        self._calls = 0
        self._encoder = msgspec.json.Encoder()

    def ask(
        self,
        who: str,
        verb: str,
        *,
        job: int = -1,
        round_no: int = -1,
        demand: int = -1,
        lease: int = -1,
        outcome: str = "",
    ) -> Event:
        """Write down that a request is about to be sent."""
        self._calls += 1
        event = Event(
            at_ns=time.monotonic_ns(),
            who=who,
            call=self._calls,
            phase="ask",
            verb=verb,
            job=job,
            round=round_no,
            demand=demand,
            lease=lease,
            outcome=outcome,
        )
        self._write(event)
        return event

    def ok(self, asked: Event, **values: Any) -> None:
        """It was acknowledged, and the answer says this."""
        self._answer(asked, "ok", **values)

    def refused(self, asked: Event, code: str) -> None:
        """It was answered with an error."""
        self._answer(asked, "refused", code=code)

    def unknown(self, asked: Event, why: str) -> None:
        """Nobody will ever tell the caller what became of it."""
        self._answer(asked, "unknown", code=why)

    async def follow(self, asked: Event, answer: Awaitable[T]) -> T | None:
        """Await an answer, and write down an error that it turns out to be (then None)."""
        try:
            return await answer
        except (TimeoutError, asyncio.CancelledError) as error:
            self.unknown(asked, type(error).__name__)
            if isinstance(error, asyncio.CancelledError):
                raise
        except StaleTokenError:
            self.refused(asked, "stale_token")
        except BusyError as error:  # waited out until the caller lost patience: not an answer
            self.unknown(asked, error.code)
        except RefusedError as error:
            self.refused(asked, error.code)
        except PropiusError as error:
            self.unknown(asked, type(error).__name__)
        return None

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _answer(self, asked: Event, phase: Phase, **values: Any) -> None:
        now_ns = time.monotonic_ns()
        self._write(msgspec.structs.replace(asked, at_ns=now_ns, phase=phase, **values))

    def _write(self, event: Event) -> None:
        os.write(self._fd, self._encoder.encode(event) + b"\n")


def read_history(paths: Iterable[Path]) -> list[Event]:
    """The events of all processes in order of time; calls are numbered anew, across all files.

    A process that was killed may have left half a line at the end, which says nothing.
    """
    events: list[Event] = []
    decoder = msgspec.json.Decoder(Event)
    for number, path in enumerate(paths, start=1):
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                event = decoder.decode(line)
                events.append(msgspec.structs.replace(event, call=event.call + (number << 40)))
    return sorted(events, key=lambda event: event.at_ns)
