"""Synthetic traces of clients: who is online when, how fast, and for which classes of jobs.

Every number here is **a parameter of ours**, chosen to resemble what has been published of such
traces; nothing was fitted to anybody's rows:

* *When.* Devices live in 12 time zones (``ZONES``). On each day a device's session starts with a
  density over its local time of day that is ``1 + amplitude · cos`` around ``peak_hour``.
* *How long.* Log-normal around ``session_median_s``; a share ``long_share`` of the sessions (phones
  on their chargers) follows a Pareto law from ``long_min_s`` on instead; all are cut at
  ``session_max_s``. Sessions that start at night (22 to 6 o'clock, local) are ``night_factor``
  times as long.
* *How fast.* Milliseconds for a unit of computation, and kbit/s: log-normal, independent of each
  other.
* *For which jobs.* Five signatures over the paper's four classes of requirement (1 general,
  2 compute-rich, 3 memory-rich, 4 both); their shares are those of 959 phone models in the AI
  Benchmark ranking, to three digits. ``affinity`` is the correlation (of a Gaussian copula) between
  a phone's speed and how many classes it meets.

A trace is a function of its settings and seed: the same ones give the same rows.
Not here: reading traces (``rust_core/src/simulator/trace.rs``).
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, TextIO, cast

import numpy as np
from numpy.typing import NDArray

from evaluation.files import replacing

__all__ = ["COLUMNS", "PRESETS", "TraceColumns", "TraceSettings", "generate", "write_csv"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

DAY_S: Final = 86_400
COLUMNS: Final = ("start", "end", "computation", "communication", "requirements")
ZONES: Final = {
    -10: 0.01, -8: 0.07, -6: 0.09, -4: 0.08, -2: 0.02, 0: 0.09,
    2: 0.18, 4: 0.07, 6: 0.20, 8: 0.14, 10: 0.04, 12: 0.01,
}  # fmt: skip
"""Hours before or after UTC → the share of the devices that live there."""
SIGNATURES: Final = {"": 0.036, "1": 0.318, "12": 0.081, "13": 0.129, "1234": 0.436}
"""The classes that a device meets → the share of such devices, from the weakest to the best."""
ROWS_A_CHUNK: Final = 100_000


@dataclass(frozen=True)
class TraceSettings:
    """What a trace is drawn from; see the module's text for each parameter."""

    checkins: int
    days: int = 5
    amplitude: float = 0.45
    peak_hour: float = 21.0
    session_median_s: float = 1_000.0
    session_sigma: float = 1.3
    long_share: float = 0.06
    long_min_s: float = 7_200.0
    long_alpha: float = 1.2
    session_max_s: float = 50_400.0
    night_factor: float = 1.5
    computation_median_ms: float = 58.0
    computation_sigma: float = 0.78
    communication_median_kbps: float = 6_100.0
    communication_sigma: float = 1.27
    affinity: float = 0.3


PRESETS: Final = {
    "small": TraceSettings(checkins=200_000),
    "paper": TraceSettings(checkins=2_050_000),
    "full": TraceSettings(checkins=7_000_000),
}
"""A tenth of the paper's rate; the rate that explains its published figures; a larger fleet."""


@dataclass(frozen=True)
class TraceColumns:
    """A trace as columns of equal length, sorted by start.

    ``start_s`` and ``end_s`` in whole seconds from the start of the trace, ``computation_ms`` a
    unit (larger is slower), ``communication_kbps``; ``signature`` indexes ``signatures``, each the
    digits of the classes that the client meets.
    """

    start_s: Integers
    end_s: Integers
    computation_ms: Floats
    communication_kbps: Floats
    signature: Integers
    signatures: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.start_s)


def generate(settings: TraceSettings, seed: int) -> TraceColumns:
    """Draw a trace.

    >>> trace = generate(TraceSettings(checkins=1000), seed=1)
    >>> len(trace), bool((trace.end_s > trace.start_s).all())
    (1000, True)
    """
    random = np.random.Generator(np.random.PCG64([seed, 0x7ACE]))
    start_s, local_hour = _starts(settings, random)
    end_s = start_s + _lengths(settings, random, local_hour)
    ability, computation_ms = _speeds(settings, random)
    kbps = random.lognormal(
        np.log(settings.communication_median_kbps), settings.communication_sigma, len(start_s)
    )
    order = np.argsort(start_s, kind="stable")
    return TraceColumns(
        start_s=start_s[order],
        end_s=end_s[order],
        computation_ms=np.maximum(computation_ms, 0.1).round(1),
        communication_kbps=np.maximum(kbps, 0.001).round(3),
        signature=_signatures(ability),
        signatures=tuple(SIGNATURES),
    )


def _starts(settings: TraceSettings, random: np.random.Generator) -> tuple[Integers, Floats]:
    """Start times in seconds, unsorted, and the local hour of each."""
    count = settings.checkins
    minutes = np.arange(24 * 60)
    phase = 2 * np.pi * (minutes / 60 - settings.peak_hour) / 24
    density = 1 + settings.amplitude * np.cos(phase)
    cumulated = np.concatenate(([0.0], np.cumsum(density / density.sum())))
    grid_h = np.arange(24 * 60 + 1) / 60
    local_hour = np.interp(random.random(count), cumulated, grid_h)
    shares = np.array(list(ZONES.values()))
    zone_h = random.choice(np.array(list(ZONES)), size=count, p=shares / shares.sum())
    day = random.integers(settings.days, size=count)
    start_s = ((day * 24 + local_hour - zone_h) * 3600).astype(np.int64)
    return start_s % (settings.days * DAY_S), local_hour


def _lengths(settings: TraceSettings, random: np.random.Generator, local_hour: Floats) -> Integers:
    count = len(local_hour)
    usual = random.lognormal(np.log(settings.session_median_s), settings.session_sigma, count)
    long = settings.long_min_s * (1 + random.pareto(settings.long_alpha, count))
    length_s = np.where(random.random(count) < settings.long_share, long, usual)
    night = (local_hour >= 22) | (local_hour < 6)
    length_s = np.where(night, length_s * settings.night_factor, length_s)
    return np.clip(length_s, 1, settings.session_max_s).astype(np.int64)


def _speeds(settings: TraceSettings, random: np.random.Generator) -> tuple[Floats, Floats]:
    """How able each device is, as a standard normal number, and its computation time."""
    ability = random.standard_normal(settings.checkins)
    own = random.standard_normal(settings.checkins)
    speed = settings.affinity * ability + np.sqrt(1 - settings.affinity**2) * own
    sigma = settings.computation_sigma
    return ability, settings.computation_median_ms * np.exp(-sigma * speed)


def _signatures(ability: Floats) -> Integers:
    """The weakest share of the devices gets the first signature, and so on."""
    rank = np.empty(len(ability))
    rank[np.argsort(ability, kind="stable")] = (np.arange(len(ability)) + 0.5) / len(ability)
    bounds = np.cumsum(list(SIGNATURES.values()))[:-1]
    return np.searchsorted(bounds, rank).astype(np.int64)


def write_csv(
    trace: TraceColumns, path: Path, *, wrote: Callable[[int], None] = lambda _rows: None
) -> None:
    """Write a trace to ``path``, compressed if it ends in ``.gz``; all of it or nothing.

    ``wrote`` is told how many rows were written since it was last told. Raises OSError.
    """
    with _text_file(path) as out:
        out.write(",".join(COLUMNS) + "\n")
        for rows in _lines(trace):
            out.write("\n".join(rows))
            out.write("\n")
            wrote(len(rows))


def _lines(trace: TraceColumns) -> Iterator[list[str]]:
    form = "%d,%d,%.1f,%.3f,%s".__mod__
    for first in range(0, len(trace), ROWS_A_CHUNK):
        part = slice(first, first + ROWS_A_CHUNK)
        digits = [trace.signatures[index] for index in trace.signature[part].tolist()]
        rows = zip(
            trace.start_s[part].tolist(),
            trace.end_s[part].tolist(),
            trace.computation_ms[part].tolist(),
            trace.communication_kbps[part].tolist(),
            digits,
            strict=True,
        )
        yield list(map(form, rows))


@contextmanager
def _text_file(path: Path) -> Iterator[TextIO]:
    """A text file, compressed if its name says so, that replaces ``path`` when all went well."""
    with replacing(path) as draft, draft.open("wb") as raw:
        out: IO[bytes] = raw
        if path.suffix == ".gz":
            # Neither name nor time inside: the same trace is the same bytes.
            packed = gzip.GzipFile("", "wb", compresslevel=4, fileobj=raw, mtime=0)
            out = cast("IO[bytes]", packed)
        with out, io.TextIOWrapper(out, encoding="ascii", newline="") as text:
            yield text
