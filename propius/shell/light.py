"""Imports that would drag along more than a daemon needs: its start is part of every outage."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(name: str) -> Iterator[None]:
    """In this block ``import name`` fails, for packages that do as well without it.

    structlog loads all of rich to colour tracebacks, which is a quarter of a daemon's start.
    Whoever has imported it already keeps it.
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
