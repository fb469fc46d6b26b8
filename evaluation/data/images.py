"""Labelled images with their test split: the form of every data set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from propius.errors import PropiusError

__all__ = ["DataError", "ImageData"]


class DataError(PropiusError):
    """Data that is missing or is not what it should be; one line with the file."""


@dataclass(frozen=True)
class ImageData:
    """One data set. ``images`` (n, channels, height, width) in [0, 1], ``labels`` (n,).

    ``clients``: for each training sample the client that it comes from, where the data has it.
    Nobody trains on the test split.
    """

    name: str
    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int64]
    classes: int
    clients: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        """Raises :class:`DataError` where the parts do not fit."""
        for split, images, labels in (
            ("training", self.images, self.labels),
            ("test", self.test_images, self.test_labels),
        ):
            if images.ndim != 4 or len(images) != len(labels) or len(labels) == 0:
                raise DataError(
                    f"{self.name}: {split} images {images.shape} and labels {labels.shape} "
                    "do not fit"
                )
            if labels.min() < 0 or labels.max() >= self.classes:
                raise DataError(f"{self.name}: a {split} label is not below {self.classes}")
        if np.may_share_memory(self.images, self.test_images):
            raise DataError(f"{self.name}: the test split is training data")
        if self.images.shape[1:] != self.test_images.shape[1:]:
            raise DataError(f"{self.name}: training and test images differ in shape")
        if self.clients is not None and len(self.clients) != len(self.labels):
            raise DataError(f"{self.name}: not every training sample has a client")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image: channels, height, width."""
        channels, height, width = self.images.shape[1:]
        return int(channels), int(height), int(width)
