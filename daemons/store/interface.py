"""What a store is: tables of keys and values, changed by batches that happen whole or not at all.

>>> from daemons.store.memory import MemoryStore
>>> from propius.core import Delete, Put
>>> store = MemoryStore()
>>> store.commit([Put("jobs", "1", b"a"), Put("jobs", "2", b"b"), Delete("jobs", "1")])
>>> store.load()
{'jobs': {'2': b'b'}}

Not here: what the values mean (``daemons/job_manager/records.py``), and the thread that commits
(the shell's). A store is used by one thread at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from propius.core import Change
from propius.errors import PropiusError


class StoreError(PropiusError):
    """The store cannot be opened, read or written; one line with the path and what to do."""


class Store(Protocol):
    """Where a daemon keeps what it may not forget."""

    def load(self) -> dict[str, dict[str, bytes]]:
        """Everything, by table and key; tables and keys in order. Raises StoreError."""

    def commit(self, changes: Sequence[Change]) -> None:
        """Make the changes, in order, all or none; durable on return. Raises StoreError."""

    def close(self) -> None:
        """Let go of the file; the store is not used afterwards."""
