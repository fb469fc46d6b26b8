"""What holds for every test: in CI nothing is skipped that it could install, or drawn anew.

Fixtures live beside their only users.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

# Reasons that stay skips in CI: it has no GPU, and the shared data may not lie beside a clone.
ALLOWED_SKIPS = ("no GPU", "shared data absent")
IN_CI = os.environ.get("CI") == "true"

# No deadline: on two shared cores it would measure the neighbours.
settings.register_profile("propius", deadline=None, derandomize=IN_CI)
settings.load_profile("propius")


def pytest_addoption(parser: pytest.Parser) -> None:
    """An option of ours."""
    text = "write what the code shows into the golden conversations, and print the differences"
    parser.addoption("--rewrite", action="store_true", help=text)


@pytest.fixture(scope="session", autouse=True)
def no_process_left() -> Iterator[None]:
    """Fail if a program that a test has started outlives the tests, a daemon's children too."""
    name, mark = "PROPIUS_TEST_RUN", uuid.uuid4().hex
    os.environ[name] = mark
    yield
    started = [process for process in psutil.process_iter() if _environment(process, name) == mark]
    others = [process for process in started if process.pid != os.getpid()]
    _, left = psutil.wait_procs(others, timeout=5)
    assert not left


def _environment(process: psutil.Process, name: str) -> str | None:
    try:
        return process.environ().get(name)
    except psutil.Error:  # gone meanwhile, or another user's
        return None


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return
    detail = report.longrepr
    reason = str(detail[2] if isinstance(detail, tuple) else detail).removeprefix("Skipped: ")
    if not IN_CI or reason.startswith(ALLOWED_SKIPS):
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


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """The path of a file that is not the project's own; where it is absent, the test is skipped."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PROPIUS_TEST_DATA", beside))

    def find(name: str) -> Path:
        if not (folder / name).exists():
            pytest.skip(f"shared data absent: {folder / name}; set PROPIUS_TEST_DATA")
        return folder / name

    return find
