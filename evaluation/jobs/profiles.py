"""Job profiles: what a job asks for and how it learns, one YAML file ``job_<number>.yml`` each.

The fields are those of the original testbed's profiles. Two of them are accepted without effect,
because nothing here needs them: ``engine`` and ``num_loaders``. Models, data sets and private
constraints may be called as there (:mod:`evaluation.names`). Packaged folders of profiles are in
``evaluation/profiles/``.

Not here: when a job arrives (:mod:`evaluation.jobs.arrivals`).
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from evaluation import names
from evaluation.aggregators import Aggregator, FedAvg, FedYogi, QFedAvg
from evaluation.jobs.yaml_file import Section, SettingsError, read_model

__all__ = ["JobProfile", "load_profiles", "packaged_profiles", "profile_folder"]

Bounds: TypeAlias = dict[
    Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")], Annotated[float, Field(ge=0, le=1e15)]
]
Seconds: TypeAlias = Annotated[float, Field(gt=0, le=2_592_000)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Count: TypeAlias = Annotated[int, Field(ge=1, le=1_000_000)]

FILE_NAME: Final = re.compile(r"job_(\d{1,6})\.ya?ml")


class JobProfile(Section):
    """One job. Times are seconds of the devices' time.

    ``demand`` results make a round; ``over_selection`` times as many devices are asked for. A round
    that is not filled after ``sched_timeout``, or has too few results ``exec_timeout`` after it was
    filled, is tried again. ``eval_interval``: every how many rounds the weights are tested; None:
    as the run says. ``model_size`` is what a device transfers each way, in kbit; None: what the
    model has, trained or not. ``private_constraint`` knows one attribute, ``dataset_size``: how
    many samples of the job's data set a device has.

    >>> JobProfile(demand=10, total_round=2, model="mlp", dataset="digits").devices
    10
    """

    demand: Count
    total_round: Count
    over_selection: Annotated[float, Field(ge=1, le=10)] = 1.0
    sched_timeout: Seconds = 600.0
    exec_timeout: Seconds = 600.0
    public_constraint: Bounds = Field(default_factory=dict)
    private_constraint: Bounds = Field(default_factory=dict)
    model: str = "mlp"
    model_norm: Literal["group", "batch"] = "group"
    dataset: str = "digits"
    model_size: Annotated[float, Field(gt=0, le=1e9)] | None = None
    gradient_policy: Literal["fed-avg", "fed-prox", "fed-yogi", "q-fedavg"] = "fed-avg"
    proxy_mu: Annotated[float, Field(ge=0, le=1e3)] = 0.01
    qfed_q: Annotated[float, Field(ge=0, le=10)] = 1.0
    yogi_eta: Annotated[float, Field(gt=0, le=10)] = 0.01
    yogi_tau: Annotated[float, Field(gt=0, le=1)] = 1e-3
    yogi_beta1: Share = 0.9
    yogi_beta2: Share = 0.99
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.05
    min_learning_rate: Annotated[float, Field(ge=0, le=10)] = 1e-4
    decay_factor: Annotated[float, Field(gt=0, le=1)] = 1.0
    decay_round: Count = 10
    local_steps: Annotated[int, Field(ge=1, le=100_000)] = 10
    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 20
    loss_decay: Share = 0.95
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 5e-4
    eval_interval: Count | None = None
    engine: str = ""
    num_loaders: int = 0

    @field_validator("model")
    @classmethod
    def _our_model(cls, name: str) -> str:
        return names.MODELS.get(name, name)

    @field_validator("dataset")
    @classmethod
    def _our_data_set(cls, name: str) -> str:
        return names.DATA_SETS.get(name, name)

    @field_validator("private_constraint")
    @classmethod
    def _our_attributes(cls, given: Bounds) -> Bounds:
        ours = {names.ATTRIBUTES.get(name, name): least for name, least in given.items()}
        if len(ours) < len(given):
            raise ValueError("one attribute stands there under two names")
        return ours

    @model_validator(mode="after")
    def _check(self) -> JobProfile:
        if self.min_learning_rate > self.learning_rate:
            raise ValueError("min_learning_rate is above learning_rate")
        return self

    @property
    def devices(self) -> int:
        """How many devices a round asks for."""
        return max(self.demand, int(self.over_selection * self.demand))

    def usable_min(self, results: int) -> int:
        """How many of a round's results must be usable: the share of its devices that it needs.

        A round asks for ``over_selection`` times its demand because it can spare the rest; of the
        results that it has, it can spare the same share.

        >>> JobProfile(demand=20, total_round=2, over_selection=1.25).usable_min(20)
        16
        """
        return max(1, -(-results * self.demand // self.devices))

    @property
    def private_bounds(self) -> dict[str, float]:
        """The private constraint as devices hear of it: of this job's data set.

        A device has one private spec for all jobs, and so many samples of each data set.

        >>> private = {"dataset_size": 9}
        >>> JobProfile(demand=1, total_round=1, private_constraint=private).private_bounds
        {'dataset_size_digits': 9.0}
        """
        return {f"{name}_{self.dataset}": least for name, least in self.private_constraint.items()}

    @property
    def prox_mu(self) -> float:
        """The weight of the proximal term; 0 unless the job is FedProx."""
        return self.proxy_mu if self.gradient_policy == "fed-prox" else 0.0

    @property
    def cuts_steps(self) -> bool:
        """Whether a device that is gone soon does fewer steps instead of none: FedProx."""
        return self.gradient_policy == "fed-prox"

    def learning_rate_of(self, rounds_done: int) -> float:
        """After so many successful rounds.

        >>> JobProfile(demand=1, total_round=9, learning_rate=0.4, decay_factor=0.5, decay_round=2,
        ...            min_learning_rate=0.15).learning_rate_of(4)
        0.15
        """
        decayed = self.learning_rate * self.decay_factor ** (rounds_done // self.decay_round)
        return max(decayed, self.min_learning_rate)

    def aggregator(self) -> Aggregator:
        """A fresh server rule."""
        match self.gradient_policy:
            case "fed-yogi":
                return FedYogi(self.yogi_eta, self.yogi_tau, self.yogi_beta1, self.yogi_beta2)
            case "q-fedavg":
                return QFedAvg(self.qfed_q, self.learning_rate)
            case _:
                return FedAvg()


def packaged_profiles() -> list[str]:
    """The names of the folders of profiles that come with Propius."""
    root = resources.files("evaluation") / "profiles"
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir())


def profile_folder(name: str, beside: Path) -> Path:
    """A packaged folder of this name, or a folder, relative to ``beside``."""
    if name in packaged_profiles():
        return Path(str(resources.files("evaluation") / "profiles" / name))
    folder = beside / name
    if not folder.is_dir():
        known = ", ".join(packaged_profiles())
        raise SettingsError(f"profile_folder: {folder} is no folder; packaged ones are {known}")
    return folder


def load_profiles(folder: Path) -> dict[int, JobProfile]:
    """The profiles of a folder by number; raises :class:`SettingsError` with file and field."""
    found = {}
    for path in sorted(folder.iterdir()):
        if match := FILE_NAME.fullmatch(path.name):
            found[int(match[1])] = read_model(path, JobProfile)
    if not found:
        raise SettingsError(f"{folder}: no profile; they are called job_0.yml, job_1.yml, …")
    return found
