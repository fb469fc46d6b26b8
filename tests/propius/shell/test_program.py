"""The run file of a daemon: whole, private, and written when there is room."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from propius.config import load_config
from propius.core import SECOND_NS
from propius.shell import program
from propius.shell.program import RunFile, write_private

FACTS = json.dumps({"daemon": "toy", "pid": 1}).encode()


class Log:
    """Keeps the events of warnings."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warning(self, event: str, **_: Any) -> None:
        self.said.append(event)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A disk without room for a new file; ``undo`` makes room."""

    def refuse(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(program, "write_private", refuse)
    return monkeypatch


def test_a_run_file_waits_for_room(tmp_path: Path, full: pytest.MonkeyPatch) -> None:
    """One line says that it waits; it is tried once a second, and then is there."""
    log, path = Log(), tmp_path / "toy.json"
    told = RunFile(path, log)
    told.write(FACTS)
    for now_ns in range(SECOND_NS, 3 * SECOND_NS, SECOND_NS // 10):
        told.retry(now_ns)
    assert log.said == ["run_file_not_written"]
    assert not path.exists()
    full.undo()
    told.retry(3 * SECOND_NS)
    assert path.read_bytes() == FACTS
    path.unlink()
    told.retry(9 * SECOND_NS)
    assert not path.exists()  # nothing is left to be written


def test_a_run_file_takes_the_place_of_a_killed_start_s(
    tmp_path: Path, full: pytest.MonkeyPatch
) -> None:
    """On a full disk the old file has room for the new one, and nobody is told of the dead."""
    log, path = Log(), tmp_path / "toy.json"
    path.write_bytes(FACTS.replace(b"1", b"4194304"))
    RunFile(path, log).write(FACTS)
    assert json.loads(path.read_text()) == json.loads(FACTS)
    assert not log.said


def test_every_start_has_room_in_the_file_of_the_one_before(
    tmp_path: Path, full: pytest.MonkeyPatch
) -> None:
    """Though its numbers have more digits: a process id, a port, a time."""
    path, log = tmp_path / "toy.json", Log()
    short, long = (
        program._run_facts(
            program.Start("toy", load_config(env={}), 1, "1", "boot", 0, wall_s),
            {"jobs": f"tcp://127.0.0.1:{port}"},
            f"http://127.0.0.1:{port}",
        )
        for wall_s, port in ((1.5, 1_024), (1_795_519_171.123_456_7, 65_535))
    )
    path.write_bytes(short)
    RunFile(path, log).write(long)
    assert json.loads(path.read_text())["started_at_s"] > 1e9
    assert not log.said


def test_a_private_file_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails leaves the old file, and nothing of the new one."""
    path = tmp_path / "key"
    write_private(path, b"old")
    assert path.stat().st_mode & 0o077 == 0

    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="full"):
        write_private(path, b"new")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["key"]
