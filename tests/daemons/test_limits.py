"""Limits that no other test reaches, and the table of all of them in docs/architecture.md."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from daemons.client_manager import core as manager_core
from daemons.client_manager import plans
from daemons.client_manager.supply import KEPT_MAX, SupplyFeed
from daemons.job_manager import answers
from daemons.load_balancer import core as balancer_core
from daemons.scheduler import core as scheduler_core
from propius.config import load_config
from propius.messages import Claims, Decline, ErrorCode, Report, Supply, SupplyBucket
from tests.daemons.client_manager.manager_kit import World as ManagerWorld
from tests.daemons.client_manager.manager_kit import jobs_of, reportable
from tests.daemons.job_manager.rig import JobServer, Rig, code_of, registration
from tests.daemons.load_balancer.test_core import World as BalancerWorld
from tests.daemons.scheduler.kit import World as SchedulerWorld
from tests.daemons.scheduler.kit import bucket

ROOT = Path(__file__).resolve().parent.parent.parent
TEXT = (ROOT / "docs" / "architecture.md").read_text("utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.partition("## Limits")[2].partition("\n## ")[0].splitlines()
    if line.startswith("| ") and "`" in line.split("|")[2]
]


def test_answers_that_left_are_remembered_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the newest answers can still turn out undeliverable."""
    monkeypatch.setattr(balancer_core, "SENT_MAX", 3)
    world = BalancerWorld()
    for device in range(10):
        world.ask(device)
        world.deliver(world.managers[0], world.tag())
        world.core.check_invariants()
    assert len(world.core._delivered) == 3


def test_reports_under_way_are_bounded() -> None:
    """Past claims_max a report hears busy, and may be repeated."""
    world = ManagerWorld(claims_max=1)
    report = Report(job=7, round=0, token=b"t", outcome=reportable())
    for device in (1, 2):
        world.ask(device, report, request=1)
    (answer,) = world.answers()
    assert answer.message.code is ErrorCode.BUSY
    assert answer.message.retry_after_s > 0
    assert world.core.counters["reports_put_off"] == 1
    (item,) = world.reports()
    world.answer_report(item)
    world.ask(2, report, request=1)
    assert len(world.reports()) == 1


def test_claims_are_sent_in_bearable_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """More claims than fit into one message come in several."""
    monkeypatch.setattr(manager_core, "CLAIMS_MAX", 3)
    world = ManagerWorld()
    world.plan(7, quota=10)
    world.advance(5.0, silent=("job_manager",))
    for device in range(8):
        world.check_in(device)
        world.accept(device, 7)
    assert world.claims() == []
    world.restart("job_manager")
    assert [len(batch.claims) for batch in world.driver.take(Claims)] == [3, 3, 2]


def test_declined_rounds_are_remembered_up_to_a_number() -> None:
    """A device that declines more than declined_max rounds is offered the first of them again."""
    world = ManagerWorld(declined_max=2)
    world.plan(1, 2, 3)
    world.check_in(1)
    assert jobs_of(world.answer()) == [1, 2, 3]
    for request, job in enumerate((1, 2, 3), start=2):
        world.ask(1, Decline(rounds=[(job, 0)]), request=request)
    world.answers()
    world.check_in(1, request=9)
    assert jobs_of(world.answer()) == [1]


def test_kept_offers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of so many different offers are kept, and made anew beyond."""
    monkeypatch.setattr(plans, "OFFERS_MAX", 2)
    world = ManagerWorld()
    world.plan(*range(1, 7))
    for device in range(6):
        world.check_in(device)
        world.core.check_invariants()
    assert len(world.answers()) == 6


def test_kept_supply_is_bounded() -> None:
    """A scheduler that was away for long gets the newest buckets, with their right numbers."""
    feed = SupplyFeed()
    for number in range(KEPT_MAX + 40):
        feed.add(SupplyBucket(number, 1, [1.0], [1.0]))
    supply = feed.take()
    assert supply is not None
    assert len(supply.buckets) == KEPT_MAX
    assert (supply.seq, supply.buckets[-1].bucket_start_ns) == (KEPT_MAX + 40, KEPT_MAX + 39)


def test_supply_numbers_are_remembered_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of managers that came and went, only the latest are known."""
    monkeypatch.setattr(scheduler_core, "SUPPLY_SEEN_MAX", 3)
    world = SchedulerWorld(managers=6)
    for manager in world.managers:
        manager.say(Supply(seq=1, buckets=[bucket(1)]))
        world.core.check_invariants()
    assert len(world.core._supply_seen) == 3


def test_sessions_without_a_job_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers that are refused one after the other leave so many sessions and no more."""
    monkeypatch.setattr(answers, "REFUSED_SESSIONS_MAX", 3)
    rig = Rig(jobs_max=1)
    JobServer.registered(rig)
    for session in range(100, 110):
        server = JobServer(rig, session=session)
        assert code_of(server.ask(registration())) is ErrorCode.LIMIT
        rig.core.check_invariants()
    assert len(rig.core.book.sessions) <= 4


# --- the table -----------------------------------------------------------------------------------


def value_of(path: str) -> object:
    """A key of the configuration, a constant, an attribute of one, or a dataclass's default."""
    parts = path.split(".")
    if len(parts) == 2:
        return getattr(getattr(load_config(None, {}), parts[0]), parts[1])
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            if dataclasses.is_dataclass(found) and isinstance(found, type):
                return {field.name: field.default for field in dataclasses.fields(found)}[name]
            found = getattr(found, name)
        return found
    raise AssertionError(f"{path} is nowhere")


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_the_table_of_limits_says_what_the_code_says(row: list[str]) -> None:
    """Each limit exists, with this value."""
    assert value_of(row[1].strip("`")) == float(row[2])


def test_the_table_of_limits_names_tests_that_exist() -> None:
    """A limit that no test reaches is a promise."""
    defined = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        defined.update(re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE))
    named = {row[5].strip("`") for row in ROWS} - {"(doctest)", "(Rust)"}
    assert len(ROWS) > 35
    assert named - defined == set()
