"""What a run has tried, in figures; where that is little, why; and runs as lines of a file.

A seed is worth something if much happened in it: :data:`LEAST` says how much. One that falls short
must say why (:func:`shortfalls`), in words that come from what it drew and how it went.

Not here: what is printed of many runs (``scripts/dst.py``).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.simulation.faults import Fault

LEAST: Final = {"messages": 2_000, "faults": 20, "rounds": 10}
"""What each seed is expected to deliver, suffer and finish."""
LIVELY_S: Final = 25.0  # a run whose faults were over sooner had less time than others
RARE_RATE: Final = 0.02  # of all messages: below this, faults of single messages are few
SLOW_PAUSE_S: Final = 0.6  # between large faults
EXAMPLES: Final = 5  # seeds that fall short, of which the reasons are printed


@dataclass
class Run:
    """What one seed did."""

    seed: int
    harness: str = ""  # what drew it, see :func:`harness`
    digest: str = ""  # of every message and fault
    decisions: str = ""  # of all that the job manager decided, and when
    delivered: int = 0
    steps: int = 0
    virtual_s: float = 0.0
    rounds: int = 0
    offers: int = 0
    assignments: int = 0
    reports: int = 0
    # What it drew, and how it went: the reasons of a shortfall.
    faults_s: float = 0.0  # how long faults rained: until all jobs were over, or time was up
    pause_s: float = 0.0  # mean time between two large faults
    message_rate: float = 0.0  # part of the messages that a fault hits
    managers: int = 0
    rounds_asked: int = 0
    jobs_cut_short: int = 0  # that ended with fewer rounds than they had asked for
    faults: Counter[Fault] = field(default_factory=Counter)
    coverage: Counter[tuple[str, Fault]] = field(default_factory=Counter)


def shortfalls(run: Run) -> dict[str, str]:
    """Which of :data:`LEAST` the run does not reach, and why.

    >>> shortfalls(Run(1, delivered=5_000, faults=Counter({Fault.CUT: 50}), rounds=9,
    ...                rounds_asked=9))
    {'rounds': '9 of 10: the jobs asked for only 9'}
    """
    faults = run.faults.total() - run.faults[Fault.STRANGER]  # those only talk
    reached = {"messages": run.delivered, "faults": faults, "rounds": run.rounds}
    reasons = {"messages": _quiet(run), "faults": _merciful(run), "rounds": _few_rounds(run)}
    return {
        what: f"{reached[what]:,} of {least:,}: {'; '.join(reasons[what])}"
        for what, least in LEAST.items()
        if reached[what] < least
    }


def harness() -> str:
    """Names the code that draws runs from seeds: with another, a seed is another run."""
    digest = hashlib.blake2b(digest_size=4)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if not path.name.startswith("test_"):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def to_line(run: Run) -> str:
    """The run as a line of JSON."""
    fields = dict(vars(run))
    fields["coverage"] = [[kind, fault, n] for (kind, fault), n in sorted(run.coverage.items())]
    return json.dumps(fields, separators=(",", ":"))


def from_line(line: str) -> Run:
    """Read such a line; raises ValueError (or TypeError, KeyError) on any other.

    >>> run = Run(7, faults=Counter({Fault.CUT: 2}), coverage=Counter({("beat", Fault.CUT): 1}))
    >>> from_line(to_line(run)) == run
    True
    """
    fields: dict[str, Any] = json.loads(line)
    fields["faults"] = Counter({Fault(kind): n for kind, n in fields["faults"].items()})
    fields["coverage"] = Counter({(kind, Fault(fault)): n for kind, fault, n in fields["coverage"]})
    return Run(**fields)


def _quiet(run: Run) -> list[str]:
    reasons = []
    if run.faults_s < LIVELY_S:
        reasons.append(f"all jobs were over after {run.faults_s:.0f} s")
    if run.managers == 1:
        reasons.append("one client manager, so few beats")
    reasons.append(f"all was over after {run.virtual_s:.0f} s, with {run.assignments} assignments")
    return reasons


def _merciful(run: Run) -> list[str]:
    reasons = []
    if run.message_rate == 0.0:
        reasons.append("a mix without faults of single messages")
    elif run.message_rate < RARE_RATE:
        reasons.append(f"faults hit only {run.message_rate:.1%} of the messages")
    if run.pause_s > SLOW_PAUSE_S:
        reasons.append(f"a large fault only every {run.pause_s:.1f} s")
    if run.faults_s < LIVELY_S:
        reasons.append(f"faults rained for only {run.faults_s:.0f} s: all jobs were over")
    return reasons


def _few_rounds(run: Run) -> list[str]:
    reasons = []
    if run.rounds_asked < LEAST["rounds"]:
        reasons.append(f"the jobs asked for only {run.rounds_asked}")
    if run.jobs_cut_short:
        reasons.append(f"{run.jobs_cut_short} jobs were ended before their time")
    return reasons


@dataclass
class Runs:
    """Many runs, and what they come to together."""

    all: list[Run]

    def short(self) -> dict[int, dict[str, str]]:
        """The seeds that tried little: what they fall short of, and why."""
        return {run.seed: why for run in self.all if (why := shortfalls(run))}

    def coverage(self) -> Counter[tuple[str, Fault]]:
        """How often each kind of message met each kind of fault."""
        met: Counter[tuple[str, Fault]] = Counter()
        for run in self.all:
            met.update(run.coverage)
        return met

    def faults(self) -> Counter[Fault]:
        """How often each kind of fault struck."""
        struck: Counter[Fault] = Counter()
        for run in self.all:
            struck.update(run.faults)
        return struck

    def sums(self) -> dict[str, Any]:
        """Figures for programs."""
        numbers = ("delivered", "steps", "rounds", "offers", "assignments", "reports")
        return {
            "seeds": len(self.all),
            **{name: sum(getattr(run, name) for run in self.all) for name in numbers},
            "virtual_s": round(sum(run.virtual_s for run in self.all)),
            "faults": dict(self.faults()),
            "coverage": [[kind, fault, n] for (kind, fault), n in sorted(self.coverage().items())],
            "short": self.short(),
        }

    def page(self) -> str:
        """What docs/testing.md says of these runs, as Markdown."""
        sums, faults = self.sums(), self.faults()
        seeds = [run.seed for run in self.all]
        drawn = sorted({run.harness for run in self.all})
        intro = (
            f"{len(seeds):,} seeds ({min(seeds, default=0)} to {max(seeds, default=0)}, "
            f"harness {', '.join(drawn)}): "
            f"{sums['delivered']:,} messages delivered, {faults.total():,} faults, "
            f"{sums['rounds']:,} rounds finished, {sums['assignments']:,} leases given, "
            f"{sums['reports']:,} reports acknowledged, "
            f"in {sums['virtual_s'] / 3600:,.1f} hours of virtual time."
        )
        struck = "Faults: " + ", ".join(f"{kind} {n:,}" for kind, n in faults.most_common()) + "."
        return "\n".join([intro, "", struck, "", *self._coverage_lines(), "", *self._short_lines()])

    def _coverage_lines(self) -> list[str]:
        """Message kind × fault kind."""
        coverage = self.coverage()
        kinds = sorted({kind for kind, _ in coverage})
        columns = sorted({fault for _, fault in coverage})
        return [
            "| message | " + " | ".join(columns) + " |",
            "|---|" + "---:|" * len(columns),
            *(
                f"| {kind} | " + " | ".join(f"{coverage[kind, c]:,}" for c in columns) + " |"
                for kind in kinds
            ),
        ]

    def _short_lines(self) -> list[str]:
        """How many fall short, of what, and some of the reasons."""
        short = self.short()
        of_what = Counter(what for why in short.values() for what in why)
        parts = ", ".join(f"{n:,} in {what}" for what, n in of_what.most_common())
        lines = [
            f"{len(short):,} seeds fall short of {_least()}" + (f": {parts}." if short else ".")
        ]
        for seed, why in sorted(short.items())[:EXAMPLES]:
            lines.append(f"* seed {seed}: " + "; ".join(f"{k} {text}" for k, text in why.items()))
        return lines


def _least() -> str:
    return ", ".join(f"{least:,} {what}" for what, least in LEAST.items())
