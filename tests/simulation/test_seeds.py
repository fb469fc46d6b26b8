"""Seeds that found something once, and what the harness itself promises."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path
from random import Random

from tests.simulation.faults import Fault, Faults
from tests.simulation.figures import LEAST, Run, Runs, from_line, shortfalls, to_line
from tests.simulation.seeds import FILES, TRIED, blocks
from tests.simulation.world import SeedError, run

REGRESSIONS = Path(__file__).with_name("regressions.toml")


def test_seeds_that_once_found_something_find_nothing() -> None:
    """Each line of the regression file names a seed, what it found and what mended it; all pass."""
    found = []
    for entry in tomllib.loads(REGRESSIONS.read_text()).get("seed", []):
        assert set(entry) == {"seed", "harness", "found", "fixed"}, entry
        try:
            run(entry["seed"])
        except SeedError as error:
            found.append(str(error))
    assert not found, "\n".join(found)


def test_the_same_seed_is_the_same_run() -> None:
    """Every message, fault and decision repeats."""
    assert run(5).digest == run(5).digest


def test_a_perfect_world_has_no_faults() -> None:
    """The harness itself disturbs nothing."""
    done = run(1, faults=Faults.none(Random(0)))
    assert not done.faults
    assert done.rounds > 0


def test_every_seed_is_in_one_block() -> None:
    """The files together try all seeds, each once."""
    seeds = [seed for file in range(1, FILES + 1) for block in blocks(file) for seed in block]
    assert sorted(seeds) == list(range(1, TRIED + 1))


def test_a_seed_that_tried_little_says_why() -> None:
    """What falls short is named with its reasons, which come from what was drawn."""
    poor = Run(1, faults_s=9.0, virtual_s=12.0, managers=1, rounds_asked=8, pause_s=0.9)
    reasons = shortfalls(poor)
    assert set(reasons) == set(LEAST)
    assert "all jobs were over after 9 s" in reasons["messages"]
    assert "without faults of single messages" in reasons["faults"]
    assert "asked for only 8" in reasons["rounds"]


def test_a_seed_that_tried_enough_has_nothing_to_explain() -> None:
    """No reason is given where none is needed."""
    rich = Run(1, delivered=2_000, rounds=10, faults=Counter({Fault.DROP: 20}))
    assert shortfalls(rich) == {}


def test_runs_are_kept_as_lines_and_summed_up() -> None:
    """A run comes back from its line as it was, and the page of many names sums and shortfalls."""
    done = run(3)
    assert from_line(to_line(done)) == done
    page = Runs([done, Run(4)]).page()
    assert "2 seeds (3 to 4" in page
    assert f"{done.delivered:,} messages delivered" in page
    assert "| beat |" in page
    assert "* seed 4: messages 0 of 2,000" in page
