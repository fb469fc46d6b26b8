"""Who has which samples: every sample once where that is promised, and the same seed the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from evaluation.data.images import DataError
from evaluation.data.partition import (
    Partition,
    by_client_map,
    by_label_counts,
    by_owner,
    dirichlet_by_class,
    dirichlet_by_client,
    iid,
    load_client_map,
    load_label_counts,
)
from evaluation.harness.config import RunConfig


def labels_of(samples: int, classes: int) -> NDArray[np.int64]:
    return np.arange(samples, dtype=np.int64) % classes


def flat(parts: Partition) -> list[int]:
    return sorted(np.concatenate(parts).tolist())


@given(
    samples=st.integers(1, 300),
    clients=st.integers(1, 60),
    classes=st.integers(1, 12),
    seed=st.integers(0, 2**31),
    alpha=st.sampled_from([1e-3, 0.1, 1.0, 1e3]),
)
def test_every_sample_belongs_to_one_client(
    samples: int, clients: int, classes: int, seed: int, alpha: float
) -> None:
    """IID and Dirichlet deal every sample out once, and nobody goes without."""
    labels = labels_of(samples, classes)
    if clients > samples:
        with pytest.raises(DataError, match="cannot be dealt out"):
            iid(labels, clients, seed)
        return
    for parts in (
        iid(labels, clients, seed),
        dirichlet_by_class(labels, clients, seed, alpha=alpha),
        dirichlet_by_client(labels, clients, seed, alpha=alpha),
    ):
        assert len(parts) == clients
        assert flat(parts) == list(range(samples))
        assert min(map(len, parts)) >= 1


def test_the_seed_decides_alone() -> None:
    """The same seed gives the same partition, another one another."""
    labels = labels_of(500, 10)
    counts = [[3, 0, 5], [1] * 10]
    makers: list[Callable[[int], Partition]] = [
        lambda seed: iid(labels, 20, seed),
        lambda seed: dirichlet_by_class(labels, 20, seed),
        lambda seed: dirichlet_by_client(labels, 20, seed),
        lambda seed: by_label_counts(labels, counts, 20, seed),
    ]
    for make in makers:
        first, again, other = ([part.tolist() for part in make(seed)] for seed in (1, 1, 2))
        assert first == again
        assert first != other


def test_iid_sizes_differ_by_one_at_most() -> None:
    """Dealt out evenly, whatever the numbers are."""
    sizes = {len(part) for part in iid(labels_of(103, 10), 10, 0)}
    assert sizes == {10, 11}


def test_a_small_alpha_gives_clients_few_classes() -> None:
    """The smaller alpha, the more of a client's samples are of its first class; large: even."""
    labels = labels_of(20_000, 10)

    def largest_share(alpha: float) -> float:
        parts = dirichlet_by_class(labels, 50, 3, alpha=alpha)
        shares = [np.bincount(labels[part]).max() / len(part) for part in parts if len(part) > 20]
        return float(np.mean(shares))

    shares = [largest_share(alpha) for alpha in (0.05, 0.5, 100.0)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.7
    assert shares[2] < 0.2


def concentration(labels: NDArray[np.int64], part: NDArray[np.int64]) -> float:
    """The sum of the squared class shares that a client's were drawn from, without bias.

    Of one class it is 1, of n even ones 1 / n; its inverse is the number of effective classes.
    """
    counts = np.bincount(labels[part], minlength=10)
    return float((counts * (counts - 1)).sum() / (len(part) * (len(part) - 1)))


@pytest.mark.parametrize("alpha", [0.1, 0.5, 5.0, 100.0])
def test_hsus_clients_draw_their_classes_from_dir_of_alpha_times_the_prior(alpha: float) -> None:
    """E Σ q² of Dir(a) is Σ a (a + 1) / (A (A + 1)): here (alpha / 10 + 1) / (alpha + 1).

    Of the first quarter of 400 clients, while no class is used up; within four standard errors.
    """
    labels = labels_of(80_000, 10)
    parts = dirichlet_by_client(labels, 400, 2, alpha=alpha)
    assert {len(part) for part in parts} == {200}
    found = np.array([concentration(labels, part) for part in parts[:100]])
    error = found.std(ddof=1) / 10 + 1e-4
    assert found.mean() == pytest.approx((alpha / 10 + 1) / (alpha + 1), abs=4 * error)


def test_hsus_prior_is_the_share_of_each_class_in_the_data() -> None:
    """With 70 % of one class, its mean share is 70 % whatever alpha is."""
    labels = np.repeat(np.arange(4), [28_000, 4_000, 4_000, 4_000])
    shares = [
        np.mean(labels[part] == 0) for part in dirichlet_by_client(labels, 400, 1, alpha=2.0)[:100]
    ]
    assert np.mean(shares) == pytest.approx(0.7, abs=4 * np.std(shares) / 10)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 5.0])
def test_by_class_each_class_is_dealt_by_dir_of_alpha_over_the_clients(alpha: float) -> None:
    """E Σ p² over K clients is (alpha + 1) / (K alpha + 1); mean over 300 classes, four errors."""
    labels = labels_of(300 * 3_000, 300)
    parts = dirichlet_by_class(labels, 20, 2, alpha=alpha)
    counts = np.stack([np.bincount(labels[part], minlength=300) for part in parts])
    found = ((counts / 3_000) ** 2).sum(axis=0)
    error = found.std(ddof=1) / 300**0.5
    assert found.mean() == pytest.approx((alpha + 1) / (20 * alpha + 1), abs=4 * error + 1e-4)


def test_half_by_class_is_about_five_of_hsus() -> None:
    """Ten classes: both give E Σ q² = 0.25, four effective classes; Hsu's 0.5 gives 0.7."""
    labels = labels_of(80_000, 10)

    def mean(parts: Partition) -> float:
        return float(np.mean([concentration(labels, part) for part in parts if len(part) > 50]))

    assert mean(dirichlet_by_class(labels, 400, 2, alpha=0.5)) == pytest.approx(0.25, abs=0.03)
    assert mean(dirichlet_by_client(labels, 400, 2, alpha=5.0)[:100]) == pytest.approx(
        0.25, abs=0.03
    )
    assert mean(dirichlet_by_client(labels, 400, 2, alpha=0.5)[:100]) > 0.6


def test_the_old_name_of_a_dirichlet_partition_is_refused_with_both_new_ones() -> None:
    """It was cited as one and was the other; a configuration says which it means."""
    with pytest.raises(ValueError, match=r"dirichlet_by_class .*dirichlet_by_client"):
        RunConfig.model_validate({"partition": {"kind": "dirichlet"}})


def test_label_counts_are_met() -> None:
    """A client has as many samples of each class as its row says, none of them twice."""
    labels = labels_of(1_000, 10)
    counts = [[5, 0, 7] + [0] * 7, [0] * 9 + [4]]
    parts = by_label_counts(labels, counts, 4, 0)
    for client, part in enumerate(parts):
        assert np.bincount(labels[part], minlength=10).tolist() == counts[client % 2]
        assert len(set(part.tolist())) == len(part)


def test_label_counts_count_labels() -> None:
    """Labels beyond the data's are folded onto them, and what there is too little of is given.

    Fault F16: the statement that counted the labels was split in two and did nothing, so
    label counts were always empty.
    """
    labels = labels_of(10, 2)
    parts = by_label_counts(labels, [[1, 2, 1], [100, 0], [0, 0]], 3, 0)
    found = [np.bincount(labels[part], minlength=2).tolist() for part in parts]
    assert found[:2] == [[2, 2], [5, 0]]
    assert len(parts[2]) == 1


@pytest.mark.parametrize(
    "document",
    [
        [[1, 2], [0, 3]],
        {"clients": [[1, 2], [0, 3]], "labels": ["a", "b"]},
        {"7": {"0": 1, "1": 2}, "9": {"1": 3}},
    ],
)
def test_label_counts_are_read_in_three_forms(tmp_path: Path, document: object) -> None:
    """A list of rows, an object that has them as clients, and rows by label number."""
    path = tmp_path / "counts.json"
    path.write_text(json.dumps(document))
    assert load_label_counts(path) == [[1, 2], [0, 3]]


@pytest.mark.parametrize(
    "text, line",
    [
        ("{", "counts.json: "),
        ("[]", "a list of label counts by client is expected"),
        ("[[1], [-1]]", "client 1: a negative count"),
        ("[[1], 5]", "client 1: counts by label expected"),
        ('[{"999999999": 1}]', "client 0: counts by label expected"),
    ],
)
def test_label_counts_that_are_none(tmp_path: Path, text: str, line: str) -> None:
    """Whatever is wrong with the file is one line with its name and the client."""
    path = tmp_path / "counts.json"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        load_label_counts(path)
    assert line in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_speakers_of_google_speech(shared_data: Callable[[str], Path]) -> None:
    """The real label counts of 2,187 speakers give clients of their sizes and words."""
    counts = load_label_counts(shared_data("fedscale_speech_commands_client_label_counts.json"))
    assert (len(counts), sum(map(sum, counts))) == (2_187, 103_171)
    labels = labels_of(105_000, 35)
    parts = by_label_counts(labels, counts, len(counts), 0)
    sizes = np.array([len(part) for part in parts])
    assert (sizes.min(), np.median(sizes), sizes.max()) == (16, 30, 316)
    assert np.bincount(labels[parts[0]], minlength=35).tolist() == counts[0]


def test_a_client_map_is_taken_as_it_is(tmp_path: Path) -> None:
    """Clients come in the order of their numbers with the samples of their rows."""
    path = tmp_path / "map.csv"
    path.write_text("sample,client_id\n3,8\n0,5\n1,8\n1,8\n")
    mapping = load_client_map(path)
    assert [part.tolist() for part in by_client_map(mapping, 4, 2)] == [[0], [1, 3]]
    with pytest.raises(DataError, match="client 8 has a sample that is not in the data"):
        by_client_map(mapping, 3, 2)
    with pytest.raises(DataError, match="has 2 clients, 3 are wanted"):
        by_client_map(mapping, 4, 3)


@pytest.mark.parametrize(
    "text, line",
    [
        (None, "No such file"),
        ("client,sample\n", "row 1: the columns client_id and sample are needed"),
        ("client_id,sample\n", "no rows"),
        ("client_id,sample\n1,2\n1,x\n", "row 3: two whole numbers expected"),
    ],
)
def test_client_maps_that_are_none(tmp_path: Path, text: str | None, line: str) -> None:
    """Whatever is wrong with the file is one line with its name and the row."""
    path = tmp_path / "map.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError) as caught:
        load_client_map(path)
    assert line in str(caught.value)
    assert str(path) in str(caught.value)


def test_owners_with_most_samples_come_first() -> None:
    """The data's own clients keep what is theirs; fewer clients means the largest ones."""
    owners = np.array([4, 4, 9, 4, 9, 1], dtype=np.int64)
    assert [part.tolist() for part in by_owner(owners, 3)] == [[0, 1, 3], [2, 4], [5]]
    assert len(by_owner(owners, 2)) == 2
    with pytest.raises(DataError, match="has 3 clients, 4 are wanted"):
        by_owner(owners, 4)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_alpha_is_above_0(alpha: float) -> None:
    """A Dirichlet needs a positive parameter."""
    with pytest.raises(DataError, match="it must be above 0"):
        dirichlet_by_class(labels_of(10, 2), 2, 0, alpha=alpha)
