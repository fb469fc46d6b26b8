"""The run folder: what is written is read back, whatever happened to the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation.results.reader import RunReader
from evaluation.results.rows import ClientRow, JobRow, ResultsError, RoundRow, ScoreRow
from evaluation.results.writer import RunWriter

ROUND = RoundRow(0, 0, 0, "timed_out_scheduling", 0.1, None, 60.1, 10, 4, 0, 4, 0, None, 0.0)
SCORE = ScoreRow(0, 1, 1 / 3, 1, 0.5, 0.75, 1.0, 100)
JOB = JobRow(0, "job_0, the first", 0.0, 100.0, 100.0, 1, 10.0, 20.0, 1, 0, "completed")
CLIENT = ClientRow(3, 1_000.0, 12.5, 2, 1, 1)


def begin(folder: Path) -> RunWriter:
    return RunWriter(
        folder, config={"client_num": 5}, policies=["irs", "fifo"], seeds=[1], clock="virtual"
    )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """Every row comes back as it was, with exact floats and empty fields, failed attempts too."""
    with begin(tmp_path) as run:
        writer = run.policy("irs", 1)
        writer.round(ROUND)
        writer.score(SCORE)
        writer.job(JOB)
        writer.clients([CLIENT])
        writer.event("worker_lost", worker="w1", tasks=3)
    reader = RunReader(tmp_path)
    assert (reader.state, reader.clock, reader.config) == ("finished", "virtual", {"client_num": 5})
    (found,) = reader.results()
    assert (found.policy, found.seed) == ("irs", 1)
    assert (found.rounds, found.scores, found.jobs) == ([ROUND], [SCORE], [JOB])
    assert found.clients == [CLIENT]
    assert found.events == [{"kind": "worker_lost", "worker": "w1", "tasks": 3}]


def test_a_run_that_is_going_can_be_read(tmp_path: Path) -> None:
    """Rows are there as soon as they are written, and a line that is being written is left out."""
    writer = begin(tmp_path).policy("irs", 1)
    writer.round(ROUND)
    with (tmp_path / "irs-1" / "rounds.csv").open("a") as file:
        file.write("0,1,0,compl")
    reader = RunReader(tmp_path)
    assert reader.state == "running"
    assert reader.results()[0].rounds == [ROUND]
    assert reader.results()[0].clients == []


def test_client_results_do_not_wait_for_the_end(tmp_path: Path) -> None:
    """The clients' table can be read during the run and is replaced as a whole, one row a client.

    Fault F14: a client was appended at its exit, without a lock: a stopped run had none.
    """
    writer = begin(tmp_path).policy("irs", 1)
    writer.clients([CLIENT, CLIENT])
    writer.clients([CLIENT])
    assert RunReader(tmp_path).results()[0].clients == [CLIENT]
    assert {path.name for path in (tmp_path / "irs-1").iterdir()} == {
        "rounds.csv", "scores.csv", "jobs.csv", "clients.csv", "events.jsonl",
    }  # fmt: skip


def test_equal_runs_write_equal_bytes(tmp_path: Path) -> None:
    """Nothing in a run folder depends on when it was written."""
    for name in ("a", "b"):
        with begin(tmp_path / name) as run:
            run.policy("irs", 1).score(SCORE)
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    """An error that ends a run is on record, in one line."""
    with pytest.raises(RuntimeError), begin(tmp_path):
        raise RuntimeError("no\nworkers")
    assert RunReader(tmp_path).state == "failed: no workers"


@pytest.mark.parametrize(
    "spoil, line",
    [
        (lambda folder: (folder / "run.json").unlink(), "holds no run"),
        (lambda folder: (folder / "run.json").write_text("{}"), "run.json: not a run"),
        (
            lambda folder: (folder / "irs-1" / "jobs.csv").write_text("job\n"),
            "jobs.csv: line 1: the columns must be job,profile",
        ),
        (
            lambda folder: (folder / "irs-1" / "events.jsonl").write_text("[1]\n"),
            "events.jsonl: line 1: not an event",
        ),
    ],
)
def test_what_is_broken_is_named(
    tmp_path: Path, spoil: Callable[[Path], object], line: str
) -> None:
    """A folder that holds no run, or a broken file in it, is one line with the file."""
    begin(tmp_path).policy("irs", 1)
    spoil(tmp_path)
    with pytest.raises(ResultsError) as caught:
        RunReader(tmp_path).results()
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_row_is_named_by_its_line(tmp_path: Path) -> None:
    """A cell that is no number names file and line."""
    begin(tmp_path).policy("irs", 1).score(SCORE)
    path = tmp_path / "irs-1" / "scores.csv"
    path.write_text(path.read_text().replace("0.75", "much"))
    with pytest.raises(ResultsError, match=r"scores\.csv: line 2: .*much"):
        RunReader(tmp_path).results()


def test_a_folder_takes_one_run(tmp_path: Path) -> None:
    """A second run is not written over the first, nor a policy and seed twice."""
    run = begin(tmp_path)
    run.policy("irs", 1)
    with pytest.raises(ResultsError, match="irs-1"):
        run.policy("irs", 1)
    with pytest.raises(ResultsError, match="already holds a run"):
        begin(tmp_path)


def test_names_and_states_are_checked(tmp_path: Path) -> None:
    """A policy's name is no path out of the folder; an attempt's state is one of four."""
    with pytest.raises(ResultsError, match="cannot be the name"):
        begin(tmp_path).policy("../irs", 1)
    with pytest.raises(ResultsError, match="no state 'odd'"):
        RoundRow(0, 0, 0, "odd", 0.0, None, 1.0, 1, 0, 0, 0, 0, 0.0, 0.0)
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "running"
