from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propius.errors import StaleTokenError
from propius.messages import Assignment, validate
from propius.tokens import TAG_BYTES, Lease, job_secret, matches, operator_key, sign, verify

MASTER = b"m" * 32
SECRET = job_secret(MASTER, 7)
BIG = (1 << 63) - 1
LEASE = Lease(job=7, round=0, slot=3, lease=41, device_id="ab" * 16)


@given(
    st.builds(
        Lease,
        job=st.integers(0, BIG),
        round=st.integers(0, (1 << 32) - 1),
        slot=st.integers(0, BIG),
        lease=st.integers(0, BIG),
        device_id=st.text("0123456789abcdef", min_size=32, max_size=32),
    )
)
def test_a_signed_lease_is_verified(lease: Lease) -> None:
    """Every lease comes back from its token, and the token fits into an assignment."""
    token = sign(SECRET, lease)
    assert verify(SECRET, token) == lease
    validate(Assignment(job=1, round=0, endpoint="", lease_s=1.0, token=token))


@given(st.data())
def test_any_changed_byte_is_noticed(data: st.DataObject) -> None:
    """A token with one byte changed, added or missing is stale."""
    token = sign(SECRET, LEASE)
    at = data.draw(st.integers(0, len(token) - 1))
    flipped = token[:at] + bytes([token[at] ^ data.draw(st.integers(1, 255))]) + token[at + 1 :]
    for forged in (flipped, token[:at], token + token[:1]):
        with pytest.raises(StaleTokenError):
            verify(SECRET, forged)


@given(st.binary(max_size=100))
def test_garbage_is_stale_and_nothing_else(token: bytes) -> None:
    """Whatever a stranger sends as a token, the answer is StaleTokenError."""
    with pytest.raises(StaleTokenError):
        verify(SECRET, token)


def test_a_token_of_another_job_is_stale() -> None:
    """Each job's secret is its own."""
    with pytest.raises(StaleTokenError):
        verify(job_secret(MASTER, 8), sign(SECRET, LEASE))


def test_a_signed_thing_that_is_no_lease_is_stale() -> None:
    """A right signature over a wrong body is refused, too."""
    body = msgspec.msgpack.encode([7, 0, 3, 41, "not a device"])
    tag = sign(SECRET, LEASE)[-TAG_BYTES:]
    with pytest.raises(StaleTokenError):
        verify(SECRET, body + tag)


def test_secrets_differ_and_do_not_reveal_each_other() -> None:
    """Jobs' secrets and the operator's key are all different, and follow from the master key."""
    secrets = [job_secret(MASTER, job) for job in range(100)] + [operator_key(MASTER)]
    assert len(set(secrets)) == 101
    assert {len(secret) for secret in secrets} == {32}
    assert job_secret(MASTER, 7) == SECRET
    assert matches(SECRET, job_secret(MASTER, 7))
    assert not matches(SECRET, job_secret(b"n" * 32, 7))
    assert not matches(SECRET, b"")
