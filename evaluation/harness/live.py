"""A run over live daemons, in real time sped up: the same jobs and clients as in virtual time.

For each policy the daemons run under supervisord in a temporary folder, on free ports; each job is
a process, and so is each dispatcher of clients. All of them are started first, so that how long a
process takes to start is in nobody's figures. This process alone writes the run folder.

What is scaled with ``speedup_factor``: the clients' and the jobs' times, the scheduler's supply
window, and how often it plans anew. What is not: the daemons' own work, the way through the
network, and training. Where training takes longer than the devices, the run says so
(``training_set_the_pace``), and its times are those of the training.

Not here: the processes (:mod:`evaluation.jobs.job_server`, :mod:`evaluation.clients.dispatcher`).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic, monotonic_ns
from typing import Final

import numpy as np

from evaluation.clients.behaviour import SimulatedClient, share_out
from evaluation.clients.dispatcher import DispatcherSettings, behaviour_settings
from evaluation.executor.messages import Register
from evaluation.harness.config import RunConfig
from evaluation.harness.experiment import Experiment
from evaluation.harness.prepared import Prepared
from evaluation.harness.processes import LiveError, Processes
from evaluation.jobs.job_server import JobServerSettings
from evaluation.jobs.told import Attempted, ClientsTold, Happened, JobOver, Scored, Told
from evaluation.results.rows import ClientRow
from evaluation.results.writer import PolicyWriter
from propius.cli.cluster import Cluster, ClusterError

__all__ = ["dispatchers", "run_live"]

READY_TIMEOUT_S: Final = 600.0
"""Workers load all data before the start."""
HEAR_S: Final = 0.25
BEGIN_AFTER_NS: Final = 500_000_000
CLIENTS_EVERY_S: Final = 10.0
LEASE_MAX_S: Final = 86_400.0


def run_live(
    experiment: Experiment,
    prepared: Prepared,
    policy: str,
    writer: PolicyWriter,
    executor_endpoint: str,
    logs: Path,
    told: Callable[[str], object],
) -> None:
    """Run one policy with one seed to its end; raises LiveError, ClusterError."""
    config = experiment.config
    with (
        tempfile.TemporaryDirectory(prefix="propius-eval-") as folder,
        _kept_logs(Path(folder) / "system" / "logs", logs / "daemons"),
        Cluster(
            Path(folder) / "system",
            managers=config.client_managers,
            overrides=_overrides(config, policy, prepared.seed),
        ) as cluster,
        Processes(logs) as processes,
    ):
        for settings in _jobs(prepared, config, cluster, executor_endpoint, Path(folder)):
            processes.start(f"job-{settings.job}", "evaluation.jobs.job_server", settings)
        load_balancer = cluster.endpoint("load_balancer", "clients")
        samples = Path(folder) / "samples.npz"
        np.savez(samples, allow_pickle=False, **prepared.sizes)
        shared = dispatchers(experiment, prepared.seed, load_balancer, str(samples))
        for number, own in enumerate(shared):
            processes.start(f"clients-{number}", "evaluation.clients.dispatcher", own)
        early = processes.wait_ready(READY_TIMEOUT_S)
        start_ns = monotonic_ns() + BEGIN_AFTER_NS
        processes.begin(start_ns)
        watch = _Watch(prepared, config, writer, start_ns, told)
        for line in early:
            watch.take(line)
        watch.until_over(processes)


@contextmanager
def _kept_logs(written: Path, kept: Path) -> Iterator[None]:
    """Copy the daemons' logs out of the temporary folder, which an error names otherwise."""
    try:
        yield
    except ClusterError as error:
        raise type(error)(str(error).replace(str(written), str(kept))) from error
    finally:
        if written.is_dir():
            with suppress(OSError):  # how the run itself ended counts
                shutil.copytree(written, kept)


def _overrides(config: RunConfig, policy: str, seed: int) -> dict[str, dict[str, object]]:
    """The daemons' configuration: what is a time of the devices runs faster."""
    speed_up = config.speedup_factor
    return {
        "scheduler": {
            "policy": policy,
            "policy_options": config.policy_options,
            "seed": seed,
            "supply_window_s": max(1.0, config.supply_window_s / speed_up),
            "replan_s": max(0.05, config.replan_s / speed_up),
        },
        "client_manager": {"retry_min_s": 0.05, "retry_max_s": 2.0},
        "job_manager": {"lease_max_s": LEASE_MAX_S},
    }


def dispatchers(
    experiment: Experiment, seed: int, load_balancer: str, samples: str = ""
) -> list[DispatcherSettings]:
    """The clients shared out: every one is with exactly one dispatcher.

    ``samples`` is a file with the clients' numbers of samples, by data set.
    """
    config = experiment.config
    behaviour = behaviour_settings(experiment.behaviour(seed))
    return [
        DispatcherSettings(
            load_balancer=load_balancer,
            first=own.start,
            last=own.stop,
            samples=samples,
            failures=config.failures.rates,
            behaviour=behaviour,
            speed_up=config.speedup_factor,
            tasks_max=config.tasks_max,
        )
        for own in share_out(config.client_num, config.client_dispatchers)
    ]


def _jobs(
    prepared: Prepared,
    config: RunConfig,
    cluster: Cluster,
    executor_endpoint: str,
    folder: Path,
) -> list[JobServerSettings]:
    """One job server each; its initial weights are in a file."""
    made = []
    for place, (job, cost) in enumerate(zip(prepared.jobs, prepared.costs, strict=True)):
        weights, model = "", None
        if prepared.models is not None:
            path = folder / f"weights-{job.job}.npz"
            np.savez(path, allow_pickle=False, **prepared.models[place].weights)
            weights, model = str(path), Register.of(prepared.models[place].model)
        made.append(
            JobServerSettings(
                job=job.job,
                profile_no=job.profile_no,
                profile=job.profile.model_dump(mode="json"),
                at_s=job.at_s,
                samples=cost.samples,
                kbit=cost.kbit,
                steps=cost.steps,
                speed_up=config.speedup_factor,
                job_manager=cluster.endpoint("job_manager", "jobs"),
                executor=executor_endpoint if weights else "",
                model=model,
                weights=weights,
                eval_interval=config.eval_interval,
            )
        )
    return made


class _Watch:
    """Hears the processes and writes what they say, until every job is over."""

    def __init__(
        self,
        prepared: Prepared,
        config: RunConfig,
        writer: PolicyWriter,
        start_ns: int,
        told: Callable[[str], object],
    ) -> None:
        self._clients: Sequence[SimulatedClient] = prepared.clients
        self._config, self._writer, self._start_ns, self._told = config, writer, start_ns, told
        self._rows = {client.index: _idle(client.index) for client in prepared.clients}
        self._open = {job.job for job in prepared.jobs}
        self._paced = 0

    def until_over(self, processes: Processes) -> None:
        """Raises LiveError if a process ends badly, or the time is over."""
        deadline_s = monotonic() + self._config.timeout_s
        look_at_s, clients_at_s = 0.0, monotonic() + CLIENTS_EVERY_S
        while self._open:
            if (told := processes.hear(HEAR_S)) is not None:
                self.take(told)
            now_s = monotonic()
            if now_s < look_at_s:
                continue
            look_at_s = now_s + HEAR_S  # by the clock: there may never be silence
            processes.check()
            if now_s > deadline_s:
                raise LiveError(
                    f"jobs {sorted(self._open)} are not done after {self._config.timeout_s:g} s"
                )
            if now_s > clients_at_s:
                clients_at_s = now_s + CLIENTS_EVERY_S
                self._write_clients()
        self._end(processes)

    def _end(self, processes: Processes) -> None:
        """All jobs are over: the job servers end by themselves, the dispatchers are ended."""
        deadline_s = monotonic() + self._config.timeout_s
        servers = [each for each in processes.all if each.name.startswith("job-")]
        while any(each.popen.poll() is None for each in servers) and monotonic() < deadline_s:
            if (told := processes.hear(HEAR_S)) is not None:
                self.take(told)
        processes.check()
        processes.stop()
        while (told := processes.hear(0.1)) is not None:
            self.take(told)
        self._write_clients()
        if self._paced:
            self._told(f"training, not the devices, set the pace of {self._paced} attempts")

    def take(self, told: Told) -> None:
        """Write what a process said."""
        match told:
            case Attempted(row):
                self._writer.round(row)
            case Scored(row):
                self._writer.score(row)
            case JobOver(row):
                self._writer.job(row)
                self._open.discard(row.job)
            case ClientsTold(rows):
                self._rows.update((row.client, row) for row in rows)
            case Happened(what, values):
                self._paced += what == "training_set_the_pace"
                self._writer.event(what, **values)
            case _:
                pass

    def _write_clients(self) -> None:
        now_s = (monotonic_ns() - self._start_ns) / 1e9 * self._config.speedup_factor
        self._writer.clients(
            replace(self._rows[client.index], active_s=client.active_s(now_s))
            for client in self._clients
        )


def _idle(client: int) -> ClientRow:
    return ClientRow(client, 0.0, 0.0, 0, 0, 0)
