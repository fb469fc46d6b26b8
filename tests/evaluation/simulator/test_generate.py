"""Synthetic traces: what was asked for, the same every time, whole or not at all."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from evaluation.simulator import generate as module
from evaluation.simulator.generate import PRESETS, SIGNATURES, TraceSettings, generate, write_csv

SETTINGS = TraceSettings(checkins=20_000)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_gives_others(tmp_path: Path) -> None:
    """A trace is a function of its settings and seed."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_csv(generate(SETTINGS, seed), tmp_path / f"{name}.csv.gz")
    first, again, other = ((tmp_path / f"{n}.csv.gz").read_bytes() for n in "abc")
    assert first == again
    assert first != other


def test_rows_are_sorted_and_sessions_last_at_least_a_second_and_at_most_the_maximum() -> None:
    """What every reader of traces relies on."""
    trace = generate(SETTINGS, 3)
    assert (np.diff(trace.start_s) >= 0).all()
    length_s = trace.end_s - trace.start_s
    assert length_s.min() >= 1
    assert length_s.max() <= SETTINGS.session_max_s
    assert trace.start_s.min() >= 0
    assert trace.start_s.max() < SETTINGS.days * module.DAY_S


def test_shares_medians_and_rates_are_those_of_the_settings() -> None:
    """Each documented parameter is found again in the rows."""
    trace = generate(TraceSettings(checkins=100_000), 5)
    for index, share in enumerate(SIGNATURES.values()):
        assert np.mean(trace.signature == index) == pytest.approx(share, abs=0.002)
    assert np.median(trace.computation_ms) == pytest.approx(58, rel=0.02)
    assert np.median(trace.communication_kbps) == pytest.approx(6_100, rel=0.02)
    assert np.log(trace.computation_ms).std() == pytest.approx(0.78, rel=0.02)


def test_affinity_makes_able_devices_faster_and_without_it_they_are_not() -> None:
    """The copula's correlation does what its name says."""

    def medians(affinity: float) -> tuple[float, float]:
        trace = generate(TraceSettings(checkins=50_000, affinity=affinity), 1)
        best = trace.signature == len(SIGNATURES) - 1
        slow = trace.computation_ms[~best]
        return float(np.median(trace.computation_ms[best])), float(np.median(slow))

    best, others = medians(0.6)
    assert best < 0.8 * others
    best, others = medians(0.0)
    assert best == pytest.approx(others, rel=0.05)


def test_night_and_peak_are_visible_in_one_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all devices in one zone, the busiest hour is about the peak hour."""
    monkeypatch.setattr(module, "ZONES", {0: 1.0})
    trace = generate(SETTINGS, 1)
    by_hour = np.bincount((trace.start_s // 3600) % 24, minlength=24)
    assert abs(int(by_hour.argmax()) - SETTINGS.peak_hour) <= 3
    assert by_hour.max() > 1.8 * by_hour.min()


@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_a_trace_is_written_with_its_header_and_every_row(tmp_path: Path, suffix: str) -> None:
    """Compressed or not, the rows are the columns."""
    trace = generate(TraceSettings(checkins=1_000), 1)
    path = tmp_path / f"trace.{suffix}"
    told: list[int] = []
    write_csv(trace, path, wrote=told.append)
    raw = path.read_bytes()
    lines = (gzip.decompress(raw) if suffix.endswith("gz") else raw).decode().splitlines()
    assert lines[0] == "start,end,computation,communication,requirements"
    assert len(lines) == 1_001
    assert sum(told) == 1_000
    start, end, computation, communication, requirements = lines[500].split(",")
    assert int(start) == trace.start_s[499]
    assert int(end) == trace.end_s[499]
    assert float(computation) == trace.computation_ms[499]
    assert float(communication) == trace.communication_kbps[499]
    assert requirements == trace.signatures[trace.signature[499]]


def test_a_failure_in_the_middle_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    """Nothing is half-written."""
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(b"old")

    def fails(_rows: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_csv(generate(TraceSettings(checkins=10), 1), path, wrote=fails)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["trace.csv.gz"]


def test_the_presets_are_the_three_of_the_documentation() -> None:
    """Sizes by name."""
    sizes = {name: settings.checkins for name, settings in PRESETS.items()}
    assert sizes == {"small": 200_000, "paper": 2_050_000, "full": 7_000_000}
