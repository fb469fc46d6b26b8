"""Who trains in a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evaluation.harness.executors import open_executor


def test_a_run_that_trains_itself_takes_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With ``workers: 0`` the device is ``auto``, as a worker's: not the CPU beside an idle GPU."""
    devices: list[str] = []

    def executor(device: str) -> Any:
        devices.append(device)
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr("evaluation.harness.executors.InProcessExecutor", executor)
    config: Any = SimpleNamespace(executor="", workers=0)
    writer: Any = None

    with open_executor(config, tmp_path) as run, run.handle(writer, print):
        assert devices == ["auto"]
