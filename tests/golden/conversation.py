"""The script of a golden conversation: commands, ``----``, what comes of them; read and played.

A file begins with a sentence or two of prose (lines with ``#``) and may say ``not PLAYER: why``
for a player that has no such notion. Then come blocks, each of commands, a line ``----``, and what
was to be seen after them; an empty line ends it. Commands:

* ``job demand=3 reports=2``: the job, before anything else. ``deadline=60`` judges its rounds so
  many seconds after they open; ``scheduling=30 response=20`` are the time-outs of the two phases
  of the evaluation's rounds; ``lease=40`` is how long a device may take.
* ``open``: the job's next round. ``end``: end_request. ``complete``: complete_job.
* ``grant d1 d2``: devices ask for a slot of the current round, ``grant d1 round=0`` of another.
* ``report d1``, ``lose d1``: its task is done; it failed.
* ``wait 5``: seconds pass.
* ``slots``: who holds which slot. ``status``: what a job server and an operator see.

Seen are, in this order: answers that are not the usual ones, each round that ended or changed, and
what the job's history has become, if that changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Protocol

import msgspec


@dataclass(frozen=True)
class Terms:
    """What the job asks for in each round; seconds, 0: none."""

    demand: int
    reports: int = 0
    deadline: float = 0.0
    scheduling: float = 0.0
    response: float = 0.0
    lease: float = 600.0


@dataclass(frozen=True)
class RoundSeen:
    """A round, as all players can tell it; times are seconds since it was opened."""

    number: int
    state: str  # open, filled, succeeded, fell short
    allocated: int
    completed: int
    lost: int
    filled_s: float | None
    over_s: float | None

    def line(self, demand: int) -> str:
        """For people."""
        text = f"round {self.number} {self.state}: allocated {self.allocated} of {demand},"
        text += f" completed {self.completed}, lost {self.lost}"
        text += "" if self.filled_s is None else f"; filled after {self.filled_s:g} s"
        return text + ("" if self.over_s is None else f"; over after {self.over_s:g} s")


@dataclass(frozen=True)
class HistorySeen:
    """What a policy reads, and the means that an operator does."""

    succeeded: int = 0
    served: int = 0
    rounds_s: float = 0.0
    delay_s: float = 0.0
    response_s: float = 0.0
    mean_delay_s: float | None = None
    mean_response_s: float | None = None

    def line(self) -> str:
        """For people."""
        means = [f"{it:.6g} s" if it is not None else "-"
                 for it in (self.mean_delay_s, self.mean_response_s)]  # fmt: skip
        return (
            f"history: {self.succeeded} succeeded in {self.rounds_s:g} s, {self.served} served;"
            f" last {self.delay_s:g} s + {self.response_s:g} s; mean {means[0]} + {means[1]}"
        )


class Player(Protocol):
    """One of the places where a round's life is written; made from :class:`Terms`."""

    name: ClassVar[str]

    def __init__(self, terms: Terms) -> None: ...
    def open(self) -> None: ...
    def end(self) -> None: ...
    def complete(self) -> None: ...
    def grant(self, device: str, round_: int) -> bool: ...
    def report(self, device: str) -> bool:
        """False: it is late."""

    def lose(self, device: str) -> None: ...
    def wait(self, seconds: float) -> None: ...
    def seen(self, round_: int) -> RoundSeen: ...
    def history(self) -> HistorySeen: ...
    def slots(self) -> dict[int, str]:
        """Of the current round: slot → device, of those that are held."""

    def status(self) -> list[str]: ...


@dataclass(frozen=True)
class Block:
    """Commands, and what was to be seen after them."""

    commands: tuple[str, ...]
    expected: tuple[str, ...]


@dataclass(frozen=True)
class Script:
    """A file."""

    path: Path
    head: tuple[str, ...]
    blocks: tuple[Block, ...]

    def without(self) -> dict[str, str]:
        """Who cannot play it, and why."""
        lines = [line.removeprefix("not ") for line in self.head if line.startswith("not ")]
        return dict(line.split(": ", 1) for line in lines)

    def prose(self) -> str:
        """What it is about."""
        return " ".join(line.removeprefix("# ") for line in self.head if line.startswith("#"))

    def rendered(self) -> str:
        """The file's text."""
        parts = ["\n".join(self.head)]
        parts += ["\n".join((*it.commands, "----", *it.expected)) for it in self.blocks]
        return "\n\n".join(parts) + "\n"


def read(path: Path) -> Script:
    """The file; raises ValueError where it is no conversation."""
    head, *rest = path.read_text().strip().split("\n\n")
    blocks = []
    for part in rest:
        lines = part.split("\n")
        if "----" not in lines:
            raise ValueError(f"{path.name}: a block without ----: {lines[0]!r}")
        at = lines.index("----")
        blocks.append(Block(tuple(lines[:at]), tuple(lines[at + 1 :])))
    return Script(path, tuple(head.split("\n")), tuple(blocks))


def play(script: Script, make: type[Player]) -> Script:
    """The same file, with what this player shows."""
    stage = _Stage(make)
    return replace(
        script,
        blocks=tuple(
            replace(block, expected=tuple(stage.play(block.commands))) for block in script.blocks
        ),
    )


class _Stage:
    """A player in the middle of a conversation."""

    terms: Terms
    player: Player

    def __init__(self, make: type[Player]) -> None:
        self._make = make
        self._round = -1
        self._over = True
        self._ended: list[RoundSeen] = []
        self._told: tuple[RoundSeen | None, HistorySeen] = (None, HistorySeen())

    def play(self, commands: Iterable[str]) -> list[str]:
        """What is to be seen after these commands."""
        lines: list[str] = []
        for command in commands:
            lines += self._do(*command.split())
            self._look()
        return lines + self._changes()

    def _do(self, verb: str, *words: str) -> list[str]:
        named = dict(word.split("=") for word in words if "=" in word)
        plain = [word for word in words if "=" not in word]
        if verb == "job":
            self.terms = msgspec.convert(named, Terms, strict=False)
            self.player = self._make(self.terms)
            return []
        if verb == "grant":
            round_ = int(named.get("round", self._round))
            return [f"{it}: refused" for it in plain if not self.player.grant(it, round_)]
        if verb == "report":
            return [f"{it}: late" for it in plain if not self.player.report(it)]
        return self._other(verb, plain)

    def _other(self, verb: str, words: list[str]) -> list[str]:
        match verb:
            case "lose":
                for device in words:
                    self.player.lose(device)
            case "wait":
                self.player.wait(float(words[0]))
            case "open":
                self._round += 1
                self.player.open()
                self._over = False
            case "end":
                self.player.end()
            case "complete":
                self.player.complete()
            case "slots":
                held = sorted(self.player.slots().items())
                return ["slots: " + " ".join(f"{slot}={device}" for slot, device in held)]
            case "status":
                return self.player.status()
            case _:
                raise ValueError(f"unknown command {verb!r}")
        return []

    def _look(self) -> None:
        """A round is told once more when it ends, as it is then; late devices do not change it."""
        if not self._over:
            seen = self.player.seen(self._round)
            self._now = seen
            if seen.over_s is not None:
                self._over = True
                self._ended.append(seen)

    def _changes(self) -> list[str]:
        told_round, told_history = self._told
        shown = list(self._ended)
        self._ended.clear()
        if not self._over and self._now != told_round:
            shown.append(self._now)
        history = self.player.history() if self._round >= 0 else HistorySeen()
        self._told = (shown[-1] if shown else told_round, history)
        lines = [each.line(self.terms.demand) for each in shown]
        return lines + ([history.line()] if history != told_history else [])
