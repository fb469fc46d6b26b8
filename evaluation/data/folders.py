"""Data sets in a local folder, in the layout in which FedScale publishes them.

``client_data_mapping/train.csv`` and ``test.csv`` say for each sample its client, its file and its
label (columns ``client_id``, ``sample_path``, and ``label_id`` or ``label_name``). Files of the
two splits are in ``train/`` and ``test/`` (OpenImage, Google Speech), or all in the folder or
its ``data/`` (FEMNIST). Clients are numbered in the order of their first rows. A file that both
splits name is refused: nobody trains on the test split.

Google Speech is also taken as Google publishes it: a folder for each word, and
``testing_list.txt``; there the speaker is in the file's name.

Not here: reading sound (:mod:`evaluation.data.speech`), and fetching (``datasets/fetch.py``).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evaluation.data.decoded import decode_all
from evaluation.data.images import DataError, ImageData
from evaluation.data.speech import MELS, WORDS, log_mel, read_clip

__all__ = ["femnist", "openimage", "speech"]

Picture: TypeAlias = NDArray[np.float32]

FEMNIST_CLASSES: Final = 62
FEMNIST_SIDE: Final = 28
OPENIMAGE_CLASSES: Final = 596
OPENIMAGE_SIDE: Final = 64
"""Published at 256 × 256; smaller here, so that clients by the hundred fit into memory."""
BYTES_MAX: Final = 8 << 30
"""Of one split in memory."""


@dataclass(frozen=True)
class Sample:
    """One row of a split: whose it is, its file, and its label."""

    client: str
    path: Path
    label: int


def femnist(folder: Path | None) -> ImageData:
    """Handwritten characters, grey, 28 × 28, 62 classes, by writer."""
    root = _root("femnist", folder)
    return _load(
        "femnist",
        root,
        {split: list(_rows("femnist", root, split, _anywhere(root))) for split in SPLITS},
        (1, FEMNIST_SIDE, FEMNIST_SIDE),
        FEMNIST_CLASSES,
        lambda path: _picture("femnist", path, "L", FEMNIST_SIDE),
    )


def openimage(folder: Path | None) -> ImageData:
    """Photographs, RGB, scaled down to 64 × 64, 596 classes, by author."""
    root = _root("openimage", folder)
    return _load(
        "openimage",
        root,
        {split: list(_rows("openimage", root, split, _in_split(root, split))) for split in SPLITS},
        (3, OPENIMAGE_SIDE, OPENIMAGE_SIDE),
        OPENIMAGE_CLASSES,
        lambda path: _picture("openimage", path, "RGB", OPENIMAGE_SIDE),
    )


def speech(folder: Path | None) -> ImageData:
    """One-second clips of 35 words as log-mel pictures of 32 × 32, by speaker."""
    root = _root("speech", folder)
    if (root / "testing_list.txt").is_file():
        samples = _google_layout(root)
    else:
        samples = {
            split: list(_rows("speech", root, split, _in_split(root, split), WORDS))
            for split in SPLITS
        }
    return _load(
        "speech",
        root,
        samples,
        (1, MELS, MELS),
        len(WORDS),
        lambda path: log_mel(read_clip(path))[np.newaxis],
    )


# --- which samples there are ---------------------------------------------------------------------

SPLITS: Final = ("train", "test")


def _root(name: str, folder: Path | None) -> Path:
    if folder is None:
        raise DataError(
            f"{name}: name its folder (data_dir); `datasets/fetch.py {name} DIR` fetches it"
        )
    return home(name, folder)


def home(name: str, folder: Path) -> Path:
    """A folder with several data sets has one named after each; else it is the data set's own."""
    return folder / name if (folder / name).is_dir() else folder


def _anywhere(root: Path) -> Callable[[str], Path]:
    """Where FEMNIST's files are: the published archive has them in ``data/``."""
    place = root / "data" if (root / "data").is_dir() else root
    return lambda sample: root / sample if (root / sample).is_file() else place / sample


def _in_split(root: Path, split: str) -> Callable[[str], Path]:
    return lambda sample: root / split / sample


def _rows(
    name: str,
    root: Path,
    split: str,
    place: Callable[[str], Path],
    words: Sequence[str] | None = None,
) -> Iterator[Sample]:
    """The samples of a split; with ``words`` the label is the place of ``label_name`` in them."""
    table = root / "client_data_mapping" / f"{split}.csv"
    wanted = ("client_id", "sample_path", "label_id" if words is None else "label_name")
    numbers = {word: number for number, word in enumerate(words or ())}
    try:
        with table.open(newline="") as file:
            reader = csv.DictReader(file)
            if missing := [column for column in wanted if column not in (reader.fieldnames or ())]:
                raise DataError(f"{name}: {table}: row 1: no column {missing[0]}")
            for number, row in enumerate(reader, 2):
                client, sample, label = (row[column] for column in wanted)
                try:
                    yield Sample(client, place(sample), numbers[label] if words else int(label))
                except (TypeError, ValueError, KeyError):
                    what = f"{wanted[2]} {label!r}"
                    raise DataError(f"{name}: {table}: row {number}: no such {what}") from None
    except FileNotFoundError:
        raise DataError(
            f"{name}: {table} is missing; `datasets/fetch.py {name} DIR` fetches it"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{name}: {table}: {error}") from error


def _google_layout(root: Path) -> dict[str, list[Sample]]:
    """Clips by word; those of ``testing_list.txt`` are the test split, those of the validation
    list are left out, as they are nobody's.
    """
    held = {split: _listed(root / f"{split}_list.txt") for split in ("testing", "validation")}
    samples: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    for label, word in enumerate(WORDS):
        if not (root / word).is_dir():
            raise DataError(f"speech: {root / word} is missing; there is a folder for each word")
        for path in sorted((root / word).glob("*.wav")):
            relative = f"{word}/{path.name}"
            if relative not in held["validation"]:
                split = "test" if relative in held["testing"] else "train"
                samples[split].append(Sample(path.name.partition("_")[0], path, label))
    return samples


def _listed(path: Path) -> frozenset[str]:
    try:
        return frozenset(path.read_text().split())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"speech: {path}: {error}") from error


# --- what is in them -----------------------------------------------------------------------------


def _load(
    name: str,
    root: Path,
    samples: dict[str, list[Sample]],
    shape: tuple[int, int, int],
    classes: int,
    read: Callable[[Path], Picture],
) -> ImageData:
    for split, rows in samples.items():
        _check_size(name, split, rows, shape)
    trained = {sample.path for sample in samples["train"]}
    if both := [sample.path for sample in samples["test"] if sample.path in trained]:
        raise DataError(f"{name}: {both[0]} is in the training split and in the test split")
    arrays = {}
    for split, rows in samples.items():
        paths = [sample.path for sample in rows]
        images = decode_all(name, split, root, paths, shape, read)
        arrays[split] = images, np.array([sample.label for sample in rows], dtype=np.int64)
    return ImageData(
        name,
        *arrays["train"],
        *arrays["test"],
        classes,
        clients=_numbered(sample.client for sample in samples["train"]),
    )


def _check_size(name: str, split: str, rows: Sequence[Sample], shape: tuple[int, int, int]) -> None:
    if not rows:
        raise DataError(f"{name}: the {split} split has no samples")
    needed = len(rows) * int(np.prod(shape)) * 4
    if needed > BYTES_MAX:
        raise DataError(
            f"{name}: the {split} split needs {needed / 2**30:.1f} GiB of memory, at most "
            f"{BYTES_MAX >> 30} are taken; `datasets/fetch.py --cut CLIENTS` keeps some clients"
        )


def _numbered(clients: Iterable[str]) -> NDArray[np.int64]:
    numbers: dict[str, int] = {}
    return np.array(
        [numbers.setdefault(client, len(numbers)) for client in clients], dtype=np.int64
    )


def _picture(name: str, path: Path, mode: str, side: int) -> Picture:
    """An image file as (channels, side, side) in [0, 1]."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            scaled = image.convert(mode).resize((side, side))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: {path}: {error}") from error
    pixels = np.asarray(scaled, dtype=np.float32) / np.float32(255)
    return pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
