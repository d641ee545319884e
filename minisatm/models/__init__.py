"""The networks, by name: each maps (N, size, size, channels) pixels in [0, 1] to (logits, features)."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from ..errors import InputError
from .network import Network
from .resnet import RESNETS, ResNet, ResNetDefinition
from .vgg import VGG16

NAMES = ("vgg16", *RESNETS)
VGG_FIELDS = ("dropout", "mean", "std", "bgr", "exact")
RESNET_FIELDS = tuple(field.name for field in fields(ResNetDefinition))


def build(
    name: str,
    *,
    classes: int = 8,
    width: float = 1.0,
    size: int = 224,
    channels: int = 3,
    rng: int | np.random.Generator = 0,
    weights: str | None = None,
    **variant: Any,
) -> Network:
    """Build a network by name: vgg16, resnet50, resnet101 or resnet20 (the CIFAR one).

    classes: number of logits. width scales every channel count (1/8: a thin network with the same graph). size: the
    input's side in pixels. channels: 3 (RGB) or 1 (grey). rng: a seed or Generator for the starting weights. weights:
    an .h5 file to start from, whose variant of the graph is obeyed. variant: fields of the network's definition (see
    VGG16 and ResNetDefinition), such as eps or the place of the stride. Raises InputError for an unknown name.
    """
    if name not in NAMES:
        raise InputError(f"unknown network {name!r}: choose one of {', '.join(NAMES)}.")
    if classes < 2 or width <= 0 or size < 1 or channels not in (1, 3):
        raise InputError(
            f"cannot build {name} with classes={classes}, width={width}, size={size}, channels={channels}: it takes "
            "2 or more classes, a positive width and size, and 1 or 3 channels."
        )
    if weights is not None:
        from ..weights import variant_of

        variant = {**variant_of(weights, name), **variant}
    rng = np.random.default_rng(rng)
    shape = dict(classes=classes, width=width, size=size, channels=channels, rng=rng)
    for field in ("mean", "std"):
        if variant.get(field) is not None:
            variant[field] = tuple(map(float, variant[field]))
    known = VGG_FIELDS if name == "vgg16" else RESNET_FIELDS
    unknown = sorted(set(variant) - set(known))
    if unknown:
        raise InputError(f"{name} has no {unknown[0]}: its definition knows {', '.join(known)}.")
    network: Network = VGG16(**shape, **variant) if name == "vgg16" else ResNet(name, **shape, **variant)
    if weights is not None:
        network.load(weights)
    return network


__all__ = ["NAMES", "RESNETS", "Network", "ResNet", "VGG16", "build"]
