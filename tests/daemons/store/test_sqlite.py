from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from daemons.store import SqliteStore, StoreError
from daemons.store import sqlite as sqlite_store
from daemons.store.sqlite import APPLICATION_ID
from propius.core import Put

# Commits numbered batches for ever, each of two records, and says each number when it is durable.
WRITER = """
import sys
from daemons.store import SqliteStore
from propius.core import Delete, Put
store = SqliteStore(sys.argv[1])
number = 0
while True:
    number += 1
    store.commit([Put("a", str(number), b"x"), Put("b", "last", b"%d" % number)])
    print(number, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database is."""
    return tmp_path / "propius.db"


@pytest.mark.parametrize("acknowledged_min", [1, 40, 200])
def test_kill_9_loses_nothing_acknowledged(path: Path, acknowledged_min: int) -> None:
    """A writer killed in the middle has every batch that it said, and no half of another."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        said = [int(writer.stdout.readline()) for _ in range(acknowledged_min)]
        writer.send_signal(signal.SIGKILL)
        said += [
            int(line) for line in writer.stdout.read().splitlines(keepends=True) if "\n" in line
        ]
    store = SqliteStore(path)
    tables = store.load()
    store.close()
    last = int(tables["b"]["last"])
    assert set(tables["a"]) == {str(number) for number in range(1, last + 1)}
    assert last in {said[-1], said[-1] + 1}


def one_line(path: Path) -> str:
    """How opening is refused."""
    with pytest.raises(StoreError) as caught:
        SqliteStore(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def filled(path: Path) -> None:
    """A database with some hundred pages."""
    store = SqliteStore(path)
    store.commit([Put("a", str(number), bytes(1_000)) for number in range(500)])
    store.close()


def test_a_newer_layout_is_refused(path: Path) -> None:
    """The line says both versions, and the file is not touched."""
    SqliteStore(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 3")
    db.close()
    before = path.read_bytes()
    assert "layout 3" in one_line(path)
    assert path.read_bytes() == before


def test_the_layout_of_the_first_release_is_taken_over(path: Path) -> None:
    """A file without check sums gets them when it is opened, and keeps what it has."""
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(
            "CREATE TABLE records (tab TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,"
            " PRIMARY KEY (tab, key)) WITHOUT ROWID"
        )
        db.execute("INSERT INTO records VALUES ('a', '1', x'01'), ('a', '2', x'')")
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute("PRAGMA user_version = 1")
    db.close()
    for _ in range(2):
        store = SqliteStore(path)
        assert store.load() == {"a": {"1": b"\1", "2": b""}}
        store.commit([Put("a", "2", b"x"), Put("a", "2", b"")])
        store.close()


def test_another_program_s_database_is_refused(path: Path) -> None:
    """A file that is not ours is not written."""
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    assert "another program" in one_line(path)


@pytest.mark.parametrize("offset, length", [(0, 100), (100, 4_000), (8_192, 40_000)])
def test_a_damaged_file_is_refused(path: Path, offset: int, length: int) -> None:
    """Damage in the header, the first page or the middle is one line, never silent loss."""
    filled(path)
    data = bytearray(path.read_bytes())
    data[offset : offset + length] = b"\xa5" * length
    path.write_bytes(data)
    assert "restore it from a copy" in one_line(path)


def test_a_file_that_was_cut_is_refused(path: Path) -> None:
    """A database that lost its end does not open as if that were all."""
    filled(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert "restore it from a copy" in one_line(path)


def test_not_a_database(path: Path) -> None:
    """A text file in its place is refused."""
    path.write_text("hello " * 1_000)
    assert "not a database" in one_line(path)


def test_a_folder_in_its_place(path: Path) -> None:
    """A path that cannot be a file is refused."""
    path.mkdir()
    assert "cannot be opened" in one_line(path)


def test_one_process_at_a_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two job managers on one file would each be right alone: the second is refused."""
    monkeypatch.setattr("daemons.store.sqlite.LOCK_WAIT_S", 0.0)
    store = SqliteStore(path)
    assert "another process has it open" in one_line(path)
    store.commit([Put("a", "1", b"x")])
    store.close()
    SqliteStore(path).close()


def test_two_that_make_the_file_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes second uses the file of the first, instead of replacing it."""
    make = sqlite_store._make

    def make_late(new: Path) -> None:
        monkeypatch.setattr(sqlite_store, "_make", make)
        first = SqliteStore(path)
        first.commit([Put("a", "1", b"x")])
        first.close()
        make(new)

    monkeypatch.setattr(sqlite_store, "_make", make_late)
    store = SqliteStore(path)
    assert store.load() == {"a": {"1": b"x"}}
    store.close()
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_the_folder_is_made(tmp_path: Path) -> None:
    """A state folder that is not there yet is no error; nobody else may read the file."""
    SqliteStore(tmp_path / "state" / "deep" / "propius.db").close()
    made = tmp_path / "state" / "deep" / "propius.db"
    assert made.is_file()
    # It holds the key that all secrets come from.
    assert made.stat().st_mode & 0o077 == 0


def test_a_failed_commit_changes_nothing_and_can_be_retried(path: Path) -> None:
    """When the disk is full the batch fails whole; with room again the same batch goes through."""
    store = SqliteStore(path)
    store.commit([Put("a", "1", b"x")])
    db = store._db
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {pages + 2}")
    batch = [Put("a", "1", b"y"), *(Put("b", str(n), bytes(1_000)) for n in range(100))]
    with pytest.raises(StoreError, match=r"commit failed: .*full") as caught:
        store.commit(batch)
    assert "\n" not in str(caught.value)
    assert store.load() == {"a": {"1": b"x"}}
    db.execute("PRAGMA max_page_count = 1000000")
    store.commit(batch)
    assert store.load()["a"] == {"1": b"y"}
    store.close()


def test_no_half_a_batch(path: Path) -> None:
    """A change that the database refuses takes back those of its batch that it had taken."""
    store = SqliteStore(path)
    store._db.execute(
        "CREATE TEMP TRIGGER refuse BEFORE INSERT ON records WHEN new.key = 'bad'"
        " BEGIN SELECT RAISE(ABORT, 'not this one'); END"
    )
    with pytest.raises(StoreError, match="commit failed: not this one"):
        store.commit([Put("a", "1", b"y"), Put("a", "bad", b"")])
    with pytest.raises(TypeError):
        store.commit([Put("a", "1", b"y"), Put("a", "2", None)])  # type: ignore[arg-type]
    assert store.load() == {}
    store.commit([Put("a", "3", b"z")])
    assert store.load() == {"a": {"3": b"z"}}
    store.close()


def test_the_writer_may_be_another_thread(path: Path) -> None:
    """Who opens and loads need not be who commits, as in the shell."""
    store = SqliteStore(path)
    thread = threading.Thread(target=store.commit, args=([Put("a", "1", b"x")],))
    thread.start()
    thread.join()
    assert store.load() == {"a": {"1": b"x"}}
    store.close()


def test_durability_as_configured(path: Path) -> None:
    """WAL in both cases; a power cut is waited for only where the operator said so."""
    for durability, synchronous in (("process", 1), ("power", 2)):
        store = SqliteStore(path, durability)  # type: ignore[arg-type]
        assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert store._db.execute("PRAGMA synchronous").fetchone() == (synchronous,)
        store.close()
