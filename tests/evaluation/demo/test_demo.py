"""The whole demo as a person runs it, with every kind of daemon killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation.demo.command import DemoFailedError, prepare
from evaluation.demo.jobs import DEMO_JOBS
from evaluation.demo.summary import ACCURACY_MIN
from propius.cli.status import run_info

VICTIMS = ["scheduler", "job_manager", "load_balancer", "client_manager-0"]


def kill_one(out: Path, victims: list[str]) -> None:
    """kill -9 the next victim that runs."""
    info = run_info(out / "system", victims[0])
    if info:
        os.kill(info["pid"], signal.SIGKILL)
        victims.pop(0)


def test_a_folder_that_is_not_a_demos_is_left_alone(tmp_path: Path) -> None:
    """Somebody's folder is refused by name, and nothing in it is touched."""
    (tmp_path / "logs").mkdir()
    with pytest.raises(DemoFailedError, match="neither empty nor a demo's"):
        prepare(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def test_the_folder_of_a_run_before_is_cleared(tmp_path: Path) -> None:
    """A second run starts from nothing."""
    out = tmp_path / "demo"
    prepare(out)
    (out / "system").mkdir()
    prepare(out)
    assert not (out / "system").exists()


@pytest.mark.timeout(400)
def test_the_demo_finishes_though_each_daemon_is_killed_once(tmp_path: Path) -> None:
    """Three jobs finish with the accuracy they are to reach, and the event log is clean."""
    out, victims = tmp_path / "demo", list(VICTIMS)
    command = [sys.executable, "-m", "propius.cli", "demo", "--json", "--out", str(out)]
    command += ["--timeout-s", "350"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        said: list[str] = []
        for line in process.stderr:  # a line every few seconds, until the end
            said.append(line)
            if victims and "accuracy 0." in line:
                kill_one(out, victims)
        printed = process.stdout.read()
    assert process.returncode == 0, "".join(said)
    assert victims == [], "the demo was over before every daemon had been killed"
    rows = json.loads(printed)
    assert rows == json.loads((out / "summary.json").read_text())
    assert [row["name"] for row in rows] == [job.name for job in DEMO_JOBS]
    for row, job in zip(rows, DEMO_JOBS, strict=True):
        assert row["rounds"] == job.rounds
        assert row["final_accuracy"] >= ACCURACY_MIN
    assert (out / "figure.png").stat().st_size > 0
    assert "no violation" in "".join(said)
