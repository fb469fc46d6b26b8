"""The wall clock is for people: no decision is taken from it, so it may jump by an hour."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from propius.messages import Claim, Message
from tests.daemons.job_manager.rig import JobServer, Rig, device

ROOT = Path(__file__).resolve().parent.parent.parent
HOUR_S = 3_600.0
# Where the wall clock is read, and what for.
READERS = {
    "propius/shell/program.py": "run files, the first event of a log, when a job was registered",
    "propius/cli/status.py": "the uptime that `propius status` prints",
    "propius/cli/client_managers.py": "how long ago a process started, at most 1.2 s are waited",
}
WALL_CLOCK = {"time", "time_ns", "localtime", "gmtime", "strftime", "ctime", "asctime"}
CALLS = {f"time.{name}" for name in WALL_CLOCK}


def reads_wall_clock(text: str) -> bool:
    """Whether a module calls for the time of day."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            if WALL_CLOCK & {alias.name for alias in node.names}:
                return True
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names.append(getattr(node, "module", None) or "")
            if "datetime" in names:
                return True
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in CALLS:
            return True
    return False


def test_only_programs_read_the_wall_clock_and_only_for_people() -> None:
    """Whoever adds a reader has to say here what it is for."""
    files = [*(ROOT / "propius").rglob("*.py"), *(ROOT / "daemons").rglob("*.py")]
    found = {
        str(path.relative_to(ROOT)) for path in files if reads_wall_clock(path.read_text("utf-8"))
    }
    assert found == set(READERS)


@pytest.mark.parametrize(
    "text",
    [
        "import time\ntime.time()",
        "from time import time_ns",
        "import datetime",
        "from datetime import date",
    ],
)
def test_a_reader_would_be_found(text: str) -> None:
    """The test above can fail."""
    assert reads_wall_clock(text)
    assert not reads_wall_clock("import time\ntime.monotonic_ns()")


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
