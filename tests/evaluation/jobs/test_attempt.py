from __future__ import annotations

import numpy as np

from evaluation.aggregators import Update
from evaluation.jobs.attempt import Attempt


def update(client: int) -> Update:
    return Update(client, {"w": np.array([float(client)])}, 1, 0.5)


def test_a_client_counts_at_the_later_of_its_work_and_its_training() -> None:
    """Whoever is trained first counts when its device is done, and the other way round."""
    attempt = Attempt(7, trains=True)
    assert [attempt.start(client) for client in (1, 2)] == [True, True]
    assert attempt.trained([update(1)], now_s=3.0) == []
    assert attempt.hand_in(1, now_s=10.0) is True
    assert attempt.hand_in(2, now_s=11.0) is None
    assert attempt.trained([update(2)], now_s=15.0) == [2]
    assert attempt.clients == [1, 2]
    assert attempt.waits_s == {1: 0.0, 2: 4.0}


def test_every_result_is_kept_in_the_order_of_counting() -> None:
    """Fault F17: all results of a round are there; the original's example kept the last one."""
    attempt = Attempt(0, trains=True)
    for client in (5, 3, 9):
        attempt.start(client)
    attempt.trained([update(client) for client in (3, 5, 9)], now_s=1.0)
    for client in (9, 5, 3):
        attempt.hand_in(client, now_s=2.0)
    assert [result.client for result in attempt.updates] == [9, 5, 3]


def test_whoever_serves_twice_counts_once() -> None:
    """A device that comes back within a round is not trained again."""
    attempt = Attempt(0, trains=True)
    assert (attempt.start(1), attempt.start(1)) == (True, False)
    attempt.trained([update(1)], now_s=1.0)
    assert (attempt.hand_in(1, 2.0), attempt.hand_in(1, 3.0)) == (True, True)
    assert attempt.clients == [1]


def test_whoever_never_started_does_not_count() -> None:
    """A hand-in without a start, and a training that nobody asked for, change nothing."""
    attempt = Attempt(0, trains=True)
    assert attempt.hand_in(1, 1.0) is False
    assert attempt.trained([update(2)], 1.0) == []
    assert attempt.updates == []


def test_without_training_nobody_waits() -> None:
    """In analytics mode a client counts when its device is done."""
    attempt = Attempt(0, trains=False)
    assert attempt.start(1) is False
    assert attempt.hand_in(1, 4.0) is True
    assert (attempt.clients, attempt.waits_s) == ([1], {1: 0.0})


def test_a_client_that_comes_again_with_more_time_is_trained_anew() -> None:
    """It dropped out of a cut task; what it hands in later is what it did later, once trained."""
    attempt = Attempt(3, trains=True)
    assert attempt.start(7, steps=1)
    assert not attempt.start(7, steps=1)  # the same again
    attempt.trained([update(7)], now_s=1.0)
    assert attempt.start(7, steps=10)
    assert attempt.steps == {7: 10}
    assert attempt.hand_in(7, now_s=2.0) is None  # it waits for the longer one
    assert attempt.trained([update(7)], now_s=5.0) == [7]
    assert not attempt.start(7, steps=4)  # it counts already
    assert attempt.waits_s == {7: 3.0}
