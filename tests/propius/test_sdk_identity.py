from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

import propius
from propius.errors import InvalidValueError


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
