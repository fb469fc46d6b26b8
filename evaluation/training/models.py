"""Models by name, written in plain torch; shapes are in the comments as (batch, channels, h, w).

======================  =============================================================
``softmax``             one linear layer: multinomial logistic regression
``mlp``                 one hidden layer of 128
``cnn``                 two convolutions and two linear layers, for images up to 64 pixels
``resnet18``            He et al. 2016, first convolution of 3 × 3 for small images
``mobilenet_v2``        Sandler et al. 2018, the strides of small images
``shufflenet_v2``       Ma et al. 2018, width 0.5 ×, the strides of small images
======================  =============================================================

Every model normalises by groups (``norm="group"``, Wu & He 2018), which keeps no statistics between
batches: averaging clients' weights is then all that there is to average, and many clients can be
trained in one stacked pass. ``norm="batch"`` gives the published models; their running statistics
are averaged like weights, and such models train one client after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import torch
from torch import Tensor, nn

from evaluation.names import no_such
from evaluation.training.sizes import MOBILE_BLOCKS
from evaluation.training.specs import ModelError, ModelSpec, Norm

__all__ = ["MODELS", "ModelError", "ModelSpec", "build", "keeps_statistics"]

NormLayer: TypeAlias = Callable[[int], nn.Module]

GROUPS_MAX: Final = 8


def build(spec: ModelSpec, *, dtype: torch.dtype = torch.float32) -> nn.Module:
    """An untrained model; its weights come from torch's global generator.

    Raises :class:`ModelError`.

    >>> model = build(ModelSpec("softmax", (1, 8, 8), 10))
    >>> sum(weight.numel() for weight in model.parameters())
    650
    """
    if spec.name not in MODELS:
        raise ModelError(no_such("model", spec.name, MODELS))
    if spec.norm not in {"group", "batch"}:
        raise ModelError(f"no normalisation {spec.norm!r}; there are group, batch")
    channels, height, width = spec.shape
    least = SIDE_MIN.get(spec.name, 1)
    if min(channels, height, width) < 1 or min(height, width) < least:
        raise ModelError(
            f"model {spec.name} needs images of at least {least} × {least}, the data has "
            f"{height} × {width}"
        )
    if spec.classes < 2:
        raise ModelError(f"model {spec.name} needs at least 2 classes, the data has {spec.classes}")
    return MODELS[spec.name](spec).to(dtype)


def keeps_statistics(model: nn.Module) -> bool:
    """Whether the model changes its buffers while it trains, and so cannot be stacked."""
    return any(True for _ in model.buffers())


# --- small models --------------------------------------------------------------------------------


def _softmax(spec: ModelSpec) -> nn.Module:
    channels, height, width = spec.shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, spec.classes))


def _mlp(spec: ModelSpec) -> nn.Module:
    channels, height, width = spec.shape
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * height * width, 128),
        nn.ReLU(),
        nn.Linear(128, spec.classes),
    )


def _cnn(spec: ModelSpec) -> nn.Module:
    channels, height, width = spec.shape
    norm = _norm(spec.norm)
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),  # (n, 16, h, w)
        norm(16),
        nn.ReLU(),
        nn.MaxPool2d(2),  # (n, 16, h/2, w/2)
        nn.Conv2d(16, 32, 3, padding=1),
        norm(32),
        nn.ReLU(),
        nn.MaxPool2d(2),  # (n, 32, h/4, w/4)
        nn.Flatten(),
        nn.Linear(32 * (height // 4) * (width // 4), 64),
        nn.ReLU(),
        nn.Linear(64, spec.classes),
    )


# --- normalisation -------------------------------------------------------------------------------


def _norm(kind: Norm) -> NormLayer:
    return nn.BatchNorm2d if kind == "batch" else _group_norm


def _group_norm(channels: int) -> nn.Module:
    """As many groups as divide the channels, at most eight."""
    groups = max(g for g in range(1, GROUPS_MAX + 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


# --- ResNet-18 -----------------------------------------------------------------------------------


class _ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions and a way around them."""

    def __init__(self, inside: int, outside: int, stride: int, norm: NormLayer) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
        self.first_norm = norm(outside)
        self.second = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.second_norm = norm(outside)
        self.around: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            self.around = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), norm(outside)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(n, inside, h, w) → (n, outside, h/stride, w/stride)."""
        y = torch.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        return torch.relu(y + self.around(x))


def _resnet18(spec: ModelSpec) -> nn.Module:
    norm = _norm(spec.norm)
    layers: list[nn.Module] = [
        nn.Conv2d(spec.shape[0], 64, 3, padding=1, bias=False),
        norm(64),
        nn.ReLU(),
    ]
    inside = 64
    for outside, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers.append(_ResidualBlock(inside, outside, stride, norm))
        layers.append(_ResidualBlock(outside, outside, 1, norm))
        inside = outside
    return nn.Sequential(*layers, *_head(inside, spec.classes))


def _head(channels: int, classes: int) -> list[nn.Module]:
    """(n, channels, h, w) → (n, classes)."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


# --- MobileNetV2 ---------------------------------------------------------------------------------


class _InvertedResidual(nn.Module):
    """Widen (1 × 1), filter each channel (3 × 3), narrow (1 × 1, linear)."""

    def __init__(self, inside: int, outside: int, stride: int, widen: int, norm: NormLayer) -> None:
        super().__init__()
        wide = inside * widen
        layers: list[nn.Module] = []
        if widen != 1:
            layers += [nn.Conv2d(inside, wide, 1, bias=False), norm(wide), nn.ReLU6()]
        layers += [
            nn.Conv2d(wide, wide, 3, stride, padding=1, groups=wide, bias=False),
            norm(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, outside, 1, bias=False),
            norm(outside),
        ]
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        """(n, inside, h, w) → (n, outside, h/stride, w/stride)."""
        y: Tensor = self.layers(x)
        return x + y if self.adds else y


def _mobilenet_v2(spec: ModelSpec) -> nn.Module:
    norm = _norm(spec.norm)
    layers: list[nn.Module] = [
        nn.Conv2d(spec.shape[0], 32, 3, padding=1, bias=False),
        norm(32),
        nn.ReLU6(),
    ]
    inside = 32
    for widen, outside, count, stride in MOBILE_BLOCKS:
        for index in range(count):
            first = stride if index == 0 else 1
            layers.append(_InvertedResidual(inside, outside, first, widen, norm))
            inside = outside
    layers += [nn.Conv2d(inside, 1280, 1, bias=False), norm(1280), nn.ReLU6()]
    return nn.Sequential(*layers, *_head(1280, spec.classes))


# --- ShuffleNetV2 --------------------------------------------------------------------------------


class _ShuffleBlock(nn.Module):
    """Half of the channels pass by, half are filtered; then the halves are interleaved."""

    def __init__(self, inside: int, outside: int, stride: int, norm: NormLayer) -> None:
        super().__init__()
        self.splits = stride == 1
        half = outside // 2
        entering = half if self.splits else inside
        self.by: nn.Module = nn.Identity()
        if not self.splits:
            self.by = nn.Sequential(
                nn.Conv2d(inside, inside, 3, stride, padding=1, groups=inside, bias=False),
                norm(inside),
                nn.Conv2d(inside, half, 1, bias=False),
                norm(half),
                nn.ReLU(),
            )
        self.through = nn.Sequential(
            nn.Conv2d(entering, half, 1, bias=False),
            norm(half),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, stride, padding=1, groups=half, bias=False),
            norm(half),
            nn.Conv2d(half, half, 1, bias=False),
            norm(half),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, inside, h, w) → (n, outside, h/stride, w/stride)."""
        left, right = x.chunk(2, dim=1) if self.splits else (x, x)
        y = torch.cat((self.by(left), self.through(right)), dim=1)
        n, channels, height, width = y.shape
        halves = y.reshape(n, 2, channels // 2, height, width)
        return halves.transpose(1, 2).reshape(n, channels, height, width)


def _shufflenet_v2(spec: ModelSpec) -> nn.Module:
    norm = _norm(spec.norm)
    layers: list[nn.Module] = [
        nn.Conv2d(spec.shape[0], 24, 3, padding=1, bias=False),
        norm(24),
        nn.ReLU(),
    ]
    inside = 24
    for outside, count in ((48, 4), (96, 8), (192, 4)):
        for index in range(count):
            layers.append(_ShuffleBlock(inside, outside, 2 if index == 0 else 1, norm))
            inside = outside
    layers += [nn.Conv2d(inside, 1024, 1, bias=False), norm(1024), nn.ReLU()]
    return nn.Sequential(*layers, *_head(1024, spec.classes))


MODELS: Final[dict[str, Callable[[ModelSpec], nn.Module]]] = {
    "softmax": _softmax,
    "mlp": _mlp,
    "cnn": _cnn,
    "resnet18": _resnet18,
    "mobilenet_v2": _mobilenet_v2,
    "shufflenet_v2": _shufflenet_v2,
}
"""Name → how it is built."""
SIDE_MIN: Final = {"cnn": 4, "resnet18": 8, "mobilenet_v2": 8, "shufflenet_v2": 8}
"""The smallest image that leaves something to pool."""
