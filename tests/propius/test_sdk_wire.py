"""What a real socket carries and what a failure leaves behind, for both twins of the SDK."""

from __future__ import annotations

import errno
import gc
import os
import socket
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psutil
import pytest
import zmq

import propius
from propius.client_session import ClientSession
from propius.messages import Error, ErrorCode, Header, Message
from propius.testing import FakeServer, TinyPropius
from tests.propius.twins import TWINS, one_of_twins

DEVICE = "ab" * 16
JOB: dict[str, Any] = {"name": "job", "requirement": {"ram": 1.0}, "demand": 1}
NAME, VALUE = "hospital_images", 4_242.5


@pytest.fixture(params=TWINS)
def sdk(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The blocking SDK and the asyncio one, each in its turn."""
    with one_of_twins(request.param) as twin:
        yield twin


class Tap:
    """A TCP relay before a server, which keeps every byte that a device sends."""

    def __init__(self, endpoint: str) -> None:
        self.heard = bytearray()
        self._port = int(endpoint.rsplit(":", 1)[1])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """Wait until both ends have gone."""
        for thread in self._threads:
            thread.join(10.0)
            assert not thread.is_alive()

    def _accept(self) -> None:
        with self._listener:
            device, _ = self._listener.accept()
        server = socket.create_connection(("127.0.0.1", self._port))
        for source, sink, kept in ((device, server, self.heard), (server, device, bytearray())):
            thread = threading.Thread(target=self._relay, args=(source, sink, kept))
            self._threads.append(thread)
            thread.start()

    @staticmethod
    def _relay(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
        with source, suppress(OSError):  # either end may cut it
            while data := source.recv(65_536):
                kept += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def patterns() -> list[bytes]:
    """Every form in which the private spec could be written."""
    numbers = [struct.pack(form, VALUE) for form in (">d", "<d", ">f", "<f")]
    whole = [struct.pack(form, int(VALUE)) for form in (">H", "<I", ">I")]
    return [NAME.encode(), NAME.encode("utf-16-le"), str(VALUE).encode(), b"4242", *numbers, *whole]


def test_no_byte_of_a_private_spec_is_on_any_wire(sdk: Any) -> None:
    """Declined, refused, failed and reported tasks: neither a name nor a value is ever sent."""
    tiny = TinyPropius()
    tiny.open_round(private_constraint={NAME: 9e9})
    tiny.open_round(private_constraint={"other": 1.0})
    with FakeServer(tiny) as server:
        tap = Tap(server.endpoint)
        settings: dict[str, Any] = {
            "spec": {"ram": 4.0}, "private_spec": {NAME: VALUE}, "device_id": DEVICE
        }  # fmt: skip
        with sdk.Client(tap.endpoint, **settings) as client:
            assert client.auto_assign(0.0) is None
            tiny.open_round(demand=2, private_constraint={NAME: VALUE})
            task = client.auto_assign(10.0)
            assert task is not None
            with pytest.raises(ZeroDivisionError), task:
                raise ZeroDivisionError(NAME)
            with pytest.raises(propius.RefusedError):
                client.accept((99, 0))
            with client.auto_assign(10.0):
                pass
        tap.close()
    heard = bytes(tap.heard)
    kinds = {header.kind for header, _ in server.requests}
    assert kinds >= {"check_in", "decline", "accept", "report"}
    assert DEVICE.encode() in heard, "the relay hears what the device says"
    assert [pattern for pattern in patterns() if pattern in heard] == []


def refusing(header: Header, message: Message) -> Message:
    """A server that knows nobody."""
    return Error(code=ErrorCode.UNKNOWN_JOB, text="no")


def wrong_terms(sdk: Any, endpoint: str) -> None:
    """A job that no server would take."""
    with pytest.raises(propius.InvalidValueError):
        sdk.Job(endpoint, **{**JOB, "demand": 0})


def wrong_time_out(sdk: Any, endpoint: str) -> None:
    """A time-out that has no end; noticed when the connection is made already."""
    with pytest.raises(propius.InvalidValueError):
        sdk.Job(endpoint, **JOB, timeout_s=-1.0)
    with pytest.raises(propius.InvalidValueError):
        sdk.Client(endpoint, spec={}, device_id=DEVICE, timeout_s=float("nan"))


def wrong_device(sdk: Any, endpoint: str) -> None:
    """A client that cannot be made."""
    for settings in ({"device_id": "me"}, {"spec": {"ram": -1.0}}, {"private_spec": {"a": True}}):
        given: dict[str, Any] = {"spec": {}, "device_id": DEVICE, **settings}
        with pytest.raises(propius.InvalidValueError):
            sdk.Client(endpoint, **given)


def refused_registration(sdk: Any, endpoint: str) -> None:
    """The block of a job is never entered."""
    with pytest.raises(propius.UnknownJobError), sdk.Job(endpoint, **JOB):
        raise AssertionError("entered")


def refused_attach(sdk: Any, endpoint: str) -> None:
    """The job that is asked for is unknown: there is no object to close."""
    with pytest.raises(propius.UnknownJobError):
        sdk.Job.attach(endpoint, 7, b"s")


def wrong_endpoint(sdk: Any, endpoint: str) -> None:
    """The socket exists when it turns out that there is nowhere to connect to."""
    with pytest.raises(propius.UsageError):
        sdk.Job.attach("tcp://", 7, b"s")
    with pytest.raises(propius.UsageError), sdk.Job("nonsense://x:1", **JOB):
        raise AssertionError("entered")


def no_monitor(sdk: Any, endpoint: str) -> None:
    """The process runs out of something between the first socket and the second."""

    def fails(self: Any, *_: Any) -> None:
        raise OSError(errno.EMFILE, "none left")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zmq.Socket, "get_monitor_socket", fails)
        with pytest.raises(OSError, match="none left"):
            sdk.Job.attach(endpoint, 7, b"s")


def failing_choice(sdk: Any, endpoint: str) -> None:
    """The program's own rule raises in the middle of a cycle."""
    tiny = TinyPropius()
    tiny.open_round()
    with (
        FakeServer(tiny) as server,
        pytest.raises(ZeroDivisionError),
        sdk.Client(
            server.endpoint, spec={"ram": 4.0}, device_id=DEVICE, select=lambda tasks: [1 // 0]
        ) as client,
    ):
        client.auto_assign(5.0)


@pytest.mark.parametrize(
    "failure",
    [
        wrong_terms, wrong_time_out, wrong_device, refused_registration, refused_attach,
        wrong_endpoint, no_monitor, failing_choice,
    ],
)  # fmt: skip
def test_a_failure_leaves_nothing_behind(sdk: Any, failure: Callable[[Any, str], None]) -> None:
    """No socket, thread, file or task is left, and nobody warns of one, however a verb failed."""
    opened: list[zmq.Socket[Any]] = []
    make: Any = zmq.Context.socket

    def socket_of(context: Any, *arguments: Any, **named: Any) -> Any:
        opened.append(made := make(context, *arguments, **named))
        return made

    with FakeServer(refusing) as server, warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        threads = threading.active_count()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(zmq.Context, "socket", socket_of)
            failure(sdk, server.endpoint)
        gc.collect()
        assert [each for each in opened if not each.closed] == []
        assert threading.active_count() == threads


def test_connections_that_fail_again_and_again_cost_no_files(sdk: Any) -> None:
    """A job server that tries to attach for hours does not run out of file descriptors."""
    with FakeServer(refusing) as server:
        refused_attach(sdk, server.endpoint)
        before = psutil.Process(os.getpid()).num_fds()
        for _ in range(10):
            refused_attach(sdk, server.endpoint)
        assert psutil.Process(os.getpid()).num_fds() <= before + 6  # closed by a thread, soon


def test_a_private_spec_is_not_kept_where_messages_are_made(sdk: Any) -> None:
    """The session, which composes what is sent, holds a function and no private value."""
    client = sdk.Client("tcp://127.0.0.1:9", spec={}, private_spec={NAME: VALUE}, device_id=DEVICE)
    session = client._session
    assert isinstance(session, ClientSession)
    names = [name for cls in type(session).__mro__ for name in getattr(cls, "__slots__", ())]
    assert NAME not in repr([getattr(session, name, None) for name in names])
    client.close()
