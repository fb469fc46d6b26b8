"""A run from its configuration to its folder: everything is checked first, then trained.

Not here: what is done in virtual (:mod:`evaluation.harness.virtual`) and in real time
(:mod:`evaluation.harness.live`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from evaluation.harness.experiment import Experiment
from evaluation.harness.live import run_live
from evaluation.harness.prepared import Prepared, prepare
from evaluation.harness.rounds import simulate_rounds
from evaluation.harness.virtual import client_rows, write_rounds
from evaluation.results.writer import PolicyWriter, RunWriter

if TYPE_CHECKING:
    from evaluation.harness.executors import RunExecutor

__all__ = ["Runner"]

SAY_EVERY_S: Final = 5.0


class Runner:
    """One run; ``say`` hears lines for people."""

    def __init__(self, experiment: Experiment, out: Path, say: Callable[[str], object]) -> None:
        self.experiment, self.out, self.say = experiment, out, say
        self.config = experiment.config
        self.prepared: list[Prepared] = []

    def prepare(self) -> None:
        """Read and check everything; raises PropiusError with one line."""
        self.prepared = [prepare(self.experiment, seed) for seed in self.config.seeds]

    def run(self, *, virtual: bool) -> None:
        """Run every policy with every seed; the folder says how it ended."""
        config = self.config
        document: dict[str, Any] = config.model_dump(mode="json")
        policies = config.policies_run()
        with RunWriter(
            self.out,
            config=document,
            policies=policies,
            seeds=config.seeds,
            clock="virtual" if virtual else "live",
        ) as writer:
            for prepared in self.prepared:
                for policy in policies:
                    own = writer.policy(policy, prepared.seed)
                    with self._executor(prepared, own, alone=virtual) as executor:
                        if virtual:
                            self._virtual(prepared, policy, own, executor)
                        else:
                            self._live(prepared, policy, own, executor)

    @contextmanager
    def _executor(
        self, prepared: Prepared, writer: PolicyWriter, *, alone: bool
    ) -> Iterator[RunExecutor | None]:
        """Who trains the jobs of one policy; None if nothing is trained."""
        if prepared.models is None:
            yield None
            return
        from evaluation.harness.executors import open_executor  # loads torch

        with open_executor(
            self.config, self.out / "logs", writer, in_process=alone and self.config.workers == 0
        ) as executor:
            for model in prepared.models:
                executor.handle.register(model.model)
            yield executor

    def _virtual(
        self, prepared: Prepared, policy: str, writer: PolicyWriter, executor: RunExecutor | None
    ) -> None:
        rounds = simulate_rounds(
            prepared.jobs,
            prepared.clients,
            prepared.costs,
            self.config,
            policy=policy,
            seed=prepared.seed,
        )
        name = f"{policy}, seed {prepared.seed}"
        self.say(f"{name}: {len(rounds.attempts)} attempts at rounds in {rounds.end_s:,.0f} s")
        write_rounds(
            rounds,
            prepared.jobs,
            prepared.learning(self.config.eval_interval),
            executor.handle if executor else None,
            writer,
            told=self._progress(name, len(rounds.attempts)),
        )
        writer.clients(client_rows(rounds, prepared.clients))

    def _live(
        self, prepared: Prepared, policy: str, writer: PolicyWriter, executor: RunExecutor | None
    ) -> None:
        name = f"{policy}, seed {prepared.seed}"
        self.say(f"{name}: live, {self.config.speedup_factor:g} times faster than the devices")
        run_live(
            self.experiment,
            prepared,
            policy,
            writer,
            executor.endpoint if executor else "",
            self.out / "logs" / f"{policy}-{prepared.seed}",
            lambda line: self.say(f"{name}: {line}"),
        )

    def _progress(self, name: str, attempts: int) -> Callable[[int], None]:
        """Says now and then how far training is."""
        said_s = monotonic()

        def told(done: int) -> None:
            nonlocal said_s
            if monotonic() - said_s >= SAY_EVERY_S or done == attempts:
                said_s = monotonic()
                self.say(f"{name}: {done} of {attempts} attempts trained")

        return told
