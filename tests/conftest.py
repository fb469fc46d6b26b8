"""What holds for every test: nothing is skipped in CI that CI could have installed.

Fixtures live beside their only users; the shared data and its folder are found here.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Reasons that stay skips in CI: it has no GPU, and the shared data may not lie beside a clone.
ALLOWED_SKIPS = ("no GPU", "shared data absent")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the data that several checkouts share: `PROPIUS_TEST_DATA`, else beside us."""
    folder = Path(os.environ.get("PROPIUS_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"shared data absent: no folder {folder}; set PROPIUS_TEST_DATA")
    return folder


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return
    detail = report.longrepr
    reason = str(detail[2] if isinstance(detail, tuple) else detail).removeprefix("Skipped: ")
    if os.environ.get("CI") != "true" or reason.startswith(ALLOWED_SKIPS):
        return
    report.outcome = "failed"
    report.longrepr = (
        f"skipped in CI, where this is a failure: {reason}\n"
        f"(.ci/run must install what is missing; allowed reasons begin with {ALLOWED_SKIPS})"
    )


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a test's skip into a failure in CI."""
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a whole file's skip into a failure in CI."""
    report = yield
    _refuse_skip(report)
    return report
