"""What a configuration amounts to: which jobs arrive when, on which data, with which clients.

Not here: models and weights (:mod:`evaluation.harness.models`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.clients.behaviour import Behaviour, ClientFiles, SimulatedClient
from evaluation.data.sources import SOURCES, available
from evaluation.harness.config import RunConfig, load_run_config
from evaluation.jobs.arrivals import Arrival, poisson, read_trace
from evaluation.jobs.profiles import JobProfile, load_profiles, profile_folder
from evaluation.jobs.yaml_file import SettingsError
from evaluation.names import no_such
from evaluation.population import ATTRIBUTE_MAXIMA

__all__ = ["Experiment", "PlannedJob", "load_experiment"]


@dataclass(frozen=True)
class PlannedJob:
    """One job of a run: number, when it arrives, and its profile."""

    job: int
    at_s: float
    profile_no: int
    profile: JobProfile


@dataclass(frozen=True)
class Experiment:
    """A configuration with its files read. Paths in it are relative to ``folder``."""

    config: RunConfig
    folder: Path
    profiles: dict[int, JobProfile]

    def jobs(self, seed: int) -> list[PlannedJob]:
        """The jobs by arrival; raises SettingsError."""
        return [
            PlannedJob(each.job, each.at_s, each.profile, self.profiles[each.profile])
            for each in self._arrivals(seed)
        ]

    def _arrivals(self, seed: int) -> list[Arrival]:
        config = self.config
        if config.job_trace is not None:
            return read_trace(self.folder / config.job_trace, self.profiles, config.total_job)
        count = config.total_job or len(self.profiles)
        return poisson(count, config.job_gap_mean_s, self.profiles, seed)

    def behaviour(self, seed: int) -> Behaviour:
        """How the clients of this seed are made."""
        config = self.config
        return Behaviour(
            clients=config.client_num,
            seed=seed,
            period_s=config.period_s,
            ideal=config.ideal_client,
            availability=config.availability.model(),
            files=ClientFiles(
                spec=self.path(config.client_spec_path),
                comm=self.path(config.client_comm_path),
                avail=self.path(config.client_avail_path),
            ),
        )

    def path(self, name: Path | None) -> Path | None:
        """A path of the configuration, relative to its file."""
        return None if name is None else self.folder / name

    def check_served(self, jobs: Sequence[PlannedJob], clients: Sequence[SimulatedClient]) -> None:
        """Raise SettingsError for a bound that nobody meets, or too few clients for a job."""
        for job in jobs:
            _check_bounds(job, clients)
            suitable = sum(client.suits(job.profile) for client in clients)
            if suitable < job.profile.devices:
                raise SettingsError(
                    f"job {job.job} (profile {job.profile_no}) asks for {job.profile.devices} "
                    f"devices, and {suitable} of {len(clients)} clients meet its constraints"
                )


def _check_bounds(job: PlannedJob, clients: Sequence[SimulatedClient]) -> None:
    """Each bound by itself; the line says how far the best client is from it."""
    profile = job.profile
    public = ((name, low, f"public_constraint {name}") for name, low in
              profile.public_constraint.items())  # fmt: skip
    private = ((name, low, f"private_constraint dataset_size (data set {profile.dataset})")
               for name, low in profile.private_bounds.items())  # fmt: skip
    for name, low, words in (*public, *private):
        best = max({**client.spec, **client.private_spec}.get(name, 0.0) for client in clients)
        if best < low:
            raise SettingsError(
                f"job {job.job} (profile {job.profile_no}): {words} is {low:g}, which nobody "
                f"meets: the most that any of {len(clients)} clients has is {best:g}"
            )


def load_experiment(path: Path) -> Experiment:
    """Read a configuration and its profiles; raises SettingsError, before anything runs."""
    config = load_run_config(path)
    folder = path.parent
    profiles = load_profiles(profile_folder(config.profile_folder, folder))
    data_dir = None if config.data_dir is None else folder / config.data_dir
    dataset = _dataset(path, config, data_dir)
    if dataset is not None:
        profiles = {
            number: profile.model_copy(update={"dataset": dataset})
            for number, profile in profiles.items()
        }
    for number, profile in profiles.items():
        unknown = [name for name in profile.public_constraint if name not in ATTRIBUTE_MAXIMA]
        if unknown:
            known = ", ".join(ATTRIBUTE_MAXIMA)
            raise SettingsError(
                f"profile {number}: public_constraint: no attribute {unknown[0]}; there are {known}"
            )
        for name, value in profile.public_constraint.items():
            if value > ATTRIBUTE_MAXIMA[name]:
                raise SettingsError(
                    f"profile {number}: public_constraint: {name} is {value:g},"
                    f" above its maximum of {ATTRIBUTE_MAXIMA[name]:g}"
                )
        if set(profile.private_constraint) - {"dataset_size"}:
            raise SettingsError(f"profile {number}: private_constraint: there is dataset_size")
    return Experiment(config, folder, profiles)


def _dataset(path: Path, config: RunConfig, data_dir: Path | None) -> str | None:
    """The first data set of the configuration's list that is there; None without a list.

    Of a run that does not train as well: its times are those of the same jobs.
    """
    if not config.dataset:
        return None
    for name in config.dataset:
        if name not in SOURCES:
            raise SettingsError(f"{path}: dataset: {no_such('data set', name, SOURCES)}")
        if available(name, data_dir):
            return name
    return config.dataset[-1]  # loading it says what is missing
