"""Keys of a configuration that lead elsewhere: a trace, a partition's file, a broker's endpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation.executor.local import LocalExecutor
from evaluation.harness import executors
from evaluation.harness.experiment import load_experiment
from evaluation.harness.runner import Runner
from evaluation.results.reader import PolicyResults, RunReader

CLIENTS = 40
DEMAND = 8
CONFIG = f"""
policies: [irs]
profile_folder: profiles
total_job: 2
job_gap_mean_s: 30
client_num: {CLIENTS}
availability: {{on_median_s: 200, off_median_s: 300}}
eval_interval: 2
workers: 0
"""
PROFILE = """
total_round: 3
over_selection: 1.25
model: softmax
dataset: digits
local_steps: 3
batch_size: 8
"""


def run(folder: Path, changes: str = "", out: str = "out") -> PolicyResults:
    """Two profiles, the second of fewer devices, in virtual time."""
    (folder / "profiles").mkdir(exist_ok=True)
    for number, demand in enumerate((DEMAND, 5)):
        text = PROFILE + f"demand: {demand}\n"
        (folder / "profiles" / f"job_{number}.yml").write_text(text)
    path = folder / "run.yml"
    path.write_text(CONFIG + changes)
    runner = Runner(load_experiment(path), folder / out, lambda _line: None)
    runner.prepare(virtual=True)
    runner.run(virtual=True)
    (results,) = RunReader(folder / out).results()
    assert [job.state for job in results.jobs] == ["finished"] * 2
    return results


def samples_of_rounds(results: PolicyResults) -> list[int]:
    """What the rounds of the job that asks for `DEMAND` devices were trained on."""
    return [
        row.trained_samples for row in results.rounds if row.job == 0 and row.state == "completed"
    ]


def test_a_job_trace_says_when_which_profile_comes(tmp_path: Path) -> None:
    """The jobs arrive at the trace's times and ask for what the profiles of its lines say."""
    (tmp_path / "trace.txt").write_text("20 1\n100 0 # the larger one\n")
    results = run(tmp_path, "job_trace: trace.txt\n")
    assert sorted((job.job, job.profile, job.arrived_s) for job in results.jobs) == [
        (0, "1", 20.0), (1, "0", 120.0)
    ]  # fmt: skip
    assert {(row.job, row.demand) for row in results.rounds} == {(0, 6), (1, 10)}


def test_label_counts_of_a_file_are_what_clients_have(tmp_path: Path) -> None:
    """Every client has two of one label and five of another: a round learns from 7 each."""
    rows = [[0] * (client % 5) + [2, 0, 5] for client in range(CLIENTS)]
    (tmp_path / "counts.json").write_text(json.dumps({"clients": rows}))
    results = run(tmp_path, "partition: {kind: label_counts, file: counts.json}\n")
    assert samples_of_rounds(results) == [7 * DEMAND] * 3


def test_a_real_partition_by_label_counts_trains(
    tmp_path: Path, shared_data: Callable[[str], Path]
) -> None:
    """The first speakers of Google Speech, their 35 words folded onto ten digits."""
    path = shared_data("fedscale_speech_commands_client_label_counts.json")
    sizes = sorted(sum(row) for row in json.loads(path.read_bytes())["clients"][:CLIENTS])
    results = run(tmp_path, f"partition: {{kind: label_counts, file: {path}}}\n")
    rounds = samples_of_rounds(results)
    assert len(rounds) == 3
    assert all(sum(sizes[:DEMAND]) <= samples <= sum(sizes[-DEMAND:]) for samples in rounds)
    assert max(rounds) - min(rounds) > DEMAND  # equal parts would differ by one a client at most


def test_a_client_map_says_whose_each_sample_is(tmp_path: Path) -> None:
    """Every client has three samples of the map: a round learns from as many each."""
    rows = [f"{100 + place // 3},{place}\n" for place in range(3 * CLIENTS)]
    (tmp_path / "map.csv").write_text("client_id,sample\n" + "".join(rows))
    results = run(tmp_path, "partition: {kind: client_map, file: map.csv}\n")
    assert samples_of_rounds(results) == [3 * DEMAND] * 3


@pytest.mark.slow
def test_a_broker_that_runs_already_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run starts no worker, and learns the same as in its own process."""
    alone = run(tmp_path, out="alone")

    def started(*_: object) -> None:
        pytest.fail("the run started an executor of its own")

    with LocalExecutor(1, tmp_path / "logs", device="cpu") as local:
        monkeypatch.setattr(executors, "LocalExecutor", started)
        found = run(tmp_path, f"executor: {local.endpoint}\n")
    assert any(event["kind"] == "worker_joined" for event in found.events)
    assert found.rounds[-1].ended_s == alone.rounds[-1].ended_s
    for one, other in zip(found.scores, alone.scores, strict=True):
        assert one.test_loss == pytest.approx(other.test_loss, rel=1e-4)
