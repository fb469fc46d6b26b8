"""A run from its configuration to its folder: everything is checked first, then trained.

Not here: what is done in virtual (:mod:`evaluation.harness.virtual`) and in real time
(:mod:`evaluation.harness.live`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from time import monotonic
from typing import Any, Final

from evaluation.data.images import ImageData
from evaluation.executor.handle import Executor
from evaluation.harness.executors import open_executor
from evaluation.harness.experiment import Experiment
from evaluation.harness.inputs import describe_data, keep_inputs
from evaluation.harness.live import run_live
from evaluation.harness.prepared import Prepared, prepare
from evaluation.harness.rounds import simulate_rounds
from evaluation.harness.virtual import write_rounds
from evaluation.jobs.yaml_file import SettingsError
from evaluation.results.writer import PolicyWriter, RunWriter, check_free

__all__ = ["Runner"]

SAY_EVERY_S: Final = 5.0


class Runner:
    """One run; ``say`` hears lines for people."""

    def __init__(self, experiment: Experiment, out: Path, say: Callable[[str], object]) -> None:
        self.experiment, self.out, self.say = experiment, out, say
        self.config = experiment.config
        self.prepared: list[Prepared] = []
        self.data: dict[str, dict[str, Any]] = {}

    def prepare(self, *, virtual: bool) -> None:
        """Read and check everything; raises PropiusError with one line."""
        config = self.config
        if not virtual and config.trains and not (config.workers or config.executor):
            raise SettingsError("workers: a live run needs at least one, or an executor")
        check_free(self.out)
        loaded: dict[str, ImageData] = {}
        self.prepared = [prepare(self.experiment, seed, loaded) for seed in config.seeds]
        self.data = describe_data(loaded.values())

    def run(self, *, virtual: bool) -> None:
        """Run every policy with every seed; the folder says how it ended."""
        config = self.config
        document: dict[str, Any] = config.model_dump(mode="json")
        policies = config.policies_run()
        one = self._virtual if virtual else self._live
        with (
            RunWriter(
                self.out,
                config=document,
                policies=policies,
                seeds=config.seeds,
                clock="virtual" if virtual else "live",
                inputs=self._inputs(),
            ) as writer,
            open_executor(config, self.out / "logs") if config.trains else nullcontext() as trains,
        ):
            keep_inputs(self.experiment, self.data, self.out)
            for prepared in self.prepared:
                for policy in policies:
                    own = writer.policy(policy, prepared.seed)
                    told = self._told_of(policy, prepared.seed)
                    with trains.handle(own, told) if trains else nullcontext() as executor:
                        one(prepared, policy, own, executor, trains.endpoint if trains else "")
                    if own.diverged:
                        told(f"{own.diverged} results diverged and were dropped; lower their "
                             "job's learning_rate")  # fmt: skip

    def _inputs(self) -> dict[str, Any]:
        """For ``run.json``: which jobs, by profile, and on what data."""
        profiles = self.experiment.profiles
        return {
            "profiles": {str(no): each.model_dump(mode="json") for no, each in profiles.items()},
            "data": self.data,
        }

    def _told_of(self, policy: str, seed: int) -> Callable[[str], object]:
        """Says lines with their policy and seed before them."""
        return lambda line: self.say(f"{policy}, seed {seed}: {line}")

    def _virtual(
        self,
        prepared: Prepared,
        policy: str,
        writer: PolicyWriter,
        executor: Executor | None,
        _endpoint: str,
    ) -> None:
        for model in prepared.models or ():
            assert executor is not None
            executor.register(model.model)
        rounds = simulate_rounds(
            prepared.jobs,
            prepared.clients,
            prepared.costs,
            self.config,
            policy=policy,
            seed=prepared.seed,
        )
        say = self._told_of(policy, prepared.seed)
        say(f"{len(rounds.attempts)} attempts at rounds in {rounds.end_s:,.0f} s")
        write_rounds(
            rounds,
            prepared.jobs,
            prepared.learning(self.config.eval_interval),
            executor,
            writer,
            told=_progress(say, len(rounds.attempts)),
        )
        writer.clients(rounds.clients)

    def _live(
        self,
        prepared: Prepared,
        policy: str,
        writer: PolicyWriter,
        _executor: Executor | None,
        endpoint: str,
    ) -> None:
        say = self._told_of(policy, prepared.seed)
        say(f"live, {self.config.speedup_factor:g} times faster than the devices")
        run_live(
            self.experiment,
            prepared,
            policy,
            writer,
            endpoint,
            self.out / "logs" / f"{policy}-{prepared.seed}",
            say,
        )


def _progress(say: Callable[[str], object], attempts: int) -> Callable[[int], None]:
    """Says now and then how far training is."""
    said_s = monotonic()

    def told(done: int) -> None:
        nonlocal said_s
        if monotonic() - said_s >= SAY_EVERY_S or done == attempts:
            said_s = monotonic()
            say(f"{done} of {attempts} attempts trained")

    return told
