from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from daemons.job_manager.deadlines import Deadlines

OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["set", "drop", "pop"]), st.integers(0, 9), st.integers(0, 50)),
    max_size=300,
)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(OPERATIONS)
def test_like_a_sorted_dictionary(operations: list[tuple[str, int, int]]) -> None:
    """Whatever is set, dropped and popped, the next is the earliest, and memory stays bounded."""
    deadlines: Deadlines[int] = Deadlines()
    model: dict[int, int] = {}
    for operation, key, time_ns in operations:
        if operation == "set":
            deadlines.set(key, time_ns)
            model[key] = time_ns
        elif operation == "drop":
            deadlines.drop(key)
            model.pop(key, None)
        else:
            due = sorted((due_ns, key) for key, due_ns in model.items() if due_ns <= time_ns)
            assert deadlines.pop(time_ns) == (due[0][1] if due else None)
            if due:
                del model[due[0][1]]
        assert deadlines.next_ns() == min(model.values(), default=None)
        assert len(deadlines) == len(model)


def test_moved_keys_do_not_pile_up() -> None:
    """A key that is set again and again takes the room of a few."""
    deadlines: Deadlines[int] = Deadlines()
    for time_ns in range(10_000):
        deadlines.set(1, time_ns)
    assert len(deadlines._heap) < 100
