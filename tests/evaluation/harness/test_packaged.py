"""What `make eval` runs, and that a run depends on nothing but its configuration."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evaluation.clients.behaviour import with_samples
from evaluation.data.images import ImageData
from evaluation.eval_command import app
from evaluation.harness.experiment import load_experiment
from evaluation.harness.job_data import know_data
from evaluation.results.reader import RunReader

RUN_S = 120.0


def packaged(folder: Path, rounds: int) -> Path:
    """The packaged comparison on MNIST-5k, with fewer rounds a job."""
    (folder / "cut").mkdir()
    small = Path(str(resources.files("evaluation") / "profiles" / "small"))
    for path in small.glob("job_*.yml"):
        text, changed = re.subn(
            r"(?m)^total_round: \d+$", f"total_round: {rounds}", path.read_text()
        )
        assert changed == 1
        (folder / "cut" / path.name).write_text(text)
    changes = {"profile_folder": "cut", "dataset": "[mnist5k]", "workers": "0"}
    text = (small / "comparison.yml").read_text()
    for name, value in changes.items():
        text, changed = re.subn(rf"(?m)^{name}: .*$", f"{name}: {value}", text)
        assert changed == 1
    path = folder / "comparison.yml"
    path.write_text(text)
    return path


@pytest.mark.slow
def test_the_packaged_comparison_learns_and_is_reported(tmp_path: Path) -> None:
    """Each of the four gradient policies learns under both policies, and the page is written."""
    path, out = packaged(tmp_path, 3), tmp_path / "out"
    experiment = load_experiment(path)
    assert experiment.config.client_num == 200
    assert sorted(job.profile.gradient_policy for job in experiment.jobs(0)) == [
        "fed-avg", "fed-prox", "fed-yogi", "q-fedavg"
    ]  # fmt: skip
    ran = CliRunner().invoke(app, ["run", str(path), "--virtual", "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    for results in RunReader(out).results():
        assert [job.state for job in results.jobs] == ["finished"] * 4
        for job in range(4):
            scores = [row for row in results.scores if row.job == job]
            assert [row.version for row in (scores[0], scores[-1])] == [0, 3]
            assert scores[-1].accuracy > scores[0].accuracy + 0.05, (results.policy, job)
            assert scores[-1].samples == 1_000
    assert RunReader(out).policies == ["irs", "random"]
    shown = CliRunner().invoke(app, ["report", str(out)])
    assert shown.exit_code == 0, shown.output
    page = (out / "report" / "report.html").read_text()
    assert "irs" in page
    assert page.count("<img") >= 3


@pytest.mark.slow
def test_the_packaged_constraints_tell_clients_apart(tmp_path: Path) -> None:
    """Of five seeds: many clients have the samples that job 1 asks for, and many have not."""
    experiment = load_experiment(packaged(tmp_path, 3))
    loaded: dict[str, ImageData] = {}
    for seed in range(5):
        jobs = experiment.jobs(seed)
        data = know_data(experiment, jobs, seed, loaded)
        (bounded,) = [job for job in jobs if job.profile.private_constraint]
        least = bounded.profile.private_constraint["dataset_size"]
        share = float((data[bounded.profile.dataset].sizes >= least).mean())
        assert 0.25 < share < 0.75
        sizes = {name: known.sizes for name, known in data.items()}
        clients = with_samples(experiment.behaviour(seed).draw(), sizes)
        assert sum(client.suits(bounded.profile) for client in clients) >= 20


CONFIG = """
policies: [irs, random]
profile_folder: profiles
total_job: 2
job_gap_mean_s: 30
client_num: 40
availability: {on_median_s: 200, off_median_s: 300}
eval_interval: 1
workers: 0
"""
PROFILE = """
demand: 8
total_round: 3
over_selection: 1.25
model: softmax
dataset: digits
local_steps: 3
batch_size: 8
public_constraint: {cpu_f: 2, ram: 2}
private_constraint: {dataset_size: 20}
"""


@pytest.mark.slow
def test_the_hash_seed_of_a_process_changes_no_byte(tmp_path: Path) -> None:
    """Two processes whose sets and dicts of strings are in other orders write the same tables."""
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "job_0.yml").write_text(PROFILE)
    (tmp_path / "run.yml").write_text(CONFIG)
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "propius.cli", "eval", "run", "run.yml", "--virtual", "--out",
             seed],
            cwd=tmp_path, env=os.environ | {"PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]  # fmt: skip
    assert [process.wait(RUN_S) for process in started] == [0, 0]
    one, two = (
        {path.relative_to(tmp_path / seed): path for path in (tmp_path / seed).rglob("*.csv")}
        for seed in ("1", "2")
    )
    assert len(one) == 8
    assert one.keys() == two.keys()
    for name, path in one.items():
        assert path.read_bytes() == two[name].read_bytes(), name
