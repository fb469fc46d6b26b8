"""How good weights are on a test split: loss, accuracy, top-5 accuracy.

Sums over samples, so a split that is scored in parts gives the same means whatever the parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

__all__ = ["Score", "score"]

BATCH: Final = 512
TOP: Final = 5


@dataclass(frozen=True)
class Score:
    """Sums over ``samples`` samples; :meth:`__add__` joins parts of a split."""

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


def score(model: nn.Module, images: Tensor, labels: Tensor) -> Score:
    """Score the model, as it is, on these samples; raises ValueError if there are none."""
    if len(labels) == 0:
        raise ValueError("no samples to score")
    model.eval()
    total = Score(0, 0.0, 0, 0)
    with torch.no_grad():
        for first in range(0, len(labels), BATCH):
            part = slice(first, first + BATCH)
            total += _score_batch(model(images[part]), labels[part])
    return total


def _score_batch(output: Tensor, labels: Tensor) -> Score:
    loss = cross_entropy(output, labels, reduction="sum")
    best = output.topk(min(TOP, output.shape[1]), dim=1).indices
    hits = best == labels.unsqueeze(1)
    return Score(len(labels), float(loss), int(hits[:, 0].sum()), int(hits.any(dim=1).sum()))
