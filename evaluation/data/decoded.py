"""Decoded samples, kept beside their files, so that only the first process has to decode them.

Reading 100,000 clips takes minutes, and every worker needs them. The array is kept in the data
set's folder under a name made of what it was decoded from (each file's name, size and time of
change). It is mapped into memory (copy on write), so workers of one host share it. Where the
folder cannot be written, nothing is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from evaluation.data.images import DataError
from evaluation.files import replacing

__all__ = ["decode_all"]

VERSION: Final = 1
"""Grows when the same files are decoded to other arrays."""
FOLDER: Final = ".decoded"


def decode_all(
    name: str,
    split: str,
    root: Path,
    paths: Sequence[Path],
    shape: tuple[int, int, int],
    read: Callable[[Path], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """All files of a split as one array, decoded or kept; raises DataError for one that lacks."""
    kept = root / FOLDER / f"{split}-{_digest(name, root, paths, shape)}.npy"
    found = _kept(kept, (len(paths), *shape))
    if found is not None:
        return found
    images = np.empty((len(paths), *shape), dtype=np.float32)
    for place, path in enumerate(paths):
        images[place] = read(path)
    try:
        _keep(kept, images, split)
    except OSError:
        return images  # a folder that is read-only, or a full disk: the data are right all the same
    found = _kept(kept, images.shape)
    return images if found is None else found


def _digest(name: str, root: Path, paths: Sequence[Path], shape: tuple[int, ...]) -> str:
    digest = hashlib.sha256(f"{VERSION} {shape}".encode())
    prefix = f"{root}/"
    for path in paths:
        try:
            state = path.stat()
        except OSError as error:
            reason = "is missing" if isinstance(error, FileNotFoundError) else error.strerror
            raise DataError(f"{name}: {path} {reason}") from error
        known = f"\0{str(path).removeprefix(prefix)}\0{state.st_size}\0{state.st_mtime_ns}"
        digest.update(known.encode(errors="surrogateescape"))
    return digest.hexdigest()[:20]


def _kept(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """What was kept, if it is there and whole."""
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == shape and found.dtype == np.float32 else None


def _keep(path: Path, images: NDArray[np.float32], split: str) -> None:
    """Keep the array, and let go of what was kept of this split before."""
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as draft, draft.open("wb") as file:
        np.save(file, images, allow_pickle=False)
    for other in path.parent.glob(f"{split}-*.npy"):
        if other != path:
            other.unlink(missing_ok=True)
