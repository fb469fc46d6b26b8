"""How the processes that a run starts are ended, and what is said of one that ended by itself."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

__all__ = ["end_all", "failure_of"]

GRACE_S: Final = 5.0
"""From SIGTERM to SIGKILL."""


def failure_of(name: str, process: subprocess.Popen[str], log: Path) -> str:
    """Why it ended badly, in one line, the last of its log; "" if it runs or ended well."""
    code = process.poll()
    if code in {None, 0}:
        return ""
    lines = log.read_text(errors="replace").strip().splitlines()
    return f"{name} ended with {code}: {lines[-1] if lines else 'no word'} ({log})"


def end_all(processes: Sequence[subprocess.Popen[str]]) -> None:
    """End those that still run: SIGTERM to all, a grace, SIGKILL; returns when all have ended."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
