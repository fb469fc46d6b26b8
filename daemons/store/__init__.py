"""Where the job manager keeps what it may not forget: one interface, several stores."""

from __future__ import annotations

from daemons.store.interface import Store, StoreError
from daemons.store.memory import MemoryStore
from daemons.store.sqlite import SqliteStore

__all__ = ["MemoryStore", "SqliteStore", "Store", "StoreError"]
