"""What the broker's tests cannot bring about in few lines: placement alone."""

from __future__ import annotations

from evaluation.executor.placement import Placed, Placement, Request, Unit, Worker


def test_what_did_not_fit_never_makes_room() -> None:
    """A larger stack that was under way and did not fit either does not raise what is given."""
    placement = Placement()
    worker = placement.workers[b"w"] = Worker(b"w", "w")
    request = Request((b"job", 1), 1, 0, left=set(range(12)))
    for task, clients in ((1, range(8)), (2, range(8, 12))):
        placement.job(1).running += 1
        unit = Unit(request, tuple(clients))
        worker.has[task] = Placed(placement.job(1), unit, 0, 0.1)

    placement.fail(b"w", 2, memory=True)
    placement.fail(b"w", 1, memory=True)

    ((_, _, unit),) = placement.place(0)
    assert len(unit.clients) == 2
