from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest

from evaluation.harness import live
from evaluation.harness.experiment import load_experiment
from evaluation.harness.runner import Runner
from evaluation.results.reader import RunReader
from propius.cli.cluster import Cluster, ClusterError

CONFIG = """
policies: [irs, random]
profile_folder: profiles
total_job: 3
job_gap_mean_s: 20
client_num: 300
client_dispatchers: 2
availability: {on_median_s: 60, off_median_s: 240}
speedup_factor: 20
"""
TIMES_ONLY = CONFIG + "do_compute: false\n"
SMALL = CONFIG.replace("client_num: 300", "client_num: 60").replace("[irs, random]", "[irs]")
TRAINS = (
    SMALL.replace("total_job: 3", "total_job: 2")
    + """
workers: 1
eval_interval: 1
"""
)
PROFILE = """
demand: {demand}
total_round: {rounds}
over_selection: 1.25
local_steps: 5
batch_size: 10
model: softmax
model_size: 2000
public_constraint: {{cpu_f: {cpu}}}
"""
SCARCE = ((12, 6), (4, 8), (12, 0))
"""Demand and constraint of each job. They nest: a few clients can serve all three, and jobs wait
for clients rather than for results."""
MODEST = ((8, 2), (6, 6), (4, 8))
FEW = ((4, 0), (3, 2), (2, 4))


def write(
    folder: Path,
    config: str = TIMES_ONLY,
    *,
    rounds: int = 12,
    jobs: tuple[tuple[int, int], ...] = SCARCE,
) -> Path:
    (folder / "profiles").mkdir(exist_ok=True)
    for number, (demand, cpu) in enumerate(jobs):
        path = folder / "profiles" / f"job_{number}.yml"
        path.write_text(PROFILE.format(demand=demand, cpu=cpu, rounds=rounds))
    path = folder / "run.yml"
    path.write_text(config)
    return path


def run(path: Path, name: str, *, virtual: bool) -> RunReader:
    runner = Runner(load_experiment(path), path.parent / name, print)
    runner.prepare(virtual=virtual)
    runner.run(virtual=virtual)
    return RunReader(path.parent / name)


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

    Virtual time separates the policies by more than 10 %, and live time orders them alike.
    """
    path = write(tmp_path)
    virtual = mean_jcts(run(path, "virtual", virtual=True))
    gap = virtual["random"] / virtual["irs"] - 1
    assert gap > 0.10
    read = run(path, "live", virtual=False)
    real = mean_jcts(read)
    print(virtual, real)
    for policy, mean_s in virtual.items():
        assert real[policy] == pytest.approx(mean_s, rel=0.10)
    assert real["irs"] < real["random"]
    assert read.state == "finished"
    for results in read.results():
        assert sum(row.state == "completed" for row in results.rounds) == 36
        assert len(results.clients) == 300
        tasks = sum(client.tasks for client in results.clients)
        assert tasks >= sum(row.completed for row in results.rounds)
        assert all(client.utilised_s <= client.active_s + 60 for client in results.clients)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_live_run_trains_what_its_devices_bring(tmp_path: Path) -> None:
    """Over daemons, broker and worker: every round trains, is tested, and the models get better."""
    read = run(write(tmp_path, TRAINS, rounds=2, jobs=MODEST), "live", virtual=False)
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


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "change,policy",
    [
        ("selection_method: random", "random-per-client"),
        ("selection_method: static_partition", "static-partition"),
        ("is_FA: true", "irs"),
    ],
)
def test_the_originals_other_modes_run_live(tmp_path: Path, change: str, policy: str) -> None:
    """Baselines are policies and analytics trains nothing: over daemons all rounds are done."""
    config = SMALL.replace("speedup_factor: 20", "speedup_factor: 100")
    if "is_FA" not in change:
        config += "do_compute: false\n"
    path = write(tmp_path, f"{config}{change}\n", rounds=2, jobs=FEW)
    read = run(path, "live", virtual=False)
    (results,) = read.results()
    assert (read.state, results.policy) == ("finished", policy)
    done = [row for row in results.rounds if row.state == "completed"]
    assert sorted((row.job, row.version) for row in done) == [
        (job, version) for job in range(3) for version in (1, 2)
    ]
    assert all(row.trained_samples == 0 and row.training_wait_s == 0 for row in done)
    assert results.scores == []
    assert (tmp_path / "live" / "logs" / f"{policy}-0" / "daemons" / "scheduler.log").is_file()
    assert sum(client.completed for client in results.clients) >= sum(r.completed for r in done)


class NeverReady(Cluster):
    """A system whose daemons write their logs and come to nothing."""

    def start(self) -> None:
        self.logs.mkdir(parents=True)
        (self.logs / "scheduler.log").write_text("no\n")

    def wait_ready(self, timeout_s: float | None = None) -> None:
        raise ClusterError(f"not ready in time: scheduler: no (logs in {self.logs})")


def test_a_system_that_does_not_start_leaves_its_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the daemons' logs where they are when the run is over: in its folder."""
    monkeypatch.setattr(live, "Cluster", NeverReady)
    with pytest.raises(ClusterError) as raised:
        run(write(tmp_path, rounds=1), "out", virtual=False)
    kept = tmp_path / "out" / "logs" / "irs-0" / "daemons"
    assert str(raised.value) == f"not ready in time: scheduler: no (logs in {kept})"
    assert (kept / "scheduler.log").read_text() == "no\n"
    assert RunReader(tmp_path / "out").state == f"failed: {raised.value}"


MANY = """
policies: [irs]
profile_folder: profiles
total_job: 2
job_gap_mean_s: 20
client_num: 2000
availability: {on_median_s: 120, off_median_s: 240}
speedup_factor: 20
do_compute: false
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_one_dispatcher_lives_two_thousand_lives(tmp_path: Path) -> None:
    """With thousands of clients in one process the mean JCT is still that of virtual time."""
    path = write(tmp_path, MANY, rounds=3, jobs=((160, 7), (120, 8)))
    (virtual,) = run(path, "virtual", virtual=True).results()
    (real,) = run(path, "live", virtual=False).results()
    means = [fmean(job.jct_s or 0.0 for job in each.jobs) for each in (virtual, real)]
    print(means)
    assert means[1] == pytest.approx(means[0], rel=0.10)
    assert len(real.clients) == 2000
