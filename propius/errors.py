"""Every error that Propius raises, in one tree, sorted by whose fault it is.

::

    PropiusError
    ├── UsageError              you called the SDK in a way that cannot work
    │   ├── InvalidValueError   a value that no server would accept (NaN, wrong length, 50 MB …)
    │   ├── DeviceIdInUseError  another running client goes by the device id kept on this machine
    │   └── SessionClosedError  the object was closed, or never connected
    ├── TransportError          the network, or nobody at the other end
    │   └── RequestTimeoutError no answer within the time-out, after all retries
    ├── ProtocolError           the peer spoke nonsense (wrong version, unknown kind, torn frame)
    ├── StaleTokenError         a device came to a job server with a token that has lost its right
    └── RefusedError            the server understood, and said no
        ├── BusyError           overloaded or its disk is full; carries ``retry_after_s``
        ├── CheckInAgainError   the client manager is gone; check in once more
        ├── SchemaChangedError  the operator changed the attribute schema; fetch it again
        ├── UnknownJobError     no such job, or it was purged
        ├── AuthenticationError wrong job secret
        ├── InvalidStateError   the verb does not fit the state of the job or round
        └── ConflictError       the same request number with another body

An error carries its values (``code``, ``field``, ``retry_after_s``), not only text, and its text is
one line: what, where, and what to do. Configuration errors of the daemons live in
:mod:`propius.config`, engine errors in :mod:`propius.engine`.
"""

from __future__ import annotations

__all__ = [
    "AuthenticationError",
    "BusyError",
    "CheckInAgainError",
    "ConflictError",
    "DeviceIdInUseError",
    "InvalidStateError",
    "InvalidValueError",
    "PropiusError",
    "ProtocolError",
    "RefusedError",
    "RequestTimeoutError",
    "SchemaChangedError",
    "SessionClosedError",
    "StaleTokenError",
    "TransportError",
    "UnknownJobError",
    "UsageError",
]


class PropiusError(Exception):
    """The root: catch this to catch everything that Propius raises on purpose."""


class UsageError(PropiusError):
    """The SDK was called in a way that cannot work; nothing was sent."""


class InvalidValueError(UsageError, ValueError):
    """A value that no server would accept; the SDK refuses to send it."""


class DeviceIdInUseError(UsageError):
    """Another running client goes by the kept device id: each needs its own."""


class SessionClosedError(UsageError):
    """The object was closed, or used outside its ``with`` block."""


class TransportError(PropiusError):
    """The network failed, or nobody is at the other end."""


class RequestTimeoutError(TransportError, TimeoutError):
    """No answer in time, after all retries. The effect is unknown; asking again is safe.

    ``held_anew``: a server that came (back) meanwhile had been asked to hold it for longer.
    """

    def __init__(self, text: str, *, held_anew: bool = False):
        super().__init__(text)
        self.held_anew = held_anew


class ProtocolError(PropiusError):
    """The peer sent something that is not this version of the protocol."""


class StaleTokenError(PropiusError):
    """A lease token that is forged, of another round, or superseded by a newer lease."""


class RefusedError(PropiusError):
    """The server understood the request and refused it.

    ``code`` is a :class:`propius.messages.ErrorCode` value, ``field`` the dotted name of the field
    at fault ("" if none), ``retry_after_s`` the wait that the server asks for (0 if none).
    """

    def __init__(self, text: str, *, code: str = "", field: str = "", retry_after_s: float = 0.0):
        super().__init__(text)
        self.code = code
        self.field = field
        self.retry_after_s = retry_after_s


class BusyError(RefusedError):
    """The server cannot take this now; try again after ``retry_after_s``."""


class CheckInAgainError(RefusedError):
    """The client manager that held this device's check-in is gone."""


class SchemaChangedError(RefusedError):
    """The attribute schema is not the one this vector was encoded with."""


class UnknownJobError(RefusedError):
    """No job has this id (any more)."""


class AuthenticationError(RefusedError):
    """The job secret (or operator key) is wrong."""


class InvalidStateError(RefusedError):
    """The verb does not fit the present state of the job or round."""


class ConflictError(RefusedError):
    """A request number was used twice with different bodies, or is too old to be remembered."""
