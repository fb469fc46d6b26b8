from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.jobs.arrivals import Arrival, poisson, read_trace
from evaluation.jobs.yaml_file import SettingsError


def test_gaps_add_up_and_the_job_is_its_line_not_its_profile(tmp_path: Path) -> None:
    """A job's number is its place in the trace; what it asks for is the profile that it names.

    Fault F11: a job's requirement was taken from the profile of the job's own number, whichever
    profile the trace gave it.
    """
    path = tmp_path / "trace.txt"
    path.write_text("0 3\n\n10.5 1 # the second\n5 3\n")
    assert read_trace(path, {1, 3}) == [
        Arrival(0, 0.0, 3), Arrival(1, 10.5, 1), Arrival(2, 15.5, 3)
    ]  # fmt: skip
    assert len(read_trace(path, {1, 3}, 2)) == 2


@pytest.mark.parametrize(
    "text,says",
    [
        ("0 1\n5\n", "line 2: write `gap profile`"),
        ("0 1\n-5 1\n", "line 2: the gap is -5"),
        ("nan 1\n", "line 1: the gap is nan"),
        ("0 1\n0 7\n", "line 2: there is no profile 7; there are 1"),
        ("", "0 arrivals"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, says: str) -> None:
    """What is wrong with a trace is one line with file and line."""
    path = tmp_path / "trace.txt"
    path.write_text(text)
    with pytest.raises(SettingsError) as refused:
        read_trace(path, {1})
    assert str(refused.value).startswith(str(path))
    assert says in str(refused.value)


def test_poisson_arrivals_are_the_seeds_and_nothing_elses() -> None:
    """The same seed gives the same gaps, another seed others; their mean is as asked.

    Fault F10: the original drew its gaps from a generator that nobody had seeded.
    """
    first, again, other = (poisson(2_000, 60.0, [4, 2], seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert [arrival.profile for arrival in first[:4]] == [2, 4, 2, 4]
    assert 55 < first[-1].at_s / (len(first) - 1) < 65
