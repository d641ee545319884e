"""LeNet for MNIST as Caffe's example has it (after LeCun et al. 1998): two convolutions and two dense layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from ..errors import InputError
from ..layers import Conv2D, Linear
from ..tensor import Tensor
from .network import Network, input_layer, scaled


class LeNet(Network):
    """LeNet with features from ip1, after its relu, the only one: the convolutions have none.

    ip1 sees what is left of `size` (4x4 at 28), flattened in (row, column, channel) order. mean and std: unless given,
    Caffe's, which divides pixels of 0..255 by 256. He initialisation, ip2 ~ N(0, 0.01^2).
    """

    top = "ip2"

    def __init__(
        self,
        *,
        classes: int,
        width: float,
        size: int,
        channels: int,
        rng: np.random.Generator,
        mean: Any = None,
        std: Any = None,
    ) -> None:
        if size < 15:
            raise InputError(
                f"lenet convolves 5x5 and halves the image twice, so size must be at least 15, not {size}."
            )
        self.definition = dict(name="lenet", classes=classes, width=width, size=size, channels=channels,
                               mean=mean, std=std)  # fmt: skip
        self.normalize = input_layer(
            channels, (0,) * channels if mean is None else mean, (256 / 255,) * channels if std is None else std
        )
        side = ((size - 3) // 2 - 3) // 2  # 5x5 convolutions, pools that round up
        first, second, hidden = (scaled(n, width) for n in (20, 50, 500))
        self.conv1 = Conv2D(channels, first, 5, padding="valid", rng=rng)
        self.conv2 = Conv2D(first, second, 5, padding="valid", rng=rng)
        self.feature_width = hidden
        self.ip1 = Linear(side * side * second, hidden, rng=rng)
        self.ip2 = Linear(hidden, classes, rng=rng, std=0.01)

    def features(self, x: Tensor) -> Tensor:
        x = ops.max_pool(self.conv1(self.normalize(x)), kernel=2, ceil=True)
        x = ops.max_pool(self.conv2(x), kernel=2, ceil=True)
        return ops.relu(self.ip1(x.reshape(len(x), -1)))

    def logits(self, features: Tensor) -> Tensor:
        return self.ip2(features)
