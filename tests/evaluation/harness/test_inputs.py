"""A run can be repeated from its folder alone, on the same samples or not at all."""

from __future__ import annotations

import html
import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from evaluation.eval_command import app
from evaluation.results.reader import RunReader

CONFIG = """
policies: [irs, "nearest_first:NearestFirst"]
profile_folder: profiles
job_trace: arrivals.txt
total_job: 2
client_num: 40
availability: {on_median_s: 200, off_median_s: 300}
dataset: [femnist, digits]
partition: {kind: label_counts, file: shares.json}
workers: 0
"""
PROFILE = """
demand: 6
total_round: 2
model: softmax
dataset: mnist5k
local_steps: 2
batch_size: 8
"""
POLICY = '''\
"""A policy of the user's."""


class NearestFirst:
    """Rounds that want the fewest devices first."""

    def order(self, snapshot):
        wanted = sorted(snapshot.rounds, key=lambda each: (each.demand, each.job))
        return [(each.job, each.round) for each in wanted]
'''


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration that names files of every kind, and a policy's module."""
    folder = tmp_path / "asked"
    (folder / "profiles").mkdir(parents=True)
    for number in range(2):
        (folder / "profiles" / f"job_{number}.yml").write_text(PROFILE)
    (folder / "arrivals.txt").write_text("0 1\n40 0\n")
    counts = {str(client): [3 + client % 4] * 10 for client in range(40)}
    (folder / "shares.json").write_text(json.dumps(counts))
    (folder / "run.yml").write_text(CONFIG)
    (folder / "nearest_first.py").write_text(POLICY)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def run(config: Path, out: Path) -> Result:
    return CliRunner().invoke(app, ["run", str(config), "--virtual", "--out", str(out)])


def tables(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*.csv"))}


def test_stranger_repeats_a_run_from_its_folder_alone(
    asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the run was asked with is gone; its own inputs give the same tables to the byte."""
    done = run(asked / "run.yml", tmp_path / "out")
    assert done.exit_code == 0, done.output
    given = tmp_path / "given"
    shutil.move(tmp_path / "out", given)
    shutil.rmtree(asked)
    del sys.modules["nearest_first"]
    monkeypatch.syspath_prepend(str(given / "inputs" / "policies"))

    again = run(given / "inputs" / "run.yml", tmp_path / "again")

    assert again.exit_code == 0, again.output
    first, second = tables(given), tables(tmp_path / "again")
    assert len(first) == 8
    assert first == second
    assert yaml.safe_load((given / "inputs" / "run.yml").read_text())["dataset"] == ["digits"]


def test_other_samples_are_refused(asked: Path, tmp_path: Path) -> None:
    """A repeat on other samples would be another run: one line says so, before anything runs."""
    assert run(asked / "run.yml", tmp_path / "out").exit_code == 0
    data = tmp_path / "out" / "inputs" / "data.json"
    described = json.loads(data.read_text())
    described["digits"]["sha256"] = "0" * 64
    data.write_text(json.dumps(described))
    again = run(tmp_path / "out" / "inputs" / "run.yml", tmp_path / "again")
    assert again.exit_code == 2
    assert "digits: these are not the samples of the run" in " ".join(again.output.split())
    assert not (tmp_path / "again").exists()


def test_run_says_where_it_comes_from(asked: Path, tmp_path: Path) -> None:
    """run.json has profiles, data, versions, commit, command and hardware; so has the report."""
    assert run(asked / "run.yml", tmp_path / "out").exit_code == 0
    origin = RunReader(tmp_path / "out").origin
    assert all(origin[key] for key in ("versions", "command", "hardware", "data", "profiles"))
    assert "commit" in origin
    assert origin["profiles"]["1"]["demand"] == 6
    assert origin["data"]["digits"]["training_samples"] == 1_433
    assert {"propius", "numpy", "torch", "scikit-learn"} <= origin["versions"].keys()
    assert origin["hardware"]["cores"] > 0
    shown = CliRunner().invoke(app, ["report", str(tmp_path / "out")])
    assert shown.exit_code == 0, shown.output
    page = html.unescape((tmp_path / "out" / "report" / "report.html").read_text())
    for text in (origin["command"], origin["data"]["digits"]["sha256"][:16], "scikit-learn"):
        assert text in page
