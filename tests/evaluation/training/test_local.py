"""Local training: from the global weights, on the client's own samples, stacked or not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.training.batches import draw_batches
from evaluation.training.local import ClientData, Hyper, load_arrays, to_arrays, train
from evaluation.training.models import ModelError, ModelSpec, build

SHAPE = (1, 8, 8)
SIZES = (3, 50, 7, 20, 1)  # fewer than a batch, several batches, one sample


def clients(dtype: torch.dtype = torch.float64) -> list[ClientData]:
    random = torch.Generator().manual_seed(1)
    return [
        ClientData(
            client=10 * number,
            images=torch.rand((size, *SHAPE), generator=random, dtype=dtype),
            labels=torch.randint(4, (size,), generator=random),
        )
        for number, size in enumerate(SIZES)
    ]


def made(name: str, norm: Any = "group", dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    torch.manual_seed(2)
    return build(ModelSpec(name, SHAPE, 4, norm), dtype=dtype)


HYPER = Hyper(steps=6, batch_size=8, learning_rate=0.05)


@pytest.mark.parametrize("prox_mu", [0.0, 0.3])
@pytest.mark.parametrize("name", ["softmax", "mlp", "cnn"])
def test_stacked_and_one_after_the_other_agree_to_1e_5_in_float64(
    name: str, prox_mu: float
) -> None:
    """Clients of very different sizes, with momentum, decay and the proximal term.

    Fault F7: a client with fewer samples than a batch was skipped.
    """
    model = made(name)
    start = to_arrays(model)
    hyper = Hyper(steps=6, batch_size=8, learning_rate=0.05, prox_mu=prox_mu)
    both = [
        train(model, start, clients(), hyper, seed=(1, 2, 3), stacked=stacked)
        for stacked in (True, False)
    ]
    for one, other in zip(*both, strict=True):
        assert (one.client, one.samples) == (other.client, other.samples)
        assert one.loss == pytest.approx(other.loss, abs=1e-9)
        for key, value in one.weights.items():
            np.testing.assert_allclose(value, other.weights[key], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "name, spanned", [("mlp", True), ("mlp", False), ("softmax", None), ("cnn", None)]
)
def test_clients_with_fewer_steps_stay_where_they_were_then(
    name: str, spanned: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither momentum nor decay moves who is done, and its loss is that of its own steps."""
    if spanned is not None:
        monkeypatch.setattr("evaluation.training.stacked._span_costs_less", lambda *_: spanned)
    model = made(name)
    start = to_arrays(model)
    hyper = Hyper(steps=6, batch_size=8, learning_rate=0.05, prox_mu=0.3, weight_decay=0.1)
    steps = [6, 1, 3, 4, 3]
    stacked = train(model, start, clients(), hyper, seed=(1, 2), steps=steps, stacked=True)
    for data, own, one in zip(clients(), steps, stacked, strict=True):
        [alone] = train(model, start, [data], replace(hyper, steps=own), seed=(1, 2), stacked=False)
        assert one.client == alone.client
        assert one.loss == pytest.approx(alone.loss, abs=1e-9)
        for key, value in alone.weights.items():
            np.testing.assert_allclose(one.weights[key], value, rtol=0, atol=1e-9)


@pytest.mark.parametrize("stacked", [True, False])
def test_all_steps_given_one_by_one_are_the_usual_training(stacked: bool) -> None:
    """Nothing depends on whether the numbers were said or left out."""
    model = made("mlp")
    start = to_arrays(model)
    usual = train(model, start, clients(), HYPER, seed=(1,), stacked=stacked)
    given = train(model, start, clients(), HYPER, seed=(1,), steps=[6] * 5, stacked=stacked)
    for one, other in zip(usual, given, strict=True):
        assert one.loss == other.loss
        assert all((value == other.weights[key]).all() for key, value in one.weights.items())


@pytest.mark.parametrize(
    "name, steps, batch_size",
    [("resnet18", 2, 4), ("mobilenet_v2", 1, 3), ("shufflenet_v2", 1, 3)],
)
def test_deep_models_agree_as_well(name: str, steps: int, batch_size: int) -> None:
    """Stride, shortcuts, depthwise and shuffled channels, group normalisation under vmap."""
    model = made(name)
    start = to_arrays(model)
    hyper = Hyper(steps=steps, batch_size=batch_size, learning_rate=0.01)
    both = [
        train(model, start, clients()[:2], hyper, seed=(1,), stacked=stacked)
        for stacked in (True, False)
    ]
    for one, other in zip(*both, strict=True):
        for key, value in one.weights.items():
            np.testing.assert_allclose(value, other.weights[key], rtol=0, atol=1e-5)
        assert any((one.weights[key] != value).any() for key, value in start.items())


@pytest.mark.parametrize("stacked", [True, False])
def test_a_client_starts_from_the_global_weights_whoever_trained_before_it(stacked: bool) -> None:
    """Fault F1: the original went on from the previous client's weights."""
    model = made("mlp")
    start = to_arrays(model)
    everybody = train(model, start, clients(), HYPER, seed=(5,), stacked=stacked)
    for data, in_company in zip(clients(), everybody, strict=True):
        [alone] = train(model, start, [data], HYPER, seed=(5,), stacked=stacked)
        for key, value in alone.weights.items():
            np.testing.assert_allclose(value, in_company.weights[key], rtol=0, atol=1e-9)


@pytest.mark.parametrize("stacked", [True, False])
def test_the_global_weights_stay_as_they_were(stacked: bool) -> None:
    """They are the caller's, and the next client's start."""
    model = made("softmax")
    start = to_arrays(model)
    kept = {key: value.copy() for key, value in start.items()}
    train(model, start, clients(), HYPER, seed=(5,), stacked=stacked)
    for key, value in kept.items():
        assert (start[key] == value).all()


@pytest.mark.parametrize("stacked", [True, False])
def test_the_proximal_term_keeps_clients_near_the_global_weights(stacked: bool) -> None:
    """Fault F5: the original's sign pushed them away."""
    model = made("mlp")
    start = to_arrays(model)

    def distance(mu: float) -> float:
        hyper = Hyper(steps=20, batch_size=8, learning_rate=0.05, momentum=0.0, prox_mu=mu)
        [_, update, *_] = train(model, start, clients(), hyper, seed=(5,), stacked=stacked)
        return sum(
            float(((value - start[key]) ** 2).sum()) for key, value in update.weights.items()
        )

    assert distance(5.0) < 0.7 * distance(0.0)


@pytest.mark.parametrize("stacked", [True, False])
def test_training_learns(stacked: bool) -> None:
    """The loss on a learnable task falls to a fraction."""
    random = np.random.default_rng(0)
    labels = random.integers(2, size=64)
    images = np.zeros((64, *SHAPE))
    images[:, 0, 0, 0] = labels
    data = [ClientData(0, torch.from_numpy(images), torch.from_numpy(labels))]
    model = made("softmax")
    losses = [
        train(
            model,
            to_arrays(made("softmax")),
            data,
            Hyper(steps=steps, batch_size=16, learning_rate=0.5, loss_decay=0.0),
            seed=(0,),
            stacked=stacked,
        )[0].loss
        for steps in (1, 60)
    ]
    assert losses[1] < 0.3 * losses[0]


def test_a_model_that_keeps_statistics_goes_one_after_the_other_and_returns_them() -> None:
    """Batch normalisation: never stacked, and the running means come back."""
    model = made("cnn", "batch")
    start = to_arrays(model)
    some = [data for data in clients() if len(data.labels) > 1]
    hyper = Hyper(steps=2, batch_size=20, learning_rate=0.05)
    updates = train(model, start, some, hyper, seed=(5,))
    names = [key for key in start if key.endswith("running_mean")]
    assert names
    assert all((updates[0].weights[key] != start[key]).any() for key in names)
    with pytest.raises(ModelError, match="cannot be stacked"):
        train(model, start, some, hyper, seed=(5,), stacked=True)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda w: w.pop("1.bias"), "differs in 1.bias"),
        (lambda w: w.update({"1.bias": np.zeros(5)}), r"1.bias: shape \(5,\)"),
        (lambda w: w.update({"1.bias": np.full(4, np.nan)}), "1.bias: not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(change: Any, says: str) -> None:
    """Before any training."""
    model = made("softmax")
    weights = to_arrays(model)
    change(weights)
    with pytest.raises(ModelError, match=says):
        load_arrays(model, weights)


@pytest.mark.parametrize("stacked", [True, False])
def test_the_loss_at_the_start_is_that_of_the_global_weights_on_all_samples(stacked: bool) -> None:
    """F_k(w^t) of softmax regression in NumPy; the moving loss is another number."""
    model = made("softmax")
    start = to_arrays(model)
    updates = train(
        model, start, clients(), replace(HYPER, start_loss=True), seed=(5,), stacked=stacked
    )
    matrix, bias = start["1.weight"], start["1.bias"]
    for data, update in zip(clients(), updates, strict=True):
        scores = data.images.flatten(1).numpy() @ matrix.T + bias
        right = scores[np.arange(len(scores)), data.labels.numpy()]
        by_hand = np.mean(np.log(np.exp(scores).sum(axis=1)) - right)
        assert update.start_loss == pytest.approx(by_hand, rel=1e-12)
        assert abs(update.loss - by_hand) > 1e-3
    plain = train(model, start, clients(), HYPER, seed=(5,), stacked=stacked)
    assert [update.start_loss for update in plain] == [None] * len(SIZES)
    for one, other in zip(plain, updates, strict=True):
        assert all((value == other.weights[key]).all() for key, value in one.weights.items())


@pytest.mark.parametrize("stacked", [True, False])
def test_a_client_that_diverges_disturbs_nobody_else(stacked: bool) -> None:
    """Its images are beyond all bounds; the others get the same bits as without it."""
    model = made("softmax")
    start = to_arrays(model)
    wild = ClientData(7, torch.full((4, *SHAPE), 1e200, dtype=torch.float64), torch.arange(4))
    usual = train(model, start, clients(), HYPER, seed=(5,), stacked=stacked)
    *others, gone = train(model, start, [*clients(), wild], HYPER, seed=(5,), stacked=stacked)
    assert (gone.client, gone.has_diverged, gone.samples) == (7, True, 4)
    for one, other in zip(usual, others, strict=True):
        assert not other.has_diverged
        for key, value in one.weights.items():
            np.testing.assert_allclose(value, other.weights[key], rtol=0, atol=1e-12)


def test_batches_go_through_all_samples_before_any_comes_again() -> None:
    """Each pass is a permutation, cut into batches, the last one smaller."""
    drawn = draw_batches(10, steps=6, batch_size=4, seed=(1,))
    passes = [
        drawn.index[first : first + 3][drawn.weight[first : first + 3] > 0] for first in (0, 3)
    ]
    for one in passes:
        assert sorted(one.tolist()) == list(range(10))
    assert drawn.weight.sum(axis=1).tolist() == [4, 4, 2] * 2
    assert (draw_batches(10, steps=6, batch_size=4, seed=(1,)).index == drawn.index).all()
    assert (draw_batches(10, steps=6, batch_size=4, seed=(2,)).index != drawn.index).any()
