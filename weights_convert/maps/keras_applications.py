"""keras.applications: weights by layer and weight name; convolutions and dense layers lie as ours do."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from . import inception
from .entry import CAFFE_MEAN, KERAS_NORM, VGG_CONVS, Map, Pair, blocks, caffe_input, norm

RESNET = dict(stride_in="1x1", conv_bias=True, eps=1.001e-5, momentum=0.01, unbiased=False, **caffe_input(CAFFE_MEAN))


def vgg16(network: Any) -> Iterator[Pair]:
    for ours in VGG_CONVS:
        theirs = f"block{ours[4]}_conv{ours[6]}"
        yield from (Pair(f"{ours}.weight", f"{theirs}/kernel"), Pair(f"{ours}.bias", f"{theirs}/bias"))
    for ours, theirs in (("fc6", "fc1"), ("fc7", "fc2"), ("fc8", "predictions")):
        yield from (Pair(f"{ours}.weight", f"{theirs}/kernel"), Pair(f"{ours}.bias", f"{theirs}/bias"))


def vgg16_order(network: Any) -> list[str]:
    return [f"block{ours[4]}_conv{ours[6]}" for ours in VGG_CONVS] + ["fc1", "fc2", "predictions"]


def resnet(network: Any) -> Iterator[Pair]:
    yield from _conv_norm("stem", "conv1_conv", "conv1_bn")
    for stage, i, ours, block in blocks(network):
        theirs = f"conv{stage + 1}_block{i + 1}"
        for k, name in enumerate(("project", "conv1", "conv2", "conv3")):
            if getattr(block, name) is not None:
                yield from _conv_norm(f"{ours}.{name}", f"{theirs}_{k}_conv", f"{theirs}_{k}_bn")
    yield from (Pair("fc.weight", "predictions/kernel"), Pair("fc.bias", "predictions/bias"))


def _conv_norm(ours: str, conv: str, bn: str) -> Iterator[Pair]:
    yield from (Pair(f"{ours}.conv.weight", f"{conv}/kernel"), Pair(f"{ours}.conv.bias", f"{conv}/bias"))
    yield from norm(f"{ours}.bn", f"{bn}/", KERAS_NORM)


def resnet_order(network: Any) -> list[str]:
    """The projection stands before the last convolution, since both are equally far from the end."""
    found = ["conv1_conv", "conv1_bn"]
    for stage, i, _, block in blocks(network):
        for k in (1, 2, 0, 3) if block.project is not None else (1, 2, 3):
            found += [f"conv{stage + 1}_block{i + 1}_{k}_conv", f"conv{stage + 1}_block{i + 1}_{k}_bn"]
    return [*found, "predictions"]


def inception_order(pairs: Any, network: Any) -> list[str]:
    """A block's layers stand by how far they are from its end (conv, norm, relu: three each), then as they were made.

    Keras sorts a model's layers so.
    """
    layer = {p.ours.rpartition(".")[0]: p.theirs.rpartition("/")[0] for p in map(Pair._make, pairs(network))}
    found: list[str] = []
    for stage in network.plan:
        for i, block in enumerate(getattr(network, stage)):
            ours = f"{stage}.{i}"
            far = _distances(ours, [block], 0)
            found += [
                layer[f"{n}.{part}"] for n in sorted(far, key=far.__getitem__, reverse=True) for part in ("conv", "bn")
            ]
            found += [layer[f"{ours}.up"]] if hasattr(block, "up") else []
    return [*found, "predictions"]


def _distances(ours: str, layers: list[Any], end: int) -> dict[str, int]:
    """{convolution: layers from it to the block's end}, in the order of their making; ours: these layers' name."""
    found: list[dict[str, int]] = []
    for i, layer in reversed(list(enumerate(layers))):
        name = ours if len(layers) == 1 and "branch" not in ours else f"{ours}.{i}"
        if hasattr(layer, "conv"):
            end += 3
            found.insert(0, {name: end})
        elif hasattr(layer, "branches"):
            own = [
                _distances(f"{name}.branch{b}", getattr(layer, f"branch{b}"), end + 1)
                for b in range(1, layer.branches + 1)
            ]
            found.insert(0, {n: d for branch in own for n, d in branch.items()})
            end = max(found[0].values())
        else:
            end += 1
    return {n: d for part in found for n, d in part.items()}


def _files(name: str, size: str, notop: str) -> tuple[tuple[str, str], ...]:
    return (
        (f"{name}_weights_tf_dim_ordering_tf_kernels.h5", size),
        (f"{name}_weights_tf_dim_ordering_tf_kernels_notop.h5", notop),
    )


TOP = ("predictions/kernel", "predictions/bias")
SOURCE = "keras.applications"
MAPS = (
    Map(SOURCE, "vgg16", 224, 1000, dict(dropout=0.0, **caffe_input(CAFFE_MEAN)), vgg16,
        _files("vgg16", "553 MB", "59 MB"), order=vgg16_order, top=TOP, head=("fc6", "fc7"), compared="Keras"),
    Map(SOURCE, "resnet50", 224, 1000, RESNET, resnet, _files("resnet50", "103 MB", "95 MB"),
        order=resnet_order, top=TOP, compared="Keras"),
    Map(SOURCE, "resnet101", 224, 1000, RESNET, resnet, _files("resnet101", "179 MB", "171 MB"),
        order=resnet_order, top=TOP, compared="Keras"),
    Map(SOURCE, "inception_v3", 299, 1000, inception.VARIANTS["keras_inception_v3"], inception.keras_inception_v3,
        _files("inception_v3", "96 MB", "88 MB"), order=partial(inception_order, inception.keras_inception_v3),
        top=TOP, compared="Keras"),
    Map(SOURCE, "inception_resnet_v2", 299, 1000, inception.VARIANTS["keras_inception_resnet_v2"],
        inception.keras_inception_resnet_v2, _files("inception_resnet_v2", "225 MB", "219 MB"),
        order=partial(inception_order, inception.keras_inception_resnet_v2), top=TOP, compared="Keras"),
)  # fmt: skip
