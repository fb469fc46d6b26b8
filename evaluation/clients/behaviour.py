"""The simulated clients: specs, speed, bandwidth, and when they are available.

Clients come from a seed, or from the original testbed's JSON files where the run names some; what
no file says is drawn. Client ``i`` of a seed is the same in every process and under every policy,
so dispatchers share out numbers and never draw for themselves. Files are read in an order of their
entries that the seed shuffles once: two clients have the same entry only if there are more clients
than entries.

Availability repeats after ``period_s``: nobody leaves for good. A task takes
``3 · batch_size · local_steps · speed_ms / 1000`` seconds, and its ``model_size`` twice over the
client's bandwidth. Parameters of ours: the log-normal bandwidth below, and the intervals of
:class:`evaluation.population.Availability`.

Not here: what a client does with its time (:mod:`evaluation.clients.dispatcher`, and the
simulator).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from evaluation.jobs.profiles import JobProfile
from evaluation.jobs.yaml_file import SettingsError
from evaluation.population import (
    ATTRIBUTE_MAXIMA,
    DEFAULT_AVAILABILITY,
    Availability,
    Device,
    Population,
)

__all__ = ["Behaviour", "ClientFiles", "SimulatedClient", "TaskCost", "share_out", "with_samples"]

BANDWIDTH_MEDIAN_KBPS: Final = 8_000.0
BANDWIDTH_SIGMA: Final = 0.8
STREAM: Final = 0xC11E
FILE_BYTES_MAX: Final = 1 << 30
FORWARD_AND_BACKWARD: Final = 3.0
"""A training step costs about three inferences, which is what a phone's speed is measured by."""


@dataclass(frozen=True)
class ClientFiles:
    """The original's files, each optional: specs and speeds, capacities, availability."""

    spec: Path | None = None
    comm: Path | None = None
    avail: Path | None = None


@dataclass(frozen=True)
class TaskCost:
    """What a task of one job asks of a device. In analytics mode nothing is trained or sent up.

    ``steps``: into how many equal steps its samples may be cut; 0: a device does all or nothing.
    """

    samples: float
    kbit: float
    steps: int = 0

    @classmethod
    def of(cls, profile: JobProfile, model_kbit: float, *, analytics: bool = False) -> TaskCost:
        """Of a profile whose model has so many kbit."""
        samples = float(profile.batch_size * profile.local_steps)
        if analytics:
            return cls(samples, model_kbit)
        steps = profile.local_steps if profile.cuts_steps else 0
        return cls(FORWARD_AND_BACKWARD * samples, 2 * model_kbit, steps)

    def task_s(self, speed_ms: float, kbps: float) -> float:
        """How long it takes on a device of this speed and bandwidth."""
        return self.samples * speed_ms / 1000 + self.kbit / kbps

    def within(self, left_s: float, speed_ms: float, kbps: float) -> TaskCost:
        """As many of its steps as such a device does in ``left_s``, with the transfers; at least 1.

        >>> TaskCost(3_000.0, 8.0, steps=10).within(2.0, speed_ms=1.0, kbps=8.0)
        TaskCost(samples=900.0, kbit=8.0, steps=3)
        """
        if not self.steps or self.task_s(speed_ms, kbps) <= left_s:
            return self
        step_s = self.samples / self.steps * speed_ms / 1000
        fit = (left_s - self.kbit / kbps) / step_s if step_s else 0.0
        steps = int(min(max(1.0, fit), self.steps))
        cut = TaskCost(self.samples * steps / self.steps, self.kbit, steps)
        if steps > 1 and cut.task_s(speed_ms, kbps) > left_s:  # it was rounded up
            return TaskCost(self.samples * (steps - 1) / self.steps, self.kbit, steps - 1)
        return cut


@dataclass(frozen=True)
class SimulatedClient:
    """One device. ``sessions`` are its times of availability within one period, in order.

    ``samples``: how many it has of each data set that a job of the run asks about, by name.
    """

    index: int
    device_id: str
    spec: Mapping[str, float]
    speed_ms: float
    bandwidth_kbps: float
    sessions: tuple[tuple[float, float], ...]
    period_s: float
    samples: Mapping[str, int] = field(default_factory=dict)

    @property
    def option(self) -> float:
        """The speed score; larger is faster."""
        return 1.0 / self.speed_ms

    @property
    def private_spec(self) -> dict[str, float]:
        """What never leaves the device."""
        return {f"dataset_size_{name}": float(count) for name, count in self.samples.items()}

    def task_s(self, cost: TaskCost) -> float:
        """How long a task takes here."""
        return cost.task_s(self.speed_ms, self.bandwidth_kbps)

    def suits(self, profile: JobProfile) -> bool:
        """Whether it meets both constraints of a job."""
        public = all(
            self.spec.get(name, -1.0) >= low for name, low in profile.public_constraint.items()
        )
        private = all(
            self.private_spec.get(name, -1.0) >= low for name, low in profile.private_bounds.items()
        )
        return public and private

    def all_sessions(self) -> Iterator[tuple[float, float]]:
        """Its times of availability, period after period, without end."""
        if not self.sessions:
            return
        for number in count():
            offset_s = number * self.period_s
            for start_s, end_s in self.sessions:
                yield start_s + offset_s, end_s + offset_s

    def active_s(self, until_s: float) -> float:
        """For how long it is available before ``until_s``."""
        total_s = 0.0
        for start_s, end_s in self.all_sessions():
            if start_s >= until_s:
                break
            total_s += min(end_s, until_s) - start_s
        return total_s


def with_samples(
    clients: Sequence[SimulatedClient], sizes: Mapping[str, Sequence[int] | NDArray[np.int64]]
) -> list[SimulatedClient]:
    """The same clients; ``sizes``: by data set, how many samples each client of the run has."""
    return [
        replace(client, samples={name: int(own[client.index]) for name, own in sizes.items()})
        for client in clients
    ]


def share_out(clients: int, dispatchers: int) -> list[range]:
    """Which clients each dispatcher simulates: every one belongs to exactly one.

    >>> share_out(5, 2)
    [range(0, 2), range(2, 5)]
    """
    bounds = [number * clients // dispatchers for number in range(dispatchers + 1)]
    return [range(low, high) for low, high in pairwise(bounds)]


@dataclass(frozen=True)
class Behaviour:
    """How the clients of a run are made."""

    clients: int
    seed: int
    period_s: float
    ideal: bool = False
    availability: Availability = DEFAULT_AVAILABILITY
    files: ClientFiles = ClientFiles()

    def draw(self, numbers: Sequence[int] | None = None) -> list[SimulatedClient]:
        """The clients with these numbers, or all. Raises :class:`SettingsError` for a bad file."""
        wanted = range(self.clients) if numbers is None else numbers
        population = Population.generate(
            self.clients, self.seed, availability=self.availability
        ).devices
        phones = _Entries(self.files.spec, self.seed, "spec")
        links = _Entries(self.files.comm, self.seed, "comm")
        traces = _Entries(self.files.avail, self.seed, "avail")
        return [self._client(population[number], phones, links, traces) for number in wanted]

    def _client(
        self,
        device: Device,
        phones: _Entries,
        links: _Entries,
        traces: _Entries,
    ) -> SimulatedClient:
        index = device.index
        spec, speed_ms = device.spec, device.speed_ms
        if phones:
            spec = {
                name: min(phones.number(index, name), maximum)
                for name, maximum in ATTRIBUTE_MAXIMA.items()
            }
            speed_ms = phones.number(index, "speed")
        kbps = links.number(index, "communication") if links else self._bandwidth(index)
        return SimulatedClient(
            index=index,
            device_id=device.device_id,
            spec=spec,
            speed_ms=speed_ms,
            bandwidth_kbps=kbps,
            sessions=self._sessions(device, traces),
            period_s=self.period_s,
        )

    def _bandwidth(self, index: int) -> float:
        sequence = np.random.SeedSequence(self.seed, spawn_key=(index, STREAM))
        draw = np.random.Generator(np.random.PCG64(sequence)).standard_normal()
        return float(BANDWIDTH_MEDIAN_KBPS * np.exp(BANDWIDTH_SIGMA * draw))

    def _sessions(self, device: Device, traces: _Entries) -> tuple[tuple[float, float], ...]:
        if self.ideal:
            return ((0.0, self.period_s),)
        found = traces.intervals(device.index) if traces else device.availability()
        sessions = []
        for start_s, end_s in found:
            if start_s >= self.period_s:
                break
            if end_s > start_s:
                sessions.append((start_s, min(end_s, self.period_s)))
        return tuple(sessions)


class _Entries:
    """The entries of one of the original's JSON files, in an order of the seed; may be no file."""

    def __init__(self, path: Path | None, seed: int, what: str) -> None:
        self.path = path
        self._entries: list[Any] = [] if path is None else _read(path)
        if path is not None and not self._entries:
            raise SettingsError(f"{path}: no entries")
        stream = [seed, STREAM, *what.encode()]
        order = np.random.Generator(np.random.PCG64(stream)).permutation(len(self._entries))
        self._order = order.tolist()

    def __bool__(self) -> bool:
        return self.path is not None

    def _entry(self, client: int) -> tuple[int, Any]:
        place = self._order[client % len(self._order)]
        return place, self._entries[place]

    def number(self, client: int, name: str) -> float:
        """A number above 0 of the client's entry."""
        place, entry = self._entry(client)
        value = entry.get(name) if isinstance(entry, dict) else entry
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise SettingsError(f"{self.path}: entry {place}: {name} is {value!r}")
        return float(value)

    def intervals(self, client: int) -> Iterator[tuple[float, float]]:
        """The (start, end) of the client's entry: its lists ``active`` and ``inactive``."""
        place, entry = self._entry(client)
        try:
            begins = sorted(float(at) for at in entry["active"])
            ends = sorted(float(at) for at in entry["inactive"])
            finish = float(entry.get("finish_time", ends[-1] if ends else 0.0))
        except (TypeError, KeyError, ValueError):
            raise SettingsError(
                f"{self.path}: entry {place}: lists active and inactive of seconds expected"
            ) from None
        last_s = -1.0
        for start_s in begins:
            if start_s < last_s:
                continue
            last_s = next((end_s for end_s in ends if end_s > start_s), finish)
            yield start_s, last_s


def _read(path: Path) -> list[Any]:
    """A JSON list, or an object whose keys are numbers: its values in their order."""
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES_MAX + 1)
        document = json.loads(text[:FILE_BYTES_MAX])
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: {error}") from error
    if isinstance(document, dict):
        try:
            return [document[key] for key in sorted(document, key=int)]
        except ValueError:
            raise SettingsError(f"{path}: keys must be numbers") from None
    if not isinstance(document, list):
        raise SettingsError(f"{path}: a list or an object of entries expected")
    return document
