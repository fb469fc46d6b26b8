"""The command as users run it: run folders in, a page and files out."""

from __future__ import annotations

import base64
import csv
import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from evaluation.report.command import report
from evaluation.results.writer import RunWriter

MadeRun = Callable[..., Path]

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"

app = typer.Typer()
app.command()(report)


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_one_page_that_needs_nothing_else(made_run: MadeRun) -> None:
    """The page holds its tables and its figures, and asks for nothing from anywhere."""
    folder = made_run()
    answer = ask(folder)
    assert answer.exit_code == 0, answer.output
    page = (folder / "report" / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 5
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<script" not in page
    for word in ("completion time", "utilisation", "worker lost", "job_3"):
        assert word in page
    for data in re.findall(r"base64,([^\"]+)", page):
        assert b"<svg" in base64.b64decode(data)


def test_json_is_for_programs(made_run: MadeRun) -> None:
    """`--json` prints the figures alone, and the same folder gives the same bytes."""
    folder = made_run()
    answer = ask(folder, "--json")
    found = json.loads(answer.stdout)
    assert answer.stdout == ask(folder, "--json").stdout
    assert [policy["label"] for policy in found["policies"]] == ["irs", "random"]
    assert found["base"] == "random"
    assert found["faster_than_base"]["irs"]["mean"] > 1
    assert not (folder / "report").exists()


def test_the_csv_files_have_the_columns_of_the_original(made_run: MadeRun) -> None:
    """job_, test_, train_ and client_result files begin with the columns that its scripts read."""
    folder = made_run()
    assert ask(folder).exit_code == 0
    where = folder / "report" / "csv" / "irs-0"
    expected = {
        "job_2_irs.csv": "round,round_time,sched_delay,response_collection_time",
        "test_2_irs.csv": "round,cnt,test_loss,acc,acc_5,test_len",
        "train_2_irs.csv": "round,cnt,moving_loss,avg_moving_loss,trained_size",
        "client_result.csv": "utilize_time,active_time",
    }
    for name, columns in expected.items():
        assert (where / name).read_text().startswith(columns), name
    with (where / "job_2_irs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["round"] for row in rows[-2:]] == ["-1", "-2"]
    assert len([row for row in rows if row["state"] == "completed"]) == 12
    assert (where / "client_result.csv").read_text().count("\n") == 51


def test_runs_are_compared_with_each_other(made_run: MadeRun) -> None:
    """Policies of several folders stand side by side, named by their run where names repeat."""
    first, second = made_run("a"), made_run("b", policies=("irs", "fifo"))
    found = json.loads(ask(first, second, "--json").stdout)
    labels = [policy["label"] for policy in found["policies"]]
    assert labels == ["irs (a)", "random", "irs (b)", "fifo"]


def test_a_run_that_is_going_is_reported_on(tmp_path: Path, made_run: MadeRun) -> None:
    """What has ended so far is shown, a torn line left out, and the page says that it goes on."""
    folder = made_run()
    document = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(document | {"state": "running"}))
    jobs = folder / "irs-0" / "jobs.csv"
    jobs.write_text("".join(jobs.read_text().splitlines(keepends=True)[:2]))
    rounds = folder / "irs-0" / "rounds.csv"
    rounds.write_text(rounds.read_text()[:-9])
    (folder / "irs-0" / "clients.csv").unlink()
    answer = ask(folder)
    assert answer.exit_code == 0, answer.output
    assert "is still going" in answer.output
    found = json.loads(ask(folder, "--json").stdout)
    assert found["policies"][0]["finished"] == 1
    assert found["policies"][0]["utilisation"] is None
    assert {job["state"] for job in found["jobs"]["irs"]} == {"completed", "running"}
    assert "is still going" in (folder / "report" / "report.html").read_text()


def test_following_ends_with_the_run(made_run: MadeRun) -> None:
    """`--every` shows tables until the run is over, and writes nothing."""
    folder = made_run()
    answer = ask(folder, "--every", "0.1", "--show", "utilisation")
    assert answer.exit_code == 0
    assert "utilisation" in answer.output
    assert "completion time" not in answer.output
    assert not (folder / "report").exists()


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["nowhere"], "holds no run"),
        (["empty"], "no round has ended yet"),
        (["run", "run"], "named twice"),
        (["run", "--show", "odd"], "--show odd: one of times, utilisation"),
        (["run", "--out", "run/run.json"], "the report cannot be written"),
    ],
)
def test_what_cannot_be_reported_is_one_line(
    tmp_path: Path, made_run: MadeRun, arguments: list[str], line: str
) -> None:
    """A folder without a run, or an option that is none, is one line and exit code 2."""
    made_run()
    RunWriter(tmp_path / "empty", config={}, policies=["irs"], seeds=[0], clock="live")
    named = [
        word if word.startswith("--") or word == "odd" else str(tmp_path / word)
        for word in arguments
    ]
    answer = ask(*named)
    assert answer.exit_code == 2
    assert line in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert "Traceback" not in answer.output


def test_analytics_without_training_are_reported(made_run: MadeRun) -> None:
    """A run without scores has the figures of its times and no curves."""
    folder = made_run()
    for scores in folder.glob("*/scores.csv"):
        scores.write_text(scores.read_text().splitlines(keepends=True)[0])
    assert ask(folder).exit_code == 0
    page = (folder / "report" / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 2
    assert "last accuracy" not in page


def test_names_cannot_bring_markup(made_run: MadeRun) -> None:
    """Whatever stands in a run folder stands on the page as text."""
    folder = made_run()
    jobs = folder / "irs-0" / "jobs.csv"
    jobs.write_text(jobs.read_text().replace("job_1", "<script>alert(1)</script>"))
    assert ask(folder).exit_code == 0
    assert "<script" not in (folder / "report" / "report.html").read_text()


@pytest.mark.parametrize(
    "script, shown",
    [
        ("analyze", "time to target"),
        ("analyze_roundtime", "Job by job"),
        ("analyze_util", "utilisation"),
        ("monitor_eval", "completion time"),
        ("monitor_jobs", "Job by job"),
    ],
)
def test_the_entry_points_of_the_original(
    made_run: MadeRun,
    script: str,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The scripts of the original testbed's names call the report with what they are for."""
    monkeypatch.setattr(sys, "argv", [script, str(made_run(rounds=3))])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
    assert ended.value.code == 0
    assert shown in capsys.readouterr().out
