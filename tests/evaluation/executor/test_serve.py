"""The broker's admin endpoint: a real broker, a real worker, real HTTP."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from evaluation.eval_command import app
from evaluation.executor.jobs import JobModel
from evaluation.training.specs import Hyper
from propius.shell import exit_codes

PATIENCE_S = 20


def get(site: Any, page: str) -> tuple[int, str]:
    """Status and text of a page."""
    try:
        with urllib.request.urlopen(f"http://{site.admin}{page}", timeout=PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode()


def until(condition: Callable[[], bool]) -> None:
    """Look until it holds: the pages are those of the loop's last turn."""
    for _ in range(PATIENCE_S * 50):
        if condition():
            return
        threading.Event().wait(0.02)
    pytest.fail("it never came")


def metric(site: Any, name: str) -> float:
    """One figure of the broker."""
    lines = get(site, "/metrics")[1].splitlines()
    found = [line for line in lines if line.startswith(f'{name}{{daemon="executor"}} ')]
    assert len(found) == 1, name
    return float(found[0].rpartition(" ")[2])


def test_a_broker_is_ready_with_its_first_worker(site: Any, fake: Any) -> None:
    """``/readyz`` says why not before a worker is here, and is 200 with one; it is alive always."""
    until(lambda: get(site, "/readyz") == (503, "no worker is here\n"))
    assert get(site, "/livez")[0] == 200
    assert get(site, "/peers") == (200, "[]")

    site.worker(fake)

    until(lambda: get(site, "/readyz") == (200, "ready\n"))


def test_figures_and_peers_tell_what_was_done(
    site: Any, fake: Any, job: JobModel, weights: Any
) -> None:
    """``/metrics`` counts workers, jobs and what was sent; ``/peers`` has what each worker did."""
    site.worker(fake, "one")
    handle = site.handle()
    handle.register(job)
    handle.set_weights(job.job, 0, weights)
    handle.train(job.job, 0, 0, range(8), Hyper()).result(PATIENCE_S)  # two stacks of four

    until(lambda: [peer["done"] for peer in json.loads(get(site, "/peers")[1])] == [2])
    assert metric(site, "propius_executor_units_running") == 0
    assert metric(site, "propius_executor_workers") == 1
    assert metric(site, "propius_executor_jobs") == 1
    assert metric(site, "propius_executor_requests") == 0
    assert metric(site, "propius_executor_units_waiting") == 0
    assert metric(site, "propius_weights_sent_total") == 1
    (peer,) = json.loads(get(site, "/peers")[1])
    assert peer["name"] == "one"
    assert peer["busy_s"] > 0


def test_an_admin_port_in_use_is_one_line(site: Any) -> None:
    """A broker whose admin port is taken does not start, and says which option to change."""
    port = site.admin.rpartition(":")[2]

    done = CliRunner().invoke(app, ["executor", "--port", "0", "--admin-port", port])

    assert done.exit_code == exit_codes.CANNOT_BIND
    assert f"propius: executor: cannot bind http://127.0.0.1:{port} (--admin-port)" in done.output
