"""The event log: every input of every decision, appended to segment files, read back in order.

A segment ``NNNNNN.plog`` is 8 bytes (``PLOG``, version) and then records: a little-endian u32
length and so many bytes of MessagePack ``[now_ns, kind, payload]``, where payload is the event as
:mod:`propius.messages` encodes it. The first record of a segment is ``log_opened``. A program
begins a new segment when it starts and when one has grown to 64 MiB; it never changes an old one.

The writer gathers the records of one turn of the loop and appends them with one call. If the disk
is full the log is closed, with one line in the program's log and a figure: no decision depends on
it. It stays closed until the next start, also when there is room: a log that ends is true as far as
it goes, one with a hole would be replayed wrongly.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgpack  # type: ignore[import-untyped]

from propius.errors import PropiusError
from propius.messages import (
    DecodeError,
    LogOpened,
    Message,
    decode_payload,
    encode_payload,
)

MAGIC: Final = b"PLOG\0\0\0\1"  # the last byte is the version
SEGMENT_BYTES_MAX: Final = 64 << 20
RECORD_BYTES_MAX: Final = 128 << 20  # of a damaged length field, no more than this is believed
SUFFIX: Final = ".plog"
_LENGTH: Final = struct.Struct("<I")


class EventLogError(PropiusError):
    """A segment that is not an event log, or is damaged; the text names the file and offset."""


class EventLogWriter:
    """Appends events; ``opened(now_ns)`` makes the first record of each segment.

    ``complain`` is called once, with the reason, when the log has to be closed.
    """

    def __init__(
        self,
        directory: Path,
        opened: Callable[[int], LogOpened],
        complain: Callable[[str], None],
        *,
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
    ) -> None:
        self.closed_because = ""
        self.events = 0  # since the start
        self._directory = directory
        self._opened = opened
        self._complain = complain
        self._segment_bytes_max = segment_bytes_max
        self._fd = -1
        self._size = 0
        self._number = -1
        self._records: list[bytes] = []

    def append(self, now_ns: int, event: Message) -> None:
        """Take an event; it is written by the next ``flush``."""
        if not self.closed_because:
            self._records.append(_record(now_ns, event))
            self.events += 1

    def flush(self, now_ns: int) -> None:
        """Append what was taken since the last call."""
        if not self._records:
            return
        data = b"".join(self._records)
        self._records.clear()
        try:
            if self._fd < 0 or self._size >= self._segment_bytes_max:
                self._next_segment(now_ns)
            self._write(data)
        except OSError as error:
            self.close()
            self.closed_because = f"{self._directory}: {error.strerror}"
            self._complain(self.closed_because)

    def close(self) -> None:
        """Close the file; what a file system says only now comes too late to be of use."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)

    def _next_segment(self, now_ns: int) -> None:
        self.close()
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._number < 0:
            self._number = max((_number(path) for path in segments(self._directory)), default=0)
        self._number += 1
        path = self._directory / f"{self._number:06}{SUFFIX}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600)
        self._size = 0
        self._write(MAGIC + _record(now_ns, self._opened(now_ns)))

    def _write(self, data: bytes) -> None:
        """All or nothing: a part that was written before an error is cut off again."""
        done = 0
        try:
            while done < len(data):
                done += os.write(self._fd, data[done:] if done else data)
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += done


@dataclass(slots=True)
class Reading:
    """What :func:`read_events` found besides the events."""

    torn: list[str] = field(default_factory=list)  # "FILE: N bytes after the last whole record"


def segments(directory: Path) -> list[Path]:
    """The segments of one program's log, oldest first."""
    return sorted(
        (path for path in directory.glob(f"*{SUFFIX}") if path.stem.isdecimal()), key=_number
    )


def daemon_logs(directory: Path) -> dict[str, Path]:
    """The logs below a directory (or the one that it is itself), by daemon."""
    if segments(directory):
        return {directory.name: directory}
    return {
        path.name: path for path in sorted(directory.iterdir()) if path.is_dir() and segments(path)
    }


def read_events(directory: Path, reading: Reading | None = None) -> Iterator[tuple[int, Message]]:
    """(now_ns, event) of a program's log, in the order they were written.

    A segment may end in the middle of a record only where its program died, that is, if it is the
    last or the next one was opened by another incarnation; noted in ``reading``. Any other damage
    raises :class:`EventLogError`.
    """
    torn = ""
    incarnation = -1
    for path in segments(directory):
        for number, item in enumerate(_read_segment(path)):
            if isinstance(item, str):
                torn = item
                if reading is not None:
                    reading.torn.append(item)
                continue
            event = item[1]
            if number == 0:
                incarnation = _check_opened(path, event, torn, incarnation)
                torn = ""
            yield item


def _check_opened(path: Path, event: Message, torn: str, incarnation: int) -> int:
    if not isinstance(event, LogOpened):
        raise EventLogError(f"{path}: begins with {event.kind}, not with log_opened")
    if torn and event.incarnation == incarnation:
        raise EventLogError(f"{torn}, though its program went on")
    return event.incarnation


def _read_segment(path: Path) -> Iterator[tuple[int, Message] | str]:
    """The records of a segment; a string says where it is torn."""
    with path.open("rb") as file:
        magic = file.read(len(MAGIC))
        if magic != MAGIC:
            if MAGIC.startswith(magic):  # killed while it made the file
                yield f"{path}: {len(magic)} bytes after the last whole record"
                return
            raise EventLogError(f"{path}: not an event log of version {MAGIC[-1]}")
        while header := file.read(_LENGTH.size):
            offset = file.tell() - len(header)
            length = _LENGTH.unpack(header)[0] if len(header) == _LENGTH.size else 0
            if length > RECORD_BYTES_MAX:
                raise EventLogError(f"{path}: offset {offset}: a record of {length} bytes")
            data = file.read(length)
            if len(header) < _LENGTH.size or len(data) < length:
                yield f"{path}: {len(header) + len(data)} bytes after the last whole record"
                return
            yield _parse(path, offset, data)


def _parse(path: Path, offset: int, data: bytes) -> tuple[int, Message]:
    try:
        now_ns, kind, payload = msgpack.unpackb(data)
        return int(now_ns), decode_payload(kind, payload, bytes_max=RECORD_BYTES_MAX)
    except (ValueError, TypeError, msgpack.UnpackException, DecodeError) as error:
        raise EventLogError(f"{path}: offset {offset}: {error}") from None


def _record(now_ns: int, event: Message) -> bytes:
    body: bytes = msgpack.packb((now_ns, event.kind, encode_payload(event)))
    return _LENGTH.pack(len(body)) + body


def _number(path: Path) -> int:
    return int(path.stem)
