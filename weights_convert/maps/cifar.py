"""The CIFAR ResNet20 of akamaster's pytorch_resnet_cifar10: torchvision's names, but "linear" for the last layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .entry import COUNTS, Map, Pair
from .torchvision import dense, resnet


def resnet20(network: Any) -> Iterator[Pair]:
    yield from (pair for pair in resnet(network) if not pair.ours.startswith("fc."))
    yield from dense("fc", "linear")


MAPS = (
    Map("pytorch_resnet_cifar10", "resnet20", 32, 10, {}, resnet20, (("resnet20-12fca82f.th", "1.1 MB"),), (COUNTS,),
        tried=True, top=("linear.weight", "linear.bias")),
)  # fmt: skip
