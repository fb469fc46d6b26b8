"""``propius simulate``, ``trace`` and ``reproduce`` as people and programs use them."""

from __future__ import annotations

import gzip
import json
import re
import sys
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
    row, parts = (line for line in result.stdout.splitlines() if "srsf" in line)
    assert "± " in row
    shares = [float(number) for number in re.findall(r"(\d+\.\d)%", parts)]
    assert len(shares) > 0
    assert sum(shares) == pytest.approx(100, abs=0.2)
    slow_downs = {line for line in result.stdout.splitlines() if "Jain" in line}
    assert len(slow_downs) == 1
    assert "fair share" not in result.stdout


def test_what_the_interval_covers_is_said_with_n_and_the_seeds(
    tmp_path: Path, trace: Path, jobs: Path
) -> None:
    """In the table and in the JSON, with draws and without."""
    out = tmp_path / "out.json"
    asked = ("--clients", trace, "--jobs", jobs, "--seeds", "1-3", "--out", out)
    result = simulate(*asked)
    assert result.exit_code == 0, result.output
    assert "Only latencies were drawn: the interval does not cover other jobs" in result.stdout
    result = simulate(*asked, "--draw", "arrivals,jobs", "--draw", "latencies")
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert "drawn by each seed: latencies, jobs, arrivals; n = 3 (seeds 1-3)" in said
    assert "The interval covers what was drawn, not other traces." in said
    document = json.loads(out.read_text())
    assert (document["drawn"], document["seeds"]) == (["latencies", "jobs", "arrivals"], [1, 2, 3])
    assert document["interval"] in said
    rounds = {(run["seed"], run["policy"]): run["rounds"] for run in document["runs"]}
    assert all(rounds[seed, "random"] == rounds[seed, "irs"] for seed in (1, 2, 3))
    assert len(set(rounds.values())) > 1  # 6, 7 or 8 rounds, as the jobs were drawn


def test_unfinished_jobs_are_said_and_never_averaged_away(trace: Path, tmp_path: Path) -> None:
    """A job that the trace cannot serve in time leaves no improvement behind."""
    path = tmp_path / "jobs.json"
    path.write_text(json.dumps([*JOBS, JOBS[0] | {"rounds": 1_000_000}]))
    result = simulate("--clients", trace, "--jobs", path, "--policy", "random", "--policy", "irs",
                      "--repeat", 1)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "2 of 3" in result.stdout
    assert "Not every job finished" in result.stdout


@pytest.mark.parametrize("semantics", ["propius", "venn-reference"])
def test_a_run_in_which_nothing_finishes_ends_in_one_line_that_names_who_waits(
    tmp_path: Path, semantics: str
) -> None:
    """The policy, ten jobs, and how many more; the old file stays."""
    trace, jobs, out = (tmp_path / name for name in ("trace.csv", "jobs.json", "out.json"))
    trace.write_text(HEADER + "0,9000,78,13736,1234\n")
    jobs.write_text(json.dumps([JOBS[0]] * 12 + [JOBS[1] | {"start_s": 1e8}]))
    out.write_text("old")
    asked = ("--clients", trace, "--jobs", jobs, "--policy", "fifo", "--semantics", semantics)
    line = refused(simulate(*asked, "--out", out, "--seeds", 4, "--stalled-days", 6))
    assert line.startswith("propius: policy fifo, seed 4: no round has succeeded for ")
    assert "waiting: job 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more: " in line
    assert "--stalled-days" in line
    assert out.read_text() == "old"
    endless = simulate(*asked, "--stalled-days", 0, "--repeat", 9)
    assert endless.exit_code == 0, endless.output
    assert "0 of 13" in endless.stdout


@pytest.mark.parametrize("steps", [[], ["--steps"]])
def test_what_cannot_be_reproduced_ends_in_such_a_line_too(
    tmp_path: Path, steps: list[str]
) -> None:
    """A trace of one device a day."""
    trace = tmp_path / "trace.csv"
    trace.write_text(HEADER + "0,9000,78,13736,1234\n")
    asked = ["venn", "--clients", str(trace), "--workload", "even", "--seeds", "1"]
    line = refused(
        CliRunner().invoke(reproduce_command.app, [*asked, "--stalled-days", "6", *steps])
    )
    assert ", seed 1: no round has succeeded for " in line


def test_out_writes_the_same_json_as_a_file(trace: Path, jobs: Path, tmp_path: Path) -> None:
    """For the next program."""
    out = tmp_path / "runs.json"
    result = simulate("--clients", trace, "--jobs", jobs, "--policy", "irs", "--json", "--out", out)
    assert json.loads(out.read_text()) == json.loads(result.stdout)


WRONG_TRACES = [
    ("", "", "the file is empty"),
    (HEADER, "", "no rows"),
    (HEADER.replace("end,", ""), ":1", 'no column "end"'),
    (HEADER + "0,9,1,1,1\n5,4,1,1,1\n", ":3", "end 4 is before start 5"),
    (HEADER + "5,9,1,1,1\n4,9,1,1,1\n", ":3", "start 4 is before 5"),
    (HEADER + "0,9,nan,1,1\n", ":2", "computation is NaN"),
    (HEADER + "nan,9,1,1,1\n", ":2", "start is NaN"),
    (HEADER + "0,9,1,1,1\n\n\n0,x,1,1,1\n", ":5", "end is"),
    (HEADER + "0,9,1,1,1\n0,9,1,1\n", ":3", "fewer fields"),
    (HEADER + "0,9,1,1,1a\n", ":2", "requirements is"),
]


@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
@pytest.mark.parametrize("content, line, says", WRONG_TRACES)
def test_a_wrong_trace_is_refused_with_the_line_of_the_file(
    tmp_path: Path, jobs: Path, content: str, line: str, says: str, suffix: str
) -> None:
    """As an editor counts: the header is line 1, and empty lines count. Nothing is written."""
    path = tmp_path / f"wrong.{suffix}"
    path.write_bytes(gzip.compress(content.encode()) if suffix == "csv.gz" else content.encode())
    out = tmp_path / "out.json"
    told = refused(simulate("--clients", path, "--jobs", jobs, "--out", out))
    assert told.startswith(f"propius: {path}{line}: {says}")
    run = CliRunner().invoke
    assert refused(run(trace_command.app, ["info", str(path)])) == told
    assert refused(run(reproduce_command.app, ["venn", "--clients", str(path)])) == told
    assert sorted(each.name for each in tmp_path.iterdir()) == ["jobs.json", path.name]


@pytest.mark.parametrize(
    "change, says",
    [
        ({"rounds": 0}, "Expected `int` >= 1 - at `$.rounds`"),
        ({"requirement": 10}, "Expected `int` <= 9 - at `$.requirement`"),
        ({"requirement": 5}, "requirement 5: no client of "),
        ({"start_s": None}, "Expected `float`, got `null` - at `$.start_s`"),
    ],
)
def test_a_wrong_job_is_refused_with_its_line_and_number(
    trace: Path, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    """Zero rounds, a requirement that nobody can meet; nothing is written."""
    path, out = tmp_path / "jobs.json", tmp_path / "out.json"
    path.write_text("[\n " + ",\n\n ".join(map(json.dumps, [*JOBS, JOBS[0] | change])) + "\n]\n")
    told = refused(simulate("--clients", trace, "--jobs", path, "--out", out))
    assert told.startswith(f"propius: {path}:6: job 3: {says}")
    assert not out.exists()


POLICY = """
class Wrong:
    plans = 0

    def order(self, snapshot):
        self.plans += 1
        rounds = [(r.job, r.round) for r in snapshot.rounds]
        if self.plans < 4:
            return rounds
        {wrong}
"""


@pytest.mark.parametrize(
    "wrong, says",
    [
        ("raise ValueError('one\\ntwo')", "raised: ValueError: one"),
        ("return rounds + rounds[:1]", "returned round "),
        ("return [(99, 0)]", "returned round 0 of job 99, which is not open"),
        ("return rounds + [(0, 99)]", "returned round 99 of job 0, which is not open"),
        ("return [1]", "raised: TypeError: order() must return (job, round) pairs, not 1"),
        ("return None", "raised: TypeError: 'NoneType' object is not iterable"),
        ("raise SystemExit(0)", "raised: SystemExit: 0"),
    ],
)
def test_a_policy_that_fails_in_the_middle_is_named_and_leaves_the_old_file(
    trace: Path,
    jobs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: str,
    says: str,
) -> None:
    """One line, exit 1; though another policy's runs were good, what was there stays."""
    (tmp_path / "own_wrong.py").write_text(POLICY.format(wrong=wrong))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_wrong", raising=False)
    out = tmp_path / "out.json"
    out.write_text("old")
    told = refused(simulate("--clients", trace, "--jobs", jobs, "--policy", "fifo",
                            "--policy", "own_wrong:Wrong", "--seeds", 1, "--out", out))  # fmt: skip
    assert told.startswith(f"propius: policy own_wrong:Wrong {says}")
    assert "twice" in told or "rounds[:1]" not in wrong
    assert out.read_text() == "old"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "change, says",
    [
        ({"--jobs": "evven"}, "workloads: even"),
        ({"--policy": "best"}, "best"),
        ({"--policy": "no_such_package.module:Policy"}, "no_such_package"),
        ({"--draw": "jobs,weather"}, "--draw weather: one of latencies, jobs, arrivals, days"),
        ({"--draw": "days"}, "--draw days: the trace is of 1 day"),
        ({"--seeds": "5-1"}, "--seeds 5-1"),
        ({"--seeds": "one"}, "--seeds one"),
        ({"--semantics": "paper"}, "--semantics paper"),
        ({"--scale": "medium"}, "--scale medium"),
        ({"--option": "fairness"}, "--option fairness"),
        ({"--option": "fairnes=2"}, "fairnes"),
        ({"--base": "srsf"}, "--base srsf"),
        ({"--clients": "missing.csv"}, "missing.csv"),
        ({"--out": "/no/such/folder/out.json"}, "no such folder: /no/such/folder"),
        ({"--out": "/"}, "is a folder"),
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
    assert line.endswith(
        f"{jobs}:1: job 2: requirement 4: no client of {path} meets it; they meet 1"
    )


def test_a_named_workload_that_no_client_can_serve_is_refused(tmp_path: Path) -> None:
    """Its name stands where a file's would."""
    path = tmp_path / "weak.csv"
    path.write_text(HEADER + "0,9,1,1,123\n")
    assert "even:" in (line := refused(simulate("--clients", path, "--jobs", "even")))
    assert "requirement 4: no client" in line


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


def test_each_value_of_requirements_has_its_check_ins_and_time_online(tmp_path: Path) -> None:
    """For programs and as a table; digits in any order are the same value."""
    path = tmp_path / "trace.csv"
    path.write_text(HEADER + "0,600,1,1,12\n0,900,1,1,\n5,305,1,1,21\n9,309,1,1,1\n9,9,1,1,3\n")
    run = CliRunner().invoke
    told = json.loads(run(trace_command.app, ["info", str(path), "--json"]).stdout)
    assert told["signatures"] == [
        {"requirements": "", "checkins": 1, "online_s": 900.0},
        {"requirements": "1", "checkins": 1, "online_s": 300.0},
        {"requirements": "12", "checkins": 2, "online_s": 900.0},
        {"requirements": "3", "checkins": 1, "online_s": 0.0},
    ]
    table = run(trace_command.app, ["info", str(path)]).stdout
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines()]
    assert ["12", "2", "40.0%", "15.0 min", "42.9%", "7.5 min"] in rows
    assert ["none", "1", "20.0%", "15.0 min", "42.9%", "15.0 min"] in rows


def test_sessions_of_no_length_have_no_share_of_the_time(tmp_path: Path) -> None:
    """Nothing is divided by zero."""
    path = tmp_path / "trace.csv"
    path.write_text(HEADER + "0,0,1,1,1\n")
    result = CliRunner().invoke(trace_command.app, ["info", str(path)])
    assert result.exit_code == 0, result.output
    assert "100.0%" in result.stdout


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
