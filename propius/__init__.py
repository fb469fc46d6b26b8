"""Propius shares one population of edge devices among many federated-learning jobs.

A job server asks for devices with :class:`Job`, a device serves with :class:`Client`; both have a
twin for asyncio with the same verbs. ``examples/`` has the shortest useful programs,
:mod:`propius.testing` a server for tests of your own, and ``docs/protocol.md`` what is on the wire.

Importing this needs pyzmq and msgspec only, and loads even those when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from propius.aio import AsyncAssignment, AsyncClient, AsyncJob
    from propius.aio_connection import AsyncConnection
    from propius.client import Assignment, Client, SyncAssignment
    from propius.connection import Connection
    from propius.errors import (
        AuthenticationError,
        BusyError,
        CheckInAgainError,
        ConflictError,
        DeviceIdInUseError,
        InvalidStateError,
        InvalidValueError,
        PropiusError,
        ProtocolError,
        RefusedError,
        RequestTimeoutError,
        SchemaChangedError,
        SessionClosedError,
        StaleTokenError,
        TransportError,
        UnknownJobError,
        UsageError,
    )
    from propius.identity import device_id, ephemeral_id
    from propius.job import Job, Operator
    from propius.messages import JobStatus, Offer, Outcome, RoundStatus, Task
    from propius.tokens import Lease

    __version__: str

__all__ = [
    "Assignment",
    "AsyncAssignment",
    "AsyncClient",
    "AsyncConnection",
    "AsyncJob",
    "AuthenticationError",
    "BusyError",
    "CheckInAgainError",
    "Client",
    "ConflictError",
    "Connection",
    "DeviceIdInUseError",
    "InvalidStateError",
    "InvalidValueError",
    "Job",
    "JobStatus",
    "Lease",
    "Offer",
    "Operator",
    "Outcome",
    "PropiusError",
    "ProtocolError",
    "RefusedError",
    "RequestTimeoutError",
    "RoundStatus",
    "SchemaChangedError",
    "SessionClosedError",
    "StaleTokenError",
    "SyncAssignment",
    "Task",
    "TransportError",
    "UnknownJobError",
    "UsageError",
    "__version__",
    "device_id",
    "ephemeral_id",
]

_MODULES = {
    "propius.aio": ("AsyncAssignment", "AsyncClient", "AsyncJob"),
    "propius.aio_connection": ("AsyncConnection",),
    "propius.client": ("Assignment", "Client", "SyncAssignment"),
    "propius.connection": ("Connection",),
    "propius.identity": ("device_id", "ephemeral_id"),
    "propius.job": ("Job", "Operator"),
    "propius.messages": ("JobStatus", "Offer", "Outcome", "RoundStatus", "Task"),
    "propius.tokens": ("Lease",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a public name from its module when it is first used (PEP 562)."""
    if name == "__version__":
        value: Any = _version()
    elif name in __all__:
        value = getattr(importlib.import_module(_HOMES.get(name, "propius.errors")), name)
    else:
        raise AttributeError(f"module 'propius' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("propius")
    except metadata.PackageNotFoundError:  # a checkout on PYTHONPATH, not installed
        return "0+unknown"
