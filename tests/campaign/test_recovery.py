"""What was killed is back soon: daemons, a fleet, a job manager with a full store.

The limits are the product's. On a machine that others use at the same time they are stretched by
as much as starting a daemon takes longer than it does alone.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaign.recovery import Figure, fleet_back, hurry, kill_each, reload

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def assert_within(figure: Figure, hurry_before: float) -> None:
    """The slowest keeps the limit."""
    stretch = max(hurry_before, hurry())
    assert figure.slowest_s < figure.limit_s * stretch, (figure, stretch)


def test_a_killed_daemon_answers_again_within_three_seconds(tmp_path: Path) -> None:
    """Any one of them, under supervisord; and a whole round passes soon after."""
    before = hurry()
    for figure in kill_each(tmp_path / "c", kills=2):
        if figure.limit_s:
            assert_within(figure, before)


def test_a_thousand_devices_are_back_within_fifteen_seconds(tmp_path: Path) -> None:
    """The only process that they reach is killed while all of them wait for a task."""
    before = hurry()
    figure = fleet_back(tmp_path / "c", "load_balancer")
    assert len(figure.seconds) == 1_000
    assert_within(figure, before)


def test_two_thousand_jobs_are_loaded_within_two_seconds(tmp_path: Path) -> None:
    """From the start of the process until an operator has the list of all of them."""
    before = hurry()
    assert_within(reload(tmp_path / "c", times=2), before)
