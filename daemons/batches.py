"""Batches of device messages between load balancer and client managers, cut to a bearable size.

>>> list(in_batches([(1, b"h", b"pp"), (2, b"h", b"pp"), (3, b"h", b"pp")], bytes_max=6))
[[(1, b'h', b'pp'), (2, b'h', b'pp')], [(3, b'h', b'pp')]]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

__all__ = ["BATCH_BYTES_MAX", "Item", "in_batches"]

Item: TypeAlias = tuple[int, bytes, bytes]
"""(tag, header, payload), as in ``Forward`` and ``Deliver``."""
BATCH_BYTES_MAX: Final = 4 << 20  # of one message; what one drain gathered may need several


def in_batches(items: Iterable[Item], *, bytes_max: int = BATCH_BYTES_MAX) -> Iterator[list[Item]]:
    """The items in order, in lists of at most ``bytes_max``, or of one item that is larger."""
    batch: list[Item] = []
    size = 0
    for item in items:
        item_bytes = len(item[1]) + len(item[2])
        if batch and size + item_bytes > bytes_max:
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += item_bytes
    if batch:
        yield batch
