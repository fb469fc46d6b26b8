"""Rendezvous hashing: the same device, the same manager."""

from __future__ import annotations

from collections import Counter

from daemons.load_balancer.rendezvous import Rendezvous
from tests.daemons.client_manager.kit import device_id

NAMES = [f"client_manager-{number}" for number in range(5)]
DEVICES = [device_id(number) for number in range(4_000)]


def test_devices_are_spread_evenly() -> None:
    """Each of five managers gets about a fifth."""
    picked = Counter(Rendezvous(NAMES).pick(device) for device in DEVICES)
    assert set(picked) == set(NAMES)
    assert all(0.8 < count / (len(DEVICES) / 5) < 1.2 for count in picked.values())


def test_a_fifth_of_the_devices_move_when_one_of_five_leaves() -> None:
    """Only those of the manager that left move; the others stay where they are."""
    five, four = Rendezvous(NAMES), Rendezvous(NAMES[:-1])
    for device in DEVICES:
        if five.pick(device) != NAMES[-1]:
            assert four.pick(device) == five.pick(device)
        else:
            assert four.pick(device) in NAMES[:-1]


def test_order_of_the_names_does_not_matter() -> None:
    """Two load balancers that met the managers in another order agree."""
    one, other = Rendezvous(NAMES), Rendezvous(reversed(NAMES))
    assert all(one.pick(device) == other.pick(device) for device in DEVICES[:200])


def test_nobody_and_one() -> None:
    """Without managers there is no pick; a single one gets everybody."""
    assert Rendezvous([]).pick(DEVICES[0]) is None
    assert {Rendezvous(NAMES[:1]).pick(device) for device in DEVICES[:10]} == {NAMES[0]}
