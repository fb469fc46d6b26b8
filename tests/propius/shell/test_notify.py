"""What systemd hears on a fake notify socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from propius.core import SECOND_NS
from propius.shell.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def service_manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """A listening socket, under a path or an abstract name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        name = f"\0propius-{tmp_path}" if request.param == "abstract" else str(tmp_path / "n")
        listener.bind(name)
        listener.settimeout(5)
        yield listener


def env(listener: socket.socket, **others: str) -> dict[str, str]:
    """The environment that systemd would give."""
    name = listener.getsockname()
    text = "@" + name[1:].decode() if isinstance(name, bytes) else name
    return {"NOTIFY_SOCKET": text, **others}


def heard(listener: socket.socket) -> list[str]:
    """The lines of the next datagram."""
    return listener.recv(4_096).decode().split("\n")


def test_ready_is_said_once_and_status_when_it_changes(service_manager: socket.socket) -> None:
    """First the reason, then READY, then only new reasons."""
    notifier = Notifier(env(service_manager))
    notifier.report(0, "no scheduler")
    notifier.report(1, "no scheduler")
    notifier.report(2, "")
    notifier.report(3, "no plan")
    notifier.stopping()
    notifier.close()
    assert heard(service_manager) == ["STATUS=not ready: no scheduler"]
    assert heard(service_manager) == ["READY=1", "STATUS=ready"]
    assert heard(service_manager) == ["STATUS=not ready: no plan"]
    assert heard(service_manager) == ["STOPPING=1", "STATUS=stopping"]


def test_watchdog_is_fed_at_half_its_interval(service_manager: socket.socket) -> None:
    """The loop is told when it is due, and feeds it then."""
    notifier = Notifier(env(service_manager, WATCHDOG_USEC="2000000"))
    notifier.report(SECOND_NS, "")
    assert heard(service_manager) == ["READY=1", "STATUS=ready", "WATCHDOG=1"]
    assert notifier.due_ns() == 2 * SECOND_NS
    notifier.report(2 * SECOND_NS - 1, "")
    notifier.report(2 * SECOND_NS, "")
    assert heard(service_manager) == ["WATCHDOG=1"]
    notifier.close()


@pytest.mark.parametrize("variables", [{}, {"NOTIFY_SOCKET": "/nonexistent/socket"}])
def test_without_a_listener_nothing_happens(variables: dict[str, str]) -> None:
    """No variable, or nobody there: the daemon does not care."""
    notifier = Notifier(variables)
    notifier.report(0, "")
    notifier.stopping()
    notifier.close()
    assert notifier.due_ns() is None
