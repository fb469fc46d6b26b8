"""The report's figures as SVG: one colour a policy, the same in all of them.

Draws from plain numbers, without a display, and gives the same bytes for the same input. Colours
are Okabe and Ito's, which colour-blind readers tell apart; beyond seven policies lines are dashed,
and dots are squares.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from evaluation.figure import COLOURS, FAINT, INK, STYLE
from evaluation.report.curves import JobCurve, mean_curve
from evaluation.report.document import Report
from evaluation.report.summary import JobSummary, PolicySummary, Spread

__all__ = ["Chart", "Look", "draw_charts", "looks"]

DASHES: Final = ("-", (0, (4, 2)), (0, (1, 1.5)))
HALF: Final = 5.6
FULL: Final = 10.4
"""Widths in inches; the page shows all figures at one scale."""
JOB_PANELS_MAX: Final = 24
"""As many jobs have a panel of their own; more would not be legible."""
MARKERS: Final = "osD"
JOB_ROWS_MAX: Final = 60


@dataclass(frozen=True)
class Look:
    """How a policy is drawn everywhere."""

    colour: str
    dash: Any
    marker: str


@dataclass(frozen=True)
class Chart:
    """One figure: a file name, what it shows in words, and the SVG."""

    name: str
    title: str
    caption: str
    svg: str


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """A colour for each, and other dashes and markers once the colours are used up."""
    return {
        label: Look(
            COLOURS[place % len(COLOURS)],
            DASHES[place // len(COLOURS) % len(DASHES)],
            MARKERS[place // len(COLOURS) % len(MARKERS)],
        )
        for place, label in enumerate(labels)
    }


def draw_charts(report: Report) -> list[Chart]:
    """Those figures for which there are data."""
    style = looks([policy.label for policy in report.policies])
    charts = []
    with mpl.rc_context(STYLE):
        if any(report.curves.values()):
            charts.append(_over_time(report, style, "accuracy"))
            charts.append(_over_time(report, style, "loss"))
            charts.append(_by_job(report, style))
        if any(policy.jct_s for policy in report.policies):
            charts.append(_completion(report, style))
        if any(policy.round_time_s for policy in report.policies):
            charts.append(_times(report, style))
    return charts


# --- over time -----------------------------------------------------------------------------------


def _over_time(report: Report, style: Mapping[str, Look], what: str) -> Chart:
    figure, axes = _figure(HALF, 3.9)
    end_s = _end_s(report.curves)
    scale, unit = _unit(end_s)
    for label, curves in report.curves.items():
        mean = mean_curve(curves, what, end_s)
        if mean is None:
            continue
        look = style[label]
        times = mean.times_s / scale
        if len({curve.seed for curve in curves}) > 1:
            axes.fill_between(
                times, mean.lows, mean.highs, color=look.colour, alpha=0.15, linewidth=0
            )
        axes.plot(times, mean.means, color=look.colour, linestyle=look.dash, linewidth=2)
    accuracy = what == "accuracy"
    name = "Accuracy on the test split" if accuracy else "Loss on the test split"
    _plain(axes, f"{name}, mean over jobs")
    if accuracy:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlim(0, max(end_s, 1e-9) / scale)
    axes.set_xlabel(f"Simulated time since a job arrived ({unit})")
    _legend(figure, style, report.curves)
    caption = (
        "Each job's curve is a straight line between its tests, and keeps its last value when the "
        "job is over. With several seeds the band is from the lowest to the highest seed."
    )
    return Chart(f"{what}_over_time", f"{name} over time", caption, _svg(figure))


def _by_job(report: Report, style: Mapping[str, Look]) -> Chart:
    jobs = sorted({curve.job for curves in report.curves.values() for curve in curves})
    shown = jobs[:JOB_PANELS_MAX]
    columns = max(2, min(4, len(shown)))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(FULL, 0.8 + 2.0 * rows), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    scale, unit = _unit(_end_s(report.curves))
    for panel, job in zip(panels.flat, shown, strict=False):
        ends = [0.0]
        for label, curves in report.curves.items():
            mine = [curve for curve in curves if curve.job == job]
            ends += [float(curve.times_s[-1]) for curve in mine]
            _draw_job(panel, mine, style[label], scale)
        _plain(panel, f"job {job}{_profile_of(report, job)}", size=9.5)
        panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.set_xlim(0, max(*ends, 1e-9) / scale * 1.03)
    for place, panel in enumerate(panels.flat):
        panel.set_visible(place < len(shown))
    figure.supxlabel(f"Simulated time since the job arrived ({unit})", fontsize=10)
    _legend(figure, style, report.curves, where="outside upper left")
    rest = f" The first {len(shown)} of {len(jobs)} jobs." if len(shown) < len(jobs) else ""
    caption = f"Each dot is a test; with several seeds, lines are their mean.{rest}"
    return Chart("accuracy_by_job", "Accuracy, job by job", caption, _svg(figure))


def _draw_job(axes: Axes, curves: Sequence[JobCurve], look: Look, scale: float) -> None:
    """A dot for each test; with several seeds their mean, which has no dots."""
    paint = {"color": look.colour, "linestyle": look.dash, "linewidth": 1.6}
    if len(curves) == 1:
        times, accuracies = curves[0].times_s, curves[0].accuracies
        axes.plot(times / scale, accuracies, marker="o", markersize=2.5, **paint)
    elif mean := mean_curve(curves, "accuracy", max(float(each.times_s[-1]) for each in curves)):
        axes.plot(mean.times_s / scale, mean.means, **paint)


# --- jobs and rounds -----------------------------------------------------------------------------


def _completion(report: Report, style: Mapping[str, Look]) -> Chart:
    by_job: dict[int, dict[str, Spread]] = {}
    for label, jobs in report.jobs.items():
        for number in sorted({job.job for job in jobs}):
            spread = Spread.of(job.jct_s for job in jobs if job.job == number)
            if spread:
                by_job.setdefault(number, {})[label] = spread
    shown = sorted(by_job)[:JOB_ROWS_MAX]
    figure, axes = _figure(FULL, 1.3 + 0.3 * len(shown))
    largest = max(spread.high for number in shown for spread in by_job[number].values())
    scale, unit = _unit(largest)
    for place, number in enumerate(shown):
        found = by_job[number]
        ends = [spread.mean / scale for spread in found.values()]
        axes.plot([min(ends), max(ends)], [place, place], color=FAINT, linewidth=3, zorder=1)
        for label, spread in found.items():
            look = style[label]
            axes.plot(spread.mean / scale, place, look.marker, color=look.colour, markersize=7)
    axes.set_yticks(
        range(len(shown)), [f"job {number}{_profile_of(report, number)}" for number in shown]
    )
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, largest / scale * 1.04)
    axes.set_xlabel(f"Job completion time ({unit})")
    _plain(axes, "Job completion time", grid="x")
    _legend(figure, style, report.jobs, dots=True)
    rest = f" The first {len(shown)} of {len(by_job)} jobs." if len(shown) < len(by_job) else ""
    caption = f"From arrival to the last round; with several seeds, the mean.{rest}"
    return Chart("completion", "Job completion time, job by job", caption, _svg(figure))


_PANELS: Final[tuple[tuple[str, Callable[[PolicySummary], Spread | None]], ...]] = (
    ("Scheduling delay", lambda policy: policy.scheduling_delay_s),
    ("Response time", lambda policy: policy.response_time_s),
    ("Lost in failed attempts", lambda policy: policy.failed_s),
)


def _times(report: Report, style: Mapping[str, Look]) -> Chart:
    figure = Figure(figsize=(FULL, 1.2 + 0.4 * len(report.policies)), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(1, len(_PANELS), sharey=True)
    labels = [policy.label for policy in report.policies]
    for axes, (title, figure_of) in zip(panels, _PANELS, strict=True):
        spreads = [figure_of(policy) for policy in report.policies]
        scale, unit = _unit(max((spread.high for spread in spreads if spread), default=0.0))
        for place, (label, spread) in enumerate(zip(labels, spreads, strict=True)):
            if spread is None:
                continue
            mean = spread.mean / scale
            axes.barh(place, mean, height=0.62, color=style[label].colour, alpha=0.85)
            axes.errorbar(
                mean,
                place,
                xerr=[[mean - spread.low / scale], [spread.high / scale - mean]],
                color=INK,
                linewidth=1,
                capsize=3,
            )
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("per job" if title.startswith("Lost") else "mean over rounds")
        _plain(axes, f"{title} ({unit})", size=10, grid="x")
    caption = "Bars are means over jobs; whiskers are the job with the least and with the most."
    return Chart("times", "Where the time goes", caption, _svg(figure))


# --- what they share -----------------------------------------------------------------------------


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.subplots()


def _end_s(curves: Mapping[str, Sequence[JobCurve]]) -> float:
    return max((float(curve.times_s[-1]) for its in curves.values() for curve in its), default=0.0)


def _unit(longest_s: float) -> tuple[float, str]:
    """The unit in which such times are read easily, and its seconds."""
    if longest_s < 300:
        return 1.0, "s"
    if longest_s < 3 * 3600:
        return 60.0, "min"
    return (3600.0, "h") if longest_s < 4 * 86_400 else (86_400.0, "days")


def _profile_of(report: Report, number: int) -> str:
    names = {job.profile for jobs in report.jobs.values() for job in jobs if job.job == number} - {
        ""
    }
    name = names.pop() if len(names) == 1 else ""
    return f" · {name}" if name and not name.isdigit() else ""


def _plain(axes: Axes, title: str, *, size: float = 11, grid: str = "y") -> None:
    axes.set_title(title, loc="left", fontsize=size, fontweight="bold")
    axes.grid(axis="x" if grid == "x" else "y", color=FAINT, linewidth=0.8)
    axes.tick_params(length=3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(
    figure: Figure,
    style: Mapping[str, Look],
    drawn: Mapping[str, Sequence[JobCurve] | Sequence[JobSummary]],
    *,
    dots: bool = False,
    where: Literal["outside lower left", "outside upper left"] = "outside lower left",
) -> None:
    labels = [label for label in style if drawn.get(label)]
    handles = [
        Line2D(
            [],
            [],
            color=style[label].colour,
            linestyle="none" if dots else style[label].dash,
            marker=style[label].marker if dots else "",
            linewidth=2.2,
        )
        for label in labels
    ]
    # About 0.085 inches a letter, and room for the line before it.
    widest = 0.75 + 0.085 * max(map(len, labels), default=0)
    columns = max(1, min(len(labels), int(figure.get_figwidth() / widest)))
    figure.legend(handles, labels, loc=where, ncols=columns, frameon=False)


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
