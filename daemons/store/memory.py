"""A store in a dictionary: the model that the others are tested against, and what tests run on."""

from __future__ import annotations

from collections.abc import Sequence

from propius.core import Change, Put


class MemoryStore:
    """Keeps everything until the object is gone; durable against nothing."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[str, bytes]] = {}

    def load(self) -> dict[str, dict[str, bytes]]:
        """A copy of everything, tables and keys in order."""
        return {
            table: dict(sorted(rows.items()))
            for table, rows in sorted(self._tables.items())
            if rows
        }

    def commit(self, changes: Sequence[Change]) -> None:
        """Make the changes, in order."""
        for change in changes:
            rows = self._tables.setdefault(change.table, {})
            if isinstance(change, Put):
                rows[change.key] = change.value
            else:
                rows.pop(change.key, None)

    def close(self) -> None:
        """Nothing to let go of."""
