"""Weights as bytes: one frame of raw little-endian arrays, and a head that says what lies where.

Nothing is pickled. What a head may say is bounded, and a frame that is not exactly as long as its
heads say is refused, as are numbers that are not finite. Reading copies nothing: the arrays are
views of the frame.

Many clients' weights of one stack travel as one array by name with a leading dimension of clients,
which is how stacked training has them anyway.

>>> import numpy as np
>>> heads, frame = pack({"bias": np.array([1.0, 2.0])})
>>> heads, len(frame), unpack(heads, frame)["bias"].tolist()
([ArrayHead(name='bias', dtype='float64', shape=(2,))], 16, [1.0, 2.0])
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from propius.errors import ProtocolError

__all__ = ["ARRAYS_MAX", "FRAME_BYTES_MAX", "ArrayHead", "pack", "pack_stack", "unpack",
           "unpack_stack"]  # fmt: skip

ARRAYS_MAX: Final = 2_048
DIMENSIONS_MAX: Final = 8
FRAME_BYTES_MAX: Final = 256 << 20
"""Of all arrays of one message."""

Side = Annotated[int, Meta(ge=0, le=FRAME_BYTES_MAX)]


class ArrayHead(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """One array of a frame; they lie one behind the other."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    dtype: Literal["float32", "float64", "int64"]
    shape: Annotated[tuple[Side, ...], Meta(max_length=DIMENSIONS_MAX)]

    @property
    def size_bytes(self) -> int:
        """What it takes of the frame."""
        return math.prod(self.shape) * (4 if self.dtype == "float32" else 8)


Heads = Annotated[list[ArrayHead], Meta(max_length=ARRAYS_MAX)]
"""As a field of a message."""


def pack(weights: Mapping[str, NDArray[Any]]) -> tuple[list[ArrayHead], bytes]:
    """Heads and frame; raises :class:`ProtocolError` for what a frame cannot carry."""
    heads, parts = [], []
    for name, value in weights.items():
        try:
            head = msgspec.convert((name, value.dtype.name, value.shape), ArrayHead)
        except msgspec.ValidationError as error:
            raise ProtocolError(
                f"weights {name!r} ({value.dtype}, {value.shape}): {error}"
            ) from error
        heads.append(head)
        parts.append(np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<")))
    _check(heads, sum(part.nbytes for part in parts))
    return heads, b"".join(part.data for part in parts)


def unpack(heads: Sequence[ArrayHead], frame: bytes | memoryview) -> dict[str, NDArray[Any]]:
    """The arrays, as views of the frame; raises :class:`ProtocolError` if it is not as said."""
    _check(heads, len(frame))
    arrays: dict[str, NDArray[Any]] = {}
    place = 0
    for head in heads:
        dtype = np.dtype(head.dtype).newbyteorder("<")
        array = np.frombuffer(frame, dtype, math.prod(head.shape), place).reshape(head.shape)
        if not np.isfinite(array).all():
            raise ProtocolError(f"weights {head.name} are not finite")
        arrays[head.name] = array
        place += head.size_bytes
    return arrays


def pack_stack(stack: Sequence[Mapping[str, NDArray[Any]]]) -> tuple[list[ArrayHead], bytes]:
    """Several weights of the same model, each name as one array (clients, …); of none, nothing."""
    if not stack:
        return [], b""
    return pack({name: np.stack([each[name] for each in stack]) for name in stack[0]})


def unpack_stack(
    heads: Sequence[ArrayHead], frame: bytes | memoryview, count: int
) -> list[dict[str, NDArray[Any]]]:
    """The weights of ``count`` clients; raises :class:`ProtocolError`."""
    if bool(heads) != bool(count):
        raise ProtocolError(f"{len(heads)} arrays of weights of {count} clients")
    arrays = unpack(heads, frame)
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) != count:
            raise ProtocolError(f"weights {name} of {count} clients have the shape {array.shape}")
    return [{name: array[place] for name, array in arrays.items()} for place in range(count)]


def _check(heads: Sequence[ArrayHead], length: int) -> None:
    said = sum(head.size_bytes for head in heads)
    if said > FRAME_BYTES_MAX:
        raise ProtocolError(f"weights of {said:,} bytes; at most {FRAME_BYTES_MAX:,} are carried")
    if length != said:
        raise ProtocolError(f"a frame of {length:,} bytes for arrays of {said:,}")
    if len({head.name for head in heads}) < len(heads):
        raise ProtocolError("an array is there twice")
