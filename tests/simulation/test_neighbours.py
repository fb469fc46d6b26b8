"""A job whose server is dead costs its neighbours little: what an hour shows, in a few minutes."""

from __future__ import annotations

from daemons.job_manager.settings import JobManagerSettings
from tests.simulation.cluster import SCHEMA
from tests.simulation.neighbours import Hour, burnt_max, hour

SECONDS = 200.0
DEFAULTS = JobManagerSettings(schema=SCHEMA, package_version="1")


def test_a_dead_job_burns_no_more_than_the_settings_allow() -> None:
    """Its leases are few, its back-offs follow, and its neighbours have their rounds."""
    alone, beside = hour(2, dead=False, seconds=SECONDS), hour(2, dead=True, seconds=SECONDS)
    assert alone.burnt == 0
    assert 0 < beside.first_burst <= burnt_max(DEFAULTS, beside.held_max)
    waits = 5  # of 5, 10, 20, 40 and 80 s, begun within the 200 s
    probes = DEFAULTS.backoff_probes
    assert waits * probes <= beside.burnt - beside.first_burst <= (waits + 1) * probes
    assert "back-off" in beside.reason
    assert not beside.paused
    assert sum(beside.rounds) >= 0.9 * sum(alone.rounds)  # 13 rounds in all: an hour tells more


def test_a_dead_job_is_paused_in_the_end() -> None:
    """With quick back-offs it is all over soon, and the sum is what docs/design.md says."""
    quick = {"backoff_first_s": 0.5, "backoff_max_s": 2.0}
    beside: Hour = hour(1, dead=True, seconds=60.0, job_manager=quick)
    assert beside.paused
    assert "paused after 12 back-offs in a row" in beside.reason
    assert beside.burnt <= burnt_max(DEFAULTS, beside.held_max)
