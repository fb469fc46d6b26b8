"""Tiny data sets in the layouts in which the real ones are published."""

from __future__ import annotations

import wave
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Row = tuple[object, ...]


def write_table(root: Path, split: str, columns: str, rows: Sequence[Row]) -> None:
    (root / "client_data_mapping").mkdir(parents=True, exist_ok=True)
    lines = [columns, *(",".join(map(str, row)) for row in rows)]
    (root / "client_data_mapping" / f"{split}.csv").write_text("\n".join(lines) + "\n")


def write_picture(path: Path, colour: int | tuple[int, int, int], side: int = 28) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(colour, int) else "RGB", (side, side), colour).save(path)


def write_clip(
    path: Path, pitch_hz: float, *, samples: int = 16_000, rate_hz: int = 16_000
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = 8_000 * np.sin(2 * np.pi * pitch_hz * np.arange(samples) / rate_hz)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(sound.astype("<i2").tobytes())


FULL = "client_id,sample_path,label_name,label_id"


def make_femnist(root: Path) -> None:
    for split, names in (("train", "abcde"), ("test", "xy")):
        rows: list[Row] = []
        for place, name in enumerate(names):
            write_picture(root / "data" / f"{name}.png", 10 * place)
            rows.append((f"w{place // 2}", f"{name}.png", name, place))
        write_table(root, split, FULL, rows)


def make_openimage(root: Path) -> None:
    for split, count in (("train", 4), ("test", 2)):
        rows: list[Row] = []
        for place in range(count):
            write_picture(root / split / f"{place}.jpg", (255, 0, 40 * place), side=256)
            rows.append((place % 2, f"{place}.jpg", "Cat", 595 - place))
        write_table(root, split, FULL, rows)


def make_speech(root: Path) -> None:
    for split, words in (("train", ("yes", "no", "zero")), ("test", ("backward",))):
        rows: list[Row] = []
        for place, word in enumerate(words):
            name = f"{word}_ab{place}_nohash_0.wav"
            write_clip(root / split / name, 200 * (place + 1))
            rows.append((f"ab{place % 2}", name, word, 0))
        write_table(root, split, FULL, rows)


MAKERS: dict[str, Callable[[Path], None]] = {
    "femnist": make_femnist,
    "openimage": make_openimage,
    "speech": make_speech,
}


@pytest.fixture
def data_folder(tmp_path: Path) -> Callable[[str], Path]:
    """Makes the folder of a data set."""

    def make(name: str) -> Path:
        root = tmp_path / name
        MAKERS[name](root)
        return root

    return make
