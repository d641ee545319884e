"""The networks by name: each maps images (N, size, size, channels) in [0, 1] to (logits, features)."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..inputs import did_you_mean, python_number, unknown
from . import files
from .inception import INCEPTIONS, Inception, InceptionDefinition
from .mnist import STRUCTURES, LeNet, TramerNetwork
from .network import Network
from .resnet import RESNETS, ResNet, ResNetDefinition
from .vgg import VGG16

NETWORKS: dict[str, Any] = {
    "vgg16": VGG16,
    **{name: partial(ResNet, name) for name in RESNETS},
    **{name: partial(Inception, name) for name in INCEPTIONS},
    "lenet": LeNet,
    **{name: partial(TramerNetwork, name) for name in STRUCTURES},
}
NAMES = tuple(NETWORKS)
SHAPE = {"classes": 8, "width": 1.0, "size": 224, "channels": 3}  # the defaults of build
INCEPTION_FIELDS = tuple(field.name for field in fields(InceptionDefinition))
FIELDS = {  # what `variant` may change
    "vgg16": ("dropout", "mean", "std", "bgr", "exact", "batch_norm"),
    **dict.fromkeys(RESNETS, tuple(field.name for field in fields(ResNetDefinition))),
    "inception_v3": tuple(name for name in INCEPTION_FIELDS if name != "zero_residual"),  # it has no residual blocks
    "inception_resnet_v2": INCEPTION_FIELDS,
    "lenet": ("mean", "std"),
    **dict.fromkeys(STRUCTURES, ("dropout", "mean", "std", "exact")),
}


def build(
    name: str | None, *, classes: int | None = None, width: float | None = None, size: int | None = None,
    channels: int | None = None, rng: int | np.random.Generator = 0, weights: str | Path | None = None, **variant: Any,
) -> Network:  # fmt: skip
    """Build a network by name: vgg16, resnet50, resnet101, resnet20 (the CIFAR one), inception_v3, inception_resnet_v2,
    lenet (Caffe's, for MNIST), or mnist_a, mnist_b, mnist_c, mnist_d (Tramer's four, for MNIST).

    classes: the number of logits, default 8. width: a factor on every channel count, default 1 (1/8 gives a thin
    network with the same graph). size: the side of the images in pixels, default 224. channels: 3 (RGB, default) or 1
    (grey). rng: a seed or Generator for the starting weights. weights: an .h5 file; its network is built and its
    weights are loaded. It then gives name (if that is None) and every part of the shape and variant that is not given
    here. variant: fields of the network's definition (see VGG16, LeNet, TramerNetwork, ResNetDefinition,
    InceptionDefinition), such as eps or stride_in. Raises InputError for an unknown name or an impossible value.
    """
    saved: dict[str, Any] = {}
    if weights is not None:
        saved = files.definition_of(weights)
        name = saved["name"] if name is None else name
        variant = {**files.variant_of(weights, str(name)), **variant}
    if name not in NAMES:
        raise InputError(unknown("network", name, NAMES))
    asked = dict(classes=classes, width=width, size=size, channels=channels)
    shape: dict[str, Any] = SHAPE | {field: saved[field] for field in SHAPE if field in saved}
    shape |= {field: python_number(value) for field, value in asked.items() if value is not None}
    if shape["classes"] < 2 or shape["width"] <= 0 or shape["size"] < 1 or shape["channels"] not in (1, 3):
        raise InputError(
            f"cannot build {name} with {', '.join(f'{field}={value}' for field, value in shape.items())}: choose 2 or "
            "more classes, a width and a size above 0, and 1 or 3 channels."
        )
    if strange := sorted(set(variant) - set(FIELDS[name])):
        near = did_you_mean(strange[0], FIELDS[name])
        raise InputError(f"{name} has no {strange[0]}: its definition knows {', '.join(FIELDS[name])}{near}.")
    variant = {field: python_number(value) for field, value in variant.items()}
    for field in ("mean", "std"):
        if variant.get(field) is not None:
            variant[field] = tuple(map(float, variant[field]))
    network: Network = NETWORKS[name](**shape, rng=np.random.default_rng(rng), **variant)
    if weights is not None:
        network.load(weights)
    return network


__all__ = ["NAMES", "RESNETS", "Inception", "LeNet", "Network", "ResNet", "TramerNetwork", "VGG16", "build"]
