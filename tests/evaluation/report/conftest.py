"""Made-up runs, written as a run writes them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation.results.rows import ClientRow, JobRow, RoundRow, ScoreRow
from evaluation.results.writer import PolicyWriter, RunWriter

PACE = {"random": 1.0, "irs": 0.7, "fifo": 0.9, "las": 0.85, "srtf": 0.8}
"""How long each policy lets a round wait, against random."""


def play(writer: PolicyWriter, draw: random.Random, policy: str, *, jobs: int, rounds: int) -> None:
    """Write what a run of one policy finds: some attempts fail, models grow better."""
    for job in range(jobs):
        now = arrived = 600.0 * job
        delays, responses, timeouts = [], [], [0, 0]
        writer.score(ScoreRow(job, 0, now, 0, 2.3, 0.1, 0.5, 1_000))
        for number in range(rounds):
            attempt = 0
            while draw.random() < 0.1:
                late = attempt % 2
                filled = now + 30 if late else None
                state = "timed_out_response" if late else "timed_out_scheduling"
                counts = (20, 20, 0, 8) if late else (20, 12, 0, 12)
                writer.round(
                    RoundRow(job, number, attempt, state, now, filled, now + 120, *counts,
                             number, None, 0.0)
                )  # fmt: skip
                timeouts[late] += 1
                now, attempt = now + 120, attempt + 1
            delay = PACE[policy] * draw.expovariate(1 / (60 + 40 * job))
            response = draw.uniform(40, 90)
            delays.append(delay)
            responses.append(response)
            loss = 2.3 * math.exp(-number / rounds * 2)
            writer.round(
                RoundRow(job, number, attempt, "completed", now, now + delay,
                         now + delay + response, 20, 20, 16, 2, number + 1, loss, 0.0, 1_600)
            )  # fmt: skip
            now += delay + response
            if (number + 1) % 3 == 0 or number + 1 == rounds:
                share = 1 - math.exp(-3 * (number + 1) / rounds) + draw.uniform(-0.02, 0.02)
                accuracy = 0.1 + 0.8 * share
                writer.score(
                    ScoreRow(job, number + 1, now, number + 1, loss, accuracy,
                             min(1.0, accuracy + 0.2), 1_000)
                )  # fmt: skip
        writer.job(
            JobRow(job, f"job_{job}", arrived, now, now - arrived, rounds,
                   sum(delays) / rounds, sum(responses) / rounds, timeouts[0], timeouts[1],
                   "completed")
        )  # fmt: skip
    writer.clients(
        ClientRow(client, 10_000.0, draw.uniform(0, 6_000), 12, 10, 2) for client in range(50)
    )


@pytest.fixture
def made_run(tmp_path: Path) -> Callable[..., Path]:
    """Makes a run folder; by default four jobs with two policies, one seed."""

    def make(
        name: str = "run",
        *,
        policies: tuple[str, ...] = ("irs", "random"),
        seeds: tuple[int, ...] = (0,),
        jobs: int = 4,
        rounds: int = 12,
    ) -> Path:
        folder = tmp_path / name
        with RunWriter(
            folder,
            config={"client_num": 50, "total_job": jobs},
            policies=policies,
            seeds=seeds,
            clock="virtual",
        ) as run:
            for policy in policies:
                for seed in seeds:
                    writer = run.policy(policy, seed)
                    play(writer, random.Random(seed), policy, jobs=jobs, rounds=rounds)
                    writer.event("worker_lost", worker="w1")
        return folder

    return make
