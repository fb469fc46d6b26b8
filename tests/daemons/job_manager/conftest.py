"""What most conversations with a job manager begin with; a file may have its own instead."""

from __future__ import annotations

import pytest

from tests.daemons.job_manager.rig import JobServer, Rig


@pytest.fixture
def rig() -> Rig:
    """A job manager."""
    return Rig()


@pytest.fixture
def server(rig: Rig) -> JobServer:
    """Job 1, with round 0 open for two devices."""
    server = JobServer.registered(rig)
    server.start(2)
    return server
