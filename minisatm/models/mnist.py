"""Networks for MNIST: LeNet as Caffe's example has it (after LeCun et al. 1998), and the four of Tramer et al. 2018."""

from __future__ import annotations

from itertools import count
from typing import Any, NamedTuple

import numpy as np

from .. import ops
from ..errors import InputError
from ..layers import Conv2D, Dropout, Linear, Module
from ..tensor import Tensor
from .network import Network, input_layer, scaled


class LeNet(Network):
    """LeNet with features from ip1, after the only relu: the convolutions have none.

    The input of ip1 is the image after two pools (4x4 at size 28), flattened in (row, column, channel) order. mean and
    std: Caffe's unless given (it divides pixels of 0..255 by 256). He initialisation, ip2 ~ N(0, 0.01^2).
    """

    top = "ip2"
    usual_pixels = ((0,) * 3, (256 / 255,) * 3)

    def __init__(
        self, *, classes: int, width: float, size: int, channels: int, rng: np.random.Generator, mean: Any = None,
        std: Any = None,
    ) -> None:  # fmt: skip
        if size < 15:
            raise InputError(f"lenet has 5x5 kernels and halves the image twice: size must be at least 15, not {size}.")
        self.definition = dict(name="lenet", classes=classes, width=width, size=size, channels=channels,
                               mean=mean, std=std)  # fmt: skip
        self.normalize = input_layer(channels, mean, std, usual=self.usual_pixels)
        side = ((size - 3) // 2 - 3) // 2  # after two 5x5 convolutions, each with a pool that rounds up
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


class Conv(NamedTuple):
    """A convolution with a relu. "same" pads as in TensorFlow: if the zeros are odd, one more at the bottom right."""

    filters: int
    kernel: int
    stride: int = 1
    padding: str = "valid"

    def side(self, size: int) -> int:
        """The side of the output for an image of this side; below 1 if the kernel does not fit into the image."""
        return -(-(size if self.padding == "same" else size - self.kernel + 1) // self.stride)


class Dense(NamedTuple):
    units: int  # of a dense layer with a relu


class Drop(NamedTuple):
    rate: float  # of dropout


# After the last dropout, a dense layer "fc" gives the logits.
STRUCTURES: dict[str, tuple[Conv | Dense | Drop, ...]] = {
    "mnist_a": (Conv(64, 5), Conv(64, 5), Drop(0.25), Dense(128), Drop(0.5)),
    "mnist_b": (Drop(0.2), Conv(64, 8, stride=2, padding="same"), Conv(128, 6, stride=2), Conv(128, 5), Drop(0.5)),
    "mnist_c": (Conv(128, 3), Conv(64, 3), Drop(0.25), Dense(128), Drop(0.5)),
    "mnist_d": (Dense(300), Drop(0.5), Dense(300), Drop(0.5), Dense(300), Drop(0.5), Dense(300), Drop(0.5)),
}


class TramerNetwork(Network):
    """Structure A, B, C or D of Ensemble Adversarial Training (Tramer et al. 2018): no pooling, no batch norm.

    hidden[i] is layer i of the table above; the features are the input of the last dropout, flattened in (row, column,
    channel) order. dropout: one rate for all dropouts, or one for each in their order; the table's unless given. mean
    and std: 0 and 1 unless given. exact: no Winograd convolutions. He initialisation, fc ~ N(0, 0.01^2).
    """

    top = "fc"
    usual_pixels = ((0,) * 3, (1,) * 3)

    def __init__(
        self, name: str, *, classes: int, width: float, size: int, channels: int, rng: np.random.Generator,
        dropout: Any = None, mean: Any = None, std: Any = None, exact: bool = False,
    ) -> None:  # fmt: skip
        structure = STRUCTURES[name]
        if side_left(structure, size) < 1:
            least = next(n for n in count(size) if side_left(structure, n) >= 1)
            raise InputError(f"{name} has large kernels without padding: size must be at least {least}, not {size}.")
        rates = drop_rates(name, dropout)
        self.definition = dict(name=name, classes=classes, width=width, size=size, channels=channels,
                               dropout=rates, mean=mean, std=std, exact=exact)  # fmt: skip
        self.normalize = input_layer(channels, mean, std, usual=self.usual_pixels)
        self.hidden: list[Module] = []
        remaining_rates = iter(rates)
        for layer in structure:
            if isinstance(layer, Drop):
                self.hidden.append(Dropout(next(remaining_rates)))
            elif isinstance(layer, Conv):
                n = scaled(layer.filters, width)
                self.hidden.append(Conv2D(channels, n, layer.kernel, stride=layer.stride, padding=layer.padding,
                                          exact=exact, rng=rng))  # fmt: skip
                size, channels = layer.side(size), n
            else:
                n = scaled(layer.units, width)
                self.hidden.append(Linear(size * size * channels, n, rng=rng))
                size, channels = 1, n
        self.feature_width = size * size * channels
        self.fc = Linear(self.feature_width, classes, rng=rng, std=0.01)

    def features(self, x: Tensor) -> Tensor:
        x = self.normalize(x)
        for layer in self.hidden[:-1]:
            if isinstance(layer, Conv2D):
                x = layer(x, relu=True)
            elif isinstance(layer, Linear):
                x = ops.relu(layer(x.reshape(len(x), -1)))
            else:
                x = layer(x)
        return x.reshape(len(x), -1)

    def logits(self, features: Tensor) -> Tensor:
        return self.fc(self.hidden[-1](features))


def side_left(structure: tuple[Any, ...], size: int) -> int:
    """The side of the image after every convolution of a structure."""
    for layer in structure:
        size = layer.side(size) if isinstance(layer, Conv) else size
    return size


def drop_rates(name: str, rates: Any) -> tuple[float, ...]:
    """The rate of each dropout of a structure, first to last: the table's if rates is None; one rate serves for all."""
    defaults = tuple(layer.rate for layer in STRUCTURES[name] if isinstance(layer, Drop))
    chosen = defaults if rates is None else tuple(map(float, np.ravel(rates)))
    chosen = chosen * len(defaults) if len(chosen) == 1 else chosen
    if len(chosen) != len(defaults) or not all(0 <= rate < 1 for rate in chosen):
        raise InputError(
            f"dropout {rates}: {name} takes one rate or {len(defaults)}, from 0 to below 1; usual are {defaults}."
        )
    return chosen
