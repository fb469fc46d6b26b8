"""Server rules: by hand, in any order, and with updates that must not be taken."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from evaluation.aggregators import (
    AGGREGATORS,
    AggregationError,
    FedAvg,
    FedYogi,
    QFedAvg,
    Update,
)

START = {"w": np.array([1.0, 2.0]), "b": np.array(0.5)}


def update(client: int, shift: float, samples: int = 1, loss: float = 1.0) -> Update:
    """``loss`` is that of the start; while it trained it saw another one, which no rule reads."""
    weights = {name: value + shift for name, value in START.items()}
    return Update(client, weights, samples, 0.77, loss)


def test_fedavg_weighs_clients_by_their_samples() -> None:
    """Fault F7: the mean was unweighted. By hand: shifts 1, 4 with 1, 2 samples give 3."""
    mean = FedAvg().step(START, [update(0, 1.0, 1), update(1, 4.0, 2)])
    assert mean["w"] == pytest.approx([4.0, 5.0])
    assert mean["b"] == pytest.approx(3.5)


@pytest.mark.parametrize("name", sorted(AGGREGATORS))
def test_the_order_in_which_clients_finish_changes_no_bit(name: str) -> None:
    """Every rule, every order of four clients."""
    random = np.random.default_rng(1)
    updates = [
        Update(
            client,
            {key: value + random.normal(size=value.shape) for key, value in START.items()},
            int(random.integers(1, 50)),
            float(random.random()),
            float(random.random()),
        )
        for client in range(4)
    ]
    results = [AGGREGATORS[name]().step(START, order) for order in itertools.permutations(updates)]
    for result in results[1:]:
        for key in START:
            assert (result[key] == results[0][key]).all()


def test_fedyogi_moves_as_worked_by_hand() -> None:
    """Two rounds with a change of 1: η = 1, τ = 0.5, β₁ = 0, β₂ = 0.5."""
    yogi = FedYogi(eta=1.0, tau=0.5, beta1=0.0, beta2=0.5)
    start = {"w": np.array([0.0])}
    # v = 0.25 − 0.5 · 1 · sign(0.25 − 1) = 0.75
    first = yogi.step(start, [Update(0, {"w": np.array([1.0])}, 1, 1.0)])
    assert first["w"][0] == pytest.approx(1 / (0.75**0.5 + 0.5))
    # v = 0.75 − 0.5 · 1 · sign(0.75 − 1) = 1.25
    second = yogi.step(start, [Update(0, {"w": np.array([1.0])}, 1, 1.0)])
    assert second["w"][0] == pytest.approx(1 / (1.25**0.5 + 0.5))


def test_q_zero_is_the_unweighted_mean() -> None:
    """The paper's limit case, whatever losses and samples are."""
    updates = [update(0, 1.0, 100, 9.0), update(1, 3.0, 1, 0.1)]
    assert QFedAvg(q=0.0).step(START, updates)["w"] == pytest.approx(START["w"] + 2.0)


def test_q_fedavg_moves_as_worked_by_hand() -> None:
    """Two clients, q = 1, L = 1/0.5 = 2, as in algorithm 2 of Li et al. 2020.

    Δ₀ = 2·([1, 2] − [0, 1]) = [2, 2], ‖Δ₀‖² = 8, F₀ = 0.5: h₀ = 1·0.5⁰·8 + 2·0.5 = 9.
    Δ₁ = 2·([1, 2] − [2, 2]) = [−2, 0], ‖Δ₁‖² = 4, F₁ = 2: h₁ = 1·2⁰·4 + 2·2 = 8.
    Σ F Δ = [1, 1] + [−4, 0] = [−3, 1], so w = [1, 2] − [−3, 1] / 17.
    """
    start = {"w": np.array([1.0, 2.0])}
    updates = [
        Update(0, {"w": np.array([0.0, 1.0])}, 10, 7.0, 0.5),
        Update(1, {"w": np.array([2.0, 2.0])}, 90, 7.0, 2.0),
    ]
    moved = QFedAvg(q=1.0, learning_rate=0.5).step(start, updates)
    assert moved["w"] == pytest.approx([1 + 3 / 17, 2 - 1 / 17], rel=0, abs=1e-12)


def test_a_larger_q_leans_towards_the_client_with_the_larger_loss() -> None:
    """Two clients pull to opposite sides; the unhappy one wins."""
    updates = [update(0, 1.0, loss=2.0), update(1, -1.0, loss=0.5)]
    moved = [float(QFedAvg(q=q).step(START, updates)["b"]) - 0.5 for q in (0.0, 1.0)]
    assert moved[0] == pytest.approx(0.0, abs=1e-12)
    assert moved[1] > 0.01


def test_counters_are_not_averaged_and_types_stay() -> None:
    """Fault F7: counters were averaged. The largest is kept; a float32 model stays one."""
    start = {"w": np.zeros(2, dtype=np.float32), "seen": np.array(3)}
    updates = [
        Update(client, {"w": np.full(2, client, dtype=np.float32), "seen": np.array(seen)}, 1, 0.1)
        for client, seen in ((0, 7), (1, 5))
    ]
    result = FedAvg().step(start, updates)
    assert result["w"].dtype == np.float32
    assert result["w"].tolist() == [0.5, 0.5]
    assert result["seen"] == 7


@pytest.mark.parametrize(
    "change, says",
    [
        ({"samples": 0}, "0 samples"),
        ({"loss": float("nan")}, "loss is nan"),
        ({"loss": -1.0}, "loss is -1"),
        ({"start_loss": float("inf")}, "loss at the start is inf"),
        ({"weights": {"w": np.array([1.0, np.nan]), "b": np.array(0.0)}}, "w is not finite"),
        ({"weights": {"w": np.zeros(3), "b": np.array(0.0)}}, r"w is \(3,\)"),
        ({"weights": {"w": np.zeros(2)}}, "differs in b"),
    ],
)
def test_a_broken_update_is_refused_with_the_client_and_what_is_wrong(
    change: dict[str, Any], says: str
) -> None:
    """One line; nothing is aggregated."""
    values: dict[str, Any] = {"client": 3, "weights": START, "samples": 1, "loss": 0.5}
    with pytest.raises(AggregationError, match=f"update of client 3: .*{says}"):
        FedAvg().step(START, [update(0, 1.0), Update(**(values | change))])


def test_no_update_and_the_same_client_twice_are_refused() -> None:
    """Fault F7: no result at all was a crash. It has no mean; and nobody counts twice."""
    with pytest.raises(AggregationError, match="no updates"):
        FedAvg().step(START, [])
    with pytest.raises(AggregationError, match="client 1 is there twice"):
        FedAvg().step(START, [update(1, 0.0), update(1, 1.0)])


STATISTICS = {
    "0.weight": np.array([1.0, -1.0]),
    "1.running_mean": np.array([0.0, 2.0]),
    "1.running_var": np.array([0.001, 0.002]),
    "1.num_batches_tracked": np.array(4),
}


def with_statistics(client: int, samples: int, shift: float) -> Update:
    weights = {
        name: value + (1 if value.dtype == np.int64 else shift)
        for name, value in STATISTICS.items()
    }
    return Update(client, weights, samples, 1.0, 1.5)


@pytest.mark.parametrize("name", sorted(AGGREGATORS))
def test_running_statistics_are_averaged_under_every_rule(name: str) -> None:
    """No rule steps what has no gradient; FedYogi's step made variances negative by round 37.

    In NumPy: shifts −0.0004 and −0.0001 of 1 and 3 samples are −0.000175; the rule's own state is
    that of forty rounds of falling variances.
    """
    rule = AGGREGATORS[name]()
    start = dict(STATISTICS)
    for _ in range(40):
        updates = [
            Update(client, start | {
                "0.weight": start["0.weight"] + 0.01,
                "1.running_var": start["1.running_var"] * share,
            }, samples, 1.0, 1.5)
            for client, samples, share in ((0, 1, 0.9), (1, 3, 0.7))
        ]  # fmt: skip
        after = rule.step(start, updates)
        assert after["1.running_var"] == pytest.approx(
            start["1.running_var"] * 0.9 / 4 + start["1.running_var"] * 0.7 * 3 / 4, rel=1e-12
        )
        assert (after["1.running_var"] > 0).all()
        start = after
    moved = rule.step(STATISTICS, [with_statistics(0, 1, -4e-4), with_statistics(1, 3, -1e-4)])
    assert moved["1.running_mean"] == pytest.approx(STATISTICS["1.running_mean"] - 1.75e-4)
    assert moved["1.num_batches_tracked"] == 5


def test_statistics_are_no_part_of_the_norm_of_q_fedavg() -> None:
    """By hand, q = 1, L = 2: Δ = −0.02 twice, ‖Δ‖² = 8e-4, F = 1.5: h = 8e-4 + 3."""
    weights = {
        "0.weight": STATISTICS["0.weight"] + 0.01,
        "1.running_mean": STATISTICS["1.running_mean"] + 100.0,
    }
    start = {name: STATISTICS[name] for name in weights}
    moved = QFedAvg(q=1.0, learning_rate=0.5).step(start, [Update(0, weights, 1, 1.0, 1.5)])
    step = 1.5 * 0.02 / (8e-4 + 3.0)
    assert moved["0.weight"] == pytest.approx(start["0.weight"] + step, rel=1e-12)
    assert moved["1.running_mean"] == pytest.approx(weights["1.running_mean"])


def test_q_fedavg_refuses_an_update_without_the_loss_of_its_start() -> None:
    """The loss while it trained is another one, and takes its place nowhere."""
    with pytest.raises(AggregationError, match="client 3: no loss of its start"):
        QFedAvg().step(START, [Update(3, START, 1, 0.5)])
