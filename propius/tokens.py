"""Secrets and lease tokens: how a job server knows that a device has the right to a slot.

All secrets derive from one master key that the job manager's store keeps, so nothing but that key
is ever written down. A lease token is ``fields || tag``: the lease's fields as MessagePack and an
HMAC-SHA256 tag under the job's secret, cut to 16 bytes. The job server has the secret, so it
verifies tokens without asking anybody; the lease number is the fencing token: of two leases of one
slot the greater one holds.

>>> secret = job_secret(b"m" * 32, 7)
>>> token = sign(secret, Lease(job=7, round=0, slot=3, lease=41, device_id="ab" * 16))
>>> verify(secret, token).lease
41
>>> verify(secret, token[:-1] + b"?")
Traceback (most recent call last):
propius.errors.StaleTokenError: lease token: wrong signature
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

import msgspec

from propius.errors import StaleTokenError
from propius.messages import Count, DeviceId, JobId, LeaseId, RoundNo

TAG_BYTES: Final = 16


class Lease(msgspec.Struct, array_like=True, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a token says: which device holds which slot, and by which lease."""

    job: JobId
    round: RoundNo
    slot: Count
    lease: LeaseId
    device_id: DeviceId


_LEASE = msgspec.msgpack.Decoder(Lease)
_ENCODE = msgspec.msgpack.Encoder().encode


def job_secret(master: bytes, job: int) -> bytes:
    """The secret of a job (32 bytes)."""
    return hmac.digest(master, b"job %d" % job, hashlib.sha256)


def operator_key(master: bytes) -> bytes:
    """The key that may show, list and cancel every job (32 bytes)."""
    return hmac.digest(master, b"operator", hashlib.sha256)


def matches(secret: bytes, offered: bytes) -> bool:
    """Whether two secrets are equal, in constant time."""
    return hmac.compare_digest(secret, offered)


def sign(secret: bytes, lease: Lease) -> bytes:
    """The token of a lease."""
    body = _ENCODE(lease)
    return body + hmac.digest(secret, body, hashlib.sha256)[:TAG_BYTES]


def verify(secret: bytes, token: bytes) -> Lease:
    """The lease of a token; raises StaleTokenError if it was not signed with ``secret``."""
    body, tag = token[:-TAG_BYTES], token[-TAG_BYTES:]
    if not hmac.compare_digest(hmac.digest(secret, body, hashlib.sha256)[:TAG_BYTES], tag):
        raise StaleTokenError("lease token: wrong signature")
    try:
        return _LEASE.decode(body)
    except msgspec.DecodeError as error:
        raise StaleTokenError(f"lease token: {error}") from error
