"""The versions of each job's global weights that are kept: the newest few.

Not here: who sends them where.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from evaluation.executor.jobs import ExecutorError

__all__ = ["Recent", "Versions", "check_finite", "keep_last"]

Value = TypeVar("Value")

VERSIONS_KEPT: Final = 2
"""Of each job: a score of the last version may be asked for when the next one is there."""


class Versions:
    """Weights by job and version.

    >>> versions = Versions()
    >>> for version in range(3):
    ...     versions.set(7, version, {"w": np.array([float(version)])})
    >>> versions.get(7, 1)["w"].tolist()
    [1.0]
    >>> versions.get(7, 0)
    Traceback (most recent call last):
    evaluation.executor.jobs.ExecutorError: job 7: version 0 is not there; kept are 1, 2
    """

    def __init__(self) -> None:
        self._kept: dict[int, dict[int, Mapping[str, NDArray[Any]]]] = {}

    def set(self, job: int, version: int, weights: Mapping[str, NDArray[Any]]) -> None:
        """Keep a copy; raises :class:`ExecutorError` for weights that are not finite."""
        check_finite(job, version, weights)
        own = self._kept.setdefault(job, {})
        own[version] = {name: np.array(value) for name, value in weights.items()}
        keep_last(own, sorted(own))

    def get(self, job: int, version: int) -> Mapping[str, NDArray[Any]]:
        """The weights; raises :class:`ExecutorError` if they are not kept."""
        own = self._kept.get(job, {})
        if version not in own:
            there = ", ".join(map(str, sorted(own))) or "none"
            raise ExecutorError(f"job {job}: version {version} is not there; kept are {there}")
        return own[version]

    def forget(self, job: int) -> None:
        """The job is over."""
        self._kept.pop(job, None)


class Recent(Generic[Value]):
    """What a worker was sent: of each job the last few versions, in the order of sending.

    The broker keeps one of these for each worker, and so knows what the worker still has.
    """

    def __init__(self) -> None:
        self._kept: dict[int, dict[int, Value]] = {}

    def add(self, job: int, version: int, value: Value) -> None:
        """Keep this, and forget what was sent longest ago."""
        own = self._kept.setdefault(job, {})
        own.pop(version, None)
        own[version] = value
        keep_last(own, list(own))

    def has(self, job: int, version: int) -> bool:
        """Whether it is still kept."""
        return version in self._kept.get(job, {})

    def get(self, job: int, version: int) -> Value:
        """What was sent; raises :class:`ExecutorError` if it is not here."""
        try:
            return self._kept[job][version]
        except KeyError:
            raise ExecutorError(f"job {job}: version {version} was not sent") from None

    def forget(self, job: int) -> None:
        """The job is over."""
        self._kept.pop(job, None)


def keep_last(own: dict[int, Any], versions: Sequence[int]) -> None:
    """Forget all but the last of these versions."""
    for old in versions[:-VERSIONS_KEPT]:
        del own[old]


def check_finite(job: int, version: int, weights: Mapping[str, NDArray[Any]]) -> None:
    """Raise :class:`ExecutorError` for weights that nobody can train from."""
    for name, value in weights.items():
        if not np.isfinite(value).all():
            raise ExecutorError(f"job {job}, version {version}: weights {name} are not finite")
