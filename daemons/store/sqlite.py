"""The embedded store: one SQLite file in WAL mode, no server needed.

What can be lost: nothing acknowledged when the process dies; on a power cut up to about a second
with durability ``"process"``, nothing with ``"power"``. A newer file layout or a damaged file is
refused with one line; nothing is ever repaired silently.

How damage is noticed. SQLite itself sees damaged pages and drops an unfinished end of its
write-ahead log (WAL), which is right. It does not see a row whose value changed, nor that pages of
two moments were mixed: a WAL that was cut, or is another database's, may fit page by page. So each
row carries a check sum, one row has their total, and a number that is written once, when the file
is made, is repeated beside the total, which changes with each commit. ``load`` compares them all.

The WAL holds what is not in the database file yet, and nothing else: once it is copied there, it is
emptied at once. A WAL that loses its end then loses just that end.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from daemons.store.interface import StoreError
from propius.core import Change, Put

LAYOUT_VERSION: Final = 2
APPLICATION_ID: Final = 0x50524F50  # "PROP": another program's file is not ours to write
LOCK_WAIT_S: Final = 2.0
WAL_BYTES_MAX: Final = 4 << 20  # beyond, it is copied to the database file
Durability = Literal["process", "power"]

_SYNCHRONOUS: Final[dict[str, str]] = {"process": "NORMAL", "power": "FULL"}
_CREATE_RECORDS: Final = (
    "CREATE TABLE records (tab TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,"
    " crc INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (tab, key)) WITHOUT ROWID"
)
_CREATE_CHECKS: Final = (
    # In a page of its own, which no commit touches; so no WAL ever has it.
    "CREATE TABLE identity (id INTEGER NOT NULL)",
    "CREATE TABLE totals (id INTEGER NOT NULL, rows INTEGER NOT NULL, crcs INTEGER NOT NULL)",
)
_CRC: Final = "SELECT crc FROM records WHERE tab = ? AND key = ?"
# Damaged text is no UTF-8, or is no text and has no `encode`; SQLite takes it as it comes.
_UNREADABLE: Final = (sqlite3.Error, UnicodeError, TypeError, AttributeError)
_PUT: Final = "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)"
_DELETE: Final = "DELETE FROM records WHERE tab = ? AND key = ?"


class SqliteStore:
    """A store in the file ``path``, made with its folder if it is not there.

    Only one process may have it open; a second one is refused. Raises StoreError.
    """

    def __init__(self, path: str | Path, durability: Durability = "process") -> None:
        self.path = Path(path)
        self._wal = self.path.with_name(self.path.name + "-wal")
        try:
            _find_or_make(self.path, self._wal)
            self._db = _connect(self.path)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"store {self.path}: cannot be opened: {error}") from error
        try:
            self._prepare(durability)
        except _UNREADABLE as error:
            self._db.close()
            raise StoreError(f"store {self.path}: {_advice(error)}") from error
        except BaseException:
            self._db.close()
            raise

    def load(self) -> dict[str, dict[str, bytes]]:
        """Everything, tables and keys in order; it is compared with its check sums."""
        tables: dict[str, dict[str, bytes]] = {}
        rows = crcs = 0
        try:
            for table, key, value, crc in self._db.execute(
                "SELECT tab, key, value, crc FROM records ORDER BY tab, key"
            ):
                if _crc(table, key, value) != crc:
                    raise self._damaged(f"record {key!r} of table {table} is not as it was written")
                tables.setdefault(table, {})[key] = value
                rows += 1
                crcs += crc
            self._compare(rows, crcs)
        except _UNREADABLE as error:
            raise StoreError(f"store {self.path}: {_advice(error)}") from error
        return tables

    def commit(self, changes: Sequence[Change]) -> None:
        """Make the changes in one transaction; on return they survive as the durability says."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._apply(changes)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StoreError(f"store {self.path}: commit failed: {_advice(error)}") from error
        self._empty_wal_if_long()

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _apply(self, changes: Sequence[Change]) -> None:
        execute = self._db.execute
        rows = crcs = 0
        for change in changes:
            table, key = change.table, change.key
            before = execute(_CRC, (table, key)).fetchone()
            if before is not None:
                rows, crcs = rows - 1, crcs - before[0]
            if isinstance(change, Put):
                crc = _crc(table, key, change.value)
                execute(_PUT, (table, key, change.value, crc))
                rows, crcs = rows + 1, crcs + crc
            elif before is not None:
                execute(_DELETE, (table, key))
        execute("UPDATE totals SET rows = rows + ?, crcs = crcs + ?", (rows, crcs))

    def _empty_wal_if_long(self) -> None:
        """What was committed is durable with or without this: a failure is no failed commit."""
        try:
            if self._wal.stat().st_size >= WAL_BYTES_MAX:
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except (OSError, sqlite3.Error):
            return  # a full disk, say; the next commit tries again

    # --- opening -----------------------------------------------------------------------------

    def _prepare(self, durability: Durability) -> None:
        # Held for the life of the connection: two writers of one state would each be right alone.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._check_owner()
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA wal_autocheckpoint = 0")  # it would leave the WAL as it was
        self._db.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[durability]}")
        damage = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if damage != "ok":
            raise self._damaged(damage)
        if _pragma(self._db, "user_version") < LAYOUT_VERSION:
            _upgrade(self._db)

    def _check_owner(self) -> None:
        owner, version = _pragma(self._db, "application_id"), _pragma(self._db, "user_version")
        if owner != APPLICATION_ID:
            raise StoreError(f"store {self.path}: is the database of another program")
        if version > LAYOUT_VERSION:
            raise StoreError(
                f"store {self.path}: has layout {version}, this version of Propius reads up to"
                f" {LAYOUT_VERSION}: run the newer version"
            )

    def _compare(self, rows: int, crcs: int) -> None:
        identities = self._db.execute("SELECT id FROM identity").fetchall()
        totals = self._db.execute("SELECT id, rows, crcs FROM totals").fetchall()
        if len(identities) != 1 or len(totals) != 1:
            raise self._damaged("its check sums are missing")
        if identities[0][0] != totals[0][0]:
            raise self._damaged(f"{self._wal.name} was another database's")
        if totals[0][1:] != (rows, crcs):
            raise self._damaged(f"it has {rows} records that do not fit together")

    def _damaged(self, what: str) -> StoreError:
        return StoreError(f"store {self.path}: damaged: {' '.join(what.split())}; {_RESTORE}")


def _find_or_make(path: Path, wal: Path) -> None:
    """See to it that there is a database file; never begin anew beside what is left of one."""
    if path.exists():
        if path.is_file() and not path.stat().st_size:  # SQLite would throw the WAL away
            raise StoreError(f"store {path}: is empty, its contents are lost; {_RESTORE}")
        return
    if wal.exists():  # SQLite would take it for the new database's
        raise StoreError(f"store {path}: is missing beside {wal.name}; {_RESTORE}")
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.unlink(missing_ok=True)
        new.touch(mode=0o600)  # secrets are in it; SQLite's side files get the same mode
        _make(new)
        try:
            os.link(new, path)  # as a whole or not at all, and never over another's
        except FileExistsError:
            pass
    finally:
        new.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _make(path: Path) -> None:
    db = _connect(path)
    try:
        db.execute("BEGIN IMMEDIATE")
        db.execute(_CREATE_RECORDS)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        _add_checks(db)
        db.execute("COMMIT")
    finally:
        db.close()


def _upgrade(db: sqlite3.Connection) -> None:
    """From layout 1, which had no check sums."""
    db.create_function("crc", 3, _crc, deterministic=True)
    db.execute("BEGIN IMMEDIATE")
    db.execute("ALTER TABLE records ADD COLUMN crc INTEGER NOT NULL DEFAULT 0")
    db.execute("UPDATE records SET crc = crc(tab, key, value)")
    _add_checks(db)
    db.execute("COMMIT")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _add_checks(db: sqlite3.Connection) -> None:
    for statement in _CREATE_CHECKS:
        db.execute(statement)
    identity = secrets.randbits(62)
    db.execute("INSERT INTO identity VALUES (?)", (identity,))
    totals = "SELECT ?, count(*), coalesce(sum(crc), 0) FROM records"
    db.execute(f"INSERT INTO totals {totals}", (identity,))
    db.execute(f"PRAGMA user_version = {LAYOUT_VERSION}")


def _connect(path: Path) -> sqlite3.Connection:
    # The thread that opens the store loads from it; the writer thread commits.
    return sqlite3.connect(path, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False)


def _sync_folder(folder: Path) -> None:
    """After a power cut the new file has its name."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _crc(table: str, key: str, value: bytes) -> int:
    """32 bits over a whole row; sums of two thousand million of them fit SQLite's integers."""
    return zlib.crc32(value, zlib.crc32(f"{table}\0{key}\0".encode()))


def _pragma(db: sqlite3.Connection, name: str) -> int:
    value: int = db.execute(f"PRAGMA {name}").fetchone()[0]
    return value


_RESTORE: Final = "restore it from a copy, or move it away to start empty"


def _advice(error: Exception) -> str:
    """What SQLite said and what to do about it, in one line."""
    text = " ".join(str(error).split())
    if "locked" in text:
        return f"{text}: another process has it open; stop that one first"
    if "full" in text:
        return f"{text}: make room on its disk"
    if isinstance(error, sqlite3.OperationalError):  # not the file's fault
        return text
    return f"{text}; {_RESTORE}"
