"""Caffe's LeNet for MNIST (examples/mnist): arrays by layer and number, weight 0 and bias 1."""

from __future__ import annotations

import math
from typing import Any

from .entry import Pair, caffe_layer

# Caffe divides pixels of 0..255 by 256 (scale: 0.00390625); ours are already divided by 255.
VARIANTS: dict[str, dict[str, Any]] = {"caffe_lenet": dict(mean=(0.0,), std=(256 / 255,))}


def caffe_lenet(network: Any) -> list[Pair]:
    filters = network.conv2.weight.shape[3]
    side = math.isqrt(network.ip1.weight.shape[0] // filters)
    ip1 = caffe_layer("ip1", "O(CHW)->(HWC)O", (filters, side, side))
    convs = (pair for name in ("conv1", "conv2") for pair in caffe_layer(name, "OIHW->HWIO"))
    return [*convs, *ip1, *caffe_layer("ip2", "OI->IO")]
