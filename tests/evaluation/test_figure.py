from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from evaluation.figure import draw_demo

SUMMARY = [{"name": "general"}, {"name": "compute-rich"}, {"name": "late"}]
SERIES = {
    "general": [(1.0, 0, 0.3, 10), (2.0, 1, 0.8, 10), (3.5, 2, 0.92, 9)],
    "compute-rich": [(2.0, 0, 0.4, 15), (4.0, 1, 0.9, 15)],
}
HELD = {"general": [(0.0, 0), (0.5, 10), (1.0, 0)], "compute-rich": [(0.0, 15), (4.0, 0)]}
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def drawn(folder: Path, **options: object) -> tuple[bytes, bytes]:
    svg, png = folder / "demo.svg", folder / "demo.png"
    draw_demo(SUMMARY, SERIES, svg, png, **options)  # type: ignore[arg-type]
    return svg.read_bytes(), png.read_bytes()


def test_both_files_are_written_and_the_same_every_time(tmp_path: Path) -> None:
    """Equal input gives equal bytes: no date, no random ids."""
    svg, png = drawn(tmp_path, held=HELD, target=0.88)
    assert (svg, png) == drawn(tmp_path, held=HELD, target=0.88)
    assert png.startswith(PNG_MAGIC)
    assert ET.fromstring(svg).tag.endswith("svg")


def test_without_held_the_rounds_say_how_many_devices(tmp_path: Path) -> None:
    """The second panel falls back on the devices held at each round's end."""
    assert drawn(tmp_path) != drawn(tmp_path, held=HELD)


def test_a_job_without_any_round_is_no_error(tmp_path: Path) -> None:
    """A demo that ended early still gets its figure, and an empty one too."""
    drawn(tmp_path, held={})
    draw_demo([], {}, tmp_path / "a.svg", tmp_path / "a.png")


def test_names_that_end_close_together_do_not_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names beside the accuracy panel are at least their own height apart."""
    heights: list[float] = []
    monkeypatch.setattr(
        "evaluation.figure._beside", lambda axes, height, *rest: heights.append(height)
    )
    series = {
        name: [(1.0, 0, accuracy, 1)]
        for name, accuracy in zip("abc", (0.95, 0.951, 0.949), strict=True)
    }
    draw_demo([{"name": n} for n in "abc"], series, tmp_path / "a.svg", tmp_path / "a.png")
    top = sorted(heights[:3])
    assert min(b - a for a, b in itertools.pairwise(top)) >= 0.07
