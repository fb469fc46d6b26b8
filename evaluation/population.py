"""A population of edge devices drawn from a seed: specs, speeds, availability and failures.

The quantiles (0, 25, 50, 75 and 100 per cent) of each attribute are those of 952 real Android
phones. Everything between the quantiles, the dependence between the attributes, the availability
and the failures are **parameters of ours**, written down in this file and nowhere else:

* Each attribute is drawn by inverting its distribution between the quantiles; the lowest and the
  highest quarter are bent by an exponent, because few phones are at the very bottom or top.
* A Gaussian copula with one common factor ("how good a phone is") ties the attributes together;
  ``loading`` is the correlation of an attribute with that factor.

With 100,000 devices and seed 0 the shares of devices that meet the requirements
(cpu_f, ram, fp16_mem, android_os) are, with those of the real phones in brackets:
(2, 2, 400, 4) 0.91 (0.90), (3, 2, 400, 4) 0.77 (0.75), (6, 4, 800, 6) 0.48 (0.50),
(7, 6, 900, 7) 0.40 (0.40). Populations of 300 (seeds 0 to 19) were within 0.06 of these.

Device ``i`` of seed ``s`` is the same whatever the size of the population, and what it draws for
one purpose does not depend on how often another was drawn. Not here: the devices' training data
(:mod:`evaluation.digits`), diurnal traces, and networks.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ATTRIBUTE_MAXIMA",
    "DATASET_SIZE",
    "DEFAULT_AVAILABILITY",
    "DEFAULT_FAILURES",
    "MARGINALS",
    "SPEED_MS",
    "Availability",
    "Device",
    "Failures",
    "Fate",
    "Marginal",
    "Outcome",
    "Population",
]

DEVICES_MAX: Final = 10_000_000
PROBABILITIES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
RAM_SIZES_GB: Final = (0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)

# One independent random stream for each purpose; the numbers are part of what a seed means.
STREAM_SPEC: Final = 0
STREAM_AVAILABILITY: Final = 1
STREAM_FATE: Final = 2


@dataclass(frozen=True)
class Marginal:
    """The distribution of one attribute, from its five quantiles.

    ``bottom`` and ``top`` bend the first and last quarter: the value moves through its quarter as
    ``share ** exponent``. ``loading`` is the correlation with the common factor. Values are rounded
    to a multiple of ``step``, or to the nearest of ``sizes``, as real phones' are.

    >>> MARGINALS["ram"].value(0.5)
    6.0
    """

    quantiles: tuple[float, float, float, float, float]
    loading: float = 0.0
    bottom: float = 1.0
    top: float = 1.0
    step: float = 0.0
    sizes: tuple[float, ...] = ()

    def value(self, probability: float) -> float:
        """The value below which ``probability`` (0 to 1) of the devices lie."""
        quarter = min(int(probability * 4), 3)
        share = (probability - PROBABILITIES[quarter]) * 4
        share **= {0: self.bottom, 3: self.top}.get(quarter, 1.0)
        low, high = self.quantiles[quarter], self.quantiles[quarter + 1]
        return self._rounded(low + (high - low) * share)

    def _rounded(self, value: float) -> float:
        if self.sizes:
            return min(self.sizes, key=lambda size: abs(size - value))
        return round(round(value / self.step) * self.step, 6) if self.step else value


MARGINALS: Final[Mapping[str, Marginal]] = {
    "cpu_f": Marginal((0.06, 3.1, 6.1, 10.3, 24.8), loading=0.98, bottom=0.35, top=2.0, step=0.01),
    "ram": Marginal((0.75, 4, 6, 8, 16), loading=0.92, bottom=0.5, top=1.5, sizes=RAM_SIZES_GB),
    "fp16_mem": Marginal((100, 700, 1000, 1900, 2800), loading=0.85, bottom=0.5, step=100),
    "android_os": Marginal((5, 10, 11, 12, 15), loading=0.78, bottom=0.5, step=1),
}
"""The public attributes that this model knows, by name."""

SPEED_MS: Final = Marginal((9.5, 29, 63, 110, 1495), loading=-0.92, top=8.0)
"""Milliseconds per sample; larger is slower, hence the negative loading."""

DATASET_SIZE: Final = Marginal((87, 166, 180, 311, 584), step=1)
"""Samples on the device, independent of how good the phone is. Private: it never leaves it."""

ATTRIBUTE_MAXIMA: Final[Mapping[str, float]] = {
    "cpu_f": 24.8,
    "ram": 16.0,
    "fp16_mem": 2800.0,
    "android_os": 15.0,
}
"""The attribute schema that fits :data:`MARGINALS`: names in order, with their maxima."""


class Outcome(enum.Enum):
    """How a task ends on a device."""

    COMPLETE = "complete"
    FAIL = "fail"
    """The device says so in its report."""
    VANISH = "vanish"
    """The device is gone without a word; only its lease's end tells."""


@dataclass(frozen=True)
class Fate:
    """What becomes of one task; ``at_share`` (0 to 1) is how much of it was done by then."""

    outcome: Outcome
    at_share: float


@dataclass(frozen=True)
class Failures:
    """The probabilities that a task fails with a report, or that its device vanishes meanwhile."""

    fail: float = 0.04
    vanish: float = 0.03

    def __post_init__(self) -> None:
        if not (self.fail >= 0 and self.vanish >= 0 and self.fail + self.vanish <= 1):
            message = f"failures: {self.fail} and {self.vanish} are not probabilities; use 0 to 1"
            raise ValueError(message)

    def draw(self, rng: np.random.Generator) -> Fate:
        """Draw the fate of one task."""
        luck, share = rng.random(2).tolist()
        if luck < self.fail:
            return Fate(Outcome.FAIL, share)
        if luck < self.fail + self.vanish:
            return Fate(Outcome.VANISH, share)
        return Fate(Outcome.COMPLETE, 1.0)


@dataclass(frozen=True)
class Availability:
    """On and off intervals of log-normal length, made for runs of a minute or two.

    A device's own ``on`` median is ``on_median_s`` times a log-normal factor with
    ``device_sigma``: some devices are around for long, many for a short while. No interval is
    shorter than ``shortest_s``. At time 0 a device is on with the share of time that it is on.
    """

    on_median_s: float = 40.0
    off_median_s: float = 8.0
    sigma: float = 0.7
    device_sigma: float = 0.5
    shortest_s: float = 1.0

    def __post_init__(self) -> None:
        if not (self.on_median_s > 0 and self.off_median_s > 0 and self.shortest_s > 0):
            raise ValueError("availability: medians and shortest_s must be above 0 seconds")
        if not (0 <= self.sigma <= 3 and 0 <= self.device_sigma <= 3):
            raise ValueError("availability: sigma and device_sigma must be 0 to 3")

    def intervals(self, rng: np.random.Generator) -> Iterator[tuple[float, float]]:
        """Yield (start_s, end_s) of the times that a device is on, growing, without end."""
        on_median_s = self.on_median_s * rng.lognormal(0.0, self.device_sigma)
        now_s = 0.0
        on = rng.random() < on_median_s / (on_median_s + self.off_median_s)
        # The first interval was under way at time 0: what is left of it is a uniform share.
        remaining_share = rng.random()
        while True:
            median_s = on_median_s if on else self.off_median_s
            length_s = float(median_s * rng.lognormal(0.0, self.sigma)) * remaining_share
            end_s = now_s + max(length_s, self.shortest_s)
            if on:
                yield now_s, end_s
            now_s, on, remaining_share = end_s, not on, 1.0


DEFAULT_FAILURES: Final = Failures()
DEFAULT_AVAILABILITY: Final = Availability()


@dataclass(frozen=True)
class Device:
    """One edge device, as its application knows it."""

    index: int
    device_id: str
    """32 hexadecimal digits, derived from seed and index."""
    spec: Mapping[str, float]
    """Public attributes in the order of the schema, none above its maximum."""
    speed_ms: float
    """Time per training sample; larger is slower."""
    dataset_size: int
    """Samples on the device. **Private**: compared here with a job's private constraint."""
    seed: int = field(repr=False)
    availability_model: Availability = field(repr=False)
    failures: Failures = field(repr=False)

    @property
    def option(self) -> float:
        """The speed score that tiers are cut by: samples per millisecond, larger is faster."""
        return 1.0 / self.speed_ms

    def availability(self) -> Iterator[tuple[float, float]]:
        """Yield (start_s, end_s) of the times that the device is on; the same on every call."""
        return self.availability_model.intervals(_rng(self.seed, self.index, STREAM_AVAILABILITY))

    def fate(self, task: int) -> Fate:
        """What becomes of the device's task number ``task`` (0, 1, …); the same on every call."""
        return self.failures.draw(_rng(self.seed, self.index, STREAM_FATE, task))

    def meets(self, requirement: Mapping[str, float]) -> bool:
        """Whether every bound is met; an attribute that the device lacks meets none."""
        return all(self.spec.get(name, -1.0) >= bound for name, bound in requirement.items())


@dataclass(frozen=True)
class Population:
    """Devices in order of their index.

    >>> population = Population.generate(3, seed=7)
    >>> population == Population.generate(3, seed=7)
    True
    >>> list(population.devices[0].spec)
    ['cpu_f', 'ram', 'fp16_mem', 'android_os']
    """

    devices: tuple[Device, ...]

    @classmethod
    def generate(
        cls,
        n: int,
        seed: int,
        schema: Mapping[str, float] = ATTRIBUTE_MAXIMA,
        *,
        availability: Availability = DEFAULT_AVAILABILITY,
        failures: Failures = DEFAULT_FAILURES,
    ) -> Population:
        """Draw ``n`` devices; ``schema`` is name → maximum in the operator's order.

        Raises ValueError when n or seed is out of range, or an attribute is not modelled here.
        """
        if not 0 < n <= DEVICES_MAX:
            message = f"population: {n} devices; ask for 1 to {DEVICES_MAX}"
            raise ValueError(message)
        if seed < 0:
            message = f"population: seed {seed} is negative; use 0 or more"
            raise ValueError(message)
        unknown = [name for name in schema if name not in MARGINALS]
        if unknown:
            message = f"population: no model for attribute {unknown[0]!r}; known: {[*MARGINALS]}"
            raise ValueError(message)
        draw = (_device(index, seed, schema, availability, failures) for index in range(n))
        return cls(tuple(draw))

    def __len__(self) -> int:
        return len(self.devices)

    def __iter__(self) -> Iterator[Device]:
        return iter(self.devices)

    def eligible_share(self, requirement: Mapping[str, float]) -> float:
        """The share (0 to 1) of the devices that meet ``requirement`` (name → lower bound)."""
        return sum(device.meets(requirement) for device in self.devices) / len(self.devices)


def _device(
    index: int,
    seed: int,
    schema: Mapping[str, float],
    availability: Availability,
    failures: Failures,
) -> Device:
    """Draw one device; every known attribute is drawn, whatever the schema asks for."""
    rng = _rng(seed, index, STREAM_SPEC)
    models = (*MARGINALS.values(), SPEED_MS, DATASET_SIZE)
    values = [
        model.value(probability)
        for model, probability in zip(models, _probabilities(models, rng), strict=True)
    ]
    drawn = dict(zip(MARGINALS, values, strict=False))
    return Device(
        index=index,
        device_id=hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=16).hexdigest(),
        spec={name: min(drawn[name], maximum) for name, maximum in schema.items()},
        speed_ms=values[-2],
        dataset_size=int(values[-1]),
        seed=seed,
        availability_model=availability,
        failures=failures,
    )


def _probabilities(models: tuple[Marginal, ...], rng: np.random.Generator) -> list[float]:
    """The copula: normal draws that share one factor, each mapped to a probability."""
    draws: NDArray[np.float64] = rng.standard_normal(1 + len(models))
    factor, own = float(draws[0]), draws[1:].tolist()
    return [
        _NORMAL.cdf(model.loading * factor + (1 - model.loading**2) ** 0.5 * noise)
        for model, noise in zip(models, own, strict=True)
    ]


_NORMAL: Final = NormalDist()


def _rng(seed: int, index: int, *purpose: int) -> np.random.Generator:
    """An independent stream for one device and purpose, whatever was drawn elsewhere."""
    sequence = np.random.SeedSequence(seed, spawn_key=(index, *purpose))
    return np.random.Generator(np.random.PCG64(sequence))
