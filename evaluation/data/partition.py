"""Who has which training samples: IID, two of Dirichlet, label counts, a client map, owners.

A partition is a list with one array of sample numbers for each client. Every client has at least
one sample. IID and Dirichlet give each sample to one client; partitions by label counts draw
without replacement within a client, but two clients may have a sample in common.

Not here: what a client does with its samples.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evaluation.data.images import DataError

__all__ = ["Partition", "by_client_map", "by_label_counts", "by_owner", "dirichlet_by_class",
           "dirichlet_by_client", "iid", "load_client_map", "load_label_counts"]  # fmt: skip

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Partition: TypeAlias = list[Integers]

STREAM: Final = 0xDA7A


def iid(labels: Integers, clients: int, seed: int) -> Partition:
    """Shuffled and dealt out: sizes differ by one at most.

    >>> [len(part) for part in iid(np.zeros(5, dtype=np.int64), 2, seed=0)]
    [3, 2]
    """
    _check_enough(labels, clients)
    order = _random(seed).permutation(len(labels))
    return [np.sort(part) for part in np.array_split(order, clients)]


def dirichlet_by_class(
    labels: Integers, clients: int, seed: int, *, alpha: float = 0.5
) -> Partition:
    """Each class is dealt out over the clients by shares from Dir(alpha, …, alpha).

    After Yurochkin et al. 2019 ("Bayesian nonparametric federated learning of neural networks",
    section 4), called distribution-based label imbalance by Li et al. 2022 ("Federated learning on
    non-IID data silos", section IV-A). Clients differ in their classes and in their sizes. Small
    ``alpha``: clients with few classes. A client that got nothing gets one sample of the client
    that has most.
    """
    _check_enough(labels, clients)
    _check_alpha(alpha)
    random = _random(seed)
    parts: list[list[int]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        shares = random.dirichlet(np.full(clients, alpha))
        bounds = (np.cumsum(shares)[:-1] * len(members)).round().astype(np.int64)
        for part, taken in zip(parts, np.split(members, bounds), strict=True):
            part.extend(taken.tolist())
    for part in parts:
        if not part:
            richest = max(parts, key=len)
            part.append(richest.pop())
    return [np.sort(np.array(part, dtype=np.int64)) for part in parts]


def dirichlet_by_client(
    labels: Integers, clients: int, seed: int, *, alpha: float = 0.5
) -> Partition:
    """Each client draws its own shares of the classes from Dir(alpha · prior), all of one size.

    After Hsu et al. 2019 ("Measuring the effects of non-identical data distribution", section 2);
    the prior is the classes' shares of the data. Sizes differ by one at most. Samples are taken
    without replacement: where a class is used up, the client's other shares are scaled up, so that
    the last of the clients have less of a choice.

    With ``n`` classes, ``alpha`` here is about ``alpha / n`` of :func:`dirichlet_by_class`: 0.5 is
    nearly one class a client here, and three to four of ten there.
    """
    _check_enough(labels, clients)
    _check_alpha(alpha)
    random = _random(seed)
    _, place = np.unique(labels, return_inverse=True)
    members = [random.permutation(np.flatnonzero(place == own)) for own in range(place.max() + 1)]
    left = np.array([len(own) for own in members])
    prior = left / len(labels)
    parts = []
    for size in (len(part) for part in np.array_split(labels, clients)):
        taken = _take(random, random.dirichlet(alpha * prior), left, size)
        parts.append(
            np.sort(np.concatenate([
                own[rest - count : rest]
                for own, rest, count in zip(members, left, taken, strict=True)
            ]))
        )  # fmt: skip
        left -= taken
    return parts


def _take(random: np.random.Generator, shares: Floats, left: Integers, size: int) -> Integers:
    """``size`` samples by class, drawn by these shares, and no more of any than are left."""
    taken = np.zeros_like(left)
    while (missing := size - int(taken.sum())) > 0:
        open_shares = np.where(taken < left, shares, 0.0)
        if not open_shares.sum() > 0:
            open_shares = (left - taken).astype(np.float64)
        drawn = random.multinomial(missing, open_shares / open_shares.sum())
        taken += np.minimum(drawn, left - taken)
    return taken


def by_label_counts(
    labels: Integers, counts: Sequence[Sequence[int]], clients: int, seed: int
) -> Partition:
    """Client ``i`` has as many samples of each label as row ``i`` (modulo the rows) says.

    Labels beyond those of the data are folded onto them (modulo); a class that has too few gives
    what it has.
    """
    random = _random(seed)
    classes = int(labels.max()) + 1
    members = [np.flatnonzero(labels == label) for label in range(classes)]
    parts = []
    for client in range(clients):
        row = np.zeros(classes, dtype=np.int64)
        for label, count in enumerate(counts[client % len(counts)]):
            row[label % classes] += count
        taken = [
            random.choice(own, size=min(int(count), len(own)), replace=False)
            for own, count in zip(members, row, strict=True)
            if count and len(own)
        ]
        part = np.concatenate(taken) if taken else random.integers(len(labels), size=1)
        parts.append(np.sort(part.astype(np.int64)))
    return parts


def by_owner(owners: Integers, clients: int) -> Partition:
    """The data's own clients, the first ``clients`` of them by number of samples, most first."""
    numbers, sizes = np.unique(owners, return_counts=True)
    if len(numbers) < clients:
        raise DataError(f"the data has {len(numbers)} clients, {clients} are wanted")
    order = np.argsort(-sizes, kind="stable")[:clients]
    return [np.flatnonzero(owners == number) for number in numbers[order]]


def by_client_map(mapping: dict[int, list[int]], samples: int, clients: int) -> Partition:
    """A map from client to sample numbers, as :func:`load_client_map` reads it."""
    if len(mapping) < clients:
        raise DataError(f"the client map has {len(mapping)} clients, {clients} are wanted")
    parts = []
    for client in sorted(mapping)[:clients]:
        part = np.unique(np.array(mapping[client], dtype=np.int64))
        if part[0] < 0 or part[-1] >= samples:
            raise DataError(f"client map: client {client} has a sample that is not in the data")
        parts.append(part)
    return parts


def load_client_map(path: Path) -> dict[int, list[int]]:
    """Read a CSV with the columns ``client_id`` and ``sample`` (the number of a training sample).

    Raises :class:`DataError` with file and row.
    """
    mapping: dict[int, list[int]] = {}
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            if not {"client_id", "sample"} <= set(reader.fieldnames or ()):
                raise DataError(f"{path}: row 1: the columns client_id and sample are needed")
            for number, row in enumerate(reader, 2):
                try:
                    mapping.setdefault(int(row["client_id"]), []).append(int(row["sample"]))
                except (TypeError, ValueError):
                    raise DataError(f"{path}: row {number}: two whole numbers expected") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: {error}") from error
    if not mapping:
        raise DataError(f"{path}: no rows")
    return mapping


def load_label_counts(path: Path) -> list[list[int]]:
    """Read label counts: JSON, a list of rows, or an object with one row a client.

    A row is a list of counts by label, or an object from label number to count. Raises
    :class:`DataError`.
    """
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error
    if isinstance(document, dict):
        document = document.get("clients", document)
    rows = list(document.values()) if isinstance(document, dict) else document
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: a list of label counts by client is expected")
    return [_row(path, number, row) for number, row in enumerate(rows)]


def _row(path: Path, number: int, row: object) -> list[int]:
    try:
        if isinstance(row, dict):
            pairs = {int(label): int(count) for label, count in row.items()}
            if pairs and (min(pairs) < 0 or max(pairs) >= 100_000):
                raise ValueError
            counts = [pairs.get(label, 0) for label in range(max(pairs, default=-1) + 1)]
        elif isinstance(row, list):
            counts = [int(count) for count in row]
        else:
            raise TypeError
    except (TypeError, ValueError):
        raise DataError(f"{path}: client {number}: counts by label expected") from None
    if any(count < 0 for count in counts):
        raise DataError(f"{path}: client {number}: a negative count")
    return counts


def _random(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, STREAM]))


def _check_enough(labels: Integers, clients: int) -> None:
    if not 1 <= clients <= len(labels):
        raise DataError(f"{len(labels)} samples cannot be dealt out to {clients} clients")


def _check_alpha(alpha: float) -> None:
    if not alpha > 0:
        raise DataError(f"partition: alpha is {alpha}, it must be above 0")
