"""How large a model is, counted from its layers and without torch.

A device's times depend on it, in a run that trains and in one that is for its times only, which has
no need of torch. The layers are those of :mod:`evaluation.training.models`; a run that trains
checks that they have not grown apart (:mod:`evaluation.harness.models`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

from evaluation.names import no_such
from evaluation.training.specs import ModelError, ModelSpec

__all__ = ["MOBILE_BLOCKS", "model_bytes"]

Layer: TypeAlias = "tuple[str, int]"
"""``("weights", how many)``, or ``("norm", of how many channels)``."""

BYTES: Final = {"float32": 4, "float64": 8}
COUNTER_BYTES: Final = 8
"""Of the batches that a batch normalisation has seen."""

MOBILE_BLOCKS: Final = (  # widen, outside, how many, stride of the first
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def model_bytes(spec: ModelSpec, dtype: str = "float32") -> int:
    """All weights and buffers of a model, in bytes; raises ModelError for a name that is none.

    >>> model_bytes(ModelSpec("softmax", (1, 8, 8), 10))
    2600
    """
    counts = {
        "softmax": _softmax,
        "mlp": _mlp,
        "cnn": _cnn,
        "resnet18": _resnet18,
        "mobilenet_v2": _mobilenet_v2,
        "shufflenet_v2": _shufflenet_v2,
    }
    if spec.name not in counts:
        raise ModelError(no_such("model", spec.name, counts))
    layers = list(counts[spec.name](spec))
    weights = sum(count for kind, count in layers if kind == "weights")
    norms = [channels for kind, channels in layers if kind == "norm"]
    is_batch = spec.norm == "batch"  # scale, shift; and mean, variance and a counter
    floats = weights + (4 if is_batch else 2) * sum(norms)
    return floats * BYTES[dtype] + (COUNTER_BYTES * len(norms) if is_batch else 0)


def _linear(inputs: int, outputs: int) -> Layer:
    return ("weights", (inputs + 1) * outputs)


def _conv(inside: int, outside: int, side: int, *, bias: bool = False) -> Layer:
    return ("weights", (inside * side * side + bias) * outside)


def _norm(channels: int) -> Layer:
    return ("norm", channels)


def _softmax(spec: ModelSpec) -> Iterator[Layer]:
    channels, height, width = spec.shape
    yield _linear(channels * height * width, spec.classes)


def _mlp(spec: ModelSpec) -> Iterator[Layer]:
    channels, height, width = spec.shape
    yield from (_linear(channels * height * width, 128), _linear(128, spec.classes))


def _cnn(spec: ModelSpec) -> Iterator[Layer]:
    channels, height, width = spec.shape
    yield from (_conv(channels, 16, 3, bias=True), _norm(16), _conv(16, 32, 3, bias=True))
    yield from (_norm(32), _linear(32 * (height // 4) * (width // 4), 64))
    yield _linear(64, spec.classes)


def _resnet18(spec: ModelSpec) -> Iterator[Layer]:
    yield from (_conv(spec.shape[0], 64, 3), _norm(64))
    inside = 64
    for outside in (64, 128, 256, 512):
        for entering in (inside, outside):
            yield from (_conv(entering, outside, 3), _norm(outside))
            yield from (_conv(outside, outside, 3), _norm(outside))
            if entering != outside:
                yield from (_conv(entering, outside, 1), _norm(outside))
        inside = outside
    yield _linear(inside, spec.classes)


def _mobilenet_v2(spec: ModelSpec) -> Iterator[Layer]:
    yield from (_conv(spec.shape[0], 32, 3), _norm(32))
    inside = 32
    for widen, outside, count, _stride in MOBILE_BLOCKS:
        for _ in range(count):
            wide = inside * widen
            if widen != 1:
                yield from (_conv(inside, wide, 1), _norm(wide))
            yield from (_conv(1, wide, 3), _norm(wide))  # each channel by itself
            yield from (_conv(wide, outside, 1), _norm(outside))
            inside = outside
    yield from (_conv(inside, 1280, 1), _norm(1280), _linear(1280, spec.classes))


def _shufflenet_v2(spec: ModelSpec) -> Iterator[Layer]:
    yield from (_conv(spec.shape[0], 24, 3), _norm(24))
    inside = 24
    for outside, count in ((48, 4), (96, 8), (192, 4)):
        half = outside // 2
        for number in range(count):
            if number == 0:  # nothing passes by: both halves are made of all channels
                yield from (_conv(1, inside, 3), _norm(inside))
                yield from (_conv(inside, half, 1), _norm(half))
            yield from (_conv(half if number else inside, half, 1), _norm(half))
            yield from (_conv(1, half, 3), _norm(half), _conv(half, half, 1), _norm(half))
        inside = outside
    yield from (_conv(inside, 1024, 1), _norm(1024), _linear(1024, spec.classes))
