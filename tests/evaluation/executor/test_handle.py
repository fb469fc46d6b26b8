"""The executor of one process, and what both executors have in common."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evaluation
from evaluation.executor.arrays import FRAME_BYTES_MAX
from evaluation.executor.handle import ExecutorError, InProcessExecutor, JobModel, PartitionSpec
from evaluation.executor.jobs import stacks_of
from evaluation.training.initial import initial_weights
from evaluation.training.specs import Hyper, ModelError, ModelSpec
from evaluation.training.trainer import Trainer

SPEC = ModelSpec("softmax", (1, 8, 8), 10)
JOB = JobModel(1, SPEC, "digits", None, PartitionSpec("iid", 20))


def test_nothing_but_training_loads_torch() -> None:
    """Jobs, clients, runs, the broker and a worker's module start without torch."""
    root = Path(evaluation.__file__).parent
    modules = [
        ".".join(path.relative_to(root.parent).with_suffix("").parts)
        for folder in ("clients", "executor", "harness", "jobs", "results")
        for path in sorted((root / folder).glob("*.py"))
    ]
    assert "evaluation.executor.broker" in modules
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("clients", [1, 15, 16, 17, 100])
def test_stacks_are_even_and_lose_nobody(clients: int) -> None:
    """Every client is in one stack, in order, and sizes differ by one at most."""
    stacks = stacks_of(range(clients), 16)

    assert [client for stack in stacks for client in stack] == list(range(clients))
    sizes = [len(stack) for stack in stacks]
    assert max(sizes) <= 16
    assert max(sizes) - min(sizes) <= 1


def test_a_stack_of_large_models_fits_into_a_message() -> None:
    """However many clients a stack may have, its weights are carried by one frame."""
    clients = range(16)
    for model_bytes in (1_000, FRAME_BYTES_MAX // 6, FRAME_BYTES_MAX):
        stacks = stacks_of(clients, 16, model_bytes=model_bytes)
        assert [client for stack in stacks for client in stack] == list(clients)
        assert max(map(len, stacks)) * model_bytes <= FRAME_BYTES_MAX
    assert len(stacks_of(clients, 16, model_bytes=1_000)) == 1


def test_a_round_of_large_models_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """More clients at once than one message carries are trained in several stacks."""
    trained: list[int] = []

    class Counting(Trainer):
        def train(
            self, job: int, round_no: int, weights: Any, clients: Any, hyper: Any, steps: Any = None
        ) -> Any:
            trained.append(len(clients))
            return super().train(job, round_no, weights, clients, hyper, steps)

    monkeypatch.setattr("evaluation.training.device.Trainer", Counting)
    weights = initial_weights(SPEC, seed=0)
    size = sum(value.nbytes for value in weights.values())
    monkeypatch.setattr("evaluation.executor.jobs.FRAME_BYTES_MAX", 3 * size)
    executor = InProcessExecutor()
    executor.register(JOB)
    executor.set_weights(1, 0, weights)
    assert len(executor.train(1, 0, 0, range(6), Hyper(steps=1)).result()) == 6
    executor.close()
    assert trained == [3, 3]


def test_weights_are_those_of_the_call() -> None:
    """Newer weights, or an array changed later, do not reach a request that was made before."""
    executor = InProcessExecutor()
    executor.register(JOB)
    weights = initial_weights(SPEC, seed=0)
    executor.set_weights(1, 0, weights)
    expected = executor.score(1, 0).result()

    again = executor.score(1, 0)
    weights["1.bias"][0] += 5
    executor.set_weights(1, 1, weights)

    assert again.result() == expected
    assert executor.score(1, 1).result() != expected
    executor.close()


def test_what_is_wrong_is_one_line() -> None:
    """Versions, clients and models that are not there are refused in words."""
    executor = InProcessExecutor()
    executor.register(JOB)
    executor.set_weights(1, 0, initial_weights(SPEC, seed=0))
    with pytest.raises(ExecutorError, match="version 3 is not there"):
        executor.train(1, 0, 3, [1], Hyper()).result()
    with pytest.raises(ExecutorError, match="a client is there twice"):
        executor.train(1, 0, 0, [1, 1], Hyper()).result()
    with pytest.raises(ExecutorError, match="no clients to train"):
        executor.train(1, 0, 0, [], Hyper()).result()
    with pytest.raises(ExecutorError, match="not finite"):
        executor.set_weights(1, 1, {"1.bias": np.array([np.inf])})
    with pytest.raises(ModelError, match="no model 'transformer'"):
        executor.register(JobModel(2, ModelSpec("transformer", (1, 8, 8), 10), "digits"))
    executor.close()
