from __future__ import annotations

import gzip
import json
import re
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
import torch
from typer.testing import CliRunner, Result

from evaluation.aggregators import Update
from evaluation.clients.behaviour import SimulatedClient
from evaluation.clients.dispatcher import Dispatcher, DispatcherSettings
from evaluation.data.sources import load
from evaluation.eval_command import app
from evaluation.executor.jobs import PartitionSpec, partition_of
from evaluation.harness import job_data, runner
from evaluation.harness.experiment import load_experiment
from evaluation.harness.live import dispatchers
from evaluation.harness.prepared import prepare
from evaluation.harness.rounds import VirtualRounds, simulate_rounds
from evaluation.harness.runner import Runner
from evaluation.results.reader import PolicyResults, RunReader
from evaluation.results.rows import ScoreRow
from evaluation.results.writer import PolicyWriter
from evaluation.training import trainer
from evaluation.training.trainer import Trainer

CONFIG = """
policies: [irs, random]
profile_folder: profiles
total_job: 2
job_gap_mean_s: 30
client_num: 40
availability: {on_median_s: 200, off_median_s: 300}
eval_interval: 2
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
"""


def write(folder: Path, config: str = CONFIG, **profile: object) -> Path:
    """A configuration with two profiles; ``profile`` changes the second."""
    (folder / "profiles").mkdir(exist_ok=True)
    changes = "".join(f"{name}: {value}\n" for name, value in profile.items())
    kept = [line for line in PROFILE.splitlines() if line.partition(":")[0] not in profile]
    (folder / "profiles" / "job_0.yml").write_text(PROFILE)
    (folder / "profiles" / "job_1.yml").write_text("\n".join(kept) + "\n" + changes)
    path = folder / "run.yml"
    path.write_text(config)
    return path


def run(
    path: Path, out: Path, say: Callable[[str], object] = lambda _line: None
) -> dict[str, PolicyResults]:
    running = Runner(load_experiment(path), out, say)
    running.prepare(virtual=True)
    running.run(virtual=True)
    read = RunReader(out)
    assert read.state == "finished"
    return {results.policy: results for results in read.results()}


def test_twice_the_same_gives_the_same_bytes(tmp_path: Path) -> None:
    """Every file of two runs of one configuration is equal, weights' tests included."""
    path = write(tmp_path)
    for name in ("one", "two"):
        run(path, tmp_path / name)
    files = sorted(file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*.*"))
    assert len([file for file in files if file.suffix == ".csv"]) == 8
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), (
            file
        )


@pytest.mark.slow
def test_twice_the_same_over_a_broker_gives_the_same_bytes(tmp_path: Path) -> None:
    """Whichever worker trains what, and whoever is done first: the tables are equal."""
    path = write(tmp_path, CONFIG.replace("workers: 0", "workers: 2"))
    for name in ("one", "two"):
        run(path, tmp_path / name)
    files = sorted(file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*.csv"))
    assert len(files) == 8
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def worker_named(name: str) -> psutil.Process:
    (found,) = [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and child.cmdline()[-3:-1] == ["--name", name]
    ]
    return found


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """As workers have: sums of floats come out otherwise with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("_one_thread")
def test_a_lost_worker_changes_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker is killed at its task: another does it, and it is said.

    The tables are those of a run that trains in its own process, which can lose nobody.
    """
    config = CONFIG.replace("[irs, random]", "[irs]").replace("client_num: 40", "client_num: 60")
    path = write(tmp_path, config)
    profile = PROFILE.replace("demand: 8", "demand: 24").replace("over_selection: 1.25\n", "")
    for number in range(2):  # long, and several tasks a round: both workers always have one
        (tmp_path / "profiles" / f"job_{number}.yml").write_text(
            profile.replace("local_steps: 3", "local_steps: 40")
        )
    run(path, tmp_path / "undisturbed")
    path.write_text(config.replace("workers: 0", "workers: 2"))

    killed: list[str] = []
    score = PolicyWriter.score

    def kill_at_the_first(writer: PolicyWriter, row: ScoreRow) -> None:
        score(writer, row)
        if not killed:
            events = map(json.loads, (writer.folder / "events.jsonl").read_text().splitlines())
            killed.append(next(it["name"] for it in events if it["kind"] == "worker_joined"))
            process = worker_named(killed[0])
            process.suspend()  # what it has now or is given next, it never does
            threading.Timer(1.0, process.kill).start()

    monkeypatch.setattr(PolicyWriter, "score", kill_at_the_first)
    said: list[str] = []
    irs = run(path, tmp_path / "disturbed", said.append)["irs"]
    files = sorted(file.relative_to(tmp_path / "disturbed") for file in tmp_path.rglob("*.csv")
                   if file.is_relative_to(tmp_path / "disturbed"))  # fmt: skip
    assert len(files) == 4
    for file in files:
        undisturbed = (tmp_path / "undisturbed" / file).read_bytes()
        assert (tmp_path / "disturbed" / file).read_bytes() == undisturbed
    assert {"worker_lost", "task_reissued"} <= {event["kind"] for event in irs.events}
    assert [line for line in said if line.startswith(f"irs, seed 0: {killed[0]} was lost (")]


def test_policies_of_a_seed_see_the_same_clients_and_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights to begin with, arrivals, clients and partitions: only the choice differs.

    And where both chose the same clients for a round, what these learnt is the same to the bit.
    """
    clients: dict[str, list[SimulatedClient]] = {}
    shares: list[list[list[int]]] = []

    def simulated(jobs: Any, its: Any, costs: Any, config: Any, **of: Any) -> VirtualRounds:
        clients[of["policy"]] = list(its)
        return simulate_rounds(jobs, its, costs, config, **of)

    def divided(*of: Any) -> Any:
        made = partition_of(*of)
        shares.append([own.tolist() for own in made])
        return made

    monkeypatch.setattr(runner, "simulate_rounds", simulated)
    for module in (job_data, trainer):  # as it is checked before the run, and as each policy trains
        monkeypatch.setattr(module, "partition_of", divided)
    found = run(write(tmp_path), tmp_path / "out")
    assert clients["irs"] == clients["random"]
    assert len({client.device_id for client in clients["irs"]}) == 40
    assert len(shares) == 3
    assert shares[0] == shares[1] == shares[2]
    irs, random = found["irs"], found["random"]
    firsts = [[row for row in each.scores if row.version == 0] for each in (irs, random)]
    assert firsts[0] == firsts[1]
    assert len(firsts[0]) == 2
    assert sorted(row.arrived_s for row in irs.jobs) == sorted(r.arrived_s for r in random.jobs)
    alike = [
        (one.moving_loss, other.moving_loss)
        for one, other in zip(irs.rounds, random.rounds, strict=False)
        if (one.job, one.round, one.ended_s) == (other.job, other.round, other.ended_s) == (
            0, 0, one.ended_s)
    ]  # fmt: skip
    assert alike
    assert all(one == other for one, other in alike)


def test_live_dispatchers_have_the_clients_of_virtual_time(tmp_path: Path) -> None:
    """Their shares, drawn from what each dispatcher is told, are together the run's clients."""
    experiment = load_experiment(write(tmp_path, CONFIG + "client_dispatchers: 2\nseeds: [3]\n"))
    prepared = prepare(experiment, 3, {})
    np.savez(tmp_path / "samples.npz", allow_pickle=False, **prepared.sizes)
    told = [
        msgspec.json.decode(msgspec.json.encode(settings), type=DispatcherSettings)
        for settings in dispatchers(
            experiment, 3, "tcp://127.0.0.1:1", str(tmp_path / "samples.npz")
        )
    ]
    assert len(told) == 2
    drawn = [client for settings in told for client in Dispatcher(settings).clients]
    assert drawn == prepared.clients
    assert sum(client.samples["digits"] for client in drawn) == 1_433


def test_a_run_for_its_times_has_the_times_of_one_that_trains(tmp_path: Path) -> None:
    """Models have their own sizes, and constraints the same data, trained or not."""
    config = CONFIG.replace("[irs, random]", "[irs]")
    own = {"model": "mlp", "private_constraint": "{dataset_size: 30}"}
    trained = run(write(tmp_path, config, **own), tmp_path / "trained")["irs"]
    times = run(write(tmp_path, config + "do_compute: false\n", **own), tmp_path / "times")["irs"]
    assert times.jobs == trained.jobs
    assert times.clients == trained.clients
    assert not times.scores
    for one, other in zip(times.rounds, trained.rounds, strict=True):
        assert (one.opened_s, one.filled_s, one.ended_s) == (
            other.opened_s, other.filled_s, other.ended_s)  # fmt: skip


def test_a_device_has_what_the_partition_gives_it(tmp_path: Path) -> None:
    """A private constraint acts on the real samples: of each data set what its own part holds."""
    path = write(tmp_path, private_constraint="{dataset_size: 30}")
    prepared = prepare(load_experiment(path), 0, {})
    parts = partition_of(load("digits"), PartitionSpec("dirichlet_by_class", 40), 0)
    for client in prepared.clients:
        has = len(parts[client.index])
        assert client.private_spec == {"dataset_size_digits": float(has)}
        assert client.suits(prepared.jobs[1].profile) == (has >= 30)


def test_jobs_learn_and_everything_is_in_the_folder(tmp_path: Path) -> None:
    """Every round has its row, tests are where the interval says, and the model gets better."""
    irs = run(write(tmp_path), tmp_path / "out")["irs"]
    assert [job.state for job in irs.jobs] == ["finished"] * 2
    for job in range(2):
        rounds = [row for row in irs.rounds if row.job == job and row.state == "completed"]
        assert [row.version for row in rounds] == [1, 2, 3]
        assert all(row.trained_samples > 0 for row in rounds)
        scores = [row for row in irs.scores if row.job == job]
        assert [row.version for row in scores] == [0, 2, 3]
        assert scores[-1].accuracy > scores[0].accuracy + 0.1
        assert scores[-1].time_s == rounds[-1].ended_s
    assert len(irs.clients) == 40


def test_clients_of_fed_prox_train_the_steps_that_their_time_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the simulator cut reaches the training, client by client; other jobs train as ever."""
    told: dict[int, list[Any]] = {0: [], 1: []}
    train = Trainer.train

    def watched(self: Trainer, job: int, *rest: Any) -> list[Update]:
        told[job].append(rest[4])
        return train(self, job, *rest)

    monkeypatch.setattr(Trainer, "train", watched)
    path = write(tmp_path, CONFIG.replace("[irs, random]", "[irs]"),
                 gradient_policy="fed-prox", local_steps=60)  # fmt: skip
    irs = run(path, tmp_path / "out")["irs"]
    prox = next(job.job for job in irs.jobs if job.profile == "1")
    assert told[1 - prox] == [None] * 3
    assert [len(steps) for steps in told[prox]] == [8, 8, 8]
    done = {each for steps in told[prox] for each in steps}
    assert max(done) == 60
    assert 1 <= min(done) < 60


def test_analytics_and_runs_for_the_times_only_train_nothing(tmp_path: Path) -> None:
    """Rounds and times are there, tests of weights are not."""
    for name, change in (("fa", "is_FA: true\n"), ("times", "do_compute: false\n")):
        irs = run(write(tmp_path, CONFIG + change), tmp_path / name)["irs"]
        assert len([row for row in irs.rounds if row.state == "completed"]) == 6
        assert irs.scores == []


@pytest.mark.parametrize(
    "method,policy",
    [("random", "random-per-client"), ("static_partition", "static-partition")],
)  # fmt: skip
def test_the_originals_baselines_go_through_a_whole_run(
    tmp_path: Path, method: str, policy: str
) -> None:
    """A selection method is one policy of the same engine, and its jobs train to the end."""
    found = run(write(tmp_path, CONFIG + f"selection_method: {method}\n"), tmp_path / "out")
    assert found.keys() == {policy}
    results = found[policy]
    assert [job.state for job in results.jobs] == ["finished"] * 2
    assert sorted((row.job, row.version) for row in results.scores) == [
        (job, version) for job in range(2) for version in (0, 2, 3)
    ]
    assert all(row.completed == 8 for row in results.rounds if row.state == "completed")
    tasks = sum(client.tasks for client in results.clients)
    assert tasks >= sum(row.completed for row in results.rounds) >= 48


def test_a_finished_folder_is_not_written_over(tmp_path: Path) -> None:
    """A second run into the same folder is refused, in one line, before anything is read."""
    path = write(tmp_path, CONFIG + "do_compute: false\n")
    assert command(path, tmp_path / "out").exit_code == 0
    again = command(path, tmp_path / "out")
    assert again.exit_code == 2
    assert "already holds a run" in again.output


def test_job_whose_clients_diverge_does_not_end_the_run(tmp_path: Path) -> None:
    """They are dropped and counted, and a line says so; the other job is not touched."""
    path = write(tmp_path, learning_rate=10, momentum=0.99, local_steps=100, weight_decay=1)
    result = command(path, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "diverged" in result.output
    read = RunReader(tmp_path / "out")
    assert read.state == "finished"
    for results in read.results():
        diverged = {job: sum(r.diverged for r in results.rounds if r.job == job) for job in (0, 1)}
        assert diverged[0] == 0
        assert diverged[1] > 0


# --- what is wrong is said before anything is trained --------------------------------------------


def command(path: Path, out: Path) -> Result:
    return CliRunner().invoke(app, ["run", str(path), "--virtual", "--out", str(out)])


def refused(folder: Path, config: str = CONFIG, **profile: object) -> str:
    result = command(write(folder, config, **profile), folder / "out")
    assert result.exit_code == 2
    assert not (folder / "out").exists()
    (line,) = result.output.strip().splitlines()
    assert line.startswith("propius: ")
    return line


def tiny_fashion(folder: Path) -> None:
    """The published files, of images of 4 × 4."""
    for split in ("train", "t10k"):
        for what, shape in (("images-idx3", (60, 4, 4)), ("labels-idx1", (60,))):
            head = struct.pack(">HBB", 0, 8, len(shape)) + struct.pack(f">{len(shape)}I", *shape)
            data = (np.arange(int(np.prod(shape))) % 10).astype(np.uint8).tobytes()
            (folder / f"{split}-{what}-ubyte.gz").write_bytes(gzip.compress(head + data))


def test_an_unknown_field_of_a_profile(tmp_path: Path) -> None:
    """It is named with its file, and the field that it is nearest to."""
    line = refused(tmp_path, local_step=3)
    assert line.endswith("job_1.yml: local_step: no such field; did you mean local_steps?")


def test_a_model_that_does_not_fit_the_data(tmp_path: Path) -> None:
    """The line has the profile, the data set, and what the model needs."""
    tiny_fashion(tmp_path)
    line = refused(tmp_path, CONFIG + "data_dir: .\n", model="resnet18", dataset="fashion_mnist")
    assert "profile 1 (data set fashion_mnist): model resnet18 needs images of at least 8" in line


def test_a_model_that_there_is_not(tmp_path: Path) -> None:
    """The line has the models that there are."""
    assert "no model 'resnet19'; there are softmax" in refused(tmp_path, model="resnet19")


@pytest.mark.parametrize(
    "field, name, near",
    [("model", "resnet34", "resnet18"), ("model", "shufflenetv2_w2", "shufflenet_v2"),
     ("dataset", "openImages", "openimage")],
)  # fmt: skip
def test_a_name_of_nothing_here_says_the_nearest(
    tmp_path: Path, field: str, name: str, near: str
) -> None:
    """Larger models of the original are not taken for smaller ones; the line has the nearest."""
    assert refused(tmp_path, **{field: name}).endswith(f"did you mean {near}?")


def test_a_data_folder_that_lacks_a_file(tmp_path: Path) -> None:
    """The missing file is named."""
    line = refused(tmp_path, CONFIG + "data_dir: nowhere\n", dataset="femnist")
    assert "client_data_mapping/train.csv is missing" in line


def test_a_job_that_too_few_clients_can_serve(tmp_path: Path) -> None:
    """The line has the job, its demand, and how many there are."""
    line = refused(tmp_path, public_constraint="{cpu_f: 17}")
    assert re.search(r"job 1 \(profile 1\) asks for 10 devices, and \d of 40 clients meet", line)


@pytest.mark.parametrize(
    "field, bound, words",
    [("public_constraint", "cpu_f: 24.8", r"public_constraint cpu_f is 24\.8"),
     ("private_constraint", "dataset_size: 1000",
      r"private_constraint dataset_size \(data set digits\) is 1000")],
)  # fmt: skip
def test_a_bound_that_nobody_meets(tmp_path: Path, field: str, bound: str, words: str) -> None:
    """The line has the bound, and how far the best client is from it."""
    line = refused(tmp_path, **{field: f"{{{bound}}}"})
    assert re.search(
        rf"job 1 \(profile 1\): {words}, which nobody meets: the most that any of 40 clients has "
        r"is \d+", line,
    )  # fmt: skip


def test_a_file_of_sizes_is_refused(tmp_path: Path) -> None:
    """Who has how much is the partition's to say."""
    assert "as the partition gives it" in refused(tmp_path, CONFIG + "client_size_path: x.json\n")


@pytest.mark.parametrize(
    "field,says",
    [("public_constraint", "no attribute cpu; there are cpu_f"),
     ("private_constraint", "there is dataset_size")],
)  # fmt: skip
def test_constraints_are_on_attributes_that_there_are(
    tmp_path: Path, field: str, says: str
) -> None:
    """A constraint that no client could meet by its name is refused."""
    assert says in refused(tmp_path, **{field: "{cpu: 1}"})


def test_constraint_above_an_attribute_s_maximum_is_refused(tmp_path: Path) -> None:
    """No client can meet it, and none is taken for less."""
    line = refused(tmp_path, public_constraint="{ram: 20000}")
    assert "profile 1: public_constraint: ram is 20000, above its maximum of" in line


def test_more_clients_than_samples(tmp_path: Path) -> None:
    """A partition that cannot be made is found before any training."""
    line = refused(tmp_path, CONFIG.replace("client_num: 40", "client_num: 2000"))
    assert "1433 samples cannot be dealt out to 2000 clients" in line
