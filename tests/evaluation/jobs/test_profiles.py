from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.aggregators import FedAvg, FedYogi, QFedAvg
from evaluation.jobs.profiles import (
    JobProfile,
    load_profiles,
    packaged_profiles,
    profile_folder,
)
from evaluation.jobs.yaml_file import SettingsError

GOOD = "demand: 10\ntotal_round: 3\n"


def load(folder: Path, text: str) -> JobProfile:
    (folder / "job_3.yml").write_text(text)
    return load_profiles(folder)[3]


def test_a_profile_of_the_originals_fields_is_read(tmp_path: Path) -> None:
    """Every field of the original's profiles is known, the two without effect included."""
    text = GOOD + (
        "over_selection: 1.25\nsched_timeout: 120\nexec_timeout: 180\nengine: torch\n"
        "model: resnet18\ndataset: femnist\nlearning_rate: 0.05\nnum_loaders: 2\n"
        "local_steps: 5\nloss_decay: 0.95\nbatch_size: 16\nmin_learning_rate: 1.0e-4\n"
        "decay_factor: 0.98\ndecay_round: 10\ngradient_policy: q-fedavg\nqfed_q: 0\n"
        "public_constraint: {cpu_f: 2, ram: 2, fp16_mem: 400, android_os: 4}\n"
        "private_constraint: {dataset_size: 100}\nmodel_size: 74016\n"
    )
    profile = load(tmp_path, text)
    assert (profile.devices, profile.exec_timeout, profile.model_size) == (12, 180.0, 74016.0)
    assert profile.public_constraint["fp16_mem"] == 400


@pytest.mark.parametrize(
    "field, theirs, ours",
    [
        ("dataset", "openImg", "openimage"),
        ("dataset", "google_speech", "speech"),
        ("dataset", "femnist", "femnist"),
        ("model", "shufflenetv2_wd2", "shufflenet_v2"),
        ("model", "mobilenet_v2", "mobilenet_v2"),
        ("private_constraint", "{dataset_size_dummy: 100}", {"dataset_size": 100.0}),
    ],
)
def test_the_originals_names_are_understood(
    tmp_path: Path, field: str, theirs: str, ours: object
) -> None:
    """A data set, a model or an attribute may be called as the original called it."""
    assert getattr(load(tmp_path, GOOD + f"{field}: {theirs}\n"), field) == ours


@pytest.mark.parametrize(
    "text,says",
    [
        (GOOD + "sched_timout: 9\n", "sched_timout: no such field; did you mean sched_timeout?"),
        (GOOD + "xyzzy: 9\n", "xyzzy: no such field; there are demand, "),
        ("demand: 10\n", "total_round: missing"),
        (GOOD + "over_selection: 0.5\n", "over_selection: "),
        (GOOD + "demand: 4\n", "line 3: demand stands twice"),
        (GOOD + "gradient_policy: fed-sgd\n", "gradient_policy: "),
        (GOOD + "min_learning_rate: 1\n", "min_learning_rate is above learning_rate"),
        (GOOD + "learning_rate: .nan\n", "learning_rate: "),
        (
            GOOD + "private_constraint: {dataset_size: 1, dataset_size_dummy: 2}\n",
            "private_constraint: one attribute stands there under two names",
        ),
        ("- 1\n", "fields and values expected"),
        ("demand: [\n", "line 2: "),
        (GOOD + "? [a, b]\n: 1\n", "line 3: "),
    ],
)
def test_what_is_wrong_is_one_line_with_file_and_field(
    tmp_path: Path, text: str, says: str
) -> None:
    """A profile that cannot be used is refused with its file, the field, and a hint."""
    with pytest.raises(SettingsError) as refused:
        load(tmp_path, text)
    line = str(refused.value)
    assert line.startswith(f"{tmp_path / 'job_3.yml'}: ")
    assert says in line
    assert "\n" not in line


def test_the_learning_rate_decays_to_its_minimum() -> None:
    """It is multiplied every decay_round rounds, and never falls below the minimum."""
    profile = JobProfile(
        demand=1, total_round=99, learning_rate=0.1, decay_factor=0.5, decay_round=10,
        min_learning_rate=0.02,
    )  # fmt: skip
    rates = [profile.learning_rate_of(done) for done in (0, 9, 10, 25, 90)]
    assert rates == [0.1, 0.1, 0.05, 0.025, 0.02]


def test_each_gradient_policy_has_its_rule_and_only_fedprox_a_proximal_term() -> None:
    """The server's rule and the clients' term follow from gradient_policy."""
    made = {
        name: JobProfile(demand=1, total_round=1, gradient_policy=name, qfed_q=0.3)
        for name in ("fed-avg", "fed-prox", "fed-yogi", "q-fedavg")
    }
    kinds = {name: type(profile.aggregator()) for name, profile in made.items()}
    assert kinds == {"fed-avg": FedAvg, "fed-prox": FedAvg, "fed-yogi": FedYogi,
                     "q-fedavg": QFedAvg}  # fmt: skip
    assert [name for name, profile in made.items() if profile.prox_mu] == ["fed-prox"]
    rule = made["q-fedavg"].aggregator()
    assert isinstance(rule, QFedAvg)
    assert rule.q == 0.3


@pytest.mark.parametrize("name", packaged_profiles())
def test_packaged_profiles_can_be_used(name: str, tmp_path: Path) -> None:
    """Every packaged folder loads, and is found by its name."""
    assert load_profiles(profile_folder(name, tmp_path))


def test_a_folder_without_profiles_says_what_they_are_called(tmp_path: Path) -> None:
    """An empty folder, and one that is not there, are one line each."""
    with pytest.raises(SettingsError, match=r"no profile; they are called job_0\.yml"):
        load_profiles(tmp_path)
    with pytest.raises(SettingsError, match="is no folder; packaged ones are"):
        profile_folder("elsewhere", tmp_path)
