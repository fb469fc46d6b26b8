"""The demo's data plane: how devices fetch a round's model and hand in their updates. No sockets.

A message is ``[header, body, array …]``. Header and body are MessagePack; the header says the
version, the kind, the request number that a reply repeats, and dtype and shape of each array; the
arrays are raw little-endian bytes, one frame each, never pickled.

========  =============================  ==================================================
kind      body                           answer
========  =============================  ==================================================
pull      job, round, token              model {round} + arrays, or refused
push      job, round, token, samples     accepted, or refused; carries the trained arrays
refused   reason, retry_after_s          (0: asking again will not help)
========  =============================  ==================================================

The token is the lease token that Propius gave the device; whether it still holds is not decided
here but by the ``admit`` callable given to :class:`ModelServer` (the SDK's fencing check). An
update counts once: the same token again is answered the same and adds nothing.

Sockets are in :mod:`evaluation.data_link`, the mean in :mod:`evaluation.fedavg`.

>>> import numpy as np
>>> server = ModelServer(job=1, admit=lambda token: None)
>>> server.open_round(0, [np.zeros(2)])
>>> reply = server.handle(encode(9, Pull(job=1, round=0, token=b"t")))
>>> received = decode(reply)
>>> received.request, received.message, received.arrays()[0].tolist()
(9, Model(round=0), [0.0, 0.0])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from evaluation.fedavg import FedAvg
from propius.errors import InvalidValueError, PropiusError, ProtocolError
from propius.messages import JobId, RoundNo, TokenBytes

__all__ = [
    "Accepted",
    "DataMessage",
    "Model",
    "ModelServer",
    "Pull",
    "Push",
    "Received",
    "Refused",
    "decode",
    "encode",
]

VERSION: Final = 1
HEADER_BYTES_MAX: Final = 8 * 1024
BODY_BYTES_MAX: Final = 2 * 1024
ARRAYS_MAX: Final = 64
FRAMES_MAX: Final = 2 + ARRAYS_MAX
DIMENSIONS_MAX: Final = 8
ARRAY_BYTES_MAX: Final = 16 << 20
"""Of one array; also the sockets' ZMQ_MAXMSGSIZE."""
REASON_LETTERS_MAX: Final = 500
SAMPLES_MAX: Final = 1_000_000
"""Of one update: no device may drown the others."""
UPDATES_MAX: Final = 100_000
"""Of one round: bounds the table of tokens."""
NOT_YET_OPEN_RETRY_S: Final = 0.2
"""A device can be quicker than the job server that opens its round."""

Floats = NDArray[np.float32] | NDArray[np.float64]
Samples = Annotated[int, Meta(ge=1, le=SAMPLES_MAX)]
RequestNo = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class ArrayHead(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What one array frame holds."""

    dtype: Literal["float32", "float64"]
    shape: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=ARRAY_BYTES_MAX)], ...], Meta(max_length=DIMENSIONS_MAX)
    ]

    @property
    def size_bytes(self) -> int:
        """The length that the frame must have."""
        return math.prod(self.shape) * (4 if self.dtype == "float32" else 8)


class DataHeader(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """First frame of every message of the data plane."""

    version: int
    kind: Annotated[str, Meta(max_length=16)]
    request: RequestNo
    arrays: Annotated[list[ArrayHead], Meta(max_length=ARRAYS_MAX)]


class DataMessage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all bodies; ``kind`` is the name in the header."""

    kind: ClassVar[str] = ""


class Pull(DataMessage, frozen=True, kw_only=True):
    """A device asks for the weights of its round."""

    kind: ClassVar[str] = "pull"
    job: JobId
    round: RoundNo
    token: TokenBytes


class Push(DataMessage, frozen=True, kw_only=True):
    """A device hands in the weights that it trained on ``samples`` samples."""

    kind: ClassVar[str] = "push"
    job: JobId
    round: RoundNo
    token: TokenBytes
    samples: Samples


class Model(DataMessage, frozen=True, kw_only=True):
    """The round's global weights, in the arrays."""

    kind: ClassVar[str] = "model"
    round: RoundNo


class Accepted(DataMessage, frozen=True, kw_only=True):
    """The update counts, once."""

    kind: ClassVar[str] = "accepted"


class Refused(DataMessage, frozen=True, kw_only=True):
    """Nothing was done; one line says why. ``retry_after_s`` above 0: it may work then."""

    kind: ClassVar[str] = "refused"
    reason: str
    retry_after_s: Annotated[float, Meta(ge=0, le=60)] = 0.0


KINDS: Final[dict[str, type[DataMessage]]] = {
    kind.kind: kind for kind in (Pull, Push, Model, Accepted, Refused)
}
WITH_ARRAYS: Final = (Model.kind, Push.kind)
_HEADER: Final = msgspec.msgpack.Decoder(DataHeader)
_BODIES: Final = {name: msgspec.msgpack.Decoder(kind) for name, kind in KINDS.items()}
_ENCODE: Final = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True)
class Received:
    """A message whose header, body and frame lengths are right; the arrays are still bytes."""

    request: int
    message: DataMessage
    heads: Sequence[ArrayHead]
    frames: Sequence[bytes]

    def arrays(self) -> list[Floats]:
        """The arrays, read-only; raises ProtocolError if one holds NaN or infinity."""
        arrays: list[Floats] = []
        for index, (head, frame) in enumerate(zip(self.heads, self.frames, strict=True)):
            array: Floats = np.frombuffer(frame, _wire_dtype(head.dtype)).reshape(head.shape)
            if not np.isfinite(array).all():
                message = f"array {index} holds NaN or infinity; send finite numbers"
                raise ProtocolError(message)
            arrays.append(array)
        return arrays


def encode(request: int, message: DataMessage, arrays: Sequence[NDArray[Any]] = ()) -> list[bytes]:
    """The frames of a message; raises InvalidValueError for what the other end would refuse."""
    if len(arrays) > ARRAYS_MAX:
        message_text = f"{message.kind}: {len(arrays)} arrays; send at most {ARRAYS_MAX}"
        raise InvalidValueError(message_text)
    heads = [_head(message.kind, index, array) for index, array in enumerate(arrays)]
    frames = [
        np.ascontiguousarray(array, _wire_dtype(array.dtype.name)).tobytes() for array in arrays
    ]
    header = DataHeader(VERSION, message.kind, request, heads)
    return [_ENCODE(header), _ENCODE(message), *frames]


def decode(frames: Sequence[bytes]) -> Received:
    """Check everything but the numbers in the arrays; raises ProtocolError naming what is wrong."""
    if not 2 <= len(frames) <= FRAMES_MAX:
        message = f"message of {len(frames)} frames; expected 2 to {FRAMES_MAX}"
        raise ProtocolError(message)
    header = _decode_header(frames[0])
    body = _decode_body(header.kind, frames[1])
    if header.arrays and header.kind not in WITH_ARRAYS:
        message = f"{header.kind}: carries arrays; only {' and '.join(WITH_ARRAYS)} do"
        raise ProtocolError(message)
    if len(header.arrays) != len(frames) - 2:
        message = f"{header.kind}: {len(frames) - 2} array frames, {len(header.arrays)} announced"
        raise ProtocolError(message)
    for index, (head, frame) in enumerate(zip(header.arrays, frames[2:], strict=True)):
        if len(frame) != head.size_bytes or len(frame) > ARRAY_BYTES_MAX:
            message = f"{header.kind}: array {index} has {len(frame)} bytes, not {head.size_bytes}"
            raise ProtocolError(message)
    return Received(header.request, body, header.arrays, frames[2:])


def request_of(frames: Sequence[bytes]) -> int:
    """The request number, or 0 where the header is unreadable, so that a refusal finds its way."""
    try:
        return _decode_header(frames[0]).request if frames else 0
    except ProtocolError:
        return 0  # the reason is given by the decoding that follows


class ModelServer:
    """One job's round, as devices see it: weights out, updates in. Not for use by two threads.

    ``admit(token)`` returns if the token has the right to work on the open round of this job, and
    raises a PropiusError, whose text the device gets as the reason, if it has not.
    """

    def __init__(self, job: int, admit: Callable[[bytes], object]):
        self.job = job
        self.refused = 0
        """Messages answered with ``refused``."""
        self.repeated = 0
        """Updates that came again after they had been accepted."""
        self._admit = admit
        self._round = -1
        self._weights: list[NDArray[np.float64]] | None = None
        self._fedavg = FedAvg([])
        self._tokens: set[bytes] = set()
        # A device whose answer was lost repeats its push; by then the round may have been closed.
        self._tokens_before: set[bytes] = set()

    @property
    def updates(self) -> int:
        """Updates accepted in the open round, or in the last one."""
        return self._fedavg.updates

    def open_round(self, round_no: int, weights: Sequence[NDArray[np.float64]]) -> None:
        """Serve ``weights`` for round ``round_no``, above all before; ends an open round."""
        if round_no <= self._round:
            message = f"round {round_no}: round {self._round} was opened already; rounds only grow"
            raise InvalidValueError(message)
        self._round = round_no
        self._weights = [np.array(array, dtype=np.float64) for array in weights]
        self._fedavg = FedAvg(self._weights)
        self._tokens_before, self._tokens = self._tokens, set()

    def close_round(self) -> FedAvg:
        """Stop serving the round and return what it gathered; later updates are refused."""
        self._weights = None
        return self._fedavg

    def handle(self, frames: Sequence[bytes]) -> list[bytes]:
        """Answer one message, whatever it holds; never raises for what came from outside."""
        request = request_of(frames)
        try:
            received = decode(frames)
            return self._answer(received)
        except (PropiusError, ValueError) as error:
            return self._refuse(request, str(error))

    def _answer(self, received: Received) -> list[bytes]:
        match received.message:
            case Pull() as pull:
                return self._on_pull(received.request, pull)
            case Push() as push:
                return self._on_push(received, push)
            case other:
                return self._refuse(received.request, f"{other.kind}: only pull and push are asked")

    def _on_pull(self, request: int, pull: Pull) -> list[bytes]:
        if refusal := self._not_open(request, pull):
            return refusal
        self._admit(pull.token)
        return encode(request, Model(round=self._round), self._weights or ())

    def _on_push(self, received: Received, push: Push) -> list[bytes]:
        if push.token in self._tokens or push.token in self._tokens_before:
            self.repeated += 1
            return encode(received.request, Accepted())
        if refusal := self._not_open(received.request, push):
            return refusal
        self._admit(push.token)
        if len(self._tokens) >= UPDATES_MAX:
            return self._refuse(received.request, f"round {self._round} has {UPDATES_MAX} updates")
        arrays = [np.asarray(array, dtype=np.float64) for array in received.arrays()]
        self._fedavg.add(arrays, push.samples)
        self._tokens.add(push.token)
        return encode(received.request, Accepted())

    def _not_open(self, request: int, asked: Pull | Push) -> list[bytes] | None:
        if asked.job != self.job:
            return self._refuse(request, f"job {asked.job}: this is the server of job {self.job}")
        if asked.round > self._round:
            reason = f"round {asked.round} is not open yet; ask again"
            return self._refuse(request, reason, NOT_YET_OPEN_RETRY_S)
        if asked.round < self._round or self._weights is None:
            return self._refuse(request, f"round {asked.round} is closed")
        return None

    def _refuse(self, request: int, reason: str, retry_after_s: float = 0.0) -> list[bytes]:
        self.refused += 1
        short = reason[:REASON_LETTERS_MAX]
        return encode(request, Refused(reason=short, retry_after_s=retry_after_s))


def _head(kind: str, index: int, array: NDArray[Any]) -> ArrayHead:
    """Describe an array that is about to be sent, or refuse to send it."""
    where = f"{kind}: array {index}"
    if array.dtype.name not in {"float32", "float64"}:
        message = f"{where} is {array.dtype.name}; send float32 or float64"
        raise InvalidValueError(message)
    if array.ndim > DIMENSIONS_MAX or array.nbytes > ARRAY_BYTES_MAX:
        message = (
            f"{where} has {array.ndim} dimensions and {array.nbytes} bytes;"
            f" send at most {DIMENSIONS_MAX} and {ARRAY_BYTES_MAX}"
        )
        raise InvalidValueError(message)
    if not np.isfinite(array).all():
        message = f"{where} holds NaN or infinity; send finite numbers"
        raise InvalidValueError(message)
    return ArrayHead("float32" if array.dtype.name == "float32" else "float64", array.shape)


def _wire_dtype(name: str) -> np.dtype[Any]:
    """Little-endian, whatever the machine."""
    return np.dtype(name).newbyteorder("<")


def _decode_header(frame: bytes) -> DataHeader:
    if len(frame) > HEADER_BYTES_MAX:
        message = f"header of {len(frame)} bytes; expected at most {HEADER_BYTES_MAX}"
        raise ProtocolError(message)
    try:
        header = _HEADER.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"header: {error}"
        raise ProtocolError(message) from error
    if header.version != VERSION:
        message = f"data plane version {header.version}; this end speaks {VERSION}"
        raise ProtocolError(message)
    return header


def _decode_body(kind: str, frame: bytes) -> DataMessage:
    if kind not in _BODIES:
        message = f"unknown kind {kind!r}; known: {', '.join(KINDS)}"
        raise ProtocolError(message)
    if len(frame) > BODY_BYTES_MAX:
        message = f"{kind}: body of {len(frame)} bytes; expected at most {BODY_BYTES_MAX}"
        raise ProtocolError(message)
    try:
        return _BODIES[kind].decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"{kind}: {error}"
        raise ProtocolError(message) from error
