"""From clients' updates to the next global weights: FedAvg, FedProx, FedYogi, q-FedAvg.

Weights are NumPy arrays by name, of any floating type; sums are made in float64 and in the order of
the clients' numbers, so the result does not depend on who finished first. Counters (integer arrays,
as the number of batches that a normalisation has seen) are not averaged: the largest is kept.
Running statistics of a batch normalisation (:func:`is_statistic`) are no parameters: every rule
takes their mean by samples, and steps only what has a gradient. (A step may leave a variance below
0, and its root is no number.)

Not here: training (:mod:`evaluation.training`).

>>> import numpy as np
>>> updates = [Update(0, {"w": np.array([1.0])}, 1, 0.5), Update(1, {"w": np.array([4.0])}, 2, 0.5)]
>>> FedAvg().step({"w": np.array([0.0])}, updates)["w"].tolist()
[3.0]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from propius.errors import PropiusError

__all__ = [
    "AGGREGATORS",
    "AggregationError",
    "Aggregator",
    "FedAvg",
    "FedYogi",
    "QFedAvg",
    "Update",
    "Weights",
    "is_statistic",
]

Weights: TypeAlias = Mapping[str, NDArray[Any]]
Sums: TypeAlias = dict[str, NDArray[np.float64]]

LOSS_MIN: Final = 1e-10
"""q-FedAvg takes powers of losses."""
STATISTICS: Final = frozenset({"running_mean", "running_var"})
"""What torch calls the floating buffers of a batch normalisation; no model here has others."""


class AggregationError(PropiusError):
    """Updates that cannot be aggregated; one line."""


@dataclass(frozen=True)
class Update:
    """What one client trained: its weights, its number of samples, the losses that it saw.

    ``loss`` is the moving mean while it trained; ``start_loss`` that of the global weights on all
    of its samples before, None where no rule asked for it (:attr:`Aggregator.wants_start_loss`).
    """

    client: int
    weights: Weights
    samples: int
    loss: float
    start_loss: float | None = None

    @classmethod
    def of_diverged(cls, client: int, samples: int) -> Update:
        """What comes of a training that ended in losses or weights that are no numbers."""
        return cls(client, {}, samples, 0.0)

    @property
    def has_diverged(self) -> bool:
        """Whether there is nothing to aggregate: it has no weights."""
        return not self.weights


class Aggregator(Protocol):
    """The server's rule; may keep state from round to round."""

    wants_start_loss: ClassVar[bool]
    """Whether its updates must have a ``start_loss``, which costs a pass over the samples."""

    def step(
        self,
        start: Weights,
        updates: Sequence[Update],
        *,
        learning_rate: float | None = None,
    ) -> dict[str, NDArray[Any]]:
        """The next global weights; raises :class:`AggregationError`.

        ``learning_rate`` is the one that the clients trained with in this round, for rules that
        depend on it; None: as the rule was made.
        """


@dataclass
class FedAvg:
    """The mean of the clients' weights by samples (McMahan et al. 2017, algorithm 1).

    FedProx (Li et al. 2020) has the same server; its proximal term is the clients'.
    """

    wants_start_loss: ClassVar[bool] = False

    def step(
        self,
        start: Weights,
        updates: Sequence[Update],
        *,
        learning_rate: float | None = None,
    ) -> dict[str, NDArray[Any]]:
        """See :class:`Aggregator`."""
        return _finish(start, updates, _mean(start, _checked(start, updates)))


@dataclass
class FedYogi:
    """An adaptive server step along the mean change (Reddi et al. 2021, algorithm 2).

    ``m ← β₁ m + (1 − β₁) Δ``, ``v ← v − (1 − β₂) Δ² sign(v − Δ²)``, ``w ← w + η m / (√v + τ)``,
    with ``v₀ = τ²``, for parameters; statistics take their mean.
    """

    wants_start_loss: ClassVar[bool] = False

    eta: float = 0.01
    tau: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.99
    _momentum: Sums = field(default_factory=dict)
    _second: Sums = field(default_factory=dict)

    def step(
        self,
        start: Weights,
        updates: Sequence[Update],
        *,
        learning_rate: float | None = None,
    ) -> dict[str, NDArray[Any]]:
        """See :class:`Aggregator`."""
        moved = _mean(start, _checked(start, updates))
        for name in _parameters(start):
            average = moved[name]
            base = start[name].astype(np.float64)
            change = average - base
            first = self._momentum.get(name, np.zeros_like(change))
            second = self._second.get(name, np.full_like(change, self.tau**2))
            first = self.beta1 * first + (1 - self.beta1) * change
            square = change**2
            second = second - (1 - self.beta2) * square * np.sign(second - square)
            self._momentum[name], self._second[name] = first, second
            moved[name] = base + self.eta * first / (np.sqrt(second) + self.tau)
        return _finish(start, updates, moved)


@dataclass
class QFedAvg:
    """Clients with larger losses count more (Li et al. 2020, "Fair resource allocation", alg. 2).

    With ``L = 1 / learning_rate``: ``Δₖ = L (w − wₖ)``, ``hₖ = q Fₖ^(q−1) ‖Δₖ‖² + L Fₖ^q``, and
    ``w ← w − Σ Fₖ^q Δₖ / Σ hₖ``. ``Fₖ`` is ``Fₖ(wᵗ)``, the loss of the round's global weights on
    the client's data. With ``q = 0`` it is the unweighted mean. A learning rate that decays makes
    ``L`` grow: ``wₖ`` was made with the rate of its round, and ``Δₖ`` stands for a gradient. All
    this is of parameters; statistics take their mean by samples.
    """

    wants_start_loss: ClassVar[bool] = True

    q: float = 1.0
    learning_rate: float = 0.05

    def step(
        self,
        start: Weights,
        updates: Sequence[Update],
        *,
        learning_rate: float | None = None,
    ) -> dict[str, NDArray[Any]]:
        """See :class:`Aggregator`."""
        chosen = _checked(start, updates)
        lipschitz = 1.0 / (self.learning_rate if learning_rate is None else learning_rate)
        total: Sums = {name: np.zeros(start[name].shape) for name in _parameters(start)}
        normalizer = 0.0
        for update in chosen:
            if update.start_loss is None:
                raise AggregationError(f"update of client {update.client}: no loss of its start")
            loss = max(update.start_loss, LOSS_MIN)
            change = {
                name: lipschitz * (start[name].astype(np.float64) - update.weights[name])
                for name in total
            }
            norm = sum(float((part**2).sum()) for part in change.values())
            normalizer += self.q * loss ** (self.q - 1) * norm + lipschitz * loss**self.q
            for name, part in change.items():
                total[name] += loss**self.q * part
        moved = _mean(start, chosen)
        moved |= {name: start[name] - part / normalizer for name, part in total.items()}
        return _finish(start, updates, moved)


AGGREGATORS: Final[dict[str, Callable[..., Aggregator]]] = {
    "fed-avg": FedAvg,
    "fed-prox": FedAvg,
    "fed-yogi": FedYogi,
    "q-fedavg": QFedAvg,
}
"""The ``gradient_policy`` of a job profile → its server rule."""


def is_statistic(name: str) -> bool:
    """Whether a floating array of this name is a running statistic, and no parameter.

    >>> is_statistic("1.running_var"), is_statistic("1.weight")
    (True, False)
    """
    return name.rpartition(".")[2] in STATISTICS


def _parameters(weights: Weights) -> list[str]:
    return [name for name in _floating(weights) if not is_statistic(name)]


def _floating(weights: Weights) -> list[str]:
    return [name for name, value in weights.items() if np.issubdtype(value.dtype, np.floating)]


def _checked(start: Weights, updates: Sequence[Update]) -> list[Update]:
    """The updates by client, once each."""
    if not updates:
        raise AggregationError("no updates to aggregate")
    ordered = sorted(updates, key=lambda update: update.client)
    for one, other in pairwise(ordered):
        if one.client == other.client:
            raise AggregationError(f"client {one.client} is there twice")
    for update in ordered:
        _check(start, update)
    return ordered


def _check(start: Weights, update: Update) -> None:
    who = f"update of client {update.client}"
    if update.samples < 1:
        raise AggregationError(f"{who}: {update.samples} samples")
    if not np.isfinite(update.loss) or update.loss < 0:
        raise AggregationError(f"{who}: its loss is {update.loss}")
    first = update.start_loss
    if first is not None and (not np.isfinite(first) or first < 0):
        raise AggregationError(f"{who}: its loss at the start is {first}")
    if update.weights.keys() != start.keys():
        names = ", ".join(sorted(update.weights.keys() ^ start.keys())[:5])
        raise AggregationError(f"{who}: of another model; it differs in {names}")
    for name, value in update.weights.items():
        if value.shape != start[name].shape:
            raise AggregationError(f"{who}: {name} is {value.shape}, not {start[name].shape}")
        if not np.isfinite(value).all():
            raise AggregationError(f"{who}: {name} is not finite")


def _mean(start: Weights, updates: Sequence[Update]) -> Sums:
    total = sum(update.samples for update in updates)
    means: Sums = {}
    for name in _floating(start):
        value = np.zeros(start[name].shape)
        for update in updates:
            value += update.weights[name].astype(np.float64) * (update.samples / total)
        means[name] = value
    return means


def _finish(
    start: Weights, updates: Sequence[Update], moved: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """All names, each in its own type."""
    result: dict[str, NDArray[Any]] = {}
    for name, before in start.items():
        if name in moved:
            result[name] = moved[name].astype(before.dtype)
        else:
            result[name] = np.maximum.reduce([update.weights[name] for update in updates])
    return result
