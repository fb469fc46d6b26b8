"""Training 32 clients stacked against one after the other, on one thread, as a worker does.

Both ways train the same clients for the same steps, in turn, so the ratio holds on a busy machine;
the updates are compared, so that a figure is one of the same work. `scripts/gpu_bench.py` measures
the same on a GPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pytest

torch = pytest.importorskip("torch")

CLIENTS: Final = 32
ROUNDS: Final = 5


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """A worker uses one thread; a second worker has the second core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize(
    "name, side, at_least",
    [
        ("softmax", 8, 4.0),
        ("softmax", 28, 4.0),
        ("mlp", 8, 4.0),
        ("mlp", 28, 3.0),  # 3.6 to 4.6, as the machine is: see README.md
        ("cnn", 8, 0.0),
        ("cnn", 28, 0.0),
    ],
)
def test_stacked_against_sequential(benchmark: Any, name: str, side: int, at_least: float) -> None:
    """Stacked training is four times as fast for softmax regression, and for the MLP about so."""
    from evaluation.training.local import ClientData, train
    from evaluation.training.models import build
    from evaluation.training.specs import Hyper, ModelSpec

    shape = (1, side, side)
    spec = ModelSpec(name, shape, 10)
    hyper = Hyper(steps=10, batch_size=20)
    chance = np.random.default_rng(3)
    clients = [
        ClientData(
            client,
            torch.from_numpy(chance.random((100, *shape), dtype=np.float32)),
            torch.from_numpy(chance.integers(10, size=100)),
        )
        for client in range(CLIENTS)
    ]
    model = build(spec)
    weights = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    times: dict[bool, list[float]] = {True: [], False: []}
    results: dict[bool, Any] = {}

    def both() -> None:
        for stacked in (True, False):
            began_s = time.perf_counter()
            results[stacked] = train(model, weights, clients, hyper, seed=(0,), stacked=stacked)
            times[stacked].append(time.perf_counter() - began_s)

    benchmark.pedantic(both, rounds=ROUNDS, iterations=1, warmup_rounds=1)
    for one, other in zip(results[True], results[False], strict=True):
        for key, value in one.weights.items():
            np.testing.assert_allclose(value, other.weights[key], atol=0.02)  # float32, ten steps
    ratio = statistics.median(
        slow / fast for fast, slow in zip(times[True], times[False], strict=True)
    )
    benchmark.extra_info.update(
        ratio=round(ratio, 2),
        stacked_ms=round(1_000 * statistics.median(times[True]), 1),
        sequential_ms=round(1_000 * statistics.median(times[False]), 1),
    )
    assert ratio >= at_least, benchmark.extra_info
