"""The program's log: JSON lines, no secrets, and it never waits for its reader."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator

import pytest
import structlog

from propius.shell import logs


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe, both ends closed at the end."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            pass
    structlog.reset_defaults()


def test_a_line_is_a_json_object(pipe: tuple[int, int]) -> None:
    """Fields, level, time and daemon are there; what is below the level is not."""
    log, lines = logs.set_up(daemon="d", level="info", style="json", fd=pipe[1])
    log.debug("quiet")
    log.info("started", port=7)
    lines.close()
    (line,) = os.read(pipe[0], 4_096).decode().splitlines()
    record = json.loads(line)
    assert (record["event"], record["port"], record["daemon"], record["level"]) == (
        "started",
        7,
        "d",
        "info",
    )
    assert record["timestamp"].endswith("Z")


def test_secrets_are_not_written(pipe: tuple[int, int]) -> None:
    """Bytes and fields named like a secret never show."""
    log, lines = logs.set_up(daemon="d", level="info", style="json", fd=pipe[1])
    log.info("x", payload=b"hunter2", job_secret="hunter2", lease_token="hunter2", master_key=1)
    lines.close()
    text = os.read(pipe[0], 4_096).decode()
    assert "hunter2" not in text
    assert json.loads(text)["payload"] == "<7 bytes>"


def test_exceptions_have_their_traceback(pipe: tuple[int, int]) -> None:
    """A bug's line carries the traceback as text."""
    log, lines = logs.set_up(daemon="d", level="info", style="json", fd=pipe[1])
    try:
        raise ValueError("here")
    except ValueError:
        log.exception("bug")
    lines.close()
    assert "ValueError: here" in json.loads(os.read(pipe[0], 65_536))["exception"]


def test_reader_that_stops_reading_costs_lines_not_time(pipe: tuple[int, int]) -> None:
    """With the pipe full and the queue full, writing drops and counts."""
    size = fcntl.fcntl(pipe[1], fcntl.F_GETPIPE_SZ)
    queue = logs.LineQueue(pipe[1], lines_max=10)
    for _ in range(100):
        queue.write("x" * (size // 4))
    assert queue.dropped >= 80
    queue.close(timeout_s=0.01)
    os.close(pipe[0])  # lets the thread end


def test_reader_that_is_gone_is_survived(pipe: tuple[int, int]) -> None:
    """Writing to a closed pipe counts a dropped line."""
    os.close(pipe[0])
    queue = logs.LineQueue(pipe[1])
    queue.write("x")
    queue.close()
    assert queue.dropped == 1
