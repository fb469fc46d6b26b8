"""A job's weights before its first round, from a seed; the same on every machine.

Not here: the models (:mod:`evaluation.training.models`).
"""

from __future__ import annotations

import torch

from evaluation.training.local import Arrays, to_arrays
from evaluation.training.models import ModelSpec, build

__all__ = ["initial_weights"]


def initial_weights(spec: ModelSpec, *, seed: int, dtype: str = "float32") -> Arrays:
    """The untrained weights of a model; torch's global generator is left as it was.

    Raises ModelError if the model does not exist or does not fit.

    >>> spec = ModelSpec("softmax", (1, 2, 2), 3)
    >>> first, again = (initial_weights(spec, seed=5)["1.bias"] for _ in range(2))
    >>> first.tolist() == again.tolist()
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return to_arrays(build(spec, dtype=getattr(torch, dtype)))
