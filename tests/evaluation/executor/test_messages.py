"""What broker, jobs and workers say to each other: typed, bounded, one line for what is not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from evaluation.aggregators import Update
from evaluation.executor import messages as m
from evaluation.executor.arrays import ArrayHead
from evaluation.executor.jobs import JobModel, PartitionSpec
from evaluation.training.specs import Hyper, ModelSpec
from propius.errors import ProtocolError

HYPER = vars(Hyper())


def test_a_jobs_model_survives_the_way() -> None:
    """A worker builds the same model, data and partition as the job named."""
    model = JobModel(
        3,
        ModelSpec("cnn", (1, 28, 28), 10, "batch"),
        "femnist",
        Path("/data"),
        PartitionSpec("client_map", 7, 0.25, Path("/data/map.csv")),
        "float64",
        11,
    )

    message, _ = m.decode(m.encode(m.Register.of(model)))

    assert isinstance(message, m.Register)
    assert message.job_model() == model


def test_hyper_parameters_survive_the_way() -> None:
    """Every hyper-parameter has its field."""
    hyper = Hyper(3, 4, 0.5, 0.25, 0.125, 0.75, 0.875)
    task = m.Train(1, 2, 3, 4, [5], **vars(hyper))

    message, _ = m.decode(m.encode(task))

    assert isinstance(message, m.Train)
    assert message.hyper == hyper


@pytest.mark.parametrize("steps", [None, [3, 1]])
def test_the_steps_of_each_client_survive_the_way(steps: list[int] | None) -> None:
    """They come out as they went in, or there are none."""
    task = m.Train(1, 2, 3, 4, [5, 6], **HYPER, client_steps=steps)

    message, _ = m.decode(m.encode(task))

    assert message == task


@pytest.mark.parametrize("steps", [[0], [], [1 << 40]])
def test_steps_out_of_bounds_are_refused(steps: list[int]) -> None:
    """A client does at least one step, and no more than anything may do."""
    task = m.Train(1, 2, 3, 4, [5], **HYPER, client_steps=steps)

    with pytest.raises(ProtocolError, match="client_steps"):
        m.decode(m.encode(task))


@pytest.mark.parametrize(
    "frames, text",
    [
        ((), "not a message"),
        ((b"\x92\x03\xa5hello", b"\x80"), "missing required field"),
        ((b"\x92\x03\xa4what", b"\x80"), "unknown kind 'what'"),
        ((b"\xc1", b"\x80"), "not a message"),
        ((b"\x92\x03\xa4beat", b"\x81\xa1x\x01"), "unknown field"),
        ((b"\x92\x03\xa4beat", b"\x80", b"more"), "3 frames"),
        ((b"\x92\x03\xa4beat", b"\x80", b"", b""), "not a message"),
    ],
)
def test_what_is_no_message_is_one_line(frames: tuple[bytes, ...], text: str) -> None:
    """Broken frames are refused with what is wrong."""
    with pytest.raises(ProtocolError, match=text):
        m.decode(frames)


def test_arrays_shorter_than_said_are_refused() -> None:
    """The third frame must be as long as its heads say."""
    frames = m.encode(m.Weights(1, 0, [ArrayHead("w", "float32", (2,))]), b"\0" * 7)

    with pytest.raises(ProtocolError, match="7 bytes for arrays of 8"):
        m.decode(frames)


def test_a_learning_rate_that_is_no_number_is_refused() -> None:
    """NaN is no hyper-parameter."""
    task = m.Train(1, 2, 3, 4, [5], **{**HYPER, "learning_rate": float("nan")})

    with pytest.raises(ProtocolError, match="learning_rate"):
        m.decode(m.encode(task))


def test_results_travel_with_their_losses_and_without_weights_that_are_no_numbers() -> None:
    """Who diverged is named by its place; the frame has the others' weights."""
    good = [
        Update(client, {"w": np.full(2, float(client))}, 3, 0.5, start)
        for client, start in ((4, 1.5), (2, 0.25))
    ]
    updates = [good[0], Update.of_diverged(9, 7), good[1]]
    message, arrays = m.decode(m.encode(*m.Trained.of(1, 2, updates)))
    assert isinstance(message, m.Trained)
    got = message.updates(arrays)
    assert [(it.client, it.samples, it.start_loss) for it in got] == [
        (4, 3, 1.5), (9, 7, None), (2, 3, 0.25),
    ]  # fmt: skip
    assert [it.has_diverged for it in got] == [False, True, False]
    assert [got[place].weights["w"].tolist() for place in (0, 2)] == [[4.0, 4.0], [2.0, 2.0]]
    alone, nothing = m.Trained.of(1, 2, [updates[1]])
    assert [it.has_diverged for it in alone.updates(nothing)] == [True]
    wrong: list[dict[str, object]] = [{"diverged": [3]}, {"start_losses": [1.0]}, {"diverged": []}]
    for change in wrong:
        with pytest.raises(ProtocolError):
            msgspec.structs.replace(message, **change).updates(arrays)


def test_another_version_is_named_and_a_refusal_understood() -> None:
    """Whoever speaks another version is told so, in words that every version reads."""
    head = msgspec.msgpack.encode([m.EXECUTOR_VERSION + 1, "beat"])
    with pytest.raises(m.VersionError, match="executor protocol 4 spoken, 3 understood"):
        m.decode((head, b"\x80"))

    head = msgspec.msgpack.encode([m.EXECUTOR_VERSION + 1, "refused"])
    refused, _ = m.decode((head, m.encode(m.Refused(0, "another version"))[1]))

    assert refused == m.Refused(0, "another version")
