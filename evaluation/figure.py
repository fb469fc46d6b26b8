"""The demo's figure: accuracy and devices held, both against time, one colour a job.

Draws from plain numbers only, without a display, and writes the same bytes for the same input. The
colours are Okabe and Ito's, which colour-blind readers tell apart; each line is also named beside
it. Not here: where the numbers come from (the demo's summary and its event log).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

__all__ = ["Held", "Series", "draw_demo"]

Series = Mapping[str, Sequence[tuple[float, int, float, int]]]
"""For each job its finished rounds: (t_s, round, accuracy 0 to 1, devices held)."""
Held = Mapping[str, Sequence[tuple[float, int]]]
"""For each job each change of the devices that it holds: (t_s, held)."""

# Okabe and Ito without yellow, which is too light for lines on white.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
INK: Final = "#333333"
FAINT: Final = "#DDDDDD"
LABEL_GAP: Final = 0.075
"""Least distance of two names at the ends of lines, as a share of the panel's height."""
STYLE: Final[dict[Any, Any]] = {
    "svg.hashsalt": "propius",
    "svg.fonttype": "path",
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def draw_demo(
    summary: Sequence[Mapping[str, Any]],
    series: Series,
    path_svg: Path | str,
    path_png: Path | str,
    *,
    held: Held | None = None,
    target: float | None = None,
) -> None:
    """Write the figure as SVG and PNG.

    ``summary`` are the jobs as in summary.json, in the order of the colours (only ``name`` is
    needed); a job without data has no line. Without ``held`` the second panel shows the devices
    held at each round's end. ``target`` draws the accuracy that the jobs are to reach.
    """
    names = [str(job["name"]) for job in summary]
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
    steps = held if held is not None else _held_at_round_ends(series)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 6.4), layout="constrained")
        FigureCanvasAgg(figure)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        _draw_accuracy(above, colours, series, target)
        _draw_held(below, colours, steps)
        figure.align_ylabels((above, below))
        figure.savefig(path_svg, format="svg", metadata={"Date": None})
        figure.savefig(path_png, format="png", dpi=150, metadata={"Software": None})


def _draw_accuracy(
    axes: Axes, colours: Mapping[str, str], series: Series, target: float | None
) -> None:
    ends: dict[str, float] = {}
    lowest = 1.0
    for name, colour in colours.items():
        if points := series.get(name, ()):
            times, _, accuracies, _ = zip(*points, strict=True)
            axes.plot(times, accuracies, color=colour, linewidth=1.8, solid_capstyle="round")
            axes.plot(times[-1], accuracies[-1], "o", color=colour, markersize=5)
            ends[name] = accuracies[-1]
            lowest = min(lowest, *accuracies)
    axes.set_ylim(max(0.0, math.floor(lowest * 10 - 0.5) / 10), 1.0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    if target is not None:
        _draw_target(axes, target)
    _plain(axes, "Accuracy on held-out digits")
    _name_ends(axes, colours, ends)


def _draw_target(axes: Axes, target: float) -> None:
    axes.axhline(target, color=INK, linewidth=0.8, linestyle=(0, (4, 4)), zorder=1)
    axes.annotate(
        f"target {target:.0%}",
        (0.01, target),
        xycoords=axes.get_yaxis_transform(),
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=8.5,
    )


def _name_ends(axes: Axes, colours: Mapping[str, str], ends: Mapping[str, float]) -> None:
    """Name each line right of the panel at the height of its end, pushed apart where too close."""
    low, high = axes.get_ylim()
    above = math.inf
    heights: dict[str, float] = {}
    for name in sorted(ends, key=lambda name: -ends[name]):
        above = heights[name] = min((ends[name] - low) / (high - low), above - LABEL_GAP)
    for name, height in heights.items():
        text = f"{name}  {ends[name]:.1%}"
        _beside(axes, height, text, colours[name])


def _draw_held(axes: Axes, colours: Mapping[str, str], held: Held) -> None:
    """One band a job above the other, on one scale: overlaid saw-teeth could not be told apart."""
    most = max((count for points in held.values() for _, count in points), default=0) or 1
    band = most * 1.35
    ticks: dict[float, str] = {}
    for index, (name, colour) in enumerate(colours.items()):
        base = (len(colours) - 1 - index) * band
        axes.axhline(base, color=FAINT, linewidth=0.8, zorder=0)
        ticks |= {base: "0", base + most: str(most)}
        _beside(axes, (base + most / 2) / (len(colours) * band), name, colour)
        if points := held.get(name, ()):
            times = [point[0] for point in points]
            tops = [base + point[1] for point in points]
            axes.fill_between(times, base, tops, step="post", color=colour, alpha=0.25, linewidth=0)
            axes.step(times, tops, where="post", color=colour, linewidth=0.9)
    axes.set_ylim(0, max(len(colours), 1) * band)
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.set_xlabel("Time since the jobs started (s)")
    _plain(axes, "Devices held")


def _held_at_round_ends(series: Series) -> Held:
    return {name: [(t_s, held) for t_s, _, _, held in points] for name, points in series.items()}


def _beside(axes: Axes, height: float, text: str, colour: str) -> None:
    """Write ``text`` right of the panel, ``height`` (0 to 1) up."""
    axes.text(
        1.015,
        height,
        text,
        transform=axes.transAxes,
        color=colour,
        fontsize=9.5,
        fontweight="bold",
        va="center",
    )


def _plain(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.margins(x=0.01)
    axes.set_xlim(left=0)
    axes.tick_params(length=3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
