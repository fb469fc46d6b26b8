"""Which samples a client trains on, step by step: drawn once, whatever trains them.

A client goes through its samples in a random order, again and again. A batch never spans two
passes: the last one of a pass may be smaller, and a client with fewer samples than a batch has
small batches only. Smaller batches are filled up with sample 0 at weight 0, so that the batches of
many clients can be stacked.

The draw depends on the seed and the client alone, not on which worker trains it, when, or beside
whom. Not here: torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Batches", "draw_batches"]


@dataclass(frozen=True)
class Batches:
    """``index`` and ``weight``, both (steps, batch_size): which sample, and 1 or 0 if it counts."""

    index: NDArray[np.int64]
    weight: NDArray[np.float32]


def draw_batches(samples: int, *, steps: int, batch_size: int, seed: tuple[int, ...]) -> Batches:
    """The batches of one client with so many samples, for so many steps.

    ``seed`` is what makes the draw: (seed of the run, job, round, client). Raises ValueError for a
    client without samples.

    >>> draw_batches(3, steps=2, batch_size=2, seed=(7,)).weight.tolist()
    [[1.0, 1.0], [1.0, 0.0]]
    """
    if samples < 1 or steps < 1 or batch_size < 1:
        raise ValueError(
            f"{samples} samples, {steps} steps of {batch_size}: all must be at least 1"
        )
    random = np.random.Generator(np.random.PCG64(seed))
    index = np.zeros((steps, batch_size), dtype=np.int64)
    weight = np.zeros((steps, batch_size), dtype=np.float32)
    order, place = random.permutation(samples), 0
    for step in range(steps):
        if place == samples:
            order, place = random.permutation(samples), 0
        taken = order[place : place + batch_size]
        index[step, : len(taken)] = taken
        weight[step, : len(taken)] = 1.0
        place += len(taken)
    return Batches(index, weight)
