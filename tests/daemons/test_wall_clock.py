"""The wall clock: where it is read at all, and a job manager whose wall clock jumps by an hour."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from propius import Job
from propius.cli.status import run_info
from propius.messages import JobStatus
from tests.daemons.test_processes import Site, until

ROOT: Final = Path(__file__).parents[2]
HOUR_S: Final = 3_600.0
READS: Final = {
    # What people are shown (when a job was registered), and the first record of an event log.
    "propius/shell/program.py": 2,
    "propius/cli/status.py": 1,  # for how long a daemon has been up
    "propius/cli/client_managers.py": 1,  # the same
}
_WALL: Final = {"time", "time_ns", "now", "utcnow", "today", "localtime", "gmtime", "ctime"}
_CLOCKS: Final = {"time", "datetime", "date"}

# A job manager whose wall clock is as far off as a file says, at each look.
PROGRAM: Final = """
import sys, time
real, offset = time.time, sys.argv.pop(1)
time.time = lambda: real() + float(open(offset).read())
from daemons.job_manager.main import main
main(sys.argv[1:])
"""


def wall_reads(path: Path) -> int:
    """How often a file's code asks for the wall clock."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    asked = [call.func for call in calls if isinstance(call.func, ast.Attribute)]
    return sum(
        func.attr in _WALL and ast.unparse(func.value).rpartition(".")[2] in _CLOCKS
        for func in asked
    )


def test_the_wall_clock_is_read_for_people_only() -> None:
    """No other code of the daemons or the SDK asks what time of day it is."""
    found = Counter[str]()
    for folder in ("propius", "daemons"):
        for path in (ROOT / folder).rglob("*.py"):
            found[path.relative_to(ROOT).as_posix()] = wall_reads(path)
    assert +found == READS


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site with a scheduler."""
    site = Site(tmp_path)
    site.start("scheduler")
    yield site
    site.end()


def start(site: Site, offset_s: float) -> subprocess.Popen[str]:
    """A job manager with this wall clock."""
    offset = site.folder / "offset"
    offset.write_text(str(offset_s))
    options = [str(offset), "--config", str(site.config)]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    site.processes.append(process)
    site.wait("job_manager", "ready")
    return process


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S], ids=["forward", "back"])
def test_a_jump_of_an_hour_changes_no_decision(site: Site, jump_s: float) -> None:
    """While it runs, and over a restart: a round with a deadline stays open, then ends by it."""
    process = start(site, 0.0)
    endpoint = str(run_info(site.state, "job_manager")["endpoints"]["jobs"])
    with Job(endpoint, name="j", requirement={}, demand=1) as job:
        job.start_request(1, deadline_s=HOUR_S / 2)
        (site.folder / "offset").write_text(str(jump_s))
        job.heartbeat()
        assert job.watch_round(0, wait_s=0.0).state == "open"
        process.kill()
        start(site, jump_s)
        assert job.watch_round(0, wait_s=0.0).state == "open"
        shown: JobStatus = job.show()
        assert (shown.round, shown.reason) == (0, "")
        job.end_request(0)
        assert job.start_request(1, deadline_s=0.2) == 1
        until(lambda: job.watch_round(1, wait_s=0.5).state != "open", "the deadline")
