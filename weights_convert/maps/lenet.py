"""Caffe's LeNet for MNIST (examples/mnist): arrays by layer and number, weight 0 and bias 1."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from .entry import Pair

# Caffe divides pixels of 0..255 by 256 (scale: 0.00390625); ours are already divided by 255.
VARIANTS: dict[str, dict[str, Any]] = {"caffe_lenet": dict(mean=(0.0,), std=(256 / 255,))}


def caffe_lenet(network: Any) -> Iterator[Pair]:
    filters = network.conv2.weight.shape[3]
    side = math.isqrt(network.ip1.weight.shape[0] // filters)
    for name in ("conv1", "conv2"):
        yield from (Pair(f"{name}.weight", f"{name}/0", "OIHW->HWIO"), Pair(f"{name}.bias", f"{name}/1"))
    yield from (Pair("ip1.weight", "ip1/0", "O(CHW)->(HWC)O", (filters, side, side)), Pair("ip1.bias", "ip1/1"))
    yield from (Pair("ip2.weight", "ip2/0", "OI->IO"), Pair("ip2.bias", "ip2/1"))
