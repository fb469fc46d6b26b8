from __future__ import annotations

import errno
import fcntl
import gc
import os
import signal
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import propius
from propius.errors import DeviceIdInUseError, InvalidValueError, UsageError
from tests.propius.twins import TWINS, one_of_twins

DEAF = "tcp://127.0.0.1:9"  # nobody listens there


def open_files() -> int:
    """How many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's device id is kept, made already."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    propius.device_id()
    return tmp_path / "propius" / "device_id"


@pytest.fixture(params=TWINS)
def sdk(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The blocking SDK and the asyncio one, each in its turn."""
    with one_of_twins(request.param) as twin:
        yield twin


def test_an_id_is_made_once_and_kept(tmp_path: Path) -> None:
    """The first call makes the file, for its user only; every later one reads it."""
    file = tmp_path / "deep" / "device_id"
    first = propius.device_id(file)
    assert len(bytes.fromhex(first)) == 16
    assert propius.device_id(str(file)) == first
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in file.parent.iterdir()] == ["device_id"]


def test_two_devices_have_two_ids(tmp_path: Path) -> None:
    """Another file is another device."""
    assert propius.device_id(tmp_path / "a") != propius.device_id(tmp_path / "b")


def test_programs_that_start_at_once_agree(tmp_path: Path) -> None:
    """Whoever comes first makes the id of all."""
    together = threading.Barrier(8)
    ids: list[str] = []

    def start() -> None:
        together.wait()
        ids.append(propius.device_id(tmp_path / "device_id"))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 8
    assert len(set(ids)) == 1


@pytest.mark.parametrize("content", ["", "not an id", "AB" * 16, "ab" * 17, "\xff" * 32])
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    """The id is not silently replaced: that would be another device."""
    file = tmp_path / "device_id"
    file.write_text(content, encoding="latin-1")
    with pytest.raises(InvalidValueError, match=f"{file} does not hold a device id"):
        propius.device_id(file)


def test_the_default_place_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a path the file is in the user's data folder, and clients use it."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    client = propius.Client("tcp://127.0.0.1:9", spec={})
    client.close()
    assert client.device_id == (tmp_path / "propius" / "device_id").read_text().strip()


def test_a_second_client_under_the_kept_id_is_told_so(kept: Path, sdk: Any) -> None:
    """One line with the file and both ways out; once the first is closed there is room again."""
    with sdk.Client(DEAF, spec={}) as first:
        with pytest.raises(DeviceIdInUseError) as caught:
            sdk.Client(DEAF, spec={})
        assert str(caught.value) == (
            f"{kept}: another running client goes by this device id; close it, or give this one its"
            " own: device_id=propius.ephemeral_id() (for this run), or another folder in"
            " XDG_DATA_HOME (kept)"
        )
        with sdk.Client(DEAF, spec={}, device_id=propius.ephemeral_id()) as other:
            assert other.device_id != first.device_id
    first.close()  # the second time it does nothing …
    with sdk.Client(DEAF, spec={}) as second:
        first.close()  # … also not to the next holder
        with pytest.raises(DeviceIdInUseError):
            sdk.Client(DEAF, spec={})
        assert second.device_id == first.device_id
    assert [each.name for each in kept.parent.iterdir()] == ["device_id"]


def test_clients_on_a_shared_connection_need_an_id_each(kept: Path, sdk: Any) -> None:
    """The connection stays open, the id does not stay taken."""
    with sdk.Connection(DEAF) as connection:
        with sdk.Client(connection=connection, spec={}), pytest.raises(DeviceIdInUseError):
            sdk.Client(connection=connection, spec={})
        sdk.Client(connection=connection, spec={}).close()
    assert kept.exists()


def test_a_client_that_could_not_be_made_or_was_lost_holds_nothing(kept: Path, sdk: Any) -> None:
    """A wrong value, kept with its traceback, or a client that nobody knows any more."""
    with pytest.raises(InvalidValueError) as caught:
        sdk.Client(DEAF, spec={"ram": float("nan")})
    sdk.Client(DEAF, spec={})  # lost
    gc.collect()
    sdk.Client(DEAF, spec={}).close()
    assert caught.tb is not None
    assert kept.exists()


def test_ephemeral_ids_are_ids_and_never_the_same() -> None:
    """As many digits as a kept one, so every server takes them."""
    ids = {propius.ephemeral_id() for _ in range(100)}
    assert len(ids) == 100
    assert {len(bytes.fromhex(each)) for each in ids} == {16}


def test_a_read_only_home_is_no_obstacle(
    kept: Path, sdk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that cannot be opened for writing is locked all the same."""
    opened = os.open

    def read_only(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", read_only)
    with sdk.Client(DEAF, spec={}) as client, pytest.raises(DeviceIdInUseError):
        sdk.Client(DEAF, spec={})
    assert client.device_id == kept.read_text().strip()


def test_where_files_cannot_be_locked_clients_work_as_ever(
    kept: Path, sdk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems have no locks: nobody is kept out, and no file stays open."""

    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    open_before = open_files()
    with sdk.Client(DEAF, spec={}) as first, sdk.Client(DEAF, spec={}) as second:
        assert first.device_id == second.device_id == kept.read_text().strip()
        assert open_files() == open_before


def test_a_place_that_cannot_keep_an_id_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sdk: Any
) -> None:
    """A file where the folder should be: which place, why, and what else to do."""
    (tmp_path / "home").write_text("a file")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    with pytest.raises(UsageError) as caught:
        sdk.Client(DEAF, spec={})
    told = str(caught.value)
    assert told.startswith(f"{tmp_path}/home/propius/device_id: no device id can be kept there (")
    assert told.endswith("XDG_DATA_HOME (kept)")
    assert "\n" not in told


def test_a_forked_child_neither_ends_nor_prolongs_the_hold(kept: Path) -> None:
    """It may close its copy of the client or outlive the client; the parent alone decides."""
    client = propius.Client(DEAF, spec={})
    ended, closed = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        client.close()
        os.write(closed[1], b"x")
        os.read(ended[0], 1)  # outlives the parent's client with the file of another copy open
        os._exit(0)
    idle = os.fork()
    if idle == 0:
        os.read(ended[0], 1)
        os._exit(0)
    try:
        assert os.read(closed[0], 1) == b"x"
        with pytest.raises(DeviceIdInUseError):
            propius.Client(DEAF, spec={})
        client.close()
        propius.Client(DEAF, spec={}).close()
        assert kept.exists()
    finally:
        for process in (child, idle):
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        for descriptor in (*ended, *closed):
            os.close(descriptor)
