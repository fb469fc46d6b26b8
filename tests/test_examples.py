"""The programs in examples/ are short, and do what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from propius.testing import FakeServer

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def start(name: str, *arguments: str, home: Path) -> subprocess.Popen[str]:
    """Run an example with warnings as errors."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    environment = {**os.environ, "XDG_DATA_HOME": str(home)}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=home,
    )


@pytest.mark.parametrize("name, lines_max", [("job.py", 25), ("client.py", 15)])
def test_an_example_is_as_short_as_promised(name: str, lines_max: int) -> None:
    """The README promises these lengths."""
    assert len((EXAMPLES / name).read_text().splitlines()) <= lines_max


def test_the_example_job_is_served_by_the_example_client(tmp_path: Path) -> None:
    """Both end by themselves; the job has had its three rounds and is completed."""
    with FakeServer() as server:
        client = start("client.py", server.endpoint, "2", home=tmp_path)
        job = start("job.py", server.endpoint, "1", home=tmp_path)
        told_by_job, _ = job.communicate(timeout=60)
        told_by_client, _ = client.communicate(timeout=60)
        assert (job.returncode, client.returncode) == (0, 0), told_by_job + told_by_client
        assert told_by_job.count("completed: 1 devices") == 3
        assert told_by_client.count("job 1 round") == 3
        assert server.tiny.jobs[1].state == "completed"
