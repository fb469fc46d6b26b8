"""How good weights are on a test split: loss, accuracy, top-5 accuracy.

Sums over samples, so a split that is scored in parts gives the same means whatever the parts.
A sum of losses that is no number, or above ``LOSS_MAX``, is ``LOSS_MAX``: such weights are scored
as useless, and the run goes on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from evaluation.training.specs import LOSS_MAX, Score

__all__ = ["Score", "score"]

BATCH: Final = 512
TOP: Final = 5


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
    is_bounded = total.loss_sum <= LOSS_MAX  # which NaN is not
    return total if is_bounded else replace(total, loss_sum=LOSS_MAX)


def _score_batch(output: Tensor, labels: Tensor) -> Score:
    loss = cross_entropy(output, labels, reduction="sum")
    best = output.topk(min(TOP, output.shape[1]), dim=1).indices
    hits = best == labels.unsqueeze(1)
    return Score(len(labels), float(loss), int(hits[:, 0].sum()), int(hits.any(dim=1).sum()))
