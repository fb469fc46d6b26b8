"""Local training: each client starts from the round's global weights, on its own samples.

``train`` gives the same result (to rounding) whether clients are stacked
(:mod:`evaluation.training.stacked`) or train one after the other. On small models the cost of a
step is that of starting its operations, so 32 stacked clients cost little more than one. A model
that keeps running statistics (batch normalisation) is always trained one client after the other.

A client that diverges has a result without weights (:meth:`Update.of_diverged`): its loss or one of
its weights is no finite number, or its loss is above ``LOSS_MAX``. It disturbs nobody else.

A step is SGD with momentum on the mean cross-entropy of the batch, with weight decay and, for
FedProx (Li et al. 2020, eq. 2), the gradient of ``mu / 2 · ‖w − w_global‖²``, which pulls towards
the global weights.

Not here: which samples (:mod:`evaluation.training.batches`), and what becomes of the results
(:mod:`evaluation.aggregators`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from evaluation.aggregators import Update
from evaluation.training.batches import Batches, draw_batches
from evaluation.training.models import keeps_statistics
from evaluation.training.scoring import score
from evaluation.training.specs import COPIES, LOSS_MAX, Hyper, ModelError
from evaluation.training.stacked import Tensors, train_stack

__all__ = [
    "Arrays",
    "ClientData",
    "Hyper",
    "load_arrays",
    "to_arrays",
    "train",
]

Arrays: TypeAlias = dict[str, NDArray[np.generic]]
"""Weights (and buffers) by name, as of ``state_dict``."""

STACK_BYTES_MAX: Final = 1 << 30
"""Of weights, gradients and momenta of the clients that are stacked at once."""


@dataclass(frozen=True)
class ClientData:
    """One client's samples: images (n, channels, height, width) and labels (n,)."""

    client: int
    images: Tensor
    labels: Tensor


def train(
    model: nn.Module,
    global_weights: Mapping[str, NDArray[np.generic]],
    clients: Sequence[ClientData],
    hyper: Hyper,
    *,
    seed: tuple[int, ...],
    steps: Sequence[int] | None = None,
    stacked: bool | None = None,
) -> list[Update]:
    """Train every client from ``global_weights``; updates in the order of ``clients``.

    ``model`` gives the structure, the device and the dtype; its own weights are overwritten.
    ``seed`` (run, job, round) and the client's number make its draws. ``steps``: how many each
    client does, None: ``hyper.steps``. ``stacked``: None stacks where the model allows it. Raises
    :class:`ModelError` if weights and model do not fit, or if stacking is demanded of a model that
    keeps statistics.
    """
    load_arrays(model, global_weights)
    stackable = not keeps_statistics(model)
    if stacked and not stackable:
        raise ModelError("a model that keeps running statistics cannot be stacked")
    batches = [
        draw_batches(
            len(data.labels),
            steps=own,
            batch_size=hyper.batch_size,
            seed=(*seed, data.client),
        )
        for data, own in zip(clients, steps or [hyper.steps] * len(clients), strict=True)
    ]
    starts = [_start_loss(model, data) if hyper.start_loss else None for data in clients]
    if stackable if stacked is None else stacked:
        updates = list(_train_stacked(model, clients, batches, hyper))
    else:
        start = {name: value.clone() for name, value in model.state_dict().items()}
        updates = [
            _train_one(model, start, data, drawn, hyper)
            for data, drawn in zip(clients, batches, strict=True)
        ]
    return [
        _usable(replace(update, start_loss=loss))
        for update, loss in zip(updates, starts, strict=True)
    ]


def _start_loss(model: nn.Module, data: ClientData) -> float:
    """``Fₖ(wᵗ)``: the mean loss of the weights that the model has, on all samples of the client."""
    return score(model, data.images, data.labels).loss


def _usable(update: Update) -> Update:
    """The update, or that of a client that diverged."""
    losses = (update.loss, 0.0 if update.start_loss is None else update.start_loss)
    if all(loss <= LOSS_MAX for loss in losses) and all(
        np.isfinite(value).all() for value in update.weights.values()
    ):
        return update
    return Update.of_diverged(update.client, update.samples)


# --- weights -------------------------------------------------------------------------------------


def to_arrays(model: nn.Module) -> Arrays:
    """A copy of the model's weights and buffers."""
    return {name: _to_array(value) for name, value in model.state_dict().items()}


def load_arrays(model: nn.Module, weights: Mapping[str, NDArray[np.generic]]) -> None:
    """Set the model's weights and buffers; raises :class:`ModelError` where they do not fit."""
    own = model.state_dict()
    if own.keys() != weights.keys():
        names = ", ".join(sorted(own.keys() ^ weights.keys())[:5])
        raise ModelError(f"these weights are of another model; it differs in {names}")
    for name, value in weights.items():
        if tuple(value.shape) != tuple(own[name].shape):
            raise ModelError(
                f"weights of {name}: shape {tuple(value.shape)}, the model has "
                f"{tuple(own[name].shape)}"
            )
        if not np.isfinite(value).all():
            raise ModelError(f"weights of {name}: not finite")
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(torch.from_numpy(np.array(value)))


def _to_array(value: Tensor) -> NDArray[np.generic]:
    array: NDArray[np.generic] = value.detach().cpu().numpy().copy()
    return array


# --- one after the other -------------------------------------------------------------------------


def _train_one(
    model: nn.Module, start: Tensors, data: ClientData, batches: Batches, hyper: Hyper
) -> Update:
    model.load_state_dict(start)
    model.train()
    parameters = list(model.parameters())
    anchors = [start[name] for name, _ in model.named_parameters()]
    optimizer = torch.optim.SGD(
        parameters,
        lr=hyper.learning_rate,
        momentum=hyper.momentum,
        weight_decay=hyper.weight_decay,
    )
    losses = []
    for index, weight in zip(batches.index, batches.weight, strict=True):
        chosen = torch.from_numpy(index[weight > 0]).to(data.labels.device)
        optimizer.zero_grad()
        loss = cross_entropy(model(data.images[chosen]), data.labels[chosen])
        losses.append(loss.detach())
        loss.backward()  # type: ignore[no-untyped-call]
        if hyper.prox_mu:
            for value, anchor in zip(parameters, anchors, strict=True):
                assert value.grad is not None
                value.grad.add_(value.detach() - anchor, alpha=hyper.prox_mu)
        optimizer.step()
    moving = _moving(torch.stack(losses).tolist(), hyper)
    return Update(data.client, to_arrays(model), len(data.labels), moving)


def _moving(losses: Sequence[float], hyper: Hyper) -> float:
    average = losses[0]
    for loss in losses[1:]:
        average = hyper.loss_decay * average + (1 - hyper.loss_decay) * loss
    return average


# --- many at once --------------------------------------------------------------------------------


def _train_stacked(
    model: nn.Module, clients: Sequence[ClientData], batches: Sequence[Batches], hyper: Hyper
) -> Iterator[Update]:
    size = sum(value.numel() * value.element_size() for value in model.parameters())
    together = max(1, STACK_BYTES_MAX // (COPIES * size))
    for first in range(0, len(clients), together):
        part = slice(first, first + together)
        yield from _train_stack(model, clients[part], batches[part], hyper)


def _train_stack(
    model: nn.Module, clients: Sequence[ClientData], batches: Sequence[Batches], hyper: Hyper
) -> Iterator[Update]:
    data = [(own.images, own.labels) for own in clients]
    weights, losses = train_stack(model, data, batches, hyper)
    of_step = losses.cpu().tolist()  # (steps, clients)
    arrays = {name: value.cpu().contiguous().numpy() for name, value in weights.items()}
    for place, (own, drawn) in enumerate(zip(clients, batches, strict=True)):
        mine = {name: value[place] for name, value in arrays.items()}
        moving = _moving([row[place] for row in of_step[: len(drawn.index)]], hyper)
        yield Update(own.client, mine, len(own.labels), moving)
