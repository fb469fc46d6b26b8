"""``propius simulate``, ``trace`` and ``reproduce`` as people and programs use them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from evaluation.simulator import command, reproduce_command, trace_command
from evaluation.simulator.generate import TraceSettings, generate, write_csv

JOBS = [
    {"start_s": 10, "participants": 5, "rounds": 3, "deadline_s": 600, "requirement": 1},
    {"start_s": 20, "participants": 3, "rounds": 4, "deadline_s": 600, "requirement": 4},
]
HEADER = "start,end,computation,communication,requirements\n"


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trace on disk."""
    path = tmp_path_factory.mktemp("trace") / "clients.csv.gz"
    write_csv(generate(TraceSettings(checkins=20_000, days=1), seed=1), path)
    return path


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    """Two jobs on disk."""
    path = tmp_path / "jobs.json"
    path.write_text(json.dumps(JOBS))
    return path


def simulate(*arguments: object) -> Result:
    return CliRunner().invoke(command.app, [str(argument) for argument in arguments])


def refused(result: Result) -> str:
    """The one line that says what was refused."""
    assert result.exit_code == 1, result.output
    line = result.stderr.strip()
    assert "\n" not in line, line
    assert line.startswith("propius: ")
    assert result.stdout == ""
    return line


@pytest.mark.parametrize("semantics", ["propius", "venn-reference"])
def test_the_json_has_a_run_for_each_policy_and_seed_and_is_the_same_every_time(
    trace: Path, jobs: Path, semantics: str
) -> None:
    """Byte for byte, though runs finish in any order."""
    asked = ("--clients", trace, "--jobs", jobs, "--policy", "random", "--policy", "irs",
             "--seeds", "1-3", "--semantics", semantics, "--json")  # fmt: skip
    first, again = simulate(*asked), simulate(*asked)
    assert first.exit_code == 0, first.output
    assert first.stdout == again.stdout
    document = json.loads(first.stdout)
    runs = [(run["policy"], run["seed"]) for run in document["runs"]]
    assert runs == [(policy, seed) for policy in ("random", "irs") for seed in (1, 2, 3)]
    for run in document["runs"]:
        assert run["finished"] == 2
        assert run["rounds"] == 7
        assert 0 < run["avg_jct_s"] <= run["makespan_s"]
        if semantics == "propius":
            assert run["ineligible"] == 0
    assert [policy["policy"] for policy in document["policies"]] == ["random", "irs"]
    assert document["base"] == "random"


def test_people_get_a_table_with_the_improvement_and_its_interval(trace: Path, jobs: Path) -> None:
    """One row a policy."""
    result = simulate(
        "--clients", trace, "--jobs", jobs, "--policy", "fifo", "--policy", "srsf", "--seeds", "1,3"
    )
    assert result.exit_code == 0, result.output
    assert "faster than fifo" in result.stdout
    assert "4 of 4" in result.stdout
    [row] = [line for line in result.stdout.splitlines() if "srsf" in line]
    assert "± " in row


def test_unfinished_jobs_are_said_and_never_averaged_away(trace: Path, tmp_path: Path) -> None:
    """A job that the trace cannot serve in time leaves no improvement behind."""
    path = tmp_path / "jobs.json"
    path.write_text(json.dumps([*JOBS, JOBS[0] | {"rounds": 1_000_000}]))
    result = simulate("--clients", trace, "--jobs", path, "--policy", "random", "--policy", "irs",
                      "--repeat", 1)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "2 of 3" in result.stdout
    assert "Not every job finished" in result.stdout


def test_out_writes_the_same_json_as_a_file(trace: Path, jobs: Path, tmp_path: Path) -> None:
    """For the next program."""
    out = tmp_path / "runs.json"
    result = simulate("--clients", trace, "--jobs", jobs, "--policy", "irs", "--json", "--out", out)
    assert json.loads(out.read_text()) == json.loads(result.stdout)


@pytest.mark.parametrize(
    "content, says",
    [
        ("", "empty"),
        (HEADER, "no "),
        (HEADER.replace("end,", ""), "end"),
        (HEADER + "0,9,1,1,1\n5,4,1,1,1\n", "row 2:"),
        (HEADER + "5,9,1,1,1\n4,9,1,1,1\n", "row 2:"),
        (HEADER + "0,9,nan,1,1\n", "row 1:"),
        (HEADER + "0,9,1,1,1\n0,x,1,1,1\n", "row 2:"),
        (HEADER + "0,9,1,1,1\n0,9,1,1\n", "row 2:"),
        (HEADER + "0,9,1,1,1a\n", "row 1:"),
    ],
)
def test_a_wrong_trace_is_refused_with_file_and_row(
    tmp_path: Path, jobs: Path, content: str, says: str
) -> None:
    """Rows are counted without the header; nothing runs, nothing is written."""
    path = tmp_path / "wrong.csv"
    path.write_text(content)
    out = tmp_path / "out.json"
    line = refused(simulate("--clients", path, "--jobs", jobs, "--out", out))
    assert str(path) in line
    assert says in line
    assert not out.exists()


@pytest.mark.parametrize(
    "change, says",
    [
        ({"--jobs": "evven"}, "workloads: even"),
        ({"--policy": "best"}, "best"),
        ({"--policy": "no_such_package.module:Policy"}, "no_such_package"),
        ({"--seeds": "5-1"}, "--seeds 5-1"),
        ({"--seeds": "one"}, "--seeds one"),
        ({"--semantics": "paper"}, "--semantics paper"),
        ({"--scale": "medium"}, "--scale medium"),
        ({"--option": "fairness"}, "--option fairness"),
        ({"--option": "fairnes=2"}, "fairnes"),
        ({"--base": "srsf"}, "--base srsf"),
        ({"--clients": "missing.csv"}, "missing.csv"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line_that_names_it(
    trace: Path, jobs: Path, change: dict[str, str], says: str
) -> None:
    """What, where, and what would be right."""
    options: dict[str, Any] = {"--clients": trace, "--jobs": jobs, "--policy": "irs"} | change
    assert says in refused(simulate(*(part for pair in options.items() for part in pair)))


def test_a_job_that_no_client_can_serve_is_refused(tmp_path: Path, jobs: Path) -> None:
    """It would wait for ever."""
    path = tmp_path / "weak.csv"
    path.write_text(HEADER + "0,9,1,1,1\n")
    line = refused(simulate("--clients", path, "--jobs", jobs))
    assert "job 2: requirement 4" in line


def test_a_trace_is_made_and_described(tmp_path: Path) -> None:
    """generate, then info: the same number of rows."""
    path = tmp_path / "made.csv.gz"
    run = CliRunner().invoke
    made = run(trace_command.app, ["generate", "--out", str(path), "--checkins", "500"])
    assert made.exit_code == 0, made.output
    assert "500 check-ins" in made.stdout
    told = run(trace_command.app, ["info", str(path), "--json"])
    assert json.loads(told.stdout)["checkins"] == 500
    assert "500 check-ins" in run(trace_command.app, ["info", str(path)]).stdout


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--out", "trace.txt"], "must end in .csv"),
        (["--out", "/no/such/folder/t.csv"], "no such folder"),
        (["--out", "t.csv", "--preset", "large"], "--preset large"),
    ],
)
def test_a_wrong_wish_for_a_trace_is_refused_in_one_line(arguments: list[str], says: str) -> None:
    """Before anything is drawn."""
    line = refused(CliRunner().invoke(trace_command.app, ["generate", *arguments]))
    assert says in line


def test_reproduce_compares_and_fails_where_the_reference_differs(
    trace: Path, tmp_path: Path
) -> None:
    """Exit 1 if the mean is further off than allowed; the paper's figures stand beside it."""
    expected = tmp_path / "expected.json"
    figures = {"low": {"fifo": {"avg_jct_s": 1.0}}}
    expected.write_text(json.dumps({"workloads": figures}))
    asked = ["venn", "--clients", str(trace), "--workload", "low", "--seeds", "1"]
    run = CliRunner().invoke
    alone = run(reproduce_command.app, [*asked, "--json"])
    assert alone.exit_code == 0, alone.output
    rows = {row["policy"]: row for row in json.loads(alone.stdout)["rows"]}
    assert rows["irs"]["paper"] == 1.88
    assert rows["random"]["improvement"] == 1.0
    assert rows["fifo"]["agrees"] is None
    differs = run(reproduce_command.app, [*asked, "--expected", str(expected)])
    assert differs.exit_code == 1
    assert "NO" in differs.stdout
