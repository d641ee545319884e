"""keras.applications: arrays by layer and word; convolutions and dense layers have our layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from . import inception
from .entry import CAFFE_MEAN, KERAS_NORM, VGG_CONVS, Map, Pair, blocks, caffe_input, keras_layer, norm

RESNET = dict(stride_in="1x1", conv_bias=True, eps=1.001e-5, momentum=0.01, unbiased=False, **caffe_input(CAFFE_MEAN))


def vgg16(network: Any) -> Iterator[Pair]:
    for ours, theirs in zip((*VGG_CONVS, "fc6", "fc7", "fc8"), vgg16_order(network)):
        yield from keras_layer(ours, theirs)


def vgg16_order(network: Any) -> list[str]:
    return [f"block{ours[4]}_conv{ours[6]}" for ours in VGG_CONVS] + ["fc1", "fc2", "predictions"]


def resnet(network: Any) -> Iterator[Pair]:
    yield from _conv_norm("stem", "conv1_conv", "conv1_bn")
    for stage, i, ours, block in blocks(network):
        theirs = f"conv{stage + 1}_block{i + 1}"
        for k, name in enumerate(("project", "conv1", "conv2", "conv3")):
            if getattr(block, name) is not None:
                yield from _conv_norm(f"{ours}.{name}", f"{theirs}_{k}_conv", f"{theirs}_{k}_bn")
    yield from keras_layer("fc", "predictions")


def _conv_norm(ours: str, conv: str, bn: str) -> Iterator[Pair]:
    yield from keras_layer(f"{ours}.conv", conv)
    yield from norm(f"{ours}.bn", f"{bn}/", KERAS_NORM)


def resnet_order(network: Any) -> list[str]:
    """Return the layers in the model's order: the projection (0) comes before conv3 (see below)."""
    order = ["conv1_conv", "conv1_bn"]
    for stage, i, _, block in blocks(network):
        for k in (1, 2, 0, 3) if block.project is not None else (1, 2, 3):
            order += [f"conv{stage + 1}_block{i + 1}_{k}_conv", f"conv{stage + 1}_block{i + 1}_{k}_bn"]
    return [*order, "predictions"]


def inception_order(pairs: Callable[[Any], Iterable[Pair]], network: Any) -> list[str]:
    """Return the layers in the model's order, by Keras's rule: first those that are farthest from the end of the block.

    A convolution, its batch norm and its relu count three; layers that are equally far come in order of creation.
    """
    layer = {p.ours.rpartition(".")[0]: p.theirs.rpartition("/")[0] for p in pairs(network)}
    order: list[str] = []
    for stage in network.plan:
        for i, block in enumerate(getattr(network, stage)):
            ours = f"{stage}.{i}"
            far = _distances(ours, [block], 0)
            order += [layer[f"{n}.{part}"] for n in sorted(far, key=lambda n: -far[n]) for part in ("conv", "bn")]
            order += [layer[f"{ours}.up"]] if hasattr(block, "up") else []
    return [*order, "predictions"]


def _distances(ours: str, layers: list[Any], end: int) -> dict[str, int]:
    """Return {convolution: layers from it to the block's end}, in order of creation; ours: the name of `layers`."""
    parts: list[dict[str, int]] = []
    for i, layer in reversed(list(enumerate(layers))):
        name = ours if len(layers) == 1 and "branch" not in ours else f"{ours}.{i}"
        if hasattr(layer, "conv"):
            end += 3
            parts.insert(0, {name: end})
        elif hasattr(layer, "branches"):
            branches = (_distances(f"{name}.branch{b}", getattr(layer, f"branch{b}"), end + 1)
                        for b in range(1, layer.branches + 1))  # fmt: skip
            parts.insert(0, {n: d for branch in branches for n, d in branch.items()})
            end = max(parts[0].values())
        else:
            end += 1
    return {n: d for part in parts for n, d in part.items()}


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
