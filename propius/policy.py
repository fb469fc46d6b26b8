"""A policy of your own: a Python class that puts the open rounds in order, once per plan.

Name it in the configuration as ``policy: my_package.my_module:MyPolicy`` (its folder must be on
``PYTHONPATH``), live or with ``propius simulate --policy``: the same class decides in both. The
class is made without arguments. Its method ``order`` gets a :class:`Snapshot`, frozen, and returns
(job, round) pairs, first served first; rounds that it leaves out follow in the order in which their
jobs registered. It suggests an order and no more: devices are offered what they are eligible for,
and never more of them than a round lacks.

If it raises, names a round twice or one that is not open, then live the last plan stays in force
and the metric ``policy_errors`` grows; a simulation stops with one line. Whoever wants the same
decisions from the same seed draws from ``snapshot.seed`` and keeps no clock.

>>> class MostPatient:
...     def order(self, snapshot):
...         return [(r.job, r.round) for r in sorted(snapshot.rounds, key=lambda r: r.opened_ns)]

Not here: the built-in policies (``rust_core/src/policy``, explained in ``docs/policies.md``).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any, Protocol

__all__ = ["Group", "History", "Policy", "Round", "Signature", "Snapshot", "load"]


@dataclass(frozen=True, slots=True)
class History:
    """What a job's earlier rounds came to; delay and response are of the last that succeeded."""

    rounds_succeeded: int
    devices_served: int  # held or completed when a round ended, of all rounds that ended
    last_scheduling_ns: int
    last_response_ns: int
    rounds_ns: int  # sum of the times of the rounds that succeeded


@dataclass(frozen=True, slots=True)
class Round:
    """A round that lacks devices. Times are of the clock of ``Snapshot.now_ns``."""

    job: int
    round: int
    requirement_id: int  # of its group
    remaining: int  # devices that it lacks
    demand: int  # devices that it asked for
    registered_ns: int
    opened_ns: int
    rounds_estimate: int  # as the job registered; 0 = unknown
    demand_estimate: int
    history: History


@dataclass(frozen=True, slots=True)
class Group:
    """The rounds with one requirement."""

    requirement_id: int
    supply: float  # devices of the day's supply that meet it
    rate: float  # devices a second, in the short window
    rate_day: float  # devices a second, over the day
    speeds: tuple[float, ...]  # lower bounds of the equal-count speed classes; () = unknown


@dataclass(frozen=True, slots=True)
class Signature:
    """The devices of the supply that meet exactly these requirements."""

    requirement_ids: tuple[int, ...]  # scarcest first
    devices: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a policy decides from."""

    now_ns: int
    seed: int
    jobs: int  # registered, with or without an open round
    options: Mapping[str, float]
    rounds: tuple[Round, ...]  # in order of job
    groups: tuple[Group, ...]  # scarcest first
    signatures: tuple[Signature, ...]


class Policy(Protocol):
    """What the class has to have."""

    def order(self, snapshot: Snapshot) -> Iterable[tuple[int, int]]:
        """The open rounds as (job, round), first served first."""
        ...


class _Adapter:
    """Stands between the engine, which speaks in tuples, and a user's policy."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def __call__(
        self,
        seen: tuple[int, int, int, dict[str, float]],
        rounds: Sequence[tuple[Any, ...]],
        groups: Sequence[tuple[Any, ...]],
        signatures: Sequence[tuple[list[int], float]],
    ) -> list[tuple[int, int]]:
        """The policy's answer, at most one pair more than there are rounds."""
        now_ns, seed, jobs, options = seen
        snapshot = Snapshot(
            now_ns=now_ns,
            seed=seed,
            jobs=jobs,
            options=MappingProxyType(options),
            rounds=tuple(Round(*(*round_[:-1], History(*round_[-1]))) for round_ in rounds),
            groups=tuple(Group(*(*group[:-1], tuple(group[-1]))) for group in groups),
            signatures=tuple(Signature(tuple(met), devices) for met, devices in signatures),
        )
        answer = self._policy.order(snapshot)
        return [_pair(each) for each in islice(answer, len(rounds) + 1)]


def _pair(each: object) -> tuple[int, int]:
    match each:
        case (int(job), int(number)):
            return job, number
    raise TypeError(f"order() must return (job, round) pairs, not {each!r:.60}")


def load(name: str) -> _Adapter:
    """The policy ``package.module:Class``, made; raises whatever its import and making raise.

    Called by the engine, which makes one line of it.
    """
    module_name, _, class_name = name.partition(":")
    if not module_name or not class_name:
        raise ValueError("a policy of your own is named package.module:Class")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}; is its folder on PYTHONPATH?") from error
    policy = getattr(module, class_name)()
    if not callable(getattr(policy, "order", None)):
        raise TypeError(f"{class_name} has no method order(snapshot)")
    return _Adapter(policy)
