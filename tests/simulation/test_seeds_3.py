"""A quarter of the seeds that are always tried; see seeds.py."""

from __future__ import annotations

import pytest

from tests.simulation.seeds import blocks, check_block, name


@pytest.mark.parametrize("block", blocks(3), ids=name)
def test_systems_under_faults_keep_their_promises(block: range) -> None:
    """Faults rain, nothing acknowledged is lost or given twice, and when they end all finishes."""
    check_block(block)
