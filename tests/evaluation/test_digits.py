from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from evaluation.digits import Digits, dirichlet_split

CLIENTS = 300


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits.load(CLIENTS, seed=0)


def test_no_client_holds_a_held_out_image(digits: Digits) -> None:
    """The clients' rows and the test rows share nothing and together are the whole data set."""
    dealt = np.concatenate([digits.train_rows[part] for part in digits.parts])
    assert not set(dealt.tolist()) & set(digits.test_rows.tolist())
    assert sorted([*dealt.tolist(), *digits.test_rows.tolist()]) == [*range(1797)]


def test_clients_data_is_that_of_their_rows(digits: Digits) -> None:
    """What a client trains on is its rows of scikit-learn's data, scaled, with their labels."""
    raw, labels = load_digits(return_X_y=True)
    for index in (0, 17, 299):
        rows = digits.train_rows[digits.parts[index]]
        x, y = digits.client(index)
        assert y.tolist() == labels[rows].tolist()
        scaled = (raw - raw[digits.train_rows].mean(axis=0))[rows]
        assert np.corrcoef(x.ravel(), scaled.ravel())[0, 1] > 1 - 1e-9


def test_the_split_is_disjoint_and_complete_and_leaves_nobody_empty(digits: Digits) -> None:
    """Every training row belongs to exactly one client, and every client has at least one."""
    assert len(digits.parts) == CLIENTS
    assert min(len(part) for part in digits.parts) >= 1
    assert sorted(np.concatenate(digits.parts).tolist()) == [*range(len(digits.train_labels))]


def test_clients_are_unlike_one_another(digits: Digits) -> None:
    """Dirichlet 0.5: sizes differ widely, and most clients lack most of the ten digits."""
    sizes = [len(part) for part in digits.parts]
    assert max(sizes) >= 3 * np.median(sizes)
    kinds = [len(set(digits.train_labels[part].tolist())) for part in digits.parts]
    assert np.median(kinds) <= 5


def test_the_held_out_set_has_the_same_mix_of_digits(digits: Digits) -> None:
    """Stratified: each digit has its fifth in the test set."""
    train, test = np.bincount(digits.train_labels), np.bincount(digits.test_labels)
    assert (test / (train + test)).tolist() == pytest.approx([0.2] * 10, abs=0.005)


def test_scaling_is_fitted_on_the_training_images_only(digits: Digits) -> None:
    """Training pixels are centred with spread 1; the test pixels only nearly so."""
    assert digits.train_samples.mean(axis=0) == pytest.approx(np.zeros(64), abs=1e-12)
    assert np.sqrt((digits.train_samples**2).mean()) == pytest.approx(1.0)
    assert np.abs(digits.test_samples.mean(axis=0)).max() > 1e-3


def test_the_same_seed_gives_the_same_data_and_the_held_out_set_ignores_the_clients() -> None:
    """Deterministic; another number of clients moves no image between training and test."""
    first, again, fewer = (Digits.load(clients, 4) for clients in (50, 50, 10))
    assert all(np.array_equal(a, b) for a, b in zip(first.parts, again.parts, strict=True))
    assert np.array_equal(first.test_rows, fewer.test_rows)
    assert not np.array_equal(first.test_rows, Digits.load(50, 5).test_rows)


@pytest.mark.parametrize("clients, alpha", [(0, 0.5), (11, 0.5), (3, 0.0), (3, float("nan"))])
def test_an_impossible_split_is_refused(clients: int, alpha: float) -> None:
    """More clients than samples, none, or an alpha that is not above 0: ValueError."""
    with pytest.raises(ValueError, match="split"):
        dirichlet_split(np.zeros(10, dtype=np.int64), clients, alpha, np.random.default_rng(0))


def test_as_many_clients_as_samples_get_one_each() -> None:
    """The tightest split still leaves nobody empty."""
    parts = dirichlet_split(np.zeros(10, dtype=np.int64), 10, 0.1, np.random.default_rng(0))
    assert [len(part) for part in parts] == [1] * 10
