"""Samples are decoded once for all workers, and anew when their files have changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.data import decoded, folders
from evaluation.data.sources import load

DataFolder = Callable[[str], Path]


@pytest.fixture
def read_files(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Which pictures were decoded."""
    read: list[Path] = []
    picture = folders._picture

    def counted(name: str, path: Path, mode: str, side: int) -> folders.Picture:
        read.append(path)
        return picture(name, path, mode, side)

    monkeypatch.setattr(folders, "_picture", counted)
    return read


def test_only_the_first_decodes(data_folder: DataFolder, read_files: list[Path]) -> None:
    """A second process finds the array and has the same data."""
    root = data_folder("femnist")
    first = load("femnist", root)
    assert len(read_files) == 7
    second = load("femnist", root)
    assert len(read_files) == 7
    assert np.array_equal(first.images, second.images)
    assert isinstance(second.images, np.memmap)


def test_a_changed_file_is_decoded_anew(data_folder: DataFolder, read_files: list[Path]) -> None:
    """Another picture under the same name is seen, and the old array is let go of."""
    root = data_folder("femnist")
    load("femnist", root)
    path = root / "data" / "a.png"
    Image.new("L", (28, 28), 200).save(path)
    os.utime(path, ns=(1, 1))
    assert load("femnist", root).images[0].max() == pytest.approx(200 / 255)
    assert len(list((root / ".decoded").glob("train-*"))) == 1


def test_a_torn_array_is_not_taken(data_folder: DataFolder, read_files: list[Path]) -> None:
    """What is not whole is decoded again."""
    root = data_folder("femnist")
    whole = np.array(load("femnist", root).images)
    for path in (root / ".decoded").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    assert np.array_equal(load("femnist", root).images, whole)
    assert len(read_files) == 14


def test_a_folder_that_cannot_be_written_is_read(
    data_folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is kept then, and the data are the same."""

    def refuse(*_arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    root = data_folder("femnist")
    monkeypatch.setattr(decoded, "_keep", refuse)
    assert load("femnist", root).images.shape == (5, 1, 28, 28)
    assert not (root / ".decoded").exists()
