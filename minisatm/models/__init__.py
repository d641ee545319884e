"""The networks, by name: each maps (N, size, size, channels) pixels in [0, 1] to (logits, features)."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np

from ..errors import InputError
from .inception import INCEPTIONS, Inception
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
SHAPE = {"classes": 8, "width": 1.0, "size": 224, "channels": 3}  # unless given, or read from a file
FIELDS = {
    "vgg16": ("dropout", "mean", "std", "bgr", "exact", "batch_norm"),
    **{name: tuple(field.name for field in fields(ResNetDefinition)) for name in RESNETS},
    **{name: tuple(field.name for field in fields(definition)) for name, (definition, _) in INCEPTIONS.items()},
    "lenet": ("mean", "std"),
    **dict.fromkeys(STRUCTURES, ("dropout", "mean", "std", "exact")),
}


def build(
    name: str | None,
    *,
    classes: int | None = None,
    width: float | None = None,
    size: int | None = None,
    channels: int | None = None,
    rng: int | np.random.Generator = 0,
    weights: str | None = None,
    **variant: Any,
) -> Network:
    """Build a network by name: vgg16, resnet50, resnet101, resnet20 (the CIFAR one), inception_v3, inception_resnet_v2,
    lenet (Caffe's, for MNIST), or mnist_a, mnist_b, mnist_c, mnist_d (Tramer's four, for MNIST).

    classes: number of logits, 8 unless given. width, 1 unless given, scales every channel count (1/8: a thin network
    with the same graph). size: the input's side in pixels, 224 unless given. channels: 3 (RGB, unless given) or 1
    (grey). rng: a seed or Generator for the starting weights. weights: an .h5 file to start from, whose network is
    built: its kind (if name is None), and of its shape and variant what is not given here. variant: fields of the
    network's definition (see VGG16, LeNet, TramerNetwork, ResNetDefinition, InceptionDefinition), such as eps or the
    place of the stride. Raises InputError for an unknown name.
    """
    saved: dict[str, Any] = {}
    if weights is not None:
        from .files import definition_of, variant_of

        saved = definition_of(weights)
        name = saved.get("name") if name is None else name
        variant = {**variant_of(weights, str(name)), **variant}
    classes, width, size, channels = (
        saved.get(field, default) if given is None else given
        for given, field, default in zip((classes, width, size, channels), SHAPE, SHAPE.values())
    )
    if name not in NAMES:
        raise InputError(f"unknown network {name!r}: choose one of {', '.join(NAMES)}.")
    if classes < 2 or width <= 0 or size < 1 or channels not in (1, 3):
        raise InputError(
            f"cannot build {name} with classes={classes}, width={width}, size={size}, channels={channels}: it takes "
            "2 or more classes, a positive width and size, and 1 or 3 channels."
        )
    rng = np.random.default_rng(rng)
    shape = dict(classes=classes, width=width, size=size, channels=channels, rng=rng)
    for field in ("mean", "std"):
        if variant.get(field) is not None:
            variant[field] = tuple(map(float, variant[field]))
    unknown = sorted(set(variant) - set(FIELDS[name]))
    if unknown:
        raise InputError(f"{name} has no {unknown[0]}: its definition knows {', '.join(FIELDS[name])}.")
    network: Network = NETWORKS[name](**shape, **variant)
    if weights is not None:
        network.load(weights)
    return network


__all__ = ["NAMES", "RESNETS", "Inception", "LeNet", "Network", "ResNet", "TramerNetwork", "VGG16", "build"]
