"""The proxy of the campaign does what the nemesis believes that it does."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from propius.cli.cluster import free_ports
from tests.campaign.proxy import Proxy, ProxyHost

PATIENCE_S = 10.0


@pytest.fixture
def target() -> Iterator[socket.socket]:
    """A server that accepts by hand."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(PATIENCE_S)
        yield listener


@pytest.fixture
def proxy(target: socket.socket) -> Iterator[Proxy]:
    """A proxy before it."""
    with ProxyHost() as host:
        yield host.proxy("test", free_ports(1)[0], target.getsockname()[1])


def dial(proxy: Proxy, target: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Both ends of a new connection through the proxy."""
    near = socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_S)
    near.sendall(b"hello")
    far, _ = target.accept()
    far.settimeout(PATIENCE_S)
    assert far.recv(5) == b"hello"
    return near, far


def is_over(end: socket.socket) -> bool:
    """Whether this end sees the connection end (an orderly end, or a reset)."""
    end.settimeout(PATIENCE_S)
    try:
        return end.recv(1) == b""
    except ConnectionResetError:
        return True


def dies_at_once(proxy: Proxy) -> bool:
    """Whether a new connection is over before it carried anything, maybe while it is made."""
    try:
        with socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_S) as late:
            return is_over(late)
    except ConnectionResetError:
        return True


def test_bytes_pass_both_ways(proxy: Proxy, target: socket.socket) -> None:
    """Until told otherwise it is invisible; the end of one side is the end of the other."""
    near, far = dial(proxy, target)
    with near, far:
        far.sendall(b"x" * 200_000)
        got = 0
        while got < 200_000:
            got += len(near.recv(65_536))
        near.close()
        assert is_over(far)


def test_a_cut_resets_old_and_new_connections(proxy: Proxy, target: socket.socket) -> None:
    """Both ends see it, a new connection dies at once, and after healing all is well."""
    near, far = dial(proxy, target)
    with near, far:
        proxy.cut()
        assert is_over(near)
        assert is_over(far)
        assert dies_at_once(proxy)
        proxy.heal()
        for end in dial(proxy, target):
            end.close()


def test_a_hold_loses_nothing(proxy: Proxy, target: socket.socket) -> None:
    """Bytes wait in the proxy, and pass when it is healed."""
    near, far = dial(proxy, target)
    with near, far:
        proxy.hold()
        near.sendall(b"late")
        far.settimeout(0.2)
        with pytest.raises(TimeoutError):
            far.recv(4)
        proxy.heal()
        far.settimeout(PATIENCE_S)
        assert far.recv(4) == b"late"


def test_a_half_closed_connection_looks_alive_to_the_dialler(
    proxy: Proxy, target: socket.socket
) -> None:
    """The target sees the end; the dialler may go on sending into nothing, until it is healed."""
    near, far = dial(proxy, target)
    with near, far:
        proxy.half_close()
        assert is_over(far)
        near.sendall(b"anybody there?")
        near.settimeout(0.2)
        with pytest.raises(TimeoutError):
            near.recv(1)
        proxy.heal()
        assert is_over(near)


def test_nothing_is_left_of_a_stopped_proxy(target: socket.socket) -> None:
    """Its port is closed, and so are its connections."""
    with ProxyHost() as host:
        proxy = host.proxy("test", free_ports(1)[0], target.getsockname()[1])
        near, far = dial(proxy, target)
    with near, far:
        assert is_over(near)
        assert is_over(far)
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        try:
            socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_S).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            pass  # it was just being closed
    pytest.fail("the port is still open")
