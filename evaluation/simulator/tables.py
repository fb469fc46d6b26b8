"""The runs of a comparison as a table for people, and as JSON for programs.

Not here: how the figures are made (:mod:`evaluation.simulator.results`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from evaluation.simulator.draws import scope
from evaluation.simulator.grid import Grid
from evaluation.simulator.results import PARTS, Estimate, PolicySummary

__all__ = ["as_json", "comparison_table", "duration", "parts_table"]


def duration(seconds: float | None) -> str:
    """Seconds in the unit that people think in.

    >>> [duration(s) for s in (None, 9.5, 600, 86_400 * 2.5)]
    ['-', '9.5 s', '10.0 min', '2.50 d']
    """
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.1f} min"
    if seconds < 2 * 86_400:
        return f"{seconds / 3600:.2f} h"
    return f"{seconds / 86_400:.2f} d"


def comparison_table(summaries: Sequence[PolicySummary], base: str, title: str) -> Table:
    """One row for each policy; improvements are over ``base``."""
    table = Table(title=title, title_justify="left")
    table.add_column("policy")
    for name in (
        "avg JCT", "median", "p95", "scheduling", "response", "makespan", "aborts", "ineligible",
        "Jain", "slow-down p95, worst", "finished",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    table.add_column(f"faster than {base}", justify="right")
    for summary in summaries:
        means = summary.means
        table.add_row(
            summary.policy,
            *(duration(means[name]) for name in ("avg_jct_s", "median_jct_s", "p95_jct_s")),
            *(duration(means[name]) for name in ("scheduling_delay_s", "response_time_s")),
            duration(means["makespan_s"]),
            _count(means["aborts"]),
            _count(means["ineligible"]),
            _number(means["jain_index"]),
            ", ".join(_number(means[name]) for name in ("p95_slow_down", "worst_slow_down")),
            f"{summary.finished} of {summary.jobs}",
            _improvement(summary, base),
        )
    return table


def parts_table(summaries: Sequence[PolicySummary]) -> Table:
    """Where the mean JCT of each policy went; parts that are nowhere more than 0 are left out."""
    known = [(summary, summary.parts_s) for summary in summaries if summary.parts_s]
    shown = [name for name in PARTS if any(parts_s[name] for _, parts_s in known)]
    table = Table(title="where the time of the jobs went, as share of JCT", title_justify="left")
    table.add_column("policy")
    for name in shown:
        table.add_column(name, justify="right")
    for summary, parts_s in known:
        jct_s = sum(parts_s.values())
        cells = (f"{duration(parts_s[name])} {_share(parts_s[name] / jct_s)}" for name in shown)
        table.add_row(summary.policy, *cells)
    return table


def as_json(
    runs: Sequence[dict[str, Any]],
    summaries: Sequence[PolicySummary],
    grid: Grid,
    base: str,
) -> dict[str, Any]:
    """Everything that the runs found; the same input gives the same bytes."""
    return {
        "semantics": grid.semantics,
        "repeat": grid.repeat,
        "base": base,
        "seeds": list(grid.seeds),
        "drawn": list(grid.draws),
        "interval": scope(grid.draws),
        "policy_options": dict(grid.policy_options),
        "runs": list(runs),
        "policies": [summary.as_dict() for summary in summaries],
    }


def ratio(value: Estimate) -> str:
    """A ratio and, where there is one, its interval."""
    if value.half_width is None:
        return f"{value.mean:.2f}×"
    return f"{value.mean:.2f}× ± {value.half_width:.2f}"


def _improvement(summary: PolicySummary, base: str) -> str:
    if summary.policy == base:
        return ""
    return "-" if summary.improvement is None else ratio(summary.improvement)


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _share(value: float) -> str:
    return f"{value:.1%}"
