"""The SQLite files cut, lengthened, swapped and flipped: all that was acknowledged, or one line.

A writer notes after each acknowledged commit what the store has and how long its files are. Then
the files are damaged in every way of this file, one copy each, and opened: what is loaded must be
the state after some acknowledged commit, none that lay wholly before the cut may be missing, and
everything else must be a StoreError of one line.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from daemons.store import SqliteStore, StoreError
from daemons.store import sqlite as sqlite_store
from propius.core import Change, Delete, Put

LAST: Final = 64 << 10  # bytes of each file that are cut off one by one
PARTS: Final = 16
PAGE: Final = 4_096
WAL_HEADER: Final = 32
FRAME: Final = 24 + PAGE
FEW: Final = 25  # keys
Tables = dict[str, dict[str, bytes]]


@dataclass
class Written:
    """What a writer left behind when it was killed, and what it had been promised."""

    db: bytes
    wal: bytes
    states: list[Tables]  # before the first, and after each, acknowledged commit
    wal_sizes: list[int] = field(default_factory=list)  # then

    def promised(self, wal_size: int) -> int:
        """How many commits lie wholly before this cut of the WAL."""
        return sum(size <= wal_size for size in self.wal_sizes)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder in memory, if there is one: tens of thousands of small files are opened in it."""
    memory = Path("/dev/shm")
    made = tempfile.mkdtemp(prefix="cuts-", dir=memory if os.access(memory, os.W_OK) else None)
    yield Path(made)
    shutil.rmtree(made)


def batch(dice: random.Random, number: int, keys: int = FEW) -> list[Change]:
    """Some changes: rows come, change, grow and go."""
    changes: list[Change] = [Put("meta", "last", b"%d" % number)]
    for _ in range(3):
        key = str(dice.randrange(keys))
        if dice.random() < 0.25:
            changes.append(Delete("rows", key))
        else:
            changes.append(Put("rows", key, dice.randbytes(dice.randrange(120))))
    return changes


def write(folder: Path, name: str, commits: int, seed: int, keys: int = FEW) -> Written:
    """A writer's files, as a kill at the end would leave them."""
    path = folder / name
    wal = folder / f"{name}-wal"
    dice = random.Random(seed)
    store = SqliteStore(path)
    if keys > FEW:  # several pages, in the database file already when the WAL begins
        store.commit([Put("rows", str(key), bytes(60)) for key in range(keys)])
        store.close()
        store = SqliteStore(path)
    written = Written(b"", b"", [store.load()])
    for number in range(commits):
        store.commit(batch(dice, number, keys))
        written.states.append(store.load())
        written.wal_sizes.append(wal.stat().st_size)
    written.db, written.wal = path.read_bytes(), wal.read_bytes()
    store.close()
    return written


def opened(path: Path, db: bytes, wal: bytes | None) -> Tables | None:
    """What the store makes of these files; None is a refusal, which must be one line."""
    wal_path = path.with_name(f"{path.name}-wal")
    path.write_bytes(db)
    if wal is None:
        wal_path.unlink(missing_ok=True)
    else:
        wal_path.write_bytes(wal)
    try:
        store = SqliteStore(path)
    except StoreError as error:
        refused = str(error)
    else:
        try:
            return store.load()
        except StoreError as error:
            refused = str(error)
        finally:
            store.close()
    assert "\n" not in refused
    assert str(path) in refused
    return None


@pytest.fixture(scope="module")
def written(folder: Path) -> Written:
    """A few commits, all of them still in a WAL of more than 64 KiB."""
    written = write(folder, "written.db", 8, seed=1)
    assert len(written.wal) > LAST
    assert written.wal_sizes == sorted(set(written.wal_sizes)), "the WAL was emptied meanwhile"
    return written


@pytest.fixture(scope="module")
def closed(folder: Path) -> Written:
    """A database of more than 64 KiB that was closed in peace, so that it has no WAL."""
    path = folder / "closed.db"
    store = SqliteStore(path)
    dice = random.Random(2)
    store.commit([Put("rows", str(number), dice.randbytes(380)) for number in range(160)])
    written = Written(b"", b"", [store.load()])
    store.close()
    assert not path.with_name("closed.db-wal").exists()
    written.db = path.read_bytes()
    assert len(written.db) > LAST
    return written


def check_wal_cuts(folder: Path, written: Written, sizes: Iterable[int]) -> None:
    """Each of these lengths of the WAL gives exactly the commits before the cut."""
    for size in sizes:
        loaded = opened(folder / "cut.db", written.db, written.wal[:size])
        assert loaded == written.states[written.promised(size)], f"cut at {size}"


def check_database_cuts(folder: Path, closed: Written, sizes: Iterable[int]) -> None:
    """Each of these lengths of a database without a WAL is refused, if anything is lost by it."""
    for size in sizes:
        loaded = opened(folder / "short.db", closed.db[:size], None)
        assert loaded is None or loaded == closed.states[0], f"cut at {size}"
        assert loaded is None or size > len(closed.db) - PAGE, f"cut at {size}"


def every_byte(whole: bytes, part: int) -> range:
    """A sixteenth of the lengths that a file has when its last 64 KiB are cut byte by byte."""
    end, share = len(whole), LAST // PARTS
    return range(end - LAST + part * share, end - LAST + (part + 1) * share)


def telling_bytes(whole: bytes, unit: int, first: int) -> list[int]:
    """Lengths around each boundary of pages or frames, and some between them."""
    end = len(whole)
    near = {at + by for at in range(first, end + 1, unit) for by in (-1, 0, 1, 8, 23, 24, 25)}
    between = set(range(end - LAST, end, 211))
    return sorted(size for size in near | between if 0 <= size < end)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_wal_cut_at_every_byte(folder: Path, written: Written, part: int) -> None:
    """Cut at any byte of its last 64 KiB, the WAL gives exactly the commits before the cut."""
    check_wal_cuts(folder, written, every_byte(written.wal, part))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_database_cut_at_every_byte(folder: Path, closed: Written, part: int) -> None:
    """Cut at any byte of its last 64 KiB, a database without a WAL has all, or is refused."""
    check_database_cuts(folder, closed, every_byte(closed.db, part))


def test_wal_cut_at_telling_bytes(folder: Path, written: Written) -> None:
    """The same around the boundaries of frames, and at some bytes between; in a second."""
    check_wal_cuts(folder, written, telling_bytes(written.wal, FRAME, WAL_HEADER))


def test_database_cut_at_telling_bytes(folder: Path, closed: Written) -> None:
    """The same around the boundaries of pages, and at some bytes between; in a second."""
    check_database_cuts(folder, closed, telling_bytes(closed.db, PAGE, 0))


@pytest.mark.parametrize("copied", [False, True], ids=["before", "after"])
def test_wal_cut_around_a_checkpoint(
    folder: Path, copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the WAL was copied to the database, and then cut: never a mix of two moments."""
    written = write(folder, "wide.db", 30, seed=13, keys=300)
    db = after_checkpoint(folder, written, monkeypatch) if copied else written.db
    refused = 0
    for size in range(len(written.wal), 0, -997):
        loaded = opened(folder / "mixed.db", db, written.wal[:size])
        refused += loaded is None
        assert loaded is None or loaded in written.states[written.promised(size) :], f"at {size}"
    assert bool(refused) is copied


def after_checkpoint(folder: Path, written: Written, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The database when the WAL has been copied to it, but not been emptied yet."""
    monkeypatch.setattr(sqlite_store, "WAL_BYTES_MAX", 1 << 40)
    path, wal = folder / "copied.db", folder / "copied.db-wal"
    path.write_bytes(written.db)
    wal.write_bytes(written.wal)
    store = SqliteStore(path)
    store._db.execute("PRAGMA wal_checkpoint(PASSIVE)")
    db = path.read_bytes()
    assert wal.read_bytes() == written.wal
    store.close()
    assert db != written.db
    return db


def test_the_wal_is_emptied_when_it_is_long(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the database file is not in the WAL as well, where a cut could bring it back."""
    monkeypatch.setattr(sqlite_store, "WAL_BYTES_MAX", 30_000)
    long = write(folder, "long.db", 40, seed=3)
    assert max(long.wal_sizes) < 30_000 + 4 * FRAME
    assert long.wal_sizes.count(0) > 5
    since = max(number for number, size in enumerate(long.wal_sizes) if size == 0)
    for size in range(0, len(long.wal), 97):
        promised = since + 1 + sum(at <= size for at in long.wal_sizes[since + 1 :])
        assert opened(folder / "cut.db", long.db, long.wal[:size]) == long.states[promised]


# --- other damage ---------------------------------------------------------------------------------


def test_a_database_cut_under_its_wal(folder: Path) -> None:
    """What the WAL has is there; what only the database had is missed, and the store refused."""
    written = write(folder, "under.db", 10, seed=14, keys=300)
    refused = 0
    for size in telling_bytes(written.db, PAGE, 0):
        loaded = opened(folder / "cut.db", written.db[:size], written.wal)
        assert loaded is None or loaded == written.states[-1], f"cut at {size}"
        refused += loaded is None
    assert refused


def test_an_empty_database_is_not_a_new_one(folder: Path, written: Written) -> None:
    """SQLite would throw the WAL away and begin with nothing."""
    assert opened(folder / "empty.db", b"", written.wal) is None
    assert opened(folder / "empty.db", b"", None) is None


def test_a_wal_without_its_database(folder: Path, written: Written) -> None:
    """Nothing is begun anew beside it: SQLite would take it for the new database's."""
    path, wal = folder / "gone.db", folder / "gone.db-wal"
    wal.write_bytes(written.wal)
    with pytest.raises(StoreError, match=r"is missing beside gone\.db-wal"):
        SqliteStore(path)
    assert not path.exists()
    assert wal.read_bytes() == written.wal


def test_no_wal_and_an_empty_one(folder: Path, written: Written) -> None:
    """Without any of its WAL the database is as it was when the WAL began."""
    for wal in (None, b""):
        assert opened(folder / "cut.db", written.db, wal) == written.states[0]


def test_garbage_behind_the_wal(folder: Path, written: Written) -> None:
    """What follows the last commit is no commit, and what precedes it is all there."""
    dice = random.Random(4)
    tails = [bytes(FRAME), dice.randbytes(10_000), written.wal, written.wal[WAL_HEADER:]]
    for tail in tails:
        loaded = opened(folder / "tail.db", written.db, written.wal + tail)
        assert loaded == written.states[-1]


def test_garbage_behind_the_database(folder: Path, closed: Written) -> None:
    """Bytes that belong to nothing hide nothing."""
    for tail in (b"x", bytes(PAGE), bytes(10_000)):
        loaded = opened(folder / "tail.db", closed.db + tail, None)
        assert loaded in (None, closed.states[0])


def test_shared_memory_file_of_another_time(folder: Path, written: Written) -> None:
    """A -shm file is never believed."""
    shm = folder / "cut.db-shm"
    shm.write_bytes(random.Random(5).randbytes(32_768))
    assert opened(folder / "cut.db", written.db, written.wal) == written.states[-1]
    shm.unlink(missing_ok=True)


@pytest.mark.parametrize("seed", range(6, 12))
def test_the_wal_of_another_database(folder: Path, written: Written, seed: int) -> None:
    """A WAL left behind by another database fits page by page, and is noticed."""
    other = write(folder, f"other-{seed}.db", 8, seed=seed)
    for size in (*other.wal_sizes, 0):
        loaded = opened(folder / "swapped.db", written.db, other.wal[:size])
        assert loaded is None if size else loaded == written.states[0]


def test_the_database_of_another_time(folder: Path, written: Written) -> None:
    """An old copy of the database under a newer WAL: all, or refused."""
    path = folder / "old.db"
    store = SqliteStore(path)
    copies, states = [path.read_bytes()], [store.load()]
    dice = random.Random(12)
    for number in range(12):
        store.commit(batch(dice, number))
        states.append(store.load())
        if number % 3 == 2:
            store.close()
            copies.append(path.read_bytes())
            store = SqliteStore(path)
            store.commit([Put("meta", "opened", b"%d" % number)])
            states.append(store.load())
    wal = path.with_name("old.db-wal").read_bytes()
    store.close()
    for copy in copies:
        assert opened(folder / "restored.db", copy, wal) in (None, states[-1])


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits(folder: Path, written: Written, closed: Written, seed: int) -> None:
    """A flipped bit is refused, or falls where nothing is, or ends the WAL; it changes no value."""
    dice = random.Random(seed)
    for _ in range(150):
        db, at = bytearray(closed.db), dice.randrange(len(closed.db))
        db[at] ^= 1 << dice.randrange(8)
        assert opened(folder / "flip.db", bytes(db), None) in (None, closed.states[0]), at
        wal, at = bytearray(written.wal), dice.randrange(len(written.wal))
        wal[at] ^= 1 << dice.randrange(8)
        loaded = opened(folder / "flip.db", written.db, bytes(wal))
        assert loaded is None or loaded in written.states[written.promised(at) :], at


def test_a_changed_value_is_noticed(folder: Path, closed: Written) -> None:
    """SQLite has no check sums of its own; a row that is not as it was written is refused."""
    value = closed.states[0]["rows"]["7"]
    at = closed.db.index(value[:200])
    db = bytearray(closed.db)
    db[at + 50] ^= 0x10
    path = folder / "value.db"
    path.write_bytes(db)
    store = SqliteStore(path)
    with pytest.raises(StoreError, match="record '7' of table rows is not as it was written"):
        store.load()
    store.close()


def test_a_lost_row_is_noticed(folder: Path, closed: Written) -> None:
    """A row that is simply not there any more is refused."""
    path = folder / "lost.db"
    path.write_bytes(closed.db)
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM records WHERE key = '7'")
    db.close()
    store = SqliteStore(path)
    with pytest.raises(StoreError, match="159 records that do not fit together"):
        store.load()
    store.close()
