"""Many clients' local training at once, on one device.

The clients' weights are tensors with a leading dimension of clients. One forward pass under
``torch.func.vmap`` and one backward pass of the sum of all losses do a step of every client: a
client's loss depends on no other's weights, so the sum's gradient is each one's own.

A linear first layer may be kept *in the span of the samples* instead. Gradient descent changes its
weights by outer products of errors and samples, so that after any number of steps a client's are

    W = kept · W₀ + coefficientsᵀ · X

with one coefficient for each of its samples ``X`` and each output. Momentum, weight decay and the
proximal term are linear and keep this form. With ``X·W₀ᵀ`` and ``X·Xᵀ`` made once, a step reads and
writes (samples × outputs) numbers where it would have (inputs × outputs): an eighth, for images of
28 × 28 and a client of 100 samples. It is the same training, to rounding.

Clients may have different numbers of steps. Whoever has done its own is stepped on with the others,
which costs nothing that a stack would not cost, and gets back what it had.

Not here: which samples (:mod:`evaluation.training.batches`); clients one after the other, and what
a step is (:mod:`evaluation.training.local`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy

from evaluation.training.batches import Batches
from evaluation.training.specs import Hyper

__all__ = ["Tensors", "train_stack"]

Tensors: TypeAlias = dict[str, Tensor]

STEP_COST: Final = 20
"""Of stepping one weight, in multiplications of a matrix product: it comes from memory."""
NARROW: Final = 16
"""So many more outputs would cost nothing: what a product reads comes from memory as well."""


def train_stack(
    model: nn.Module,
    data: Sequence[tuple[Tensor, Tensor]],
    batches: Sequence[Batches],
    hyper: Hyper,
    *,
    spanned: bool | None = None,
) -> tuple[Tensors, Tensor]:
    """Train a client for each (images, labels) from the model's weights, which stay as they are.

    Returns the clients' weights by name, with a leading dimension of clients, and their losses, as
    (steps, clients), of which only those of a client's own steps say anything. ``spanned``: whether
    to keep the first layer in the span of the samples; None does so where it costs less.
    """
    model.train()
    samples = _Samples.of(data, batches)
    stack: _Stack
    parts = _first_layer(model)
    if parts and (_span_costs_less(parts[0], samples) if spanned is None else spanned):
        stack = _Spanned(*parts, samples)
    else:
        stack = _Whole(model, samples)
    optimizer = torch.optim.SGD(
        list(stack.values.values()),
        lr=hyper.learning_rate,
        momentum=hyper.momentum,
        weight_decay=hyper.weight_decay,
        fused=True,  # one pass over the weights: they are many, and the memory is slow
    )
    own_steps = [len(drawn.index) for drawn in batches]
    most, losses, done = max(own_steps), [], _Done(stack.values)
    for step in range(most):
        gradients, loss = stack.gradients(step)
        losses.append(loss)
        for name, value in stack.values.items():
            if hyper.prox_mu:
                gradients[name].add_(value.detach() - stack.start[name], alpha=hyper.prox_mu)
            value.grad = gradients[name]
        optimizer.step()
        if step + 1 < most:
            done.keep([place for place, own in enumerate(own_steps) if own == step + 1])
    done.put_back()
    return stack.weights(), torch.stack(losses)


class _Done:
    """What those clients had who have done all of their steps before the others."""

    def __init__(self, values: Tensors) -> None:
        self._values = values
        self._kept: list[tuple[Tensor, Tensors]] = []

    def keep(self, places: Sequence[int]) -> None:
        """These clients have done their last step now."""
        if places:
            device = next(iter(self._values.values())).device
            at = torch.tensor(places, device=device)
            mine = {name: value.detach()[at] for name, value in self._values.items()}
            self._kept.append((at, mine))

    def put_back(self) -> None:
        """They have what they had then."""
        with torch.no_grad():
            for at, mine in self._kept:
                for name, value in mine.items():
                    self._values[name][at] = value


@dataclass(frozen=True)
class _Samples:
    """Each client's images; all their labels as one tensor, so that a step's are one gather.

    ``index`` are each client's batches as places in its own images, (steps, batch); ``places``
    (clients, steps, batch) are the same as places in ``labels``; ``counts``, of that shape, is 0
    for what only fills a batch up. Who has fewer steps than others has its batches again for the
    rest.
    """

    images: Sequence[Tensor]
    labels: Tensor
    index: Sequence[NDArray[np.int64]]
    places: Tensor
    counts: Tensor

    @classmethod
    def of(cls, data: Sequence[tuple[Tensor, Tensor]], batches: Sequence[Batches]) -> _Samples:
        images = [own for own, _ in data]
        labels = torch.cat([own for _, own in data])
        offsets = np.cumsum([0] + [len(own) for own in images[:-1]])
        shape = max((drawn.index.shape for drawn in batches), key=lambda size: size[0])
        index = [np.resize(drawn.index, shape) for drawn in batches]
        places = np.stack(index) + offsets[:, None, None]
        counts = torch.from_numpy(np.stack([np.resize(drawn.weight, shape) for drawn in batches]))
        return cls(
            images,
            labels,
            index,
            torch.from_numpy(places).to(labels.device),
            counts.to(device=labels.device, dtype=images[0].dtype),
        )

    @cached_property
    def used(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Of each client the samples that its batches name, and the batches as rows of these."""
        found = [np.unique(own, return_inverse=True) for own in self.index]
        return [
            (mine, rows.reshape(own.shape))
            for (mine, rows), own in zip(found, self.index, strict=True)
        ]

    @cached_property
    def most(self) -> int:
        """So many samples the client uses that uses most."""
        return max(len(mine) for mine, _ in self.used)


class _Stack(Protocol):
    """What is stepped: ``values`` by name, with a leading dimension of clients.

    ``start`` is where each client began, without that dimension.
    """

    values: Tensors
    start: Tensors

    def gradients(self, step: int) -> tuple[Tensors, Tensor]:
        """Of ``values``, and the losses by client."""

    def weights(self) -> Tensors:
        """The model's, by name and client."""


class _Network:
    """A network's weights for each client, and their losses.

    Matrices lie transposed, as (inputs, outputs): that is how their gradients come, and a step need
    not copy them.
    """

    def __init__(self, network: nn.Module, clients: int) -> None:
        parameters = dict(network.named_parameters())
        self._matrices = {name for name, value in parameters.items() if value.ndim == 2}
        self.start = {name: value.detach() for name, value in parameters.items()}
        self.start |= {name: self.start[name].mT for name in self._matrices}
        self.values = {
            name: value.unsqueeze(0).repeat(clients, *(1 for _ in value.shape)).requires_grad_()
            for name, value in self.start.items()
        }

        def loss_of(weights: Tensors, inputs: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
            output = functional_call(network, weights, (inputs,))
            each = cross_entropy(output, labels, reduction="none")
            return (each * counts).sum() / counts.sum()

        self._losses = vmap(loss_of, randomness="error")

    def losses(self, inputs: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
        """By client; all arguments are by client."""
        losses: Tensor = self._losses(self._as_the_network_has_them(), inputs, labels, counts)
        return losses

    def weights(self) -> Tensors:
        """By name and client."""
        return {name: value.detach() for name, value in self._as_the_network_has_them().items()}

    def _as_the_network_has_them(self) -> Tensors:
        return {
            name: value.mT if name in self._matrices else value
            for name, value in self.values.items()
        }


class _Whole:
    """Every weight is stepped."""

    def __init__(self, model: nn.Module, samples: _Samples) -> None:
        self._samples, self._images = samples, torch.cat(list(samples.images))
        self._network = _Network(model, len(samples.places))
        self.values, self.start = self._network.values, self._network.start

    def gradients(self, step: int) -> tuple[Tensors, Tensor]:
        samples = self._samples
        at = samples.places[:, step]
        losses = self._network.losses(self._images[at], samples.labels[at], samples.counts[:, step])
        found = torch.autograd.grad(losses.sum(), list(self.values.values()))
        return dict(zip(self.values, found, strict=True)), losses.detach()

    def weights(self) -> Tensors:
        return self._network.weights()


class _Spanned:
    """The first layer is in the span of the samples, the others' weights are stepped.

    ``products`` (X·Xᵀ) and ``initial`` (X·W₀ᵀ) have a row for each sample of each client; ``rows``
    (clients, steps, batch) says which are a batch's.
    """

    def __init__(self, layer: nn.Linear, rest: nn.Module, samples: _Samples) -> None:
        self._images, self._rows = _own_samples(samples)
        clients, most = len(self._images), samples.most
        outputs = layer.out_features
        self._samples, self._first = samples, layer
        self._rest = _Network(rest, clients)
        blank = self._images[0].new_zeros
        self._products = blank((clients, most, most))
        self._initial = blank((clients, most, outputs))
        with torch.no_grad():  # one client after the other: no copy, and each fits a cache
            for client, images in enumerate(self._images):
                count = len(images)
                self._products[client, :count, :count] = images @ images.mT
                self._initial[client, :count] = images @ layer.weight.mT
        self._products, self._initial = self._products.flatten(0, 1), self._initial.flatten(0, 1)
        self._kept = blank((clients, 1, 1)) + 1
        self._coefficients = blank((clients, most, outputs))
        self._touched = torch.zeros_like(self._coefficients)  # its gradient, at each step
        self._bias = layer.bias.detach().repeat(clients, 1, 1)
        span = {
            "span.kept": self._kept,
            "span.coefficients": self._coefficients,
            "span.bias": self._bias,
        }
        self.values = span | self._rest.values
        self.start = {name: value[0].clone() for name, value in span.items()} | self._rest.start

    def gradients(self, step: int) -> tuple[Tensors, Tensor]:
        samples, rows = self._samples, self._rows[:, step]
        at = samples.places[:, step]
        here = torch.addcmul(self._bias, self._initial[rows], self._kept)
        here = torch.baddbmm(here, self._products[rows], self._coefficients)
        here.requires_grad_()  # (clients, batch, outputs)
        losses = self._rest.losses(here, samples.labels[at], samples.counts[:, step])
        rest = self._rest.values
        errors, *found = torch.autograd.grad(losses.sum(), [here, *rest.values()])
        touched = self._touched.zero_()
        touched.flatten(0, 1).index_add_(0, rows.flatten(), errors.flatten(0, 1))
        gradients = {
            "span.kept": torch.zeros_like(self._kept),
            "span.coefficients": touched,
            "span.bias": errors.sum(1, keepdim=True),
        }
        return gradients | dict(zip(rest, found, strict=True)), losses.detach()

    def weights(self) -> Tensors:
        start, kept = self._first.weight.detach(), self._kept.flatten().tolist()
        first = start.new_empty((len(kept), *start.shape))
        for client, images in enumerate(self._images):
            mine = self._coefficients[client, : len(images)]
            torch.addmm(start, mine.mT, images, beta=kept[client], out=first[client])
        return self._rest.weights() | {"1.weight": first, "1.bias": self._bias.squeeze(1)}


def _first_layer(model: nn.Module) -> tuple[nn.Linear, nn.Module] | None:
    """The layer that may be spanned, and what follows it, if the model begins with one."""
    if not isinstance(model, nn.Sequential) or len(model) < 2:
        return None
    flatten, layer = model[0], model[1]
    if isinstance(flatten, nn.Flatten) and isinstance(layer, nn.Linear) and layer.bias is not None:
        return layer, model[2:]
    return None


def _own_samples(samples: _Samples) -> tuple[list[Tensor], Tensor]:
    """The images that each client trains on, (samples, inputs), and the batches as rows of these.

    A client's rows begin at its number times those of the client that has most.
    """
    device = samples.places.device
    own, places = [], []
    for client, (mine, rows) in enumerate(samples.used):
        images = samples.images[client].flatten(1)
        if len(mine) < len(images):
            images = images[torch.from_numpy(mine).to(device)]
        own.append(images)
        places.append(rows + client * samples.most)
    return own, torch.from_numpy(np.stack(places)).to(device)


def _span_costs_less(layer: nn.Linear, samples: _Samples) -> bool:
    """By the multiplications of both ways for one client, roughly."""
    _, steps, batch = samples.places.shape
    inputs, outputs = layer.in_features, layer.out_features
    most = samples.most
    once = most * inputs * (most + 2 * outputs)
    in_span = once + steps * (batch + STEP_COST) * most * (outputs + NARROW)
    return in_span < steps * (2 * batch + STEP_COST) * inputs * (outputs + NARROW)
