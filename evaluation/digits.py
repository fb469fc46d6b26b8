"""Real training data: scikit-learn's 1,797 handwritten digits, split unevenly over clients.

A fifth of the images, in the same mix of digits, is held out and belongs to no client; accuracy is
measured on these only. The rest is dealt to the clients by a Dirichlet distribution for each digit,
so that a client sees few digits and clients differ in size. Scaling is fitted on the training
images alone: the held-out ones have no say in it.

The data comes with scikit-learn; nothing is downloaded. Not here: how much data a device *claims*
to have (``dataset_size`` in :mod:`evaluation.population`), and training (:mod:`evaluation.fedavg`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

__all__ = ["CLASSES", "FEATURES", "Digits", "Labels", "Samples", "dirichlet_split"]

Samples = NDArray[np.float64]
"""Images as rows: (samples, FEATURES)."""
Labels = NDArray[np.int64]
"""The digit of each row, 0 to 9."""
Rows = NDArray[np.int64]

FEATURES: Final = 64
CLASSES: Final = 10
TEST_SHARE: Final = 0.2
ALPHA: Final = 0.5

# Separate random streams, so that the number of clients does not move the held-out set.
STREAM_HELD_OUT: Final = 0
STREAM_SPLIT: Final = 1


@dataclass(frozen=True)
class Digits:
    """The digits of one experiment: clients' training rows and a held-out test set.

    >>> digits = Digits.load(clients=300, seed=0)
    >>> len(digits.train_labels), len(digits.test_labels), len(digits.parts)
    (1437, 360, 300)
    >>> samples, labels = digits.client(7)
    >>> samples.shape[1], len(samples) == len(labels) >= 1
    (64, True)
    """

    train_samples: Samples
    train_labels: Labels
    test_samples: Samples
    test_labels: Labels
    train_rows: Rows
    """Where each training row stands in scikit-learn's order."""
    test_rows: Rows
    """The same for the held-out rows; shares nothing with ``train_rows``."""
    parts: tuple[Rows, ...]
    """For each client its rows of ``train_samples``: disjoint, none empty, all rows dealt."""

    @classmethod
    def load(cls, clients: int, seed: int, *, alpha: float = ALPHA) -> Digits:
        """Load, hold out, scale and split; the same arguments give the same data.

        Raises ValueError when there are more clients than samples, or ``alpha`` is not above 0.
        """
        samples, labels = load_digits(return_X_y=True)
        held_out = np.random.SeedSequence(seed, spawn_key=(STREAM_HELD_OUT,)).generate_state(1)
        train_rows, test_rows = train_test_split(
            np.arange(len(labels)),
            test_size=TEST_SHARE,
            stratify=labels,
            random_state=int(held_out[0]),
        )
        train_samples, test_samples = _scaled(samples[train_rows], samples[test_rows])
        train_labels = labels[train_rows].astype(np.int64)
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(STREAM_SPLIT,)))
        return cls(
            train_samples=train_samples,
            train_labels=train_labels,
            test_samples=test_samples,
            test_labels=labels[test_rows].astype(np.int64),
            train_rows=train_rows,
            test_rows=test_rows,
            parts=dirichlet_split(train_labels, clients, alpha, rng),
        )

    def client(self, index: int) -> tuple[Samples, Labels]:
        """The training samples and labels of client ``index`` (copies)."""
        rows = self.parts[index]
        return self.train_samples[rows], self.train_labels[rows]


def dirichlet_split(
    labels: Labels, clients: int, alpha: float, rng: np.random.Generator
) -> tuple[Rows, ...]:
    """Deal the rows of ``labels`` to ``clients``: for each class, shares ~ Dirichlet(alpha).

    Smaller ``alpha`` means less alike clients. A client left empty is given one row of the largest.
    Raises ValueError when that cannot work.
    """
    if not 1 <= clients <= len(labels):
        message = f"split: {clients} clients; {len(labels)} samples serve 1 to {len(labels)}"
        raise ValueError(message)
    if not 0 < alpha < np.inf:
        message = f"split: alpha {alpha} must be above 0"
        raise ValueError(message)
    parts: list[list[int]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        counts = rng.multinomial(len(rows), rng.dirichlet(np.full(clients, alpha)))
        for part, dealt in zip(parts, np.split(rows, np.cumsum(counts)[:-1]), strict=True):
            part.extend(dealt.tolist())
    _feed_the_empty(parts)
    return tuple(np.array(sorted(part), dtype=np.int64) for part in parts)


def _feed_the_empty(parts: list[list[int]]) -> None:
    for part in parts:
        if not part:
            part.append(max(parts, key=len).pop())


def _scaled(train: Samples, test: Samples) -> tuple[Samples, Samples]:
    """Centre each pixel and divide all by one spread, both taken from ``train``.

    One spread for all pixels: dividing by a border pixel's own, nearly 0, would blow up its noise.
    """
    centre = train.mean(axis=0)
    spread = float(np.sqrt(np.mean((train - centre) ** 2)))
    return (train - centre) / spread, (test - centre) / spread
