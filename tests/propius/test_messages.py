from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from contextlib import suppress
from types import UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta, Struct

from propius import messages
from propius.errors import InvalidValueError
from propius.messages import (
    HEADER_BYTES_MAX,
    MESSAGES,
    PAYLOAD_BYTES_MAX,
    PROTOCOL_VERSION,
    Accept,
    CheckIn,
    DecodeError,
    ErrorCode,
    Header,
    Heartbeat,
    Message,
    Register,
    decode_header,
    decode_payload,
    encode,
    encode_payload,
    validate,
)

PACK = msgspec.msgpack.encode
DEVICE = "ab" * 16
ANY = Meta()
INT_MIN, INT_MAX = -(1 << 63), (1 << 63) - 1
CHECK_IN: dict[str, Any] = {"schema": "s", "spec": [1.0, 2.0], "option": 1.0, "wait_s": 0.0}
REGISTER: dict[str, Any] = {
    "name": "job",
    "schema": "s",
    "requirement": [0.0],
    "private_constraint": {"images": -1.0},
    "demand": 10,
    "rounds": 0,
    "endpoint": "",
}


def values_of(annotation: Any, meta: Meta = ANY) -> st.SearchStrategy[Any]:
    """Whatever a field of this type may hold."""
    origin, args = get_origin(annotation), get_args(annotation)
    least, longest = meta.min_length or 0, min(4, meta.max_length or 4)
    if origin is Annotated:
        return values_of(*args[:2])
    if origin is list:
        return st.lists(values_of(args[0]), min_size=least, max_size=longest)
    if origin is dict:
        return st.dictionaries(values_of(args[0]), values_of(args[1]), max_size=longest)
    if origin is tuple:
        return st.tuples(*(values_of(each) for each in args))
    if origin in {Union, UnionType}:
        return st.one_of([values_of(each) for each in args])
    if annotation is type(None):
        return st.none()
    if issubclass(annotation, enum.Enum):
        return st.sampled_from(list(annotation))
    if issubclass(annotation, Struct):
        hints = get_type_hints(annotation, include_extras=True)
        names = annotation.__struct_fields__
        return st.builds(annotation, **{name: values_of(hints[name]) for name in names})
    return plain_values_of(annotation, meta, least, longest)


def plain_values_of(kind: type, meta: Meta, least: int, longest: int) -> st.SearchStrategy[Any]:
    """Numbers, text and bytes within their limits."""
    if kind is bool:
        return st.booleans()
    if kind is int:
        low_i = INT_MIN if meta.ge is None else int(meta.ge)
        return st.integers(low_i, int(meta.le or INT_MAX))
    if kind is float:
        low = None if meta.ge is None else float(meta.ge)
        high = None if meta.le is None else float(meta.le)
        return st.floats(low, high, allow_nan=False)
    if kind is bytes:
        return st.binary(min_size=least, max_size=longest)
    if meta.pattern is not None:
        return st.text("0123456789abcdef", min_size=32, max_size=32)
    return st.text(min_size=least, max_size=longest)


@pytest.mark.parametrize("kind", MESSAGES)
def test_every_message_survives_the_wire(kind: str) -> None:
    """What is encoded is decoded to an equal object, for every kind and all its values."""

    @settings(max_examples=15, deadline=None)
    @given(values_of(MESSAGES[kind]))
    def round_trip(message: Message) -> None:
        assert decode_payload(kind, encode_payload(message)) == message

    round_trip()


@given(values_of(Header))
@settings(max_examples=50, deadline=None)
def test_headers_survive_the_wire(header: Header) -> None:
    """A header of this version with a printable sender comes out as it went in."""
    header = msgspec.structs.replace(header, version=PROTOCOL_VERSION, sender="device-1:x.y_z")
    assert decode_header(PACK(header)) == header


def test_every_class_is_registered_once_under_its_own_kind() -> None:
    """No two messages share a kind, and none is forgotten in the registry."""
    classes = {
        value
        for value in vars(messages).values()
        if isinstance(value, type) and issubclass(value, Message) and value is not Message
    }
    assert set(MESSAGES.values()) == classes
    assert len({cls.kind for cls in classes}) == len(classes)


@pytest.mark.parametrize(
    "kind, changed, field",
    [
        ("check_in", {"spec": [1.0, math.nan]}, "spec[1]"),
        ("check_in", {"spec": [1.0, -0.5]}, "spec[1]"),
        ("check_in", {"spec": [math.inf]}, "spec[0]"),
        ("check_in", {"spec": ["fast"]}, "spec[0]"),
        ("check_in", {"spec": [True]}, "spec[0]"),
        ("check_in", {"spec": {}}, "spec"),
        ("check_in", {"spec": [1.0] * (messages.DIMENSIONS_MAX + 1)}, "spec"),
        ("check_in", {"option": math.nan}, "option"),
        ("check_in", {"wait_s": messages.WAIT_S_MAX + 1}, "wait_s"),
        ("check_in", {"schema": "s" * 33}, "schema"),
        ("check_in", {"surprise": 1}, "surprise"),
        ("register", {"name": ""}, "name"),
        ("register", {"name": "n" * 129}, "name"),
        ("register", {"name": None}, "name"),
        ("register", {"demand": 0}, "demand"),
        ("register", {"demand": 10**12}, "demand"),
        ("register", {"demand": 1.5}, "demand"),
        ("register", {"rounds": -1}, "rounds"),
        ("register", {"endpoint": "e" * 257}, "endpoint"),
        ("register", {"private_constraint": {"": 1.0}}, "private_constraint"),
        ("register", {"private_constraint": {"a": math.nan}}, "private_constraint"),
        (
            "register",
            {"private_constraint": {f"{n}": 0.0 for n in range(65)}},
            "private_constraint",
        ),
    ],
)
def test_a_wrong_field_is_named(kind: str, changed: dict[str, Any], field: str) -> None:
    """A value of the wrong type, range or length is refused with the name of its field."""
    good = CHECK_IN if kind == "check_in" else REGISTER
    decode_payload(kind, PACK(good))
    with pytest.raises(DecodeError) as caught:
        decode_payload(kind, PACK({**good, **changed}))
    assert caught.value.code is ErrorCode.INVALID
    assert caught.value.field.startswith(field)
    assert kind in str(caught.value)
    assert caught.value.reply().field == caught.value.field


def places(annotation: Any, kind: type, path: str = "") -> Iterator[tuple[str, Meta]]:
    """Where values of this type are in a message, and what limits them."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner, meta = args[0], args[1]
        if inner is kind:
            yield path, meta
        else:
            yield from places(inner, kind, path)
    elif annotation is kind:
        yield path, ANY
    elif isinstance(annotation, type) and issubclass(annotation, Struct):
        for name, hint in get_type_hints(annotation, include_extras=True).items():
            if get_origin(hint) is not ClassVar:
                yield from places(hint, kind, f"{path}.{name}")
    else:
        for each in args:
            yield from places(each, kind, f"{path}[]")


NUMBERS = [
    (name + path, number, meta)
    for name, cls in MESSAGES.items()
    for number in (int, float)
    for path, meta in places(cls, number)
]


@pytest.mark.parametrize("place,number,meta", NUMBERS, ids=[place for place, _, _ in NUMBERS])
def test_every_number_is_bounded_on_both_sides(place: str, number: type, meta: Meta) -> None:
    """So a message with NaN, an infinity or a number too large never gets past the decoder."""
    assert meta.ge is not None
    assert meta.le is not None
    decoder = msgspec.msgpack.Decoder(Annotated[number, meta])
    for wrong in (math.nan, math.inf, -math.inf, meta.le * 2 + 1, meta.ge - 1):
        with pytest.raises(msgspec.ValidationError):
            decoder.decode(PACK(wrong))


JOB = [1, 0, [1.0], {"images": 1.0}, 0, 1, 1, -1, 0, 0, 0]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "kind,body,field",
    [
        ("supply", lambda x: {"seq": 1, "buckets": [[0, 1, [1.0, x], [1.0]]]}, "buckets[0][2][1]"),
        ("supply", lambda x: {"seq": 1, "buckets": [[0, 1, [1.0], [x]]]}, "buckets[0][3][0]"),
        ("snapshot", lambda x: {"seq": 1, "jobs": [[*JOB[:2], [x], *JOB[3:]]]}, "jobs[0][2][0]"),
        ("snapshot", lambda x: {"seq": 1, "jobs": [[*JOB[:3], {"n": x}, *JOB[4:]]]}, "jobs[0][3]"),
        ("check_in", lambda x: {**CHECK_IN, "spec": [x]}, "spec[0]"),
        ("check_in", lambda x: {**CHECK_IN, "option": x}, "option"),
        ("register", lambda x: {**REGISTER, "requirement": [x]}, "requirement[0]"),
        ("error", lambda x: {"code": "busy", "text": "", "retry_after_s": x}, "retry_after_s"),
    ],
)
def test_nan_and_infinities_are_refused_wherever_they_are(
    wrong: float, kind: str, body: Any, field: str
) -> None:
    """Inside messages and events too: a bad peer's NaN would spoil every later comparison."""
    decode_payload(kind, PACK(body(1.0)), bytes_max=PAYLOAD_BYTES_MAX)
    with pytest.raises(DecodeError) as refused:
        decode_payload(kind, PACK(body(wrong)))
    assert refused.value.code is ErrorCode.INVALID
    assert refused.value.field.startswith(field)


@pytest.mark.parametrize("missing", sorted(REGISTER))
def test_a_missing_field_is_named(missing: str) -> None:
    """A payload without a required field is refused with the field's name."""
    payload = PACK({name: value for name, value in REGISTER.items() if name != missing})
    with pytest.raises(DecodeError) as caught:
        decode_payload("register", payload)
    assert caught.value.field == missing


def test_a_device_id_ends_where_it_should() -> None:
    """32 characters 0-9 a-f, and no line feed after them."""
    good: dict[str, Any] = {"device_id": DEVICE, "job": 1, "round": 0}
    decode_payload("claimed", PACK(good))
    for wrong in (DEVICE + "\n", DEVICE.upper(), DEVICE[1:], DEVICE + "0"):
        with pytest.raises(DecodeError) as caught:
            decode_payload("claimed", PACK({**good, "device_id": wrong}))
        assert caught.value.field == "device_id"


def test_an_unknown_kind_is_named() -> None:
    """A kind that this version does not have is refused by its name."""
    with pytest.raises(DecodeError, match="teleport") as caught:
        decode_payload("teleport", b"\x80")
    assert caught.value.code is ErrorCode.UNKNOWN_KIND


def test_another_version_is_refused_with_both_named() -> None:
    """A header of another protocol version says which was spoken and which is understood."""
    frame = PACK([99, "ok", "s", 1, 1])
    with pytest.raises(DecodeError, match="99 spoken, 1 understood") as caught:
        decode_header(frame)
    assert caught.value.code is ErrorCode.VERSION


@pytest.mark.parametrize(
    "fields",
    [
        [1, "ok", "s", 1],
        [1, "ok", "s", -1, 1],
        [1, "ok", "s", 1, 1 << 63],
        [1, "k" * 41, "s", 1, 1],
        [1, "ok", "s" * 65, 1, 1],
        [1, "ok", "", 1, 1],
        [1, "ok", "a b", 1, 1],
        [1, "ok", "a\n", 1, 1],
        [1, "ok", 7, 1, 1],
        {"version": 1},
        None,
    ],
)
def test_a_wrong_header_is_refused(fields: Any) -> None:
    """A header with missing, negative, over-long or unprintable parts is not one."""
    with pytest.raises(DecodeError):
        decode_header(PACK(fields))


def test_limits_are_the_last_that_pass() -> None:
    """A payload and a header of exactly their limits are read, one byte more is too large."""
    empty = len(encode_payload(Heartbeat(job=1, secret=b"")))
    assert empty < PAYLOAD_BYTES_MAX
    with pytest.raises(DecodeError) as caught:
        decode_payload("ok", b"\x80" + b"\0" * PAYLOAD_BYTES_MAX)
    assert caught.value.code is ErrorCode.TOO_LARGE
    with pytest.raises(DecodeError) as caught:
        decode_header(b"\x95" + b"\0" * HEADER_BYTES_MAX)
    assert caught.value.code is ErrorCode.TOO_LARGE


@given(st.sampled_from(sorted(MESSAGES)), st.binary(max_size=200))
@settings(max_examples=400, deadline=None)
def test_random_bytes_are_refused_and_nothing_else(kind: str, frame: bytes) -> None:
    """Garbage is a DecodeError whose reply can be sent, or a message; never another exception."""
    for decode in (lambda: decode_header(frame), lambda: decode_payload(kind, frame)):
        try:
            decode()
        except DecodeError as error:
            validate(error.reply())


@given(values_of(Register), st.data())
@settings(max_examples=100, deadline=None)
def test_torn_and_flipped_messages_are_refused_and_nothing_else(
    message: Register, data: st.DataObject
) -> None:
    """A real message with a part missing or a byte changed never raises anything but that."""
    frame = encode_payload(message)
    at = data.draw(st.integers(0, len(frame) - 1))
    flipped = frame[:at] + bytes([frame[at] ^ data.draw(st.integers(1, 255))]) + frame[at + 1 :]
    with pytest.raises(DecodeError):
        decode_payload("register", frame[:at])
    with suppress(DecodeError):
        decode_payload("register", flipped)


@pytest.mark.parametrize(
    "frame",
    [
        b"\x91" * 100_000,  # nested for ever
        b"\x81" * 100_000,
        b"\xdd\xff\xff\xff\xff",  # an array of four thousand million
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x83\xa5tasks\xdd\xff\xff\xff\xff",
        b"\xc1",
        b"",
        b"\xa2\xff\xfe",
    ],
)
def test_hostile_bytes_are_refused_quickly(frame: bytes) -> None:
    """Depth bombs, length bombs and broken text cost nothing and are refused."""
    for kind in ("offer", "ok", "register"):
        with pytest.raises(DecodeError):
            decode_payload(kind, frame)
    with pytest.raises(DecodeError):
        decode_header(frame[:HEADER_BYTES_MAX])


def test_what_no_server_accepts_is_the_callers_exception() -> None:
    """Validation before sending names the field and is a ValueError, too."""
    message = CheckIn(schema="s", spec=[math.nan], option=1.0)
    with pytest.raises(InvalidValueError, match=r"spec\[0\]") as caught:
        validate(message)
    assert isinstance(caught.value, ValueError)
    with pytest.raises(InvalidValueError):
        validate(Accept(job="one", round=0))  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError):
        validate(Accept(job=object(), round=0))  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError):
        validate(Accept(job=1 << 70, round=0))
    with pytest.raises(InvalidValueError, match="bytes"):
        validate(messages.Forward(items=[(1, b"", b"x" * PAYLOAD_BYTES_MAX)]))


def test_a_message_is_two_frames() -> None:
    """Encoding gives the header and the payload, and each can be read by itself."""
    header = Header(kind="accept", sender=DEVICE, session=1, request=2)
    frames = encode(header, Accept(job=3, round=4))
    assert decode_header(frames[0]) == header
    assert decode_payload("accept", frames[1]) == Accept(job=3, round=4)


def test_an_error_reply_fits_its_own_limits() -> None:
    """However long the complaint, the reply that carries it is valid."""
    error = DecodeError(ErrorCode.INVALID, "x" * 5_000, "f" * 500)
    validate(error.reply())
