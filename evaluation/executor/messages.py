"""What jobs, broker and workers of an executor say to each other: typed, bounded, never pickled.

A message is two frames, ``[head, body]``, both MessagePack, or three where it carries weights:
``[head, body, arrays]`` (:mod:`evaluation.executor.arrays`). The head is ``[version, kind]``; the
body a map of the fields of that kind's class below.

==========  ===================  ==================================================
kind        from → to            what
==========  ===================  ==================================================
attach      job → broker         I am here; answered ``attached``
register    job → broker → work  a job's model, data and partition
weights     job → broker → work  its global weights of a version
train       job → broker → work  train these clients from that version
score       job → broker → work  score that version on the test split
trained     work → broker → job  updates of some of the clients
scored      work → broker → job  the score
refused     broker → either      why a request, or a worker, is refused
cancel      job → broker         nobody waits for this request any more
forget      job → broker → work  the job is over
happened    broker → job         what befell the workers, for those who watch
hello       worker → broker      I am here; answered ``welcome``
failed      worker → broker      a task failed, and whether another worker might do it
who         broker → worker      I do not know you (any more): say hello again
beat        both ways            I am alive
leave       either → broker      I go
==========  ===================  ==================================================

``number`` is the job's request on the way between job and broker, and the broker's task on the way
between broker and worker. A changed field or kind is a new ``EXECUTOR_VERSION``; only head and
``refused`` stay as they are for ever, so that every version understands why it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from evaluation.aggregators import Update
from evaluation.executor.arrays import FRAME_BYTES_MAX, Heads, pack_stack, unpack_stack
from evaluation.executor.jobs import JobModel, PartitionKind, PartitionSpec
from evaluation.training.specs import LOSS_MAX, Hyper, ModelSpec, Norm
from propius.core import Frames
from propius.errors import ProtocolError

__all__ = [
    "EXECUTOR_VERSION", "MESSAGES", "Attach", "Attached", "Beat", "Cancel", "Failed", "Forget",
    "Happened", "Hello", "Leave", "Message", "Refused", "Register", "ScoreTask", "Scored", "Train",
    "Trained", "VersionError", "Weights", "Welcome", "Who", "decode", "encode",
]  # fmt: skip

EXECUTOR_VERSION: Final = 3
HEAD_BYTES_MAX: Final = 256
BODY_BYTES_MAX: Final = 8 << 20
CLIENTS_MAX: Final = 100_000
"""Of one request."""
VALUE_MAX: Final = LOSS_MAX

Number = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Small = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Some = Annotated[int, Meta(ge=1, le=1_000_000)]
Rate = Annotated[float, Meta(ge=0.0, le=VALUE_MAX)]
Amount = Annotated[float, Meta(ge=0.0, le=1e30)]
Text = Annotated[str, Meta(max_length=2_000)]
Word = Annotated[str, Meta(max_length=256)]
Clients = Annotated[list[Small], Meta(min_length=1, max_length=CLIENTS_MAX)]
Fact: TypeAlias = int | float | str


class VersionError(ProtocolError):
    """The peer speaks another version; one line that names both."""


class _Message(Struct, frozen=True, forbid_unknown_fields=True):
    kind: ClassVar[str]


class Head(Struct, array_like=True, frozen=True):
    """First frame of every message, of every version."""

    version: Annotated[int, Meta(ge=0, le=1_000_000)]
    kind: Annotated[str, Meta(max_length=32)]


class Attach(_Message, frozen=True):
    """A job's process, or one that only watches. ``name`` is for people."""

    kind: ClassVar[str] = "attach"
    name: Word
    watch: bool = False


class Attached(_Message, frozen=True):
    """``broker`` is drawn anew whenever a broker starts."""

    kind: ClassVar[str] = "attached"
    broker: Number
    workers: Small


class Register(_Message, frozen=True):
    """A :class:`evaluation.executor.jobs.JobModel`, flat."""

    kind: ClassVar[str] = "register"
    job: Number
    model: Word
    shape: tuple[Some, Some, Some]
    classes: Some
    norm: Norm
    dataset: Word
    folder: Text
    partition: PartitionKind
    partition_clients: Some
    alpha: Amount
    partition_file: Text
    dtype: Literal["float32", "float64"]
    seed: Number

    @classmethod
    def of(cls, job: JobModel) -> Register:
        """Paths are made absolute: broker and workers are at home elsewhere."""
        spec, partition = job.spec, job.partition
        return cls(
            job=job.job,
            model=spec.name,
            shape=spec.shape,
            classes=spec.classes,
            norm=spec.norm,
            dataset=job.dataset,
            folder=str(job.folder.absolute()) if job.folder else "",
            partition=partition.kind,
            partition_clients=partition.clients,
            alpha=partition.alpha,
            partition_file=str(partition.file.absolute()) if partition.file else "",
            dtype=job.dtype,
            seed=job.seed,
        )

    def job_model(self) -> JobModel:
        """As a trainer takes it."""
        partition = PartitionSpec(
            self.partition,
            self.partition_clients,
            self.alpha,
            Path(self.partition_file) if self.partition_file else None,
        )
        return JobModel(
            self.job,
            ModelSpec(self.model, self.shape, self.classes, self.norm),
            self.dataset,
            Path(self.folder) if self.folder else None,
            partition,
            self.dtype,
            self.seed,
        )


class Weights(_Message, frozen=True):
    """Global weights; the third frame has the arrays."""

    kind: ClassVar[str] = "weights"
    job: Number
    version: Number
    arrays: Heads


class Train(_Message, frozen=True):
    """Train each client from the job's weights of this version.

    ``client_steps``: how many each of them does, at most ``steps``; None: all do ``steps``.
    """

    kind: ClassVar[str] = "train"
    number: Number
    job: Number
    round: Number
    version: Number
    clients: Clients
    steps: Some
    batch_size: Some
    learning_rate: Rate
    momentum: Rate
    weight_decay: Rate
    prox_mu: Rate
    loss_decay: Rate
    start_loss: bool = False
    client_steps: Annotated[list[Some], Meta(min_length=1, max_length=CLIENTS_MAX)] | None = None

    @property
    def hyper(self) -> Hyper:
        """As training takes it."""
        return Hyper(
            self.steps,
            self.batch_size,
            self.learning_rate,
            self.momentum,
            self.weight_decay,
            self.prox_mu,
            self.loss_decay,
            self.start_loss,
        )


class ScoreTask(_Message, frozen=True):
    """Score the job's weights of this version on its test split."""

    kind: ClassVar[str] = "score"
    number: Number
    job: Number
    version: Number


class Trained(_Message, frozen=True):
    """Updates; the third frame has their weights, each array with a first dimension of clients.

    ``diverged``: which of the clients, by place, have no weights: the frame has those of the
    others. ``start_losses`` is empty where none were asked for.
    """

    kind: ClassVar[str] = "trained"
    number: Number
    version: Number
    clients: Clients
    samples: Annotated[list[Small], Meta(min_length=1, max_length=CLIENTS_MAX)]
    losses: Annotated[list[Amount], Meta(min_length=1, max_length=CLIENTS_MAX)]
    arrays: Heads
    start_losses: Annotated[list[Amount], Meta(max_length=CLIENTS_MAX)] = []
    diverged: Annotated[list[Small], Meta(max_length=CLIENTS_MAX)] = []

    @classmethod
    def of(cls, number: int, version: int, updates: Sequence[Update]) -> tuple[Trained, bytes]:
        """The message and its third frame."""
        good = [update for update in updates if not update.has_diverged]
        heads, arrays = pack_stack([update.weights for update in good])
        has_starts = any(update.start_loss is not None for update in good)
        message = cls(
            number=number,
            version=version,
            clients=[update.client for update in updates],
            samples=[update.samples for update in updates],
            losses=[update.loss for update in updates],
            arrays=heads,
            start_losses=[update.start_loss or 0.0 for update in updates] if has_starts else [],
            diverged=[place for place, update in enumerate(updates) if update.has_diverged],
        )
        return message, arrays

    def updates(self, arrays: bytes) -> list[Update]:
        """By the order of ``clients``; raises :class:`ProtocolError`."""
        count = len(self.clients)
        gone = set(self.diverged)
        lists = (self.samples, self.losses, self.start_losses or self.losses)
        if any(len(each) != count for each in lists) or not gone <= set(range(count)):
            raise ProtocolError("trained: its lists are not one number for each client")
        starts: list[float | None] = [*self.start_losses] if self.start_losses else [None] * count
        weights = iter(unpack_stack(self.arrays, arrays, count - len(gone)))
        rows = zip(self.clients, self.samples, self.losses, starts, strict=True)
        return [
            Update.of_diverged(client, samples)
            if place in gone
            else Update(client, next(weights), samples, loss, start)
            for place, (client, samples, loss, start) in enumerate(rows)
        ]


class Scored(_Message, frozen=True):
    """Sums over the test split."""

    kind: ClassVar[str] = "scored"
    number: Number
    version: Number
    samples: Some
    loss_sum: Amount
    correct: Small
    correct_top5: Small


class Refused(_Message, frozen=True):
    """``number`` is the request; 0: whoever gets this is refused as a whole."""

    kind: ClassVar[str] = "refused"
    number: Number
    text: Text


class Cancel(_Message, frozen=True):
    """Nobody waits for this request any more."""

    kind: ClassVar[str] = "cancel"
    number: Number


class Forget(_Message, frozen=True):
    """The job is over."""

    kind: ClassVar[str] = "forget"
    job: Number


class Happened(_Message, frozen=True):
    """What befell the executor, for the run's records."""

    kind: ClassVar[str] = "happened"
    what: Word
    facts: Annotated[dict[Word, Fact], Meta(max_length=32)]


class Hello(_Message, frozen=True):
    """A worker. ``session`` is drawn by its process, and stays the same when it reconnects."""

    kind: ClassVar[str] = "hello"
    name: Word
    session: Number
    torch: Word
    device: Word
    memory_free_bytes: Number


class Welcome(_Message, frozen=True):
    """Beat so often; whoever is silent for ``lost_s`` is taken for dead."""

    kind: ClassVar[str] = "welcome"
    beat_s: Annotated[float, Meta(gt=0, le=3_600)]
    lost_s: Annotated[float, Meta(gt=0, le=86_400)]


class Failed(_Message, frozen=True):
    """``memory``: too little; ``unfit``: not this worker; ``bug``: who knows; ``wrong``: nobody."""

    kind: ClassVar[str] = "failed"
    number: Number
    why: Literal["memory", "unfit", "bug", "wrong"]
    text: Text


class Who(_Message, frozen=True):
    """Say hello (again); what you still have of my tasks is not wanted any more."""

    kind: ClassVar[str] = "who"


class Beat(_Message, frozen=True):
    """Alive. From a worker: its free memory. From the broker: how many workers it has."""

    kind: ClassVar[str] = "beat"
    memory_free_bytes: Number = 0
    workers: Small = 0


class Leave(_Message, frozen=True):
    """Gone in good order."""

    kind: ClassVar[str] = "leave"


Message: TypeAlias = (
    Attach | Attached | Register | Weights | Train | ScoreTask | Trained | Scored | Refused | Cancel
    | Forget | Happened | Hello | Welcome | Failed | Who | Beat | Leave
)  # fmt: skip

MESSAGES: Final[dict[str, type[Any]]] = {
    cls.kind: cls
    for cls in (
        Attach, Attached, Register, Weights, Train, ScoreTask, Trained, Scored, Refused, Cancel,
        Forget, Happened, Hello, Welcome, Failed, Who, Beat, Leave,
    )
}  # fmt: skip
"""Kind → class."""

_ENCODE = msgspec.msgpack.Encoder().encode
_HEAD = msgspec.msgpack.Decoder(Head)
_BODIES = {kind: msgspec.msgpack.Decoder(cls) for kind, cls in MESSAGES.items()}
_HEADS = {kind: _ENCODE(Head(EXECUTOR_VERSION, kind)) for kind in MESSAGES}


def encode(message: Message, arrays: bytes | memoryview | None = None) -> Frames:
    """The frames of a message."""
    frames = (_HEADS[message.kind], _ENCODE(message))
    return frames if arrays is None else (*frames, arrays)  # type: ignore[return-value]


def decode(frames: Frames) -> tuple[Message, bytes]:
    """The message and its arrays (b"" if it has none).

    Raises :class:`ProtocolError`, or :class:`VersionError` if only the version is wrong.
    """
    if not 2 <= len(frames) <= 3 or len(frames[0]) > HEAD_BYTES_MAX:
        raise ProtocolError("not a message of an executor")
    try:
        head = _HEAD.decode(frames[0])
        if head.version != EXECUTOR_VERSION and head.kind != Refused.kind:
            raise VersionError(
                f"executor protocol {head.version} spoken, {EXECUTOR_VERSION} understood; "
                "install the same version of propius everywhere"
            )
        if head.kind not in _BODIES:
            raise ProtocolError(f"unknown kind {head.kind!r}")
        if len(frames[1]) > BODY_BYTES_MAX:
            raise ProtocolError(f"{head.kind}: a body of {len(frames[1]):,} bytes")
        message: Message = _BODIES[head.kind].decode(frames[1])
    except (msgspec.DecodeError, ValueError) as error:  # ValueError: broken UTF-8
        raise ProtocolError(f"not a message of an executor: {error}") from error
    arrays = _arrays(message, frames)
    return message, arrays


def _arrays(message: Message, frames: Frames) -> bytes:
    """The third frame; its length is what the heads say."""
    heads = getattr(message, "arrays", None)
    if (heads is None) != (len(frames) == 2):
        raise ProtocolError(f"{message.kind}: {len(frames)} frames")
    if heads is None:
        return b""
    said = sum(head.size_bytes for head in heads)
    if len(frames[2]) != said or said > FRAME_BYTES_MAX:
        raise ProtocolError(f"{message.kind}: {len(frames[2]):,} bytes for arrays of {said:,}")
    return frames[2]
