#!/usr/bin/env python3
"""Write docs/states.md from the transition tables of daemons/job_manager/states.py.

``--check`` writes nothing and exits 1 if the file is not what the tables say.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from daemons.job_manager.states import (
    BACK_OFF,
    JOB,
    JOB_LIVE,
    ROUND,
    ROUND_LIVE,
    BackOff,
    Machine,
    StateT,
)

TARGET = Path(__file__).resolve().parent.parent / "docs" / "states.md"

HEAD = """# States of jobs and rounds

Made by `scripts/make_state_diagrams.py` from `daemons/job_manager/states.py`; edit that file.
Anything that is not an arrow here is refused with `wrong_state`, or is a bug that stops the daemon.
Whether a job is paused is a flag beside its state: its round stays and is offered to nobody.
A live job has a back-off beside its state, too (`daemons/job_manager/backoff.py`).
"""


def main() -> int:
    """Write or check the file; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if out of date")
    text = render()
    if parser.parse_args().check:
        if TARGET.exists() and TARGET.read_text(encoding="utf-8") == text:
            return 0
        print(f"{TARGET} is out of date: run scripts/make_state_diagrams.py", file=sys.stderr)
        return 1
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(text, encoding="utf-8")
    return 0


def render() -> str:
    """The whole file."""
    sections = [
        *_section(JOB, JOB_LIVE),
        *_section(ROUND, ROUND_LIVE),
        *_section(BACK_OFF, frozenset(BackOff)),
    ]
    return "\n".join([HEAD, *sections])


def _section(machine: Machine[StateT], live: frozenset[StateT]) -> list[str]:
    arrows: list[str] = [
        f"    {here} --> {there}: {event}" for (here, event), there in machine.table.items()
    ]
    final: list[str] = [state for state in type(machine.first) if state not in live]
    return [
        f"## {machine.name.capitalize()}",
        "",
        "```mermaid",
        "stateDiagram-v2",
        f"    [*] --> {machine.first}",
        *arrows,
        *[f"    {state} --> [*]" for state in final],
        "```",
        "",
    ]


if __name__ == "__main__":
    sys.exit(main())
