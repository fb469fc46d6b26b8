"""Federated averaging in NumPy: softmax regression, local training, and the server's mean.

A model is ``[matrix (features, classes), bias (classes)]``. Every device trains from the round's
global weights, which are never changed in place, and the server's mean weighs each device by its
number of samples. :class:`ServerMomentum` then moves the global weights along an exponentially
weighted sum of the rounds' mean changes ("FedAvgM"): with ten devices of about five samples each, a
single round's mean is noisy. (All arrays of this model are parameters; where a model has running
statistics, they are averaged and not moved so: :mod:`evaluation.aggregators`.)

Measured on :mod:`evaluation.digits` with 300 clients (Dirichlet 0.5), the defaults below, and
seeds 0 to 9; accuracy on the held-out set, mean of the last three rounds:

======  =======  ==============  =====  ======
rounds  devices  eligible share  mean   lowest
======  =======  ==============  =====  ======
25      10       0.40            0.941  0.930
25      10       1.00            0.947  0.925
40      20       0.40            0.954  0.939
25      10       0.15            0.916  0.890
======  =======  ==============  =====  ======

Softmax regression, and not a small network, because it did as well there and costs 5 KB a model.
Not here: sockets (:mod:`evaluation.data_plane`) and the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evaluation.digits import CLASSES, FEATURES, Labels, Samples

__all__ = [
    "LOCAL_EPOCHS",
    "LOCAL_LEARNING_RATE",
    "SERVER_MOMENTUM",
    "FedAvg",
    "ServerMomentum",
    "Weights",
    "accuracy",
    "initial_weights",
    "local_train",
]

Array = NDArray[np.float64]
Weights = list[Array]

LOCAL_EPOCHS: Final = 3
LOCAL_LEARNING_RATE: Final = 0.1
SERVER_MOMENTUM: Final = 0.8
BATCH_SAMPLES: Final = 16
SAMPLES_MAX: Final = 2**53
"""The largest number of samples of one update: beyond it, float weighting is not exact."""
WEIGHT_MAX: Final = 1e30
"""The largest magnitude of a weight: the sum of all updates of a round stays finite."""


def initial_weights(features: int = FEATURES, classes: int = CLASSES) -> Weights:
    """Zeros: the problem is convex, so no random start is needed."""
    return [np.zeros((features, classes)), np.zeros(classes)]


def local_train(
    weights: Sequence[Array],
    x: Samples,
    y: Labels,
    *,
    epochs: int = LOCAL_EPOCHS,
    lr: float = LOCAL_LEARNING_RATE,
    rng: np.random.Generator,
) -> Weights:
    """Return the weights after ``epochs`` passes over (x, y) in batches of 16, shuffled by ``rng``.

    ``weights`` are the round's global ones and are left as they are. Raises ValueError if there is
    no data.
    """
    if not len(x) or len(x) != len(y):
        message = f"local_train: {len(x)} samples and {len(y)} labels; needs as many, at least one"
        raise ValueError(message)
    matrix, bias = (np.array(array, dtype=np.float64) for array in weights)
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for start in range(0, len(x), BATCH_SAMPLES):
            batch = order[start : start + BATCH_SAMPLES]
            error = _probabilities(x[batch] @ matrix + bias)  # (batch, classes)
            error[np.arange(len(batch)), y[batch]] -= 1
            matrix -= lr / len(batch) * (x[batch].T @ error)
            bias -= lr / len(batch) * error.sum(axis=0)
    return [matrix, bias]


def accuracy(weights: Sequence[Array], x: Samples, y: Labels) -> float:
    """The share (0 to 1) of the rows of ``x`` whose most likely class is ``y``."""
    matrix, bias = weights
    return float(np.mean(np.argmax(x @ matrix + bias, axis=1) == y))


class FedAvg:
    """The mean of one round's updates, each weighted by its number of samples.

    The order of the updates does not matter, but for rounding (1e-12 of the largest weight).

    >>> fedavg = FedAvg([np.zeros(2)])
    >>> fedavg.add([np.array([1.0, 0.0])], samples=1)
    >>> fedavg.add([np.array([5.0, 4.0])], samples=3)
    >>> fedavg.mean()[0].tolist()
    [4.0, 3.0]
    """

    def __init__(self, like: Sequence[Array]):
        self._shapes = [array.shape for array in like]
        self._sums: Weights = [np.zeros(shape) for shape in self._shapes]
        self.samples = 0
        self.updates = 0

    def add(self, weights: Sequence[Array], samples: int) -> None:
        """Count one device's update; raises ValueError, and counts nothing, if it is unusable."""
        self.check(weights, samples)
        for total, array in zip(self._sums, weights, strict=True):
            np.add(total, np.asarray(array, dtype=np.float64) * samples, out=total)
        self.samples += samples
        self.updates += 1

    def check(self, weights: Sequence[Array], samples: int) -> None:
        """Raise ValueError, in one line, for an update that :meth:`add` would not count."""
        if not 1 <= samples <= SAMPLES_MAX:
            message = f"update: {samples} samples; send 1 to {SAMPLES_MAX}"
            raise ValueError(message)
        if len(weights) != len(self._shapes):
            message = f"update: {len(weights)} arrays, the model has {len(self._shapes)}"
            raise ValueError(message)
        for index, (array, shape) in enumerate(zip(weights, self._shapes, strict=True)):
            if array.shape != shape:
                message = f"update: array {index} has shape {array.shape}, the model {shape}"
                raise ValueError(message)
            if not np.isfinite(array).all():
                message = f"update: array {index} holds NaN or infinity; nothing was counted"
                raise ValueError(message)
            if array.size and np.abs(array).max() > WEIGHT_MAX:
                message = f"update: array {index} holds a weight beyond {WEIGHT_MAX:g}"
                raise ValueError(message)

    def mean(self) -> Weights:
        """The weighted mean; raises ValueError before the first update."""
        if not self.samples:
            raise ValueError("mean: no update was counted; keep the round's weights")
        return [total / self.samples for total in self._sums]


class ServerMomentum:
    """Moves the global weights by the mean change of this round and, fading, of those before.

    With ``momentum`` 0 the next weights are the plain mean.

    >>> server = ServerMomentum(momentum=0.5)
    >>> server.step([np.array([0.0])], [np.array([1.0])])[0].tolist()
    [1.0]
    >>> server.step([np.array([1.0])], [np.array([1.0])])[0].tolist()
    [1.5]
    """

    def __init__(self, momentum: float = SERVER_MOMENTUM):
        if not 0 <= momentum < 1:
            message = f"server momentum {momentum}; use 0 to below 1"
            raise ValueError(message)
        self.momentum = momentum
        self._velocity: Weights | None = None

    def step(self, weights: Sequence[Array], mean: Sequence[Array]) -> Weights:
        """The next round's global weights; ``weights`` and ``mean`` are left as they are."""
        change = [after - before for before, after in zip(weights, mean, strict=True)]
        if self._velocity is not None:
            change = [
                self.momentum * old + new for old, new in zip(self._velocity, change, strict=True)
            ]
        self._velocity = change
        return [before + moved for before, moved in zip(weights, change, strict=True)]


def _probabilities(scores: Array) -> Array:
    """Softmax of each row, (rows, classes); the largest score is taken out against overflow."""
    powers: Array = np.exp(scores - scores.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers
