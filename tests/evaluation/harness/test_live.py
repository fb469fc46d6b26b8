from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest

from evaluation.harness.experiment import load_experiment
from evaluation.harness.runner import Runner
from evaluation.results.reader import RunReader

CONFIG = """
policies: [irs, random]
profile_folder: profiles
total_job: 3
job_gap_mean_s: 20
client_num: 60
client_dispatchers: 2
availability: {on_median_s: 120, off_median_s: 240}
speedup_factor: 20
"""
TIMES_ONLY = CONFIG + "do_compute: false\n"
TRAINS = (
    CONFIG.replace("[irs, random]", "[irs]").replace("total_job: 3", "total_job: 2")
    + """
workers: 1
eval_interval: 1
"""
)
PROFILE = """
demand: {demand}
total_round: {rounds}
over_selection: 1.25
model: softmax
model_size: 2000
public_constraint: {{cpu_f: {cpu}}}
"""


def run(
    folder: Path, name: str, *, virtual: bool, config: str = TIMES_ONLY, rounds: int = 5
) -> RunReader:
    (folder / "profiles").mkdir(exist_ok=True)
    for number, (demand, cpu) in enumerate([(8, 2), (6, 6), (4, 8)]):
        path = folder / "profiles" / f"job_{number}.yml"
        path.write_text(PROFILE.format(demand=demand, cpu=cpu, rounds=rounds))
    (folder / "run.yml").write_text(config)
    runner = Runner(load_experiment(folder / "run.yml"), folder / name, print)
    runner.prepare(virtual=virtual)
    runner.run(virtual=virtual)
    return RunReader(folder / name)


def mean_jcts(read: RunReader) -> dict[str, float]:
    means = {}
    for results in read.results():
        times = [job.jct_s for job in results.jobs]
        assert len(times) == 3
        means[results.policy] = fmean(at for at in times if at is not None)
    return means


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_live_and_virtual_time_agree(tmp_path: Path) -> None:
    """Twenty times faster than the devices, mean JCTs are within 10 % of those in virtual time.

    Where virtual time separates the policies by more than 10 %, live time orders them alike.
    """
    virtual = mean_jcts(run(tmp_path, "virtual", virtual=True))
    read = run(tmp_path, "live", virtual=False)
    live = mean_jcts(read)
    print(virtual, live)
    for policy, mean_s in virtual.items():
        assert live[policy] == pytest.approx(mean_s, rel=0.10)
    if abs(virtual["irs"] / virtual["random"] - 1) > 0.10:
        assert (virtual["irs"] < virtual["random"]) == (live["irs"] < live["random"])
    assert read.state == "finished"
    for results in read.results():
        assert sum(row.state == "completed" for row in results.rounds) == 15
        assert len(results.clients) == 60
        tasks = sum(client.tasks for client in results.clients)
        assert tasks >= sum(row.completed for row in results.rounds)
        assert all(client.utilised_s <= client.active_s + 60 for client in results.clients)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_live_run_trains_what_its_devices_bring(tmp_path: Path) -> None:
    """Over daemons, broker and worker: every round trains, is tested, and the models get better."""
    read = run(tmp_path, "live", virtual=False, config=TRAINS, rounds=2)
    (results,) = read.results()
    assert read.state == "finished"
    assert sorted(job.job for job in results.jobs) == [0, 1]
    done = [row for row in results.rounds if row.state == "completed"]
    assert sorted((row.job, row.version) for row in done) == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert all(row.trained_samples > 0 and row.completed >= 6 for row in done)
    for job in range(2):
        own = {row.version: row.accuracy for row in results.scores if row.job == job}
        assert own.keys() == {0, 1, 2}
        assert own[2] > own[0]
    assert "worker_joined" in {event["kind"] for event in results.events}
