"""The demo's scoreboard, progress lines and summary."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from evaluation.demo.jobs import DEMO_JOBS, DemoJob
from evaluation.demo.progress import (
    Devices,
    JobDone,
    Progress,
    RoundDone,
    Watched,
    read_progress,
)
from evaluation.demo.scoreboard import Scoreboard, live_table, plain_line
from evaluation.demo.summary import results, results_table, write_summary

JOB = DemoJob("general", {"cpu_f": 2.0}, demand=10, rounds=2)
WATCHED = Watched(
    t_s=1.0, job="general", round=0, state="open", demand=10, held=4, completed=0, waiting_s=0.5
)
ROUND_DONE = RoundDone(t_s=2.0, job="general", round=0, updates=9, accuracy=0.5)
JOB_DONE = JobDone(
    t_s=4.0,
    job="general",
    job_id=1,
    rounds=2,
    rounds_failed=1,
    jct_s=3.5,
    mean_scheduling_delay_s=0.25,
    mean_response_s=1.25,
    devices_used=18,
    devices_failed=3,
    final_accuracy=0.91,
)
DEVICES = Devices(t_s=1.0, online=7, working=3, completed=2, failed=1, vanished=1)


@pytest.mark.parametrize("progress", [WATCHED, ROUND_DONE, JOB_DONE, DEVICES])
def test_a_progress_line_is_read_as_it_was_written(progress: Progress) -> None:
    """What a child writes is what its parent reads."""
    assert read_progress(msgspec.json.encode(progress).decode()) == progress


@pytest.mark.parametrize("line", ["", "hello", "{}", '{"type": "other"}', '{"type": "watched"}'])
def test_a_line_that_is_no_progress_is_refused_with_the_line(line: str) -> None:
    """Noise on a child's output is an error, not something to skip."""
    with pytest.raises(ValueError, match="not a progress line"):
        read_progress(line)


def test_the_scoreboard_follows_a_job_from_start_to_end() -> None:
    """State, rounds, accuracy and the series of the figure come from the progress lines."""
    board = Scoreboard([JOB])
    score = board.jobs["general"]
    assert score.state == "starting"
    board.take(WATCHED)
    assert (score.state, score.held_series) == ("open", [(1.0, 4)])
    board.take(ROUND_DONE)
    assert (score.rounds_done, score.accuracy_series) == (1, [(2.0, 0, 0.5, 4)])
    assert not board.finished
    board.take(JOB_DONE)
    assert board.finished
    assert score.state == "finished"
    assert score.held_series[-1] == (4.0, 0), "nothing is held after the end"


def test_the_live_table_and_the_plain_line_show_the_same_figures() -> None:
    """A person sees round, held devices, waiting time and accuracy, with or without a terminal."""
    board = Scoreboard([JOB])
    for progress in (WATCHED, ROUND_DONE, DEVICES):
        board.take(progress)
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(live_table(board, title="demo"))
    table = capture.get()
    for shown in ("general", "1/2", "4/10", "0.5 s", "0.500", "7 online"):
        assert shown in table
    line = plain_line(board, t_s=3.0)
    assert line.startswith("  3.0 s  general 1/2 open held 4 waiting 0.5 s accuracy 0.500")


def test_the_summary_has_one_object_per_job_and_is_written_whole(tmp_path: Path) -> None:
    """summary.json is a list of jobs with the figures of the table."""
    board = Scoreboard([JOB])
    for progress in (WATCHED, ROUND_DONE, JOB_DONE):
        board.take(progress)
    rows = results(board)
    write_summary(tmp_path / "summary.json", rows)
    (row,) = json.loads((tmp_path / "summary.json").read_text())
    assert row["name"] == "general"
    assert (row["rounds"], row["jct_s"], row["final_accuracy"]) == (2, 3.5, 0.91)
    assert list(tmp_path.iterdir()) == [tmp_path / "summary.json"]
    console = Console(width=120)
    with console.capture() as capture:
        console.print(results_table(rows, title="demo"))
    assert "0.910" in capture.get()


def test_an_unfinished_job_is_shown_as_such() -> None:
    """A job that did not end has no completion time to show."""
    rows = results(Scoreboard([JOB]))
    assert rows[0]["finished"] is False
    assert "jct_s" not in rows[0]


def test_the_demo_jobs_differ_as_the_description_says() -> None:
    """Three jobs, three requirements, 10 to 20 devices a round, 25 to 40 rounds."""
    assert len({tuple(sorted(job.requirement.items())) for job in DEMO_JOBS}) == 3
    assert all(10 <= job.demand <= 20 and 25 <= job.rounds <= 40 for job in DEMO_JOBS)
