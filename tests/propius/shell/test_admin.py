"""Health and metrics as a scraper sees them."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from propius.core import SECOND_NS
from propius.shell.admin import AdminServer
from propius.shell.exit_codes import CANNOT_BIND, StartError
from propius.shell.health import Health, LinkStats, Metrics


@pytest.fixture
def health() -> Health:
    """A daemon's published state."""
    return Health("toy", not_ready="")


@pytest.fixture
def server(health: Health) -> Iterator[AdminServer]:
    """A served endpoint on a free port."""
    server = AdminServer("127.0.0.1", 0, health, Metrics(health), "toy.admin_port")
    server.start()
    yield server
    server.stop()


def get(server: AdminServer, path: str) -> tuple[int, str]:
    """Status and body of a request."""
    connection = http.client.HTTPConnection(server.address, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_readyz_says_why_not(server: AdminServer, health: Health) -> None:
    """200 when ready, else 503 with the reason in one line."""
    assert get(server, "/readyz") == (200, "ready\n")
    health.not_ready = "no scheduler"
    assert get(server, "/readyz") == (503, "no scheduler\n")


def test_livez_notices_a_loop_that_hangs(server: AdminServer, health: Health) -> None:
    """A loop that has not turned for five seconds is not alive."""
    assert get(server, "/livez")[0] == 200
    health.turned_ns = time.monotonic_ns() - 6 * SECOND_NS
    status, body = get(server, "/livez")
    assert status == 503
    assert "6 s" in body


def test_metrics_page_parses(server: AdminServer, health: Health) -> None:
    """Counters and gauges of core and shell are there, with the daemon's name."""
    health.counters = {"refused_frames": 3}
    health.gauges = {"pending_requests": 2.0}
    health.links = {"door": LinkStats(received=5)}
    status, body = get(server, "/metrics")
    assert status == 200
    samples = {
        (sample.name, sample.labels.get("link", "")): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }
    assert samples["propius_refused_frames_total", ""] == 3
    assert samples["propius_pending_requests", ""] == 2
    assert samples["propius_link_received_total", "door"] == 5
    assert samples["propius_ready", ""] == 1
    assert ("propius_loop_lag_seconds_count", "") in samples
    assert ("process_open_fds", "") in samples
    assert 'daemon="toy"' in body


def test_peers_are_told_as_json(server: AdminServer, health: Health) -> None:
    """Who is connected, with numbers as they are."""
    assert get(server, "/peers") == (200, "[]")
    health.peers = [{"manager": 1, "incarnation": (1 << 62) + 1, "ready": True}]
    assert json.loads(get(server, "/peers")[1]) == health.peers


def test_other_paths_are_not_found(server: AdminServer) -> None:
    """Anything else is 404 and tells what there is."""
    status, body = get(server, "/")
    assert status == 404
    assert "/metrics" in body


def test_silent_connections_do_not_keep_others_out(server: AdminServer) -> None:
    """A few clients that say nothing do not stall the endpoint."""
    host, _, port = server.address.partition(":")
    held = [socket.create_connection((host, int(port))) for _ in range(5)]
    assert get(server, "/livez")[0] == 200
    for each in held:
        each.close()


def test_port_in_use_is_one_line(server: AdminServer, health: Health) -> None:
    """The error names the address and the configuration's key."""
    port = int(server.address.rpartition(":")[2])
    with pytest.raises(StartError, match=r"toy\.admin_port") as caught:
        AdminServer("127.0.0.1", port, health, Metrics(health), "toy.admin_port")
    assert caught.value.exit_code == CANNOT_BIND
    assert str(port) in str(caught.value)
