"""An address that is bound to all interfaces is shown as one that can be dialled."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from propius.cli.cluster import Cluster


@pytest.mark.parametrize(
    "bound, shown",
    [
        ("tcp://0.0.0.0:50002", "tcp://127.0.0.1:50002"),
        ("tcp://[::]:50002", "tcp://[::1]:50002"),
        ("tcp://10.0.0.7:50002", "tcp://10.0.0.7:50002"),
    ],
)
def test_address_of_all_interfaces_is_shown_dialled(tmp_path: Path, bound: str, shown: str) -> None:
    """`propius up` prints what a device can connect to."""
    (tmp_path / "run").mkdir()
    known = {"pid": os.getpid(), "endpoints": {"clients": bound}}
    (tmp_path / "run" / "load_balancer.json").write_text(json.dumps(known))
    assert Cluster(tmp_path).endpoint("load_balancer", "clients") == shown
