"""The configuration of a run: ``evaluation/evaluation_config.yml`` explains every key.

Key names are the original testbed's where it had one. A file says only what differs from the
packaged defaults; its paths are relative to its own folder.

Not here: what follows from it (:mod:`evaluation.harness.experiment`).
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from evaluation import names
from evaluation.executor.jobs import PartitionKind
from evaluation.jobs.yaml_file import Section, read_model
from evaluation.population import Availability
from propius.engine import POLICIES

__all__ = ["AvailabilityConfig", "FailuresConfig", "PartitionConfig", "RunConfig",
           "load_run_config", "packaged_config"]  # fmt: skip

Seconds: TypeAlias = Annotated[float, Field(gt=0, le=1e9)]
Rate: TypeAlias = Annotated[float, Field(ge=0, le=3_600)]
Seed: TypeAlias = Annotated[int, Field(ge=0, lt=1 << 31)]


class AvailabilityConfig(Section):
    """Log-normal times on and off, of clients for which no trace is given."""

    on_median_s: Seconds = 1_200.0
    off_median_s: Seconds = 2_400.0
    sigma: Annotated[float, Field(ge=0, le=3)] = 0.7
    device_sigma: Annotated[float, Field(ge=0, le=3)] = 0.5

    def model(self) -> Availability:
        """As the population takes it."""
        return Availability(self.on_median_s, self.off_median_s, self.sigma, self.device_sigma)


class FailuresConfig(Section):
    """How often devices fail in the middle of a task, in an hour of work."""

    crash_per_hour: Rate = 0.0
    battery_per_hour: Rate = 0.0
    user_per_hour: Rate = 0.0

    @property
    def rates(self) -> tuple[float, float, float]:
        """As the engine takes them."""
        return (self.crash_per_hour, self.battery_per_hour, self.user_per_hour)


class PartitionConfig(Section):
    """Who has which training samples; ``file`` is of the kinds that read one."""

    kind: PartitionKind = "dirichlet_by_class"
    alpha: Annotated[float, Field(gt=0, le=1e6)] = 0.5
    file: Path | None = None

    @field_validator("kind", mode="before")
    @classmethod
    def _which_dirichlet(cls, kind: object) -> object:
        if kind == "dirichlet":
            raise ValueError(
                "there are two: dirichlet_by_class (what `dirichlet` was) and dirichlet_by_client "
                "(Hsu et al. 2019)"
            )
        return kind

    @model_validator(mode="after")
    def _check(self) -> PartitionConfig:
        if self.kind in {"label_counts", "client_map"} and self.file is None:
            raise ValueError(f"partition {self.kind} needs a file")
        return self


class RunConfig(Section):
    """One evaluation; see the packaged file for what each key means."""

    policies: Annotated[tuple[str, ...], Field(min_length=1, max_length=32)] = ("irs", "random")
    policy_options: dict[str, float] = Field(default_factory=dict)
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=1_000)] = (0,)
    selection_method: Literal["propius", "random", "static_partition"] = "propius"

    profile_folder: str = "small"
    job_trace: Path | None = None
    job_gap_mean_s: Annotated[float, Field(ge=0, le=1e9)] = 600.0
    total_job: Annotated[int, Field(ge=1, le=10_000)] | None = 4

    client_num: Annotated[int, Field(ge=1, le=1_000_000)] = 200
    client_dispatchers: Annotated[int, Field(ge=1, le=256)] = 1
    client_spec_path: Path | None = None
    client_size_path: Path | None = None
    client_comm_path: Path | None = None
    client_avail_path: Path | None = None
    ideal_client: bool = False
    availability: AvailabilityConfig = AvailabilityConfig()
    failures: FailuresConfig = FailuresConfig()
    availability_period_s: Seconds = 86_400.0
    tasks_per_session: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    periods_max: Annotated[int, Field(ge=1, le=100_000)] = 100

    dataset: tuple[str, ...] = ()
    data_dir: Path | None = None
    partition: PartitionConfig = PartitionConfig()

    do_compute: bool = True
    is_FA: bool = False  # noqa: N815 - the original's name
    eval_interval: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    dtype: Literal["float32", "float64"] = "float32"
    workers: Annotated[int, Field(ge=0, le=64)] = 2
    executor: Annotated[str, Field(pattern=r"^(tcp://\S+:\d+)?$")] = ""

    speedup_factor: Annotated[float, Field(gt=0, le=10_000)] = 20.0
    client_managers: Annotated[int, Field(ge=1, le=64)] = 2
    supply_window_s: Seconds = 600.0
    replan_s: Seconds = 20.0
    timeout_s: Seconds = 3_600.0

    @field_validator("dataset")
    @classmethod
    def _our_names(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(names.DATA_SETS.get(name, name) for name in given)

    @field_validator("client_size_path")
    @classmethod
    def _no_sizes(cls, given: Path | None) -> None:
        if given is not None:
            raise ValueError(
                "a client has as many samples as the partition gives it; leave this out, or give "
                "the partition as label_counts or client_map"
            )

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        unknown = [name for name in self.policies if name not in POLICIES and ":" not in name]
        if unknown:
            raise ValueError(f"policies: no policy {unknown[0]!r}; there are {', '.join(POLICIES)}")
        for name, values in (("policies", self.policies), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: something stands twice")
        return self

    @property
    def trains(self) -> bool:
        """Whether anything is trained at all."""
        return self.do_compute and not self.is_FA

    @property
    def tasks_max(self) -> int | None:
        """How many tasks a client does each time that it is available; None: as many as it can."""
        return None if self.ideal_client else self.tasks_per_session or None

    @property
    def period_s(self) -> float:
        """After which availability repeats: never, of clients that are always there."""
        return self.availability_period_s * (self.periods_max if self.ideal_client else 1)

    @property
    def periods(self) -> int:
        """How many of these a run has at most."""
        return 1 if self.ideal_client else self.periods_max

    def policies_run(self) -> tuple[str, ...]:
        """The scheduler's policies that this run compares."""
        match self.selection_method:
            case "random":
                return ("random-per-client",)
            case "static_partition":
                return ("static-partition",)
            case _:
                return self.policies


def packaged_config() -> Path:
    """The defaults, with every key explained."""
    return Path(str(resources.files("evaluation") / "evaluation_config.yml"))


def load_run_config(path: Path) -> RunConfig:
    """Read a configuration; raises SettingsError, one line with file and key."""
    return read_model(path, RunConfig)
