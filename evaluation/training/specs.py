"""What is trained and how, and how good it is: plain records, for those that never load torch.

A job's learning, the handle of an executor and its broker speak of models, hyper-parameters and
scores without torch; whoever trains takes the same classes from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from propius.errors import PropiusError

__all__ = ["COPIES", "LOSS_MAX", "Hyper", "ModelError", "ModelSpec", "Norm", "Score"]

Norm: TypeAlias = Literal["group", "batch"]

COPIES: Final = 4
"""Of a client's weights while it trains: weights, gradients, momenta, what is under way."""
LOSS_MAX: Final = 1e9
"""A mean loss above this is no better than none at all: the training has diverged."""


class ModelError(PropiusError):
    """A model that does not exist, or does not fit the data; one line."""


@dataclass(frozen=True)
class ModelSpec:
    """Which model, for which data: ``shape`` of one sample (channels, height, width)."""

    name: str
    shape: tuple[int, int, int]
    classes: int
    norm: Norm = "group"


@dataclass(frozen=True)
class Hyper:
    """The hyper-parameters of local training.

    ``loss_decay`` weighs the moving average of the loss that a client reports. ``start_loss``:
    whether it also reports that of the global weights on all of its samples (q-FedAvg's Fₖ(wᵗ)).
    """

    steps: int = 10
    batch_size: int = 20
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    prox_mu: float = 0.0
    loss_decay: float = 0.95
    start_loss: bool = False


@dataclass(frozen=True)
class Score:
    """Sums over ``samples`` samples; :meth:`__add__` joins parts of a split.

    >>> (Score(1, 2.0, 1, 1) + Score(3, 2.0, 1, 2)).loss
    1.0
    """

    samples: int
    loss_sum: float
    correct: int
    correct_top5: int

    def __add__(self, other: Score) -> Score:
        return Score(
            self.samples + other.samples,
            self.loss_sum + other.loss_sum,
            self.correct + other.correct,
            self.correct_top5 + other.correct_top5,
        )

    @property
    def loss(self) -> float:
        """Mean cross-entropy."""
        return self.loss_sum / self.samples

    @property
    def accuracy(self) -> float:
        """The share of samples whose likeliest class is right."""
        return self.correct / self.samples
