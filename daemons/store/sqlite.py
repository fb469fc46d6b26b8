"""The embedded store: one SQLite file in WAL mode, no server needed.

What can be lost: nothing acknowledged when the process dies; on a power cut up to about a second
with durability ``"process"``, nothing with ``"power"``. A newer file layout or a damaged file is
refused with one line; nothing is ever repaired silently.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from daemons.store.interface import StoreError
from propius.core import Change, Put

LAYOUT_VERSION: Final = 1
APPLICATION_ID: Final = 0x50524F50  # "PROP": another program's file is not ours to write
LOCK_WAIT_S: Final = 2.0
Durability = Literal["process", "power"]

_SYNCHRONOUS: Final[dict[str, str]] = {"process": "NORMAL", "power": "FULL"}
_CREATE: Final = (
    "CREATE TABLE records (tab TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,"
    " PRIMARY KEY (tab, key)) WITHOUT ROWID"
)
_PUT: Final = "INSERT OR REPLACE INTO records VALUES (?, ?, ?)"
_DELETE: Final = "DELETE FROM records WHERE tab = ? AND key = ?"


class SqliteStore:
    """A store in the file ``path``, made with its folder if it is not there.

    Only one process may have it open; a second one is refused. Raises StoreError.
    """

    def __init__(self, path: str | Path, durability: Durability = "process") -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch(mode=0o600)  # secrets are in it; SQLite's side files get the same mode
            # The thread that opens the store loads from it; the writer thread commits.
            self._db = sqlite3.connect(
                self.path, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"store {self.path}: cannot be opened: {error}") from error
        try:
            self._prepare(durability)
        except sqlite3.Error as error:
            self._db.close()
            raise StoreError(f"store {self.path}: {_advice(error)}") from error
        except StoreError:
            self._db.close()
            raise

    def load(self) -> dict[str, dict[str, bytes]]:
        """Everything, tables and keys in order."""
        tables: dict[str, dict[str, bytes]] = {}
        try:
            for table, key, value in self._db.execute(
                "SELECT tab, key, value FROM records ORDER BY tab, key"
            ):
                tables.setdefault(table, {})[key] = value
        except sqlite3.Error as error:
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

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if isinstance(change, Put):
                self._db.execute(_PUT, (change.table, change.key, change.value))
            else:
                self._db.execute(_DELETE, (change.table, change.key))

    def _prepare(self, durability: Durability) -> None:
        # Held for the life of the connection: two writers of one state would each be right alone.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._check_owner()
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[durability]}")
        damage = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if damage != "ok":
            raise StoreError(f"store {self.path}: damaged: {damage.splitlines()[0]}; {_RESTORE}")
        if self._pragma("user_version") == 0:
            self._create()

    def _check_owner(self) -> None:
        owner, version = self._pragma("application_id"), self._pragma("user_version")
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if owner != APPLICATION_ID and (owner or version or tables):
            raise StoreError(f"store {self.path}: is the database of another program")
        if version > LAYOUT_VERSION:
            raise StoreError(
                f"store {self.path}: has layout {version}, this version of Propius reads up to"
                f" {LAYOUT_VERSION}: run the newer version"
            )

    def _create(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute(_CREATE)
        self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self._db.execute(f"PRAGMA user_version = {LAYOUT_VERSION}")
        self._db.execute("COMMIT")

    def _pragma(self, name: str) -> int:
        value: int = self._db.execute(f"PRAGMA {name}").fetchone()[0]
        return value


_RESTORE: Final = "restore it from a copy, or move it away to start empty"


def _advice(error: sqlite3.Error) -> str:
    """What SQLite said and what to do about it, in one line."""
    text = str(error)
    if "locked" in text:
        return f"{text}: another process has it open; stop that one first"
    if "malformed" in text or "not a database" in text:
        return f"{text}; {_RESTORE}"
    return text
