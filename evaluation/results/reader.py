"""Reading a run folder, also one whose run is still going or was killed.

A last line without its line break is one that is being written, and is left out. Anything else
that is not as the writer leaves it raises ResultsError with file and line.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from evaluation.results.rows import (
    ClientRow,
    JobRow,
    ResultsError,
    RoundRow,
    ScoreRow,
    parse,
)

__all__ = ["PolicyResults", "RunReader"]

ORIGIN: Final = ("versions", "commit", "command", "hardware", "data", "profiles")
"""What ``run.json`` says of where the run comes from; None where an older run does not say it."""

R = TypeVar("R", RoundRow, ScoreRow, JobRow, ClientRow)


@dataclass(frozen=True)
class PolicyResults:
    """All that is there of one policy with one seed."""

    policy: str
    seed: int
    rounds: list[RoundRow]
    scores: list[ScoreRow]
    jobs: list[JobRow]
    clients: list[ClientRow]
    events: list[dict[str, Any]]

    @classmethod
    def read(cls, folder: Path, policy: str, seed: int) -> Self:
        """Read the folder of a policy; a table that is not there yet is empty."""
        return cls(
            policy,
            seed,
            _rows(RoundRow, folder / "rounds.csv"),
            _rows(ScoreRow, folder / "scores.csv"),
            _rows(JobRow, folder / "jobs.csv"),
            _rows(ClientRow, folder / "clients.csv"),
            _events(folder / "events.jsonl"),
        )


class RunReader:
    """A run folder. ``state`` is ``running``, ``finished`` or ``failed: …``.

    Policies and seeds are those that the run was asked for; :meth:`results` has those that have
    begun.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "run.json"
        try:
            document = json.loads(path.read_bytes())
            self.config: dict[str, Any] = dict(document["config"])
            self.policies: list[str] = [str(name) for name in document["policies"]]
            self.seeds: list[int] = [int(seed) for seed in document["seeds"]]
            self.clock: str = str(document["clock"])
            self.state: str = str(document["state"])
            self.origin: dict[str, Any] = {key: document.get(key) for key in ORIGIN}
        except FileNotFoundError:
            raise ResultsError(
                f"{folder} holds no run: there is no run.json in it; `propius eval run` makes one"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ResultsError(f"{path}: not a run: {error}") from error

    def results(self) -> list[PolicyResults]:
        """What there is now, in the order of policies and seeds."""
        return [
            PolicyResults.read(folder, policy, seed)
            for policy in self.policies
            for seed in self.seeds
            if (folder := self.folder / f"{policy}-{seed}").is_dir()
        ]


def _lines(path: Path) -> list[str]:
    """The whole lines of a file; a torn last one is left out."""
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path}: {error}") from error
    return text[: text.rfind("\n") + 1].splitlines(keepends=True)


def _rows(kind: type[R], path: Path) -> list[R]:
    return list(parse(kind, _lines(path), str(path)))


def _events(path: Path) -> list[dict[str, Any]]:
    events = []
    for number, text in enumerate(_lines(path), 1):
        try:
            events.append(dict(json.loads(text)))
        except (ValueError, TypeError):
            raise ResultsError(f"{path}: line {number}: not an event") from None
    return events
