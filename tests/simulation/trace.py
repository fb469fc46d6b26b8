"""What happened in a run: a hash of everything, and the last events in readable form.

Messages are kept as bytes and decoded only when somebody reads the trace, so keeping it is cheap.
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Any

import msgspec

from propius.messages import DecodeError, decode_header, decode_payload

_ENTRY = tuple[int, str, str, str, tuple[bytes, ...]]


class Trace:
    """The history of one run."""

    def __init__(self, events_max: int = 400) -> None:
        self._events: deque[_ENTRY] = deque(maxlen=events_max)
        self._hash = hashlib.blake2b(digest_size=16)

    def message(
        self, now_ns: int, link: str, sender: str, receiver: str, frames: tuple[bytes, ...]
    ) -> None:
        """A message arrived (or, with a fault's name as the link, was struck)."""
        self._events.append((now_ns, link, sender, receiver, frames))
        self._hash.update(b"".join((now_ns.to_bytes(8, "big"), *frames)))

    def note(self, now_ns: int, text: str) -> None:
        """Anything else that is worth a line."""
        self._events.append((now_ns, text, "", "", ()))
        self._hash.update(text.encode())

    def digest(self) -> str:
        """Equal for equal runs."""
        return self._hash.hexdigest()

    def lines(self, limit: int | None = None, only: str = "") -> list[str]:
        """The last events, oldest first, each a line; ``only`` those that contain this text."""
        lines = [_line(*entry) for entry in self._events]
        if only:
            lines = [line for line in lines if only in line]
        return lines[-limit:] if limit else lines


def _line(now_ns: int, link: str, sender: str, receiver: str, frames: tuple[bytes, ...]) -> str:
    when = f"{now_ns / 1e9:12.6f}"
    if not sender:
        return f"{when}  -- {link}"
    return f"{when}  {sender} → {receiver} [{link}] {_readable(frames)}"


def _readable(frames: tuple[bytes, ...]) -> str:
    try:
        header = decode_header(frames[0])
        message = decode_payload(header.kind, frames[1], bytes_max=1 << 30)
    except (DecodeError, IndexError) as error:
        return f"unreadable: {error} {[f.hex()[:40] for f in frames]}"
    fields = {name: _short(getattr(message, name)) for name in message.__struct_fields__}
    text = ", ".join(f"{name}={value}" for name, value in fields.items())
    return f"{header.kind}({text}) session={header.session} request={header.request}"


def _short(value: Any) -> Any:
    """Bytes and nested messages of a field, shortened; forwarded messages opened."""
    match value:
        case bytes():
            return value.hex()[:12]
        case (int(tag), bytes(header), bytes(payload)):
            return f"#{tag}:{_readable((header, payload))}"
        case list():
            return [_short(item) for item in value]
        case msgspec.Struct():
            return (
                "("
                + ", ".join(str(_short(getattr(value, name))) for name in value.__struct_fields__)
                + ")"
            )
        case _:
            return value
