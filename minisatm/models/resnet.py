"""Residual networks from one definition: ResNet50, ResNet101 and the CIFAR ResNet20, all of He et al. 2016."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from .. import ops
from ..errors import InputError
from ..layers import ConvNorm, Linear, Module
from ..ops.conv import Padding
from ..tensor import Tensor
from .network import Network, input_layer, scaled

Rng = np.random.Generator


@dataclass(frozen=True)
class ResNetDefinition:
    """What differs between residual networks, and between the sources of their weights.

    blocks: residual blocks in each stage. first_width: the filters of the stem and of the first stage. bottleneck:
    blocks are 1x1-3x3-1x1 convolutions (the last with 4 times the filters), or else two 3x3. stride_in: which
    convolution of a bottleneck halves the image, "3x3" (PyTorch) or "1x1" (the paper, Keras, Caffe). conv_bias:
    convolutions have a bias (Keras). eps, momentum, unbiased: those of batch norm (PyTorch 1e-5, 0.1, True; Keras
    1.001e-5, 0.01, False). stem: "imagenet" (7x7 with stride 2, then a 3x3 max pool with stride 2) or "cifar" (3x3).
    stem_padding: of the 7x7 convolution (keras-vggface "same"). pool_padding, pool_ceil: of the stem's pool (PyTorch 1;
    Caffe 0 and ceil; keras-vggface "valid"). shortcut: where the shape changes, a 1x1 "projection", or every second
    pixel with "zero-padded" channels on both sides. zero_gamma: each block starts as its shortcut. mean, std, bgr: of
    the input layer. exact: no Winograd convolutions.
    """

    blocks: tuple[int, ...]
    first_width: int = 64
    bottleneck: bool = True
    stride_in: str = "3x3"
    conv_bias: bool = False
    eps: float = 1e-5
    momentum: float = 0.1
    unbiased: bool = True
    stem: str = "imagenet"
    stem_padding: Padding = 3
    pool_padding: Padding = 1
    pool_ceil: bool = False
    shortcut: str = "projection"
    zero_gamma: bool = True
    mean: Any = None
    std: Any = None
    bgr: bool = False
    exact: bool = False

    def __post_init__(self) -> None:
        for field, choices in CHOICES.items():
            if getattr(self, field) not in choices:
                raise InputError(f"{field}={getattr(self, field)!r}: a ResNet's can be {' or '.join(choices)}.")


CHOICES = {"stride_in": ("3x3", "1x1"), "stem": ("imagenet", "cifar"), "shortcut": ("projection", "zero-padded")}

RESNETS = {
    "resnet50": ResNetDefinition(blocks=(3, 4, 6, 3)),
    "resnet101": ResNetDefinition(blocks=(3, 4, 23, 3)),
    "resnet20": ResNetDefinition(
        blocks=(3, 3, 3), first_width=16, bottleneck=False, stem="cifar", shortcut="zero-padded"
    ),
}


def conv_norm(channels: int, filters: int, kernel: int, d: ResNetDefinition, rng: Rng, **settings: Any) -> ConvNorm:
    """A convolution with batch norm, as the definition says; settings: stride, padding, gamma."""
    norm: dict[str, Any] = dict(eps=d.eps, momentum=d.momentum, unbiased=d.unbiased)
    return ConvNorm(channels, filters, kernel, bias=d.conv_bias, exact=d.exact, rng=rng, **norm, **settings)


class Block(Module):
    """relu(f(x) + shortcut(x)), where f is a bottleneck (1x1, 3x3, 1x1) or two 3x3 convolutions, with batch norm.

    If zero_gamma, the last batch norm of f starts with gamma 0, so that the block starts as its shortcut.
    """

    def __init__(self, channels: int, width: int, stride: int, d: ResNetDefinition, rng: Rng) -> None:
        self.filters = 4 * width if d.bottleneck else width
        last = 0.0 if d.zero_gamma else 1.0
        if d.bottleneck:
            first, second = (stride, 1) if d.stride_in == "1x1" else (1, stride)
            self.conv1 = conv_norm(channels, width, 1, d, rng, stride=first)
            self.conv2 = conv_norm(width, width, 3, d, rng, stride=second)
            self.conv3 = conv_norm(width, self.filters, 1, d, rng, gamma=last)
        else:
            self.conv1 = conv_norm(channels, width, 3, d, rng, stride=stride)
            self.conv2 = conv_norm(width, width, 3, d, rng, gamma=last)
        self.bottleneck, self.stride, self.channels = d.bottleneck, stride, channels
        projects = d.shortcut == "projection" and (stride != 1 or channels != self.filters)
        self.project = conv_norm(channels, self.filters, 1, d, rng, stride=stride) if projects else None

    def __call__(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x, relu=True), relu=self.bottleneck)
        if self.bottleneck:
            y = self.conv3(y)
        return ops.add_relu(y, self.shortcut(x))

    def shortcut(self, x: Tensor) -> Tensor:
        """x, in the shape of f(x)."""
        if self.project is not None:
            return self.project(x)
        if self.stride != 1:
            x = x[:, :: self.stride, :: self.stride]
        missing = self.filters - self.channels
        return ops.pad(x, widths=((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2))) if missing else x


class ResNet(Network):
    """A residual network with features from the global average pool.

    name: one of RESNETS; variant: fields of its ResNetDefinition to change. He initialisation, the last layer
    ~ N(0, 0.01^2).
    """

    top = "fc"

    def __init__(
        self, name: str, *, classes: int, width: float, size: int, channels: int, rng: Rng, **variant: Any
    ) -> None:
        d = replace(RESNETS[name], **variant)
        changed = {k: v for k, v in asdict(d).items() if v != getattr(RESNETS[name], k)}
        self.definition = dict(name=name, classes=classes, width=width, size=size, channels=channels, **changed)
        self.d = d
        self.normalize = input_layer(channels, d.mean, d.std, d.bgr)
        first = scaled(d.first_width, width)
        if d.stem == "imagenet":
            self.stem = conv_norm(channels, first, 7, d, rng, stride=2, padding=d.stem_padding)
        else:
            self.stem = conv_norm(channels, first, 3, d, rng)
        channels = first
        for stage, count in enumerate(d.blocks, 1):
            blocks = []
            for i in range(count):
                stride = 2 if i == 0 and stage > 1 else 1
                blocks.append(Block(channels, scaled(d.first_width * 2 ** (stage - 1), width), stride, d, rng))
                channels = blocks[-1].filters
            setattr(self, f"stage{stage}", blocks)
        self.feature_width = channels
        self.fc = Linear(channels, classes, rng=rng, std=0.01)

    def defaults(self) -> dict[str, Any]:
        return asdict(RESNETS[self.definition["name"]])

    def features(self, x: Tensor) -> Tensor:
        x = self.stem(self.normalize(x), relu=True)
        if self.d.stem == "imagenet":
            x = ops.max_pool(x, kernel=3, stride=2, padding=self.d.pool_padding, ceil=self.d.pool_ceil)
        for stage in range(1, len(self.d.blocks) + 1):
            for block in getattr(self, f"stage{stage}"):
                x = block(x)
        return ops.global_avg_pool(x)
