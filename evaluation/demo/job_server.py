"""One FL job of the demo, as its owner would run it: register, and train round after round.

``python -m evaluation.demo.job_server SETTINGS`` where SETTINGS is :class:`JobSettings` as JSON.
It talks to Propius through the public SDK only, serves the model to the devices it is given
(:mod:`evaluation.data_link`), and prints :mod:`progress <evaluation.demo.progress>` lines.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import fmean
from typing import Final

import msgspec

from evaluation.children import tell
from evaluation.data_link import ModelService
from evaluation.demo.jobs import DemoJob
from evaluation.demo.progress import JobDone, Progress, RoundDone, Watched
from evaluation.digits import Digits
from evaluation.fedavg import FedAvg, ServerMomentum, accuracy, initial_weights
from propius import Job
from propius.messages import RoundStatus

__all__ = ["JobSettings", "main"]

WATCH_S: Final = 1.0
"""So that a long wait for devices is seen to grow."""
SDK_TIMEOUT_S: Final = 60.0
"""Longer than any daemon needs to come back."""
USABLE: Final = frozenset({"completed", "closed"})
"""Terminal round states with enough reports; the others are tried again."""
RUNNING: Final = frozenset({"open", "filled"})
LAST_ROUNDS: Final = 3


class JobSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the parent tells a job server."""

    job: DemoJob
    endpoint: str  # of the job manager, for job servers
    clients: int
    seed: int
    start_ns: int  # the demo's start on the monotonic clock
    lease_s: float


def main() -> None:
    """Run the job to its end."""
    settings = msgspec.json.decode(sys.argv[1], type=JobSettings)
    digits = Digits.load(settings.clients, settings.seed)
    Trainer(settings, digits, tell).run()


class Trainer:
    """The job's loop: ask for devices, serve the weights, average, test."""

    def __init__(
        self, settings: JobSettings, digits: Digits, tell: Callable[[Progress], None]
    ) -> None:
        self.settings = settings
        self.plan = settings.job
        self.digits = digits
        self.tell = tell
        self.weights = initial_weights()
        self.momentum = ServerMomentum()
        self.accuracies: list[float] = []
        self.rounds_failed = 0
        self.opened_s = 0.0

    def run(self) -> None:
        """Register, train ``rounds`` rounds, complete, and tell the results."""
        plan = self.plan
        with (
            # Devices come once the job is registered, so `job` is bound by the first call.
            ModelService(job=0, admit=lambda token: job.admit(token)) as service,  # noqa: PLW0108
            Job(
                self.settings.endpoint,
                name=plan.name,
                requirement=plan.requirement,
                private_constraint=plan.private_constraint,
                demand=plan.demand,
                rounds=plan.rounds,
                server_endpoint=service.endpoint,
                timeout_s=SDK_TIMEOUT_S,
            ) as job,
        ):
            service.serve(job.id)
            while len(self.accuracies) < plan.rounds:
                self.train_round(job, service)
            job.complete_job()
            self.tell(self.results(job))

    def train_round(self, job: Job, service: ModelService) -> None:
        """One round, from the request for devices to the test of the new weights."""
        round_no = job.start_request(
            reports_min=self.plan.reports_min,
            deadline_s=self.plan.deadline_s,
            lease_s=self.settings.lease_s,
        )
        self.opened_s = self.elapsed_s()
        service.open_round(round_no, self.weights)
        status = self.wait_for_end(job, round_no)
        fedavg = service.close_round()
        if status.state in USABLE and fedavg.updates:
            self.aggregate(round_no, fedavg)
        else:
            self.rounds_failed += 1

    def wait_for_end(self, job: Job, round_no: int) -> RoundStatus:
        """Watch the round until it ends; each change is told."""
        status = job.watch_round(round_no, seen=0, wait_s=WATCH_S)
        while True:
            self.tell(self.watched(status))
            if status.state not in RUNNING:
                return status
            status = job.watch_round(round_no, seen=status.version, wait_s=WATCH_S)

    def aggregate(self, round_no: int, fedavg: FedAvg) -> None:
        """Move the weights by the round's sample-weighted mean and test them."""
        self.weights = self.momentum.step(self.weights, fedavg.mean())
        score = accuracy(self.weights, self.digits.test_samples, self.digits.test_labels)
        self.accuracies.append(score)
        self.tell(
            RoundDone(
                t_s=self.elapsed_s(),
                job=self.plan.name,
                round=round_no,
                updates=fedavg.updates,
                accuracy=score,
            )
        )

    def watched(self, status: RoundStatus) -> Watched:
        """A status as a progress line."""
        now_s = self.elapsed_s()
        filled = status.filled_after_s >= 0
        return Watched(
            t_s=now_s,
            job=self.plan.name,
            round=status.round,
            state=status.state,
            demand=status.demand,
            held=status.held,
            completed=status.completed,
            waiting_s=status.filled_after_s if filled else now_s - self.opened_s,
        )

    def results(self, job: Job) -> JobDone:
        """The job's figures, from the job manager's own account and the last rounds' accuracy."""
        account = job.show()
        return JobDone(
            t_s=self.elapsed_s(),
            job=self.plan.name,
            job_id=job.id,
            rounds=len(self.accuracies),
            rounds_failed=self.rounds_failed,
            jct_s=account.jct_s,
            mean_scheduling_delay_s=account.mean_scheduling_delay_s,
            mean_response_s=account.mean_response_s,
            devices_used=account.devices_completed,
            devices_failed=account.devices_failed + account.devices_expired,
            final_accuracy=fmean(self.accuracies[-LAST_ROUNDS:]),
        )

    def elapsed_s(self) -> float:
        """Seconds since the demo's start."""
        return (time.monotonic_ns() - self.settings.start_ns) / 1e9


if __name__ == "__main__":
    main()
