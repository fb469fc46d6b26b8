"""Models by name: shapes, sizes, and what does not fit."""

from __future__ import annotations

import pytest
import torch

from evaluation.aggregators import is_statistic
from evaluation.training.models import MODELS, ModelError, ModelSpec, build, keeps_statistics
from evaluation.training.sizes import model_bytes
from evaluation.training.specs import Norm


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_gives_one_row_of_classes_for_each_image(name: str, norm: str) -> None:
    """On MNIST's shape and on a larger one with colours."""
    for shape in ((1, 28, 28), (3, 40, 32)):
        model = build(ModelSpec(name, shape, 7, norm)).eval()  # type: ignore[arg-type]
        with torch.no_grad():
            assert model(torch.zeros(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize(
    "name, millions", [("resnet18", 11.17), ("mobilenet_v2", 2.24), ("shufflenet_v2", 0.35)]
)
def test_the_published_models_have_about_their_published_sizes(name: str, millions: float) -> None:
    """With batch normalisation and ten classes, in millions of weights."""
    model = build(ModelSpec(name, (3, 32, 32), 10, "batch"))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_sizes_that_are_counted_without_torch_are_the_models(
    name: str, norm: Norm, dtype: str
) -> None:
    """All weights and buffers, on three shapes and numbers of classes."""
    for shape, classes in (((1, 28, 28), 10), ((3, 40, 33), 35), ((2, 9, 8), 3)):
        spec = ModelSpec(name, shape, classes, norm)
        with torch.device("meta"):
            state = build(spec, dtype=getattr(torch, dtype)).state_dict()
        size = sum(value.numel() * value.element_size() for value in state.values())
        assert model_bytes(spec, dtype) == size


def test_only_batch_normalisation_keeps_statistics() -> None:
    """It decides what can be stacked."""
    assert not keeps_statistics(build(ModelSpec("resnet18", (1, 28, 28), 10)))
    assert keeps_statistics(build(ModelSpec("resnet18", (1, 28, 28), 10, "batch")))


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_server_rules_know_statistics_from_parameters_by_name(name: str, norm: Norm) -> None:
    """What has a gradient is stepped; every other floating array is averaged."""
    with torch.device("meta"):
        model = build(ModelSpec(name, (1, 28, 28), 10, norm))
    parameters = {key for key, _ in model.named_parameters()}
    floating = {key for key, value in model.state_dict().items() if value.is_floating_point()}
    assert {key for key in floating if not is_statistic(key)} == parameters


@pytest.mark.parametrize(
    "spec, says",
    [
        (ModelSpec("resnet19", (1, 28, 28), 10), "no model 'resnet19'; there are softmax"),
        (ModelSpec("cnn", (1, 3, 28), 10), "cnn needs images of at least 4 × 4"),
        (ModelSpec("mlp", (1, 8, 8), 1), "at least 2 classes"),
        (ModelSpec("mlp", (1, 8, 8), 2, "layer"), "no normalisation 'layer'"),  # type: ignore[arg-type]
    ],
)
def test_what_does_not_fit_is_said_in_one_line(spec: ModelSpec, says: str) -> None:
    """Before anything is trained."""
    with pytest.raises(ModelError, match=says):
        build(spec)
