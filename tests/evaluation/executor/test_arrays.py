"""Weights as bytes: what goes in comes out, and what is not as said is refused."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.executor.arrays import (
    FRAME_BYTES_MAX,
    ArrayHead,
    pack,
    pack_stack,
    unpack,
    unpack_stack,
)
from propius.errors import ProtocolError


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_arrays_come_back_as_they_went(dtype: str) -> None:
    """Values, shapes and types survive, also of scalars, empty and transposed arrays."""
    weights = {
        "a": np.arange(6, dtype=dtype).reshape(2, 3).T,
        "b": np.array(7, dtype=dtype),
        "c": np.zeros((0, 4), dtype=dtype),
    }

    back = unpack(*pack(weights))

    assert back.keys() == weights.keys()
    for name, value in weights.items():
        assert back[name].dtype == value.dtype
        np.testing.assert_array_equal(back[name], value)


def test_a_stack_comes_back_client_by_client() -> None:
    """Many clients' weights travel as one array by name."""
    stack = [{"w": np.full(2, float(client))} for client in range(3)]

    back = unpack_stack(*pack_stack(stack), 3)

    assert [each["w"].tolist() for each in back] == [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    """Nobody trains from, or averages, what is not a number."""
    heads, frame = pack({"w": np.array([1.0, value])})

    with pytest.raises(ProtocolError, match="weights w are not finite"):
        unpack(heads, frame)


@pytest.mark.parametrize(
    "heads, frame, text",
    [
        ([ArrayHead("w", "float32", (3,))], b"\0" * 11, "a frame of 11 bytes for arrays of 12"),
        ([ArrayHead("w", "float32", (1,))] * 2, b"\0" * 8, "an array is there twice"),
        ([ArrayHead("w", "float64", (FRAME_BYTES_MAX,))], b"", "at most"),
    ],
)
def test_a_frame_that_is_not_as_said_is_refused(
    heads: list[ArrayHead], frame: bytes, text: str
) -> None:
    """Lengths, names and sizes are checked before anything is read."""
    with pytest.raises(ProtocolError, match=text):
        unpack(heads, frame)


def test_a_stack_of_another_size_is_refused() -> None:
    """Two clients' weights are not three clients'."""
    heads, frame = pack_stack([{"w": np.zeros(2)}] * 2)

    with pytest.raises(ProtocolError, match="weights w of 3 clients"):
        unpack_stack(heads, frame, 3)


@pytest.mark.parametrize(
    "value", [np.zeros(2, dtype=complex), np.array(["text"]), np.zeros((1,) * 9)]
)
def test_what_a_frame_cannot_carry_is_refused(
    value: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
) -> None:
    """Only plain numbers travel, with at most eight dimensions."""
    with pytest.raises(ProtocolError, match="weights 'w'"):
        pack({"w": value})
