from __future__ import annotations

import pytest

from tests.simulation.planted import BUGS
from tests.simulation.world import SeedError, run


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness sees this bug within the number of seeds that is promised for it."""
    plant, within_seeds = BUGS[name]
    plant(monkeypatch)
    for seed in range(1, within_seeds + 1):
        try:
            run(seed)
        except SeedError as found:
            print(f"{name}: {found}")
            return
    pytest.fail(f"{name} was not found within {within_seeds} seeds")
