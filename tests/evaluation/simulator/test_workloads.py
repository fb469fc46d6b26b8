"""Job lists: the paper's workloads, and every way in which a user's list can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evaluation.simulator.workloads import SCALES, WORKLOADS, JobListError, load_jobs

GOOD = {"start_s": 1.0, "participants": 5, "rounds": 2, "deadline_s": 60, "requirement": 1}


@pytest.mark.parametrize("name", WORKLOADS)
def test_each_workload_has_fifty_sync_jobs_and_its_small_scale_is_about_a_tenth(name: str) -> None:
    """Both scales are the same jobs."""
    small, full = (load_jobs(name, scale) for scale in ("small", "full"))
    assert len(small) == len(full) == 50
    for one, other in zip(small, full, strict=True):
        assert one.kind == other.kind == "sync"
        assert (one.deadline_s, one.requirement) == (other.deadline_s, other.requirement)
        assert (one.start_s - 3600) * 10 == pytest.approx(other.start_s - 3600, abs=0.01)
        assert 4 <= other.participants / one.participants <= 13
    assert sum(j.participants * j.rounds for j in full) == pytest.approx(
        100 * sum(j.participants * j.rounds for j in small), rel=0.05
    )
    assert {job.requirement for job in full} == {1, 2, 3, 4}


def test_only_two_scales_are_known() -> None:
    """The names that the command line offers."""
    assert SCALES == ("small", "full")


def write(tmp_path: Path, content: Any) -> str:
    path = tmp_path / "jobs.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_a_users_list_is_read_with_the_documented_defaults(tmp_path: Path) -> None:
    """min_response 0.8, workload 30, communication 10, kind sync."""
    [job] = load_jobs(write(tmp_path, [GOOD]))
    assert (job.min_response, job.workload, job.communication, job.kind) == (0.8, 30, 10, "sync")


@pytest.mark.parametrize(
    "change, says",
    [
        ({"rounds": 0}, "rounds"),
        ({"participants": 0}, "participants"),
        ({"participants": 2.5}, "participants"),
        ({"requirement": 0}, "requirement"),
        ({"requirement": 10}, "requirement"),
        ({"start_s": -1}, "start_s"),
        ({"min_response": 0}, "min_response"),
        ({"min_response": 1.1}, "min_response"),
        ({"workload": 0}, "workload"),
        ({"deadline_s": 0}, "deadline_s above 0"),
        ({"kind": "refill"}, "no deadline_s"),
        ({"kind": "async", "deadline_s": 0, "buffer": 0}, "buffer"),
        ({"kind": "async", "deadline_s": 0, "buffer": 6}, "buffer of 6"),
        ({"buffer": 3}, "neither buffer"),
        ({"kind": "often"}, "often"),
        ({"particpants": 3}, "particpants"),
    ],
)
def test_a_wrong_field_is_named_with_the_file_and_the_number_of_the_job(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    """One line: file, job, field."""
    name = write(tmp_path, [GOOD, GOOD | change])
    with pytest.raises(JobListError) as caught:
        load_jobs(name)
    text = str(caught.value)
    assert text.startswith(f"{name}: job 2: ")
    assert says in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "content, says",
    [
        ("[]", "0 jobs"),
        ("{}", "not a JSON list"),
        ("[1,", "not a JSON list"),
        ("", "not a JSON list"),
        ('[{"start_s": NaN}]', "not a JSON list"),
        ("[[]]", "job 1"),
    ],
)
def test_a_file_that_is_no_job_list_is_refused_in_one_line(
    tmp_path: Path, content: str, says: str
) -> None:
    """Whatever stands in it."""
    name = write(tmp_path, content)
    with pytest.raises(JobListError, match=says) as caught:
        load_jobs(name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    """Neither a workload nor a file."""
    with pytest.raises(JobListError, match="workloads: even, small"):
        load_jobs("evven")
    with pytest.raises(JobListError, match="No such file"):
        load_jobs(str(tmp_path / "missing.json"))
