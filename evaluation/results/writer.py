"""Writing a run folder, a line at a time, so that it can be read while the run goes on.

A row is one write at the end of its file, which is open for no longer: whoever reads finds whole
lines, and at most one torn line at the end if the run was killed. ``run.json`` and ``clients.csv``
are replaced as a whole.
Threads may share a writer; processes may not.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from evaluation.files import replacing
from evaluation.results.provenance import provenance
from evaluation.results.rows import (
    ClientRow,
    JobRow,
    ResultsError,
    RoundRow,
    Row,
    ScoreRow,
    header,
    line,
)

__all__ = ["CLOCKS", "TABLES", "PolicyWriter", "RunWriter", "check_free"]

CLOCKS: Final = ("live", "virtual")
TABLES: Final[dict[str, type[Row]]] = {
    "rounds": RoundRow,
    "scores": ScoreRow,
    "jobs": JobRow,
}
"""The tables that grow by lines."""
NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,99}")


class PolicyWriter:
    """Where one policy with one seed is written. Every call leaves whole lines behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.diverged = 0
        """Results that were dropped so far, because their clients had diverged."""
        folder.mkdir()
        self._lock = threading.Lock()
        for name, kind in TABLES.items():
            self._append(f"{name}.csv", header(kind))
        self._append("events.jsonl", "")

    def round(self, row: RoundRow) -> None:
        """Add an attempt at a round, completed or not; results that diverged are an event."""
        self._append("rounds.csv", line(row))
        if row.diverged:
            self.diverged += row.diverged
            self.event(
                "clients_diverged", job=row.job, round=row.round, clients=row.diverged,
                results=row.completed, used=row.trained_samples > 0,
            )  # fmt: skip

    def score(self, row: ScoreRow) -> None:
        """Add a test of a job's weights."""
        self._append("scores.csv", line(row))

    def job(self, row: JobRow) -> None:
        """Add a job that is over."""
        self._append("jobs.csv", line(row))

    def clients(self, rows: Iterable[ClientRow]) -> None:
        """Replace what is known of the clients."""
        with self._lock, replacing(self.folder / "clients.csv") as draft:
            draft.write_text(header(ClientRow) + "".join(map(line, rows)))

    def event(self, kind: str, **values: Any) -> None:
        """Add something that befell the run; ``values`` are what JSON knows."""
        self._append("events.jsonl", json.dumps({"kind": kind, **values}) + "\n")

    def _append(self, name: str, text: str) -> None:
        with self._lock, (self.folder / name).open("ab", buffering=0) as file:
            file.write(text.encode())


def check_free(folder: Path) -> None:
    """Raise ResultsError if the folder already holds a run."""
    if (folder / "run.json").exists():
        raise ResultsError(f"{folder} already holds a run; name another folder")


class RunWriter:
    """A run folder that is being written: ``run.json`` first, then a folder for each policy.

    As a context manager the run is marked finished, or failed with the error that ended it.
    ``inputs``: what else went into it, for ``run.json``. Raises ResultsError if the folder already
    holds a run.
    """

    def __init__(
        self,
        folder: Path,
        *,
        config: Mapping[str, Any],
        policies: Sequence[str],
        seeds: Sequence[int],
        clock: str,
        inputs: Mapping[str, Any] | None = None,
    ) -> None:
        if clock not in CLOCKS:
            raise ResultsError(f"no clock {clock!r}; there are {', '.join(CLOCKS)}")
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResultsError(f"{folder}: {error.strerror}") from error
        check_free(folder)
        self._document = {
            "config": dict(config),
            "policies": list(policies),
            "seeds": list(seeds),
            "clock": clock,
            **(inputs or {}),
            **provenance(),
            "state": "running",
        }
        self._save()

    def policy(self, policy: str, seed: int) -> PolicyWriter:
        """The writer of one policy with one seed; each can be had once."""
        if not NAME.fullmatch(policy):
            raise ResultsError(f"policy {policy!r} cannot be the name of a folder")
        try:
            return PolicyWriter(self.folder / f"{policy}-{seed}")
        except OSError as error:
            raise ResultsError(f"{self.folder}: {error}") from error

    def finish(self, state: str = "finished") -> None:
        """Say how the run ended: ``finished`` or ``failed: …``."""
        self._document["state"] = state
        self._save()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.finish()
        else:
            reason = " ".join(str(error).split()) or type(error).__name__
            self.finish(f"failed: {reason}")

    def _save(self) -> None:
        with replacing(self.folder / "run.json") as draft:
            draft.write_text(json.dumps(self._document, indent=1, default=str) + "\n")
