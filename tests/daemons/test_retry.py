"""Retry times: a fleet comes back spread out, a single device soon."""

from __future__ import annotations

from collections import Counter

from daemons.retry import Retry
from tests.daemons.client_manager.kit import SECOND, device_id


def test_fleet_that_returns_for_ever_stays_near_the_welcome_rate() -> None:
    """5,000 devices that are told again and again come back at about per_s = 100 a second."""
    retry = Retry(min_s=0.5, max_s=60.0, per_s=100.0, seed=1)
    due = sorted((0, device) for device in range(5_000))
    returns = Counter[int]()
    for second in range(240):
        now = [item for item in due if item[0] < (second + 1) * SECOND]
        due = [item for item in due if item[0] >= (second + 1) * SECOND]
        for at_ns, device in now:
            returns[second] += 1
            wait_s = retry.after(at_ns, device_id(device), second)
            due.append((at_ns + int(wait_s * SECOND), device))
        due.sort()
    late = [returns[second] for second in range(120, 240)]
    assert 50 <= sum(late) / len(late) <= 200
    assert max(late) <= 400


def test_single_device_comes_back_soon_and_never_beyond_the_bounds() -> None:
    """Waits are within min_s and max_s, and short when nobody else waits."""
    retry = Retry(min_s=0.5, max_s=10.0, per_s=100.0, seed=1)
    waits = [retry.after(second * 20 * SECOND, device_id(1), second) for second in range(50)]
    assert all(0.5 <= wait <= 1.5 for wait in waits)
    crowd = [retry.after(10**13, device_id(number), 1) for number in range(20_000)]
    assert min(crowd) >= 0.5
    assert max(crowd) <= 10.0


def test_same_seed_same_waits() -> None:
    """No hidden randomness."""
    one, other = (Retry(min_s=1.0, max_s=9.0, per_s=5.0, seed=4) for _ in range(2))
    for number in range(100):
        assert one.after(0, device_id(number), 1) == other.after(0, device_id(number), 1)


def test_expected_returns_are_forgotten_as_time_passes() -> None:
    """Nobody is expected once the longest wait is over, even after a long sleep."""
    retry = Retry(min_s=0.5, max_s=60.0, per_s=1.0, seed=1)
    for number in range(100):
        retry.after(SECOND, device_id(number), 1)
    assert retry.expected(2 * SECOND) > 50
    assert retry.expected(10_000 * SECOND) == 0
