"""Scores of a test split."""

from __future__ import annotations

import pytest
import torch

from evaluation.training.models import ModelSpec, build
from evaluation.training.scoring import score


def test_a_split_scored_in_parts_has_the_scores_of_the_whole() -> None:
    """Fault F4: the original took an unweighted mean of parts, and lost the last one."""
    torch.manual_seed(1)
    model = build(ModelSpec("mlp", (1, 4, 4), 12))
    images, labels = torch.rand(1_001, 1, 4, 4), torch.randint(12, (1_001,))
    whole = score(model, images, labels)
    parts = score(model, images[:1], labels[:1]) + score(model, images[1:], labels[1:])
    assert (parts.samples, parts.correct, parts.correct_top5) == (
        whole.samples, whole.correct, whole.correct_top5,
    )  # fmt: skip
    assert parts.loss == pytest.approx(whole.loss)
    assert whole.samples == 1_001
    assert whole.correct <= whole.correct_top5


def test_a_perfect_model_has_accuracy_one_and_no_samples_no_score() -> None:
    """By construction: the first pixel is the class."""
    model = build(ModelSpec("softmax", (1, 1, 2), 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[9.0, 0.0], [0.0, 9.0]]))  # type: ignore[index]
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).reshape(2, 1, 1, 2)
    assert score(model, images, torch.tensor([0, 1])).accuracy == 1.0
    with pytest.raises(ValueError, match="no samples"):
        score(model, images[:0], torch.tensor([], dtype=torch.int64))
