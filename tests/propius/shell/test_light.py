"""A daemon starts without what it does not need."""

from __future__ import annotations

import subprocess
import sys

import pytest

from propius.shell.light import without

SHOW_LOADED = """
import sys
import daemons.{0}.build, propius.shell.program
print("rich" in sys.modules, "structlog" in sys.modules)
"""


@pytest.mark.parametrize("daemon", ["job_manager", "load_balancer"])
def test_a_daemon_does_not_load_rich(daemon: str) -> None:
    """Its log is made without it, and its start is a quarter shorter."""
    command = [sys.executable, "-c", SHOW_LOADED.format(daemon)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False", "True"]


def test_what_was_left_out_can_be_imported_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the block is without it, and what is loaded already stays."""
    monkeypatch.delitem(sys.modules, "wave", raising=False)  # another test may have loaded it
    with without("wave"), pytest.raises(ImportError):
        import wave
    import wave

    with without("wave"):
        import wave as again
    assert again is wave
