"""Bugs by name, planted by tests only: each shows that the harness can see what it looks for.

A bug is a function that breaks one thing through ``plant`` (pytest's MonkeyPatch). Its docstring
says what is broken, ``found_by`` which check must see it (a part of the finding's text), and
``seed`` a seed that finds it, which is tried first. Add one whenever an invariant is added.

The bugs themselves: :mod:`tests.simulation.planted_job_manager` and
:mod:`tests.simulation.planted_others`. Not here: the invariants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import pytest

Plant = Callable[[pytest.MonkeyPatch], None]
SEEDS_MAX: Final = 200  # within which every bug must be found
TABLE_HEAD: Final = "| bug | what it breaks | found by |\n|---|---|---|\n"


@dataclass(frozen=True)
class Bug:
    """One planted bug."""

    name: str
    breaks: str
    found_by: str
    seed: int
    plant: Plant

    def seeds(self) -> Iterator[int]:
        """The seeds to try, in order."""
        yield self.seed
        yield from (seed for seed in range(1, SEEDS_MAX + 1) if seed != self.seed)


BUGS: dict[str, Bug] = {}


def bug(*, found_by: str, seed: int) -> Callable[[Plant], Plant]:
    """Put the bug into the table under its function's name."""

    def register(plant: Plant) -> Plant:
        name, breaks = plant.__name__, " ".join((plant.__doc__ or "").split())
        assert name not in BUGS, f"two bugs are called {name}"
        BUGS[name] = Bug(name, breaks, found_by, seed, plant)
        return plant

    return register


def table() -> str:
    """The table of ``docs/testing.md``."""
    rows = [f"| `{bug.name}` | {bug.breaks} | “{bug.found_by}” |\n" for bug in BUGS.values()]
    return TABLE_HEAD + "".join(rows)
