"""SIGTERM in each phase of a real job manager's life: exit code 0, no traceback, nothing lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from daemons.store import SqliteStore
from propius.config import load_config
from tests.daemons.test_processes import Site, ended

# A job manager that gets the signal when it calls this function for the n-th time.
PROGRAM: Final = """
import importlib, os, signal, sys
module, owner, name, calls, times = sys.argv[1:6]
calls, times = int(calls), int(times)
place = importlib.import_module(module)
place = getattr(place, owner) if owner else place
real = getattr(place, name)
def signalled(*args, **kwargs):
    global calls
    calls -= 1
    if calls == 0:
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGTERM)
    return real(*args, **kwargs)
setattr(place, name, signalled)
from daemons.job_manager.main import main
main(sys.argv[6:])
"""

PHASES: Final = {
    "opening the store": ("daemons.store.sqlite", "SqliteStore", "_prepare", 1, 1),
    "recovering": ("daemons.job_manager.core", "", "recover", 1, 1),
    "recovering, twice": ("daemons.job_manager.core", "", "recover", 1, 2),
    "before bind": ("propius.shell.runtime", "", "open_socket", 1, 1),
    "between binds": ("propius.shell.runtime", "", "open_socket", 2, 1),
    "the first commit": ("daemons.store.sqlite", "SqliteStore", "commit", 1, 1),
    "the first commit, twice": ("daemons.store.sqlite", "SqliteStore", "commit", 1, 2),
    "between batches": ("propius.shell.runtime", "Loop", "_publish", 5, 1),
    "draining": ("daemons.job_manager.core", "JobManagerCore", "drain", 1, 1),
}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """An empty site."""
    site = Site(tmp_path)
    yield site
    site.end()


@pytest.mark.parametrize("phase", PHASES)
def test_sigterm_in_each_phase(site: Site, phase: str) -> None:
    """The daemon ends by itself, in good order, and its store is whole."""
    where = [str(each) for each in PHASES[phase]]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *where, "--config", str(site.config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    site.processes.append(process)
    if phase == "draining":  # which has to begin first
        site.wait("job_manager", "not ready")
        process.terminate()
    assert ended(process) == (0, "")
    assert not list((site.state / "run").glob("*.json"))
    store = SqliteStore(load_config(site.config).store_path)
    tables = store.load()
    store.close()
    assert tables == {} or set(tables) == {"meta", "clock"}
