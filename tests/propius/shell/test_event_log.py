"""The event log's files: written, read back, torn, damaged, and a full disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from propius.messages import Declined, LogOpened
from propius.shell.event_log import (
    EventLogError,
    EventLogWriter,
    Reading,
    read_events,
    segments,
)


def opened(incarnation: int = 1) -> LogOpened:
    """The first event of a segment."""
    return LogOpened(
        daemon="d",
        incarnation=incarnation,
        package_version="1",
        schema="s",
        attributes=[],
        wall_s=0.0,
    )


def declined(number: int) -> Declined:
    """An event that can be told from others."""
    return Declined(device_id=f"{number:032x}", rounds=[])


def write(
    folder: Path, numbers: range, incarnation: int = 1, segment_bytes_max: int = 1 << 20
) -> None:
    """A program's life that logs these events."""
    writer = EventLogWriter(
        folder, lambda _: opened(incarnation), pytest.fail, segment_bytes_max=segment_bytes_max
    )
    for number in numbers:
        writer.append(number, declined(number))
        writer.flush(number)
    writer.close()


def read(folder: Path, reading: Reading | None = None) -> list[int]:
    """The times of all events but log_opened."""
    return [now for now, event in read_events(folder, reading) if not isinstance(event, LogOpened)]


def test_events_come_back_in_order_over_segments(tmp_path: Path) -> None:
    """Segments are begun when one is full and at each start, and are read in order."""
    write(tmp_path, range(10), segment_bytes_max=200)
    write(tmp_path, range(10, 12), incarnation=2)
    assert read(tmp_path) == list(range(12))
    assert len(segments(tmp_path)) > 2
    assert [now for now, event in read_events(tmp_path) if event == declined(11)] == [11]


def test_nothing_is_written_before_the_first_event(tmp_path: Path) -> None:
    """A daemon that decides nothing leaves no file."""
    write(tmp_path / "log", range(0))
    assert not (tmp_path / "log").exists()


def test_files_are_private(tmp_path: Path) -> None:
    """Only the owner may read what devices said."""
    write(tmp_path, range(1))
    assert segments(tmp_path)[0].stat().st_mode & 0o077 == 0


def test_every_torn_tail_is_tolerated(tmp_path: Path) -> None:
    """Cut anywhere, the whole records before the cut are read, and the rest is told of."""
    write(tmp_path, range(2))
    (path,) = segments(tmp_path)
    data = path.read_bytes()
    reading = Reading()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        reading = Reading()
        assert read(tmp_path, reading) in ([], [0], [0, 1])
    assert len(reading.torn) == 1
    assert path.name in reading.torn[0]


def test_torn_segment_of_a_killed_program_is_tolerated(tmp_path: Path) -> None:
    """After a restart the torn segment is not the last one any more."""
    write(tmp_path, range(2))
    (path,) = segments(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    write(tmp_path, range(2, 3), incarnation=2)
    assert read(tmp_path) == [0, 2]


def test_torn_segment_of_a_program_that_went_on_is_damage(tmp_path: Path) -> None:
    """The same process would not have begun a new segment after half a record."""
    write(tmp_path, range(2))
    (path,) = segments(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    write(tmp_path, range(2, 3), incarnation=1)
    with pytest.raises(EventLogError, match="went on"):
        read(tmp_path)


@pytest.mark.parametrize("at", [0, 8, 11, 20])
def test_damage_names_file_and_offset(tmp_path: Path, at: int) -> None:
    """A flipped byte is an error that says where, never a traceback."""
    write(tmp_path, range(3))
    (path,) = segments(tmp_path)
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)
    said = damage(tmp_path)
    assert said.startswith(str(path))


def damage(folder: Path) -> str:
    """What reading the log complains of, or where it is torn."""
    reading = Reading()
    try:
        read(folder, reading)
    except EventLogError as error:
        return str(error)
    return reading.torn[0]


def test_full_disk_closes_the_log_and_leaves_whole_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a batch is cut off again; one complaint; later events cost nothing."""
    complaints: list[str] = []
    writer = EventLogWriter(tmp_path, lambda _: opened(), complaints.append)
    writer.append(0, declined(0))
    writer.flush(0)
    real_write = os.write
    calls = iter([True, False])

    def half_write(fd: int, data: bytes) -> int:
        if next(calls, False):
            return real_write(fd, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", half_write)
    writer.append(1, declined(1))
    writer.flush(1)
    writer.append(2, declined(2))
    writer.flush(2)
    monkeypatch.undo()
    assert len(complaints) == 1
    assert "No space left" in writer.closed_because
    assert read(tmp_path, reading := Reading()) == [0]
    assert not reading.torn


def test_a_disk_that_fails_at_the_close_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the file system says when the log is given up, its program goes on."""
    complaints: list[str] = []
    writer = EventLogWriter(tmp_path, lambda _: opened(), complaints.append)
    writer.append(0, declined(0))
    writer.flush(0)
    real_close = os.close

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    def close_and_fail(fd: int) -> None:
        real_close(fd)
        fail()

    for name, failing in (("write", fail), ("ftruncate", fail), ("close", close_and_fail)):
        monkeypatch.setattr(os, name, failing)
    writer.append(1, declined(1))
    writer.flush(1)
    writer.close()
    monkeypatch.undo()
    assert complaints == [writer.closed_because]
    assert "Input/output" in writer.closed_because
