from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.data_plane import (
    ARRAY_BYTES_MAX,
    ARRAYS_MAX,
    Accepted,
    DataMessage,
    Model,
    ModelServer,
    Pull,
    Push,
    Refused,
    decode,
    encode,
)
from propius.errors import InvalidValueError, ProtocolError, StaleTokenError

PULL = Pull(job=1, round=0, token=b"a")
PUSH = Push(job=1, round=0, token=b"a", samples=3)


def admit(token: bytes) -> None:
    if token.startswith(b"stale"):
        raise StaleTokenError("lease token: superseded")


@pytest.fixture
def server() -> ModelServer:
    server = ModelServer(1, admit)
    server.open_round(0, [np.zeros((2, 3)), np.zeros(3)])
    return server


def update(value: float) -> list[np.ndarray]:
    return [np.full((2, 3), value), np.full(3, value, dtype=np.float32)]


def ask(server: ModelServer, message: DataMessage, arrays: object = ()) -> DataMessage:
    return decode(server.handle(encode(7, message, arrays))).message  # type: ignore[arg-type]


def test_arrays_survive_the_way_with_dtype_and_shape() -> None:
    """float32, float64, empty, scalar and non-contiguous arrays come out as they went in."""
    sent = [
        np.arange(6, dtype=np.float32).reshape(2, 3).T,
        np.array(1.5),
        np.zeros((0, 4)),
        np.array([1.0, -2.0], dtype=">f8"),
    ]
    received = decode(encode(5, PUSH, sent))
    assert (received.request, received.message) == (5, PUSH)
    for ours, theirs in zip(received.arrays(), sent, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype.name == theirs.dtype.name
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    "arrays, text",
    [
        ([np.array([1, 2])], "int64; send float32 or float64"),
        ([np.array([object()])], "object; send float32"),
        ([np.array([np.nan])], "array 0 holds NaN"),
        ([np.zeros(1), np.array([np.inf])], "array 1 holds NaN or infinity"),
        ([np.zeros((1,) * 9)], "9 dimensions"),
        ([np.zeros(ARRAY_BYTES_MAX // 8 + 1)], "bytes; send at most"),
        ([np.zeros(1)] * (ARRAYS_MAX + 1), "arrays; send at most"),
    ],
)
def test_what_the_other_end_would_refuse_is_not_sent(arrays: list[np.ndarray], text: str) -> None:
    """encode() raises InvalidValueError that names the array."""
    with pytest.raises(InvalidValueError, match=text):
        encode(1, PUSH, arrays)


def pack(*parts: object) -> list[bytes]:
    return [part if isinstance(part, bytes) else msgspec.msgpack.encode(part) for part in parts]


PUSH_BODY = {"job": 1, "round": 0, "token": b"a", "samples": 3}
HEAD = [["float64", [2]]]
TWO = np.array([1.0, 2.0]).tobytes()


@pytest.mark.parametrize(
    "frames, text",
    [
        ([], "0 frames"),
        (pack([1, "pull", 1, []]), "1 frames"),
        (pack(b"\xc1", {}), "header"),
        (pack(b"\xa1\xff", {}), "header"),
        (pack([1, "pull", 1, []], b"x" * 3000), "body of 3000 bytes"),
        (pack(b"x" * 9000, {}), "header of 9000 bytes"),
        (pack([2, "pull", 1, []], {}), "version 2; this end speaks 1"),
        (pack([1, "pickle", 1, []], {}), "unknown kind 'pickle'"),
        (pack([1, "pull", -1, []], {}), "header: Expected `int` >= 0"),
        (pack([1, "push", 1, []], {**PUSH_BODY, "extra": 1}), "extra"),
        (pack([1, "push", 1, []], {**PUSH_BODY, "samples": 0}), r"\$.samples"),
        (pack([1, "push", 1, []], {**PUSH_BODY, "samples": 2.5}), r"\$.samples"),
        (pack([1, "push", 1, []], {**PUSH_BODY, "token": b"x" * 257}), r"\$.token"),
        (pack([1, "push", 1, HEAD], PUSH_BODY), "0 array frames, 1 announced"),
        (pack([1, "push", 1, []], PUSH_BODY, TWO), "1 array frames, 0 announced"),
        (pack([1, "push", 1, HEAD], PUSH_BODY, TWO[:-1]), "has 15 bytes, not 16"),
        (pack([1, "push", 1, [["object", [2]]]], PUSH_BODY, TWO), "Invalid enum value 'object'"),
        (pack([1, "push", 1, [["float64", [-2]]]], PUSH_BODY, TWO), "header: Expected `int` >= 0"),
        (pack([1, "push", 1, [["float64", [1] * 9]]], PUSH_BODY, TWO), "length <= 8"),
        (pack([1, "push", 1, [["float64", [1 << 20] * 8]]], PUSH_BODY, TWO), "has 16 bytes, not"),
        (pack([1, "accepted", 1, HEAD], {}, TWO), "accepted: carries arrays"),
        ([b"x"] * 100, "100 frames"),
    ],
)
def test_nonsense_is_refused_with_one_line_that_says_what_is_wrong(
    server: ModelServer, frames: list[bytes], text: str
) -> None:
    """decode() raises ProtocolError; the server answers ``refused`` with the same line."""
    with pytest.raises(ProtocolError, match=text):
        decode(frames)
    reply = decode(server.handle(frames)).message
    assert isinstance(reply, Refused)
    assert "\n" not in reply.reason
    assert (server.updates, server.refused) == (0, 1)


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_no_bytes_make_the_server_raise(frames: list[bytes]) -> None:
    """Whatever comes, there is an answer that can be read."""
    server = ModelServer(1, admit)
    server.open_round(0, [np.zeros(2)])
    assert isinstance(decode(server.handle(frames)).message, Refused)


@given(st.data())
def test_no_flipped_byte_makes_the_server_raise(data: st.DataObject) -> None:
    """A damaged push is answered, and never counted with a number that is not finite."""
    frames = encode(1, Push(job=1, round=0, token=b"a", samples=3), [np.array([1.0, 2.0])])
    index = data.draw(st.integers(0, 2))
    place = data.draw(st.integers(0, len(frames[index]) - 1))
    damaged = bytearray(frames[index])
    damaged[place] = data.draw(st.integers(0, 255))
    frames[index] = bytes(damaged)
    server = ModelServer(1, admit)
    server.open_round(0, [np.zeros(2)])
    decode(server.handle(frames))
    if server.updates:
        assert np.isfinite(server.close_round().mean()[0]).all()


def test_a_device_pulls_the_round_s_weights_and_its_update_counts(server: ModelServer) -> None:
    """pull → model; push → accepted; the mean is weighted by samples."""
    reply = decode(server.handle(encode(7, PULL)))
    assert reply.request == 7
    assert reply.message == Model(round=0)
    assert [array.shape for array in reply.arrays()] == [(2, 3), (3,)]
    assert ask(server, PUSH, update(1.0)) == Accepted()
    assert ask(server, Push(job=1, round=0, token=b"b", samples=1), update(5.0)) == Accepted()
    assert server.close_round().mean()[1].tolist() == [2.0, 2.0, 2.0]


def test_the_same_token_counts_once_and_is_answered_the_same(server: ModelServer) -> None:
    """A repeated push, even with another body, adds nothing and is accepted again."""
    assert ask(server, PUSH, update(1.0)) == Accepted()
    assert ask(server, PUSH, update(1.0)) == Accepted()
    assert ask(server, PUSH, update(9.0)) == Accepted()
    assert (server.updates, server.repeated) == (1, 2)
    assert server.close_round().mean()[0].tolist() == np.ones((2, 3)).tolist()


def test_a_repeated_push_is_accepted_after_its_round_was_closed(server: ModelServer) -> None:
    """A device whose answer was lost learns that its update counted; a new one is refused."""
    ask(server, PUSH, update(1.0))
    server.close_round()
    server.open_round(1, update(0.0))
    assert ask(server, PUSH, update(1.0)) == Accepted()
    late = ask(server, Push(job=1, round=0, token=b"late", samples=3), update(1.0))
    assert late == Refused(reason="round 0 is closed")
    assert server.updates == 0


@pytest.mark.parametrize("message, arrays", [(PULL, ()), (PUSH, update(1.0))])
def test_a_stale_token_is_refused_by_the_check_that_was_passed_in(
    server: ModelServer, message: Pull | Push, arrays: list[np.ndarray]
) -> None:
    """Neither model nor credit for a device whose lease is gone."""
    stale = msgspec.structs.replace(message, token=b"stale")
    assert ask(server, stale, arrays) == Refused(reason="lease token: superseded")
    assert server.updates == 0


def test_a_round_that_is_not_open_yet_is_worth_asking_for_again(server: ModelServer) -> None:
    """A device may be quicker than its job server; a closed round is final."""
    reply = ask(server, Pull(job=1, round=1, token=b"a"))
    assert isinstance(reply, Refused)
    assert reply.retry_after_s > 0
    server.close_round()
    assert ask(server, PULL) == Refused(reason="round 0 is closed")


@pytest.mark.parametrize(
    "arrays, text",
    [
        ([np.zeros((2, 3))], "1 arrays, the model has 2"),
        ([np.zeros((3, 2)), np.zeros(3)], "array 0 has shape"),
    ],
)
def test_an_update_of_another_shape_is_refused(
    server: ModelServer, arrays: list[np.ndarray], text: str
) -> None:
    """The reason says which array; the device may push again with the same token."""
    reply = ask(server, PUSH, arrays)
    assert isinstance(reply, Refused)
    assert text in reply.reason
    assert ask(server, PUSH, update(1.0)) == Accepted()


def test_nan_in_an_update_is_refused_by_name(server: ModelServer) -> None:
    """A peer that skips our encoder cannot poison the mean."""
    head = [["float64", [2, 3]], ["float64", [3]]]
    bad = np.array([1.0, np.nan, 2.0]).tobytes()
    reply = decode(server.handle(pack([1, "push", 4, head], PUSH_BODY, np.ones(6).tobytes(), bad)))
    assert reply.request == 4
    assert reply.message == Refused(reason="array 1 holds NaN or infinity; send finite numbers")
    assert server.updates == 0


def test_another_job_and_a_reply_as_request_are_refused(server: ModelServer) -> None:
    """The server answers for its own job, and only to pull and push."""
    assert ask(server, Pull(job=2, round=0, token=b"a")) == Refused(
        reason="job 2: this is the server of job 1"
    )
    assert ask(server, Accepted()) == Refused(reason="accepted: only pull and push are asked")


def test_rounds_only_grow(server: ModelServer) -> None:
    """Opening a round twice is a mistake of the job server."""
    with pytest.raises(InvalidValueError, match="rounds only grow"):
        server.open_round(0, update(0.0))


def test_the_served_weights_are_a_copy() -> None:
    """What the job server does to its arrays afterwards reaches no device."""
    weights = [np.zeros(2)]
    server = ModelServer(1, admit)
    server.open_round(0, weights)
    weights[0][:] = 9
    assert decode(server.handle(encode(1, PULL))).arrays()[0].tolist() == [0.0, 0.0]
