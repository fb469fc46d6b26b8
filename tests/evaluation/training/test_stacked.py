"""Stacks of clients: in both forms of the first layer, what one client after the other gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evaluation.training import stacked
from evaluation.training.batches import draw_batches
from evaluation.training.local import ClientData, Hyper, to_arrays, train
from evaluation.training.models import ModelSpec, build
from evaluation.training.stacked import train_stack

SHAPE = (1, 12, 12)
SIZES = (3, 50, 7, 20, 1)  # fewer than a batch, several batches, one sample


def clients() -> list[ClientData]:
    random = torch.Generator().manual_seed(1)
    return [
        ClientData(
            client=10 * number,
            images=torch.rand((size, *SHAPE), generator=random, dtype=torch.float64),
            labels=torch.randint(4, (size,), generator=random),
        )
        for number, size in enumerate(SIZES)
    ]


def made(name: str) -> torch.nn.Module:
    torch.manual_seed(2)
    return build(ModelSpec(name, SHAPE, 4), dtype=torch.float64)


HYPERS = {
    "plain": Hyper(steps=7, batch_size=8, momentum=0.0, weight_decay=0.0),
    "momentum and decay": Hyper(steps=7, batch_size=8, momentum=0.9, weight_decay=0.1),
    "proximal": Hyper(steps=7, batch_size=8, weight_decay=0.1, prox_mu=0.3),
}


@pytest.mark.parametrize("what", HYPERS)
@pytest.mark.parametrize("spanned", [True, False])
@pytest.mark.parametrize("name", ["softmax", "mlp"])
def test_both_forms_of_the_first_layer_train_as_one_client_after_the_other(
    name: str, spanned: bool, what: str
) -> None:
    """To 1e-10 in float64, losses and weights, for clients of very different sizes."""
    model, hyper = made(name), HYPERS[what]
    start, own = to_arrays(model), clients()
    expected = train(model, start, own, hyper, seed=(1,), stacked=False)
    model.load_state_dict({key: torch.from_numpy(value) for key, value in start.items()})
    batches = [
        draw_batches(len(data.labels), steps=7, batch_size=8, seed=(1, data.client)) for data in own
    ]
    weights, losses = train_stack(
        model, [(data.images, data.labels) for data in own], batches, hyper, spanned=spanned
    )
    assert losses.shape == (7, len(own))
    for place, update in enumerate(expected):
        assert weights.keys() == update.weights.keys()
        for key, value in update.weights.items():
            np.testing.assert_allclose(weights[key][place].numpy(), value, rtol=0, atol=1e-10)
        average = losses[0, place]
        for loss in losses[1:, place]:
            average = hyper.loss_decay * average + (1 - hyper.loss_decay) * loss
        assert float(average) == pytest.approx(update.loss, abs=1e-10)


def form_of(
    name: str, side: int, *, samples: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Which form a training of two such clients takes."""
    taken = []
    for form in ("_Whole", "_Spanned"):
        own = getattr(stacked, form)

        def noted(*arguments: object, form: str = form, own: type = own) -> object:
            taken.append(form)
            return own(*arguments)

        monkeypatch.setattr(stacked, form, noted)
    model = build(ModelSpec(name, (1, side, side), 10))
    own = [
        ClientData(client, torch.rand(samples, 1, side, side), torch.randint(10, (samples,)))
        for client in range(2)
    ]
    hyper = Hyper(steps=steps, batch_size=20)
    train(model, to_arrays(model), own, hyper, seed=(0,), stacked=True)
    [form] = taken
    return form


@pytest.mark.parametrize(
    "name, side, samples, steps, form",
    [
        ("mlp", 28, 100, 10, "_Spanned"),  # few samples, many pixels
        ("mlp", 8, 300, 15, "_Whole"),  # few pixels, many samples
        ("mlp", 28, 2_000, 100, "_Whole"),
        ("softmax", 28, 100, 20, "_Spanned"),
        ("cnn", 8, 10, 2, "_Whole"),  # begins with no linear layer
    ],
)
def test_the_first_layer_is_spanned_where_that_costs_less(
    name: str,
    side: int,
    samples: int,
    steps: int,
    form: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a client's samples are far fewer than the pixels, and it goes through them often."""
    taken = form_of(name, side, samples=samples, steps=steps, monkeypatch=monkeypatch)
    assert taken == form
