"""A spoken word as a picture: one-second clips of 16 kHz become log-mel spectra of 32 × 32.

Windows of 2,048 samples, one every 512, give 32 columns; 32 triangular filters, evenly spaced in
mel, give the rows; the power in dB below the clip's loudest, from -80 to 0, becomes [0, 1]. These
are the sizes that the original testbed uses. Its augmentations are not made here: a client's data
are the same in every round and in every run.
"""

from __future__ import annotations

import wave
from functools import cache
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evaluation.data.images import DataError

__all__ = ["MELS", "RATE_HZ", "WORDS", "log_mel", "read_clip"]

Samples: TypeAlias = NDArray[np.float32]

RATE_HZ: Final = 16_000
"""And as many samples has a clip; a shorter one is silent at the end."""
WINDOW: Final = 2_048
HOP: Final = 512
MELS: Final = 32
FLOOR_DB: Final = 80.0
WORDS: Final = (
    "backward", "bed", "bird", "cat", "dog", "down", "eight", "five", "follow", "forward",
    "four", "go", "happy", "house", "learn", "left", "marvin", "nine", "no", "off", "on",
    "one", "right", "seven", "sheila", "six", "stop", "three", "tree", "two", "up", "visual",
    "wow", "yes", "zero",
)  # fmt: skip
"""The classes, in alphabetical order."""


def read_clip(path: Path) -> Samples:
    """Read a WAV file (mono, 16 bit, 16 kHz) as 16,000 samples in [-1, 1]; raises DataError."""
    try:
        with wave.open(str(path), "rb") as file:
            form = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            content = file.readframes(RATE_HZ)
    except (OSError, EOFError, wave.Error) as error:
        raise DataError(f"speech: {path}: not a WAV file: {error}") from error
    if form != (1, 2, RATE_HZ):
        channels, width, rate = form
        raise DataError(
            f"speech: {path}: {channels} channels of {8 * width} bit at {rate} Hz; it must be 1 "
            f"of 16 bit at {RATE_HZ} Hz"
        )
    clip = np.zeros(RATE_HZ, dtype=np.float32)
    found = np.frombuffer(content[: len(content) // 2 * 2], dtype="<i2")
    clip[: len(found)] = found / np.float32(32_768)
    return clip


def log_mel(clip: Samples) -> Samples:
    """The spectrum of a clip, (32 mel bands, 32 times) in [0, 1]; a silent clip is all 0.

    >>> log_mel(np.zeros(16_000, dtype=np.float32)).shape
    (32, 32)
    """
    from scipy import fft, signal

    padded = np.pad(clip, WINDOW // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:MELS]
    spectrum = fft.rfft(windows * signal.get_window("hann", WINDOW), axis=1)
    power = _filters() @ (np.abs(spectrum) ** 2).T
    loudest = power.max()
    if loudest <= 0:
        return np.zeros((MELS, MELS), dtype=np.float32)
    floor = 10 ** (-FLOOR_DB / 10)
    below_db = 10 * np.log10(np.maximum(power / loudest, floor))
    picture: Samples = (1 + below_db / FLOOR_DB).astype(np.float32)
    return picture


@cache
def _filters() -> NDArray[np.float64]:
    """Triangles over the bins of the spectrum, each with area 1 in Hz, from 0 to half the rate."""
    bins = np.linspace(0, RATE_HZ / 2, WINDOW // 2 + 1)
    top = 2595 * np.log10(1 + RATE_HZ / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, MELS + 2) / 2595) - 1)
    low, peak, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    triangles = np.minimum((bins - low) / (peak - low), (high - bins) / (high - peak))
    return np.maximum(triangles, 0) * 2 / (high - low)
