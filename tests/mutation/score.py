"""The score of the tests: the share of planted bugs that they noticed, with its interval."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from tests.mutation.trial import HERE, Trial

Z_95: Final = 1.959964
"""Two-sided 95 % of the normal distribution."""


@dataclass
class Score:
    """Of one module."""

    counts: dict[str, int] = field(default_factory=dict)
    equivalent: int = 0
    survivors: list[Trial] = field(default_factory=list)

    @property
    def noticed(self) -> int:
        """Bugs after which a test failed, or did not end."""
        return self.counts.get("killed", 0) + self.counts.get("hung", 0)

    @property
    def tried(self) -> int:
        """Bugs that compile and are no equivalents."""
        return self.noticed + len(self.survivors)

    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the score (E. B. Wilson, 1927).

        >>> score = Score({"killed": 90}, survivors=[None] * 10)
        >>> [round(bound, 3) for bound in score.interval()]
        [0.826, 0.945]
        """
        if not self.tried:
            return 0.0, 1.0
        n, share = self.tried, self.noticed / self.tried
        middle = share + Z_95**2 / (2 * n)
        half = Z_95 * math.sqrt(share * (1 - share) / n + Z_95**2 / (4 * n * n))
        scale = 1 + Z_95**2 / n
        return (middle - half) / scale, (middle + half) / scale


def equivalents(path: Path = HERE / "equivalent.toml") -> dict[str, str]:
    """The bugs that change nothing that anyone can see, each with the argument why."""
    return msgspec.convert(tomllib.loads(path.read_text()), dict[str, str])


def scores(trials: Iterable[Trial], known: dict[str, str]) -> dict[str, Score]:
    """By module. The last trial of a bug counts."""
    last = {(trial.module, trial.key): trial for trial in trials}
    found: dict[str, Score] = {}
    for trial in last.values():
        score = found.setdefault(trial.module, Score())
        if trial.verdict == "survived" and trial.key in known:
            score.equivalent += 1
            continue
        score.counts[trial.verdict] = score.counts.get(trial.verdict, 0) + 1
        if trial.verdict == "survived":
            score.survivors.append(trial)
    return found
