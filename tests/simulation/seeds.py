"""Seeds in blocks, shared out over the test files ``test_seeds_1.py`` to ``test_seeds_4.py``.

Several files, because ``pytest --dist loadfile`` gives a file to one process: so they are tried on
all cores. In CI 1,000 seeds are tried; elsewhere 200, so that ``make test`` stays quick (``make dst
SEEDS=1-1000`` tries as many as CI).
"""

from __future__ import annotations

import os
from typing import Final

from tests.simulation.figures import shortfalls
from tests.simulation.world import SeedError, run

TRIED: Final = 1_000 if os.environ.get("CI") == "true" else 200
BLOCK: Final = 10
FILES: Final = 4


def blocks(file: int) -> list[range]:
    """The blocks of seeds of one of the files, counted from 1."""
    firsts = range(1 + (file - 1) * BLOCK, TRIED + 1, FILES * BLOCK)
    return [range(first, first + BLOCK) for first in firsts]


def name(block: range) -> str:
    """A block as it is called in reports."""
    return f"{block[0]}-{block[-1]}"


def check_block(block: range) -> None:
    """Try each seed; fail with all that they found, and if one tried little for no reason."""
    found = []
    for seed in block:
        try:
            done = run(seed)
        except SeedError as error:
            found.append(str(error))
            continue
        assert done.rounds > 0, f"seed {seed} finished no round"
        for what, why in shortfalls(done).items():
            assert not why.endswith(": "), f"seed {seed} falls short of {what} for no reason: {why}"
    assert not found, "\n".join(found)
