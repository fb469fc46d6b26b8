"""The wall clock is for people: no decision is taken from it, so it may jump by an hour."""

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
from propius.messages import Claim, JobStatus, Message
from tests.daemons.job_manager.rig import JobServer, Rig, device
from tests.daemons.test_processes import Site, until

ROOT: Final = Path(__file__).parents[2]
HOUR_S: Final = 3_600.0
READS: Final = {
    # Where it is read, and how often.
    "propius/shell/program.py": 2,  # for run files, the first event of a log, registrations
    "propius/cli/status.py": 1,  # for how long a daemon has been up
    "propius/cli/client_managers.py": 1,  # the same; at most 1.2 s are waited
}
OF_TIME: Final = {"time", "time_ns", "localtime", "gmtime", "strftime", "ctime", "asctime"}
OF_DATETIME: Final = {"now", "utcnow", "today"}
CLOCKS: Final = {"time", "datetime", "date"}

# A job manager whose wall clock is as far off as a file says, at each look.
PROGRAM: Final = """
import sys, time
real, offset = time.time, sys.argv.pop(1)
time.time = lambda: real() + float(open(offset).read())
from daemons.job_manager.main import main
main(sys.argv[1:])
"""


def wall_reads(text: str) -> int:
    """How often a module looks at the time of day, or gets hold of what does."""
    return sum(_reads(node) for node in ast.walk(ast.parse(text)))


def _reads(node: ast.AST) -> bool:
    match node:
        case ast.ImportFrom(module="time", names=names):
            return bool(OF_TIME & {alias.name for alias in names})
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            modules = {alias.name for alias in names} | {getattr(node, "module", None)}
            return "datetime" in modules
        case ast.Attribute(value=value, attr=attr):
            clock = ast.unparse(value).rpartition(".")[2]
            return attr in OF_TIME | OF_DATETIME and clock in CLOCKS
        case _:
            return False


def test_the_wall_clock_is_read_for_people_only() -> None:
    """No other code of the daemons or the SDK asks what time of day it is."""
    found = Counter[str]()
    for folder in ("propius", "daemons"):
        for path in (ROOT / folder).rglob("*.py"):
            found[path.relative_to(ROOT).as_posix()] = wall_reads(path.read_text("utf-8"))
    assert +found == READS


@pytest.mark.parametrize(
    "text",
    [
        "import time\ntime.time()",
        "import time\nclock = time.time",
        "from time import time_ns",
        "import datetime",
        "from datetime import date",
        "x.datetime.now()",
        "date.today()",
    ],
)
def test_a_reader_would_be_found(text: str) -> None:
    """The test above can fail."""
    assert wall_reads(text)
    assert not wall_reads("import time\ntime.monotonic_ns()")


def test_three_of_four_daemons_are_given_no_wall_clock() -> None:
    """Load balancer, client manager and scheduler cannot look at it even by mistake."""
    for daemon in ("load_balancer", "client_manager", "scheduler"):
        for path in (ROOT / "daemons" / daemon).glob("*.py"):
            assert "wall" not in path.read_text("utf-8"), path


def life(jump_s: float) -> list[Message]:
    """What a job manager says through two restarts, between which the wall clock is set."""
    rig = Rig()
    JobServer.registered(rig).start(2, lease_s=40.0, deadline_s=300.0)
    rig.claims([Claim(device(1), 1, 1, b"d", 1, 0, False)])
    for boot in ("boot-1", "boot-2"):
        rig.wall_s += jump_s
        rig.advance(20.0)
        rig.start(boot)
        rig.claims([Claim(device(2), 1, 1, b"d", 1, 0, False)])
        rig.advance(20.0)
    rig.advance(400.0)
    return [message for _, _, _, message in rig.sent] + rig.events


@pytest.mark.parametrize("jump_s", [-HOUR_S, HOUR_S, 1e9])
def test_wall_clock_that_jumps_changes_nothing_that_is_said_or_recorded(jump_s: float) -> None:
    """Leases, deadlines and restarts go by the monotonic clock and the boot."""
    usual = life(0.0)
    assert len(usual) > 20
    assert life(jump_s) == usual


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
