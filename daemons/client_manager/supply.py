"""Supply on its way to the scheduler: numbered buckets, so that none is lost or counts twice.

Buckets are numbered from 1 as they close. A message says the number of its last bucket, and repeats
a few older ones in case that an earlier message got lost; to a scheduler that came back, all that
are kept are sent again. The scheduler takes those it has not had.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from propius.messages import Supply, SupplyBucket

KEPT_MAX: Final = 60
REPEATED: Final = 2


class SupplyFeed:
    """The last buckets, and which of them have been sent."""

    def __init__(self) -> None:
        self.last = 0  # the number of the last bucket
        self._sent = 0
        self._buckets: deque[SupplyBucket] = deque(maxlen=KEPT_MAX)

    def add(self, bucket: SupplyBucket) -> None:
        """A bucket has closed."""
        self._buckets.append(bucket)
        self.last += 1

    def send_all_again(self) -> None:
        """The scheduler may have lost what it had."""
        self._sent = 0

    def take(self) -> Supply | None:
        """The next message; None: there is nothing that was not sent."""
        if self._sent == self.last:
            return None
        count = min(self.last - self._sent + REPEATED, len(self._buckets))
        self._sent = self.last
        return Supply(seq=self.last, buckets=list(self._buckets)[-count:])
