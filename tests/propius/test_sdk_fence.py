from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propius.errors import StaleTokenError
from propius.fence import LOST_MAX, Fence
from propius.tokens import Lease, sign

SECRET = b"s" * 32


def token(
    slot: int, lease: int, *, round_no: int = 0, job: int = 7, secret: bytes = SECRET
) -> bytes:
    """A token as the job manager signs it."""
    return sign(secret, Lease(job=job, round=round_no, slot=slot, lease=lease, device_id="ab" * 16))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=60))
def test_of_two_leases_of_a_slot_only_the_newer_one_gets_in(came: list[tuple[int, int]]) -> None:
    """Whatever the order of arrival, nobody gets in after a newer lease of the same slot has."""
    fence = Fence(7, SECRET, 0)
    newest: dict[int, int] = {}
    for slot, lease in came:
        if lease < newest.get(slot, 0):
            with pytest.raises(StaleTokenError, match="superseded"):
                fence.admit(token(slot, lease))
        else:
            assert fence.admit(token(slot, lease)).slot == slot
            newest[slot] = lease


def test_a_device_may_come_twice() -> None:
    """Pulling the model and pushing the update are two visits with one token."""
    fence = Fence(7, SECRET, 0)
    assert fence.admit(token(1, 5)) == fence.admit(token(1, 5))


@pytest.mark.parametrize(
    "stranger",
    [
        token(0, 1, round_no=1),
        token(0, 1, job=8),
        token(0, 1, secret=b"t" * 32),
        token(0, 1)[:-1],
        b"",
        b"x" * 5_000,
    ],
)
def test_strangers_stay_outside(stranger: bytes) -> None:
    """Another round, another job, another secret, a torn token and garbage are stale."""
    with pytest.raises(StaleTokenError):
        Fence(7, SECRET, 0).admit(stranger)


def test_a_new_round_forgets_the_old_one() -> None:
    """Slots and lost leases belong to a round; opening the same one again changes nothing."""
    fence = Fence(7, SECRET, 0)
    fence.admit(token(0, 9))
    fence.lose(0, [10])
    fence.open(0)
    for lease in (8, 10):
        with pytest.raises(StaleTokenError):
            fence.admit(token(0, lease))
    fence.open(1)
    assert fence.admit(token(0, 3, round_no=1)).lease == 3
    with pytest.raises(StaleTokenError, match="not of job 7's current round 1"):
        fence.admit(token(0, 9))


def test_what_is_lost_in_another_round_is_none_of_ours() -> None:
    """A late status of an old round shuts nobody out of the current one."""
    fence = Fence(7, SECRET, 1)
    fence.lose(0, [5])
    assert fence.admit(token(0, 5, round_no=1)).lease == 5


def test_the_memory_of_lost_leases_is_bounded() -> None:
    """Of too many lost leases the oldest are forgotten."""
    fence = Fence(7, SECRET, 0)
    fence.lose(0, range(LOST_MAX + 10))
    assert fence.admit(token(0, 5)).lease == 5
    with pytest.raises(StaleTokenError):
        fence.admit(token(1, LOST_MAX))


def test_threads_may_ask_at_once() -> None:
    """Admitting, losing and opening from several threads keep the fence whole."""
    fence = Fence(7, SECRET, 0)
    tokens = [token(slot, slot) for slot in range(200)]
    admitted: list[int] = []

    def ask() -> None:
        admitted.extend(fence.admit(each).slot for each in tokens)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(admitted) == sorted([*range(200)] * 4)
