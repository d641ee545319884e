"""InceptionV3 (Szegedy et al. 2015) and InceptionResNetV2 (Szegedy et al. 2016), each a table of its branches."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .. import ops
from ..errors import InputError
from ..layers import Conv2D, ConvNorm, Linear, Module
from ..tensor import Tensor
from .network import Network, input_layer, scaled

Rng = np.random.Generator


@dataclass(frozen=True)
class InceptionDefinition:
    """What differs between the sources of an Inception network's weights.

    bn_scale: batch norm has a gamma (PyTorch yes, Keras no). eps, momentum, unbiased: of batch norm (PyTorch 1e-3, 0.1,
    True; Keras 1e-3, 0.01, False). count_padding: average pools count pixels outside of the image as zeros (PyTorch
    yes, Keras no). mean, std, bgr: of the input layer; mean and std are 0.5 unless given (pixels from -1 to 1, as in
    both sources). exact: no Winograd convolutions. zero_residual: a residual block, if there are any, starts as its
    shortcut.
    """

    bn_scale: bool = True
    eps: float = 1e-3
    momentum: float = 0.1
    unbiased: bool = True
    count_padding: bool = True
    mean: Any = None
    std: Any = None
    bgr: bool = False
    exact: bool = False
    zero_residual: bool = True


class Res(NamedTuple):
    """A residual block: x + scale * up(branches(x)), with or without a relu after it."""

    branches: list[Any]
    scale: float
    relu: bool = True


# A branch is a tuple of steps. A step is a pool; a convolution with batch norm and relu: (filters, kernel), or without
# padding (filters, kernel, stride); a list of branches; or a Res. The number in a stage's name is the side of its
# images when the side of the input is 299.
AVG, MAX, ROW, COLUMN = "avg", "max", (1, 7), (7, 1)
STEM = ((32, 3, 2), (32, 3, 1), (64, 3), MAX, (80, 1), (192, 3, 1), MAX)
FORK = [((384, (1, 3)),), ((384, (3, 1)),)]


def mixed_35(first: int, pool: int) -> list[Any]:
    return [((first, 1),), ((48, 1), (64, 5)), ((64, 1), (96, 3), (96, 3)), (AVG, (pool, 1))]


def mixed_17(n: int) -> list[Any]:
    twice = ((n, 1), (n, COLUMN), (n, ROW), (n, COLUMN), (192, ROW))
    return [((192, 1),), ((n, 1), (n, ROW), (192, COLUMN)), twice, (AVG, (192, 1))]


MIXED_8 = [((320, 1),), ((384, 1), FORK), ((448, 1), (384, 3), FORK), (AVG, (192, 1))]

V3 = {
    "stem": STEM,
    "stage35": (mixed_35(64, 32), mixed_35(64, 64), mixed_35(64, 64)),
    "stage17": ([((384, 3, 2),), ((64, 1), (96, 3), (96, 3, 2)), (MAX,)], *map(mixed_17, (128, 160, 160, 192))),
    "stage8": ([((192, 1), (320, 3, 2)), ((192, 1), (192, ROW), (192, COLUMN), (192, 3, 2)), (MAX,)], MIXED_8, MIXED_8),
}

BLOCK_35 = [((32, 1),), ((32, 1), (32, 3)), ((32, 1), (48, 3), (64, 3))]
BLOCK_17 = [((192, 1),), ((128, 1), (160, ROW), (192, COLUMN))]
BLOCK_8 = [((192, 1),), ((192, 1), (224, (1, 3)), (256, (3, 1)))]

RESNET_V2 = {
    "stem": STEM,
    "stage35": (mixed_35(96, 64), *(Res(BLOCK_35, 0.17),) * 10),
    "stage17": ([((384, 3, 2),), ((256, 1), (256, 3), (384, 3, 2)), (MAX,)], *(Res(BLOCK_17, 0.1),) * 20),
    "stage8": (
        [((256, 1), (384, 3, 2)), ((256, 1), (288, 3, 2)), ((256, 1), (288, 3), (320, 3, 2)), (MAX,)],
        *(Res(BLOCK_8, 0.2),) * 9, Res(BLOCK_8, 1.0, relu=False), (1536, 1),
    ),
}  # fmt: skip

INCEPTIONS: dict[str, dict[str, Any]] = {"inception_v3": V3, "inception_resnet_v2": RESNET_V2}


class Mixed(Module):
    """Branches on one input, joined along the channels; `filters` is the number of channels that come out."""

    def __init__(self, channels: int, branches: list[Any], width: float, d: InceptionDefinition, rng: Rng) -> None:
        self.branches, self.filters = len(branches), 0
        for b, steps in enumerate(branches, 1):
            layers, filters = chain(channels, steps, width, d, rng)
            setattr(self, f"branch{b}", layers)
            self.filters += filters

    def __call__(self, x: Tensor) -> Tensor:
        return ops.concat(*(run(getattr(self, f"branch{b}"), x) for b in range(1, self.branches + 1)), axis=-1)


class Residual(Mixed):
    """relu(x + scale * up(branches(x))), where up is a 1x1 convolution with bias and no batch norm."""

    def __init__(self, channels: int, step: Res, width: float, d: InceptionDefinition, rng: Rng) -> None:
        super().__init__(channels, step.branches, width, d, rng)
        self.up = Conv2D(self.filters, channels, 1, exact=d.exact, rng=rng)
        if d.zero_residual:
            self.up.weight.data[:] = 0
        self.filters, self.scale, self.relu = channels, step.scale, step.relu

    def __call__(self, x: Tensor) -> Tensor:
        assert self.up.bias is not None
        weight, bias = self.up.weight * self.scale, self.up.bias * self.scale  # less to multiply than the output
        y = self.up.convolve(super().__call__(x), weight, bias, False)
        return ops.add_relu(x, y) if self.relu else x + y


def chain(channels: int, steps: Any, width: float, d: InceptionDefinition, rng: Rng) -> tuple[list[Any], int]:
    """The layers of these steps, and the number of channels that come out of the last."""
    layers: list[Any] = []
    norm: dict[str, Any] = dict(eps=d.eps, momentum=d.momentum, unbiased=d.unbiased, gamma=1.0 if d.bn_scale else None)
    for step in steps:
        if step == MAX:  # halves the image
            layers.append(partial(ops.max_pool, kernel=3, stride=2))
        elif step == AVG:  # keeps its size
            layers.append(partial(ops.avg_pool, kernel=3, stride=1, padding=1, count_padding=d.count_padding))
        elif isinstance(step, list | Res):
            block: Any = Mixed if isinstance(step, list) else Residual
            layers.append(block(channels, step, width, d, rng))
            channels = layers[-1].filters
        else:
            (filters, kernel, *stride), before = step, channels
            channels = scaled(filters, width)
            place: dict[str, Any] = dict(stride=stride[0], padding="valid") if stride else {}
            layers.append(ConvNorm(before, channels, kernel, exact=d.exact, rng=rng, **place, **norm))
    return layers, channels


def run(layers: list[Any], x: Tensor) -> Tensor:
    """x through the layers, one after the other."""
    for layer in layers:
        x = layer(x, relu=True) if isinstance(layer, ConvNorm) else layer(x)
    return x


class Inception(Network):
    """An Inception network without the auxiliary head; features from the global average pool.

    name: one of INCEPTIONS; variant: fields of its definition. He initialisation, the last layer ~ N(0, 0.01^2).
    """

    top = "fc"
    usual_pixels = ((0.5,) * 3, (0.5,) * 3)

    def __init__(
        self, name: str, *, classes: int, width: float, size: int, channels: int, rng: Rng, **variant: Any
    ) -> None:
        if size < 75:
            raise InputError(f"{name} halves the image five times: size must be at least 75, not {size}.")
        d = InceptionDefinition(**variant)
        changed = {k: v for k, v in asdict(d).items() if v != getattr(InceptionDefinition, k)}
        self.definition = dict(name=name, classes=classes, width=width, size=size, channels=channels, **changed)
        self.normalize = input_layer(channels, d.mean, d.std, d.bgr, self.usual_pixels)
        for stage, steps in self.plan.items():
            layers, channels = chain(channels, steps, width, d, rng)
            setattr(self, stage, layers)
        self.feature_width = channels
        self.fc = Linear(channels, classes, rng=rng, std=0.01)

    @property
    def plan(self) -> dict[str, Any]:
        """The steps of each stage."""
        return INCEPTIONS[self.definition["name"]]

    def defaults(self) -> dict[str, Any]:
        return asdict(InceptionDefinition())

    def features(self, x: Tensor) -> Tensor:
        x = self.normalize(x)
        for stage in self.plan:
            x = run(getattr(self, stage), x)
        return ops.global_avg_pool(x)
