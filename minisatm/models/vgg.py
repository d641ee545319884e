"""VGG16 (Simonyan and Zisserman 2015, configuration D): 13 convolutions, then fc6, fc7 and fc8."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from ..errors import InputError
from ..layers import Conv2D, ConvNorm, Dropout, Linear
from ..tensor import Tensor
from .network import Network, input_layer, scaled

# The filters of each convolution; after each of the five blocks stands a 2x2 max pool.
PLAN = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
HIDDEN = 4096


class VGG16(Network):
    """VGG16 with features from fc7, after its relu and before its dropout.

    The input of fc6 is the image after five halvings (7x7 at size 224), flattened in (row, column, channel) order. He
    initialisation, fc8 ~ N(0, 0.01^2). batch_norm: one after each convolution and before its relu (PyTorch's vgg16_bn).
    exact: no Winograd convolutions.
    """

    top = "fc8"

    def __init__(
        self, *, classes: int, width: float, size: int, channels: int, rng: np.random.Generator, dropout: float = 0.5,
        mean: Any = None, std: Any = None, bgr: bool = False, exact: bool = False, batch_norm: bool = False,
    ) -> None:  # fmt: skip
        if size < 32:
            raise InputError(f"vgg16 halves the image five times, so size must be at least 32, not {size}.")
        self.definition = dict(name="vgg16", classes=classes, width=width, size=size, channels=channels,
                               dropout=dropout, mean=mean, std=std, bgr=bgr, exact=exact,
                               batch_norm=batch_norm)  # fmt: skip
        self.normalize = input_layer(channels, mean, std, bgr)
        layer = ConvNorm if batch_norm else Conv2D
        for block, filters in enumerate(PLAN, 1):
            for i, n in enumerate(filters, 1):
                n = scaled(n, width)
                setattr(self, f"conv{block}_{i}", layer(channels, n, 3, padding=1, exact=exact, rng=rng, bias=True))
                channels = n
        hidden = self.feature_width = scaled(HIDDEN, width)
        self.fc6 = Linear(channels * (size // 32) ** 2, hidden, rng=rng)
        self.dropout6 = Dropout(dropout)
        self.fc7 = Linear(hidden, hidden, rng=rng)
        self.dropout7 = Dropout(dropout)
        self.fc8 = Linear(hidden, classes, rng=rng, std=0.01)

    def features(self, x: Tensor) -> Tensor:
        x = self.normalize(x)
        for block, filters in enumerate(PLAN, 1):
            for i in range(1, len(filters)):
                x = getattr(self, f"conv{block}_{i}")(x, relu=True)
            x = getattr(self, f"conv{block}_{len(filters)}")(x)
            x = ops.relu(ops.max_pool(x, kernel=2))  # relu after the pool: the same values, a quarter of the work
        x = self.dropout6(ops.relu(self.fc6(x.reshape(len(x), -1))))
        return ops.relu(self.fc7(x))

    def logits(self, features: Tensor) -> Tensor:
        return self.fc8(self.dropout7(features))
