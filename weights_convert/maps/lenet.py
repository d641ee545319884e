"""Caffe's LeNet for MNIST (examples/mnist): blobs by layer and number, weight 0 and bias 1."""

from __future__ import annotations

import math
from typing import Any

from .entry import Pair

# Caffe divides pixels of 0..255 by 256 (scale: 0.00390625); ours are divided by 255 already.
VARIANTS: dict[str, dict[str, Any]] = {"caffe_lenet": dict(mean=(0.0,), std=(256 / 255,))}


def caffe_lenet(network: Any) -> list[tuple[Any, ...]]:
    filters = network.conv2.weight.shape[3]
    side = math.isqrt(network.ip1.weight.shape[0] // filters)
    layouts = {"conv1": ("OIHW->HWIO",), "conv2": ("OIHW->HWIO",), "ip2": ("OI->IO",)}
    layouts["ip1"] = ("O(CHW)->(HWC)O", (filters, side, side))
    return [
        pair
        for name in ("conv1", "conv2", "ip1", "ip2")
        for pair in (Pair(f"{name}.weight", f"{name}/0", *layouts[name]), Pair(f"{name}.bias", f"{name}/1"))
    ]
