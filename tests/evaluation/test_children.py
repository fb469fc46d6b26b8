"""Processes of a run end, whatever they do about it, and leave a line if they failed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation import children

STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("started", flush=True)
signal.pause()
"""
WILLING = 'print("started", flush=True); import signal; signal.pause()'


def started(program: str) -> subprocess.Popen[str]:
    """A process that has said so."""
    popen = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert popen.stdout is not None
    assert popen.stdout.readline() == "started\n"
    return popen


def test_one_that_ignores_the_request_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others end by themselves, and one that had ended already is left alone."""
    monkeypatch.setattr(children, "GRACE_S", 0.5)
    over = started('print("started")')
    over.wait()
    stubborn, willing = started(STUBBORN), started(WILLING)
    children.end_all([over, stubborn, willing])
    codes = [process.returncode for process in (over, stubborn, willing)]
    assert codes == [0, -signal.SIGKILL, -signal.SIGTERM]
    for process in (over, stubborn, willing):
        assert process.stdout is not None
        process.stdout.close()


def test_a_failure_is_the_last_line_of_the_log(tmp_path: Path) -> None:
    """With the name, the exit code and where to look."""
    log = tmp_path / "job-1.log"
    log.write_text("Traceback\nno room\n")
    popen = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"], text=True)
    popen.wait()
    assert children.Child("job 1", popen, log).failure() == f"job 1 ended with 3: no room ({log})"
