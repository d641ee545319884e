"""keras-vggface (rcmalli): VGG16 of 2,622 and ResNet50 of 8,631 people. The published files were not available."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .entry import KERAS_NORM, VGG_CONVS, Map, Pair, blocks, caffe_input, keras_layer, norm

VGG_MEAN, RESNET_MEAN = (93.5940, 104.7624, 129.1863), (91.4953, 103.8827, 131.0912)  # its preprocessing 1 and 2
PLACES = {"conv1": "1x1_reduce", "conv2": "3x3", "conv3": "1x1_increase", "project": "1x1_proj"}


def vgg16(network: Any) -> Iterator[Pair]:
    for name in (*VGG_CONVS, "fc6", "fc7", "fc8"):
        yield from keras_layer(name, name)


def resnet50(network: Any) -> Iterator[Pair]:
    yield from _conv_norm("stem", "conv1/7x7_s2")
    for stage, i, ours, block in blocks(network):
        theirs = f"conv{stage + 1}_{i + 1}_"
        for name, word in PLACES.items():
            if getattr(block, name) is not None:
                yield from _conv_norm(f"{ours}.{name}", theirs + word)
    yield from keras_layer("fc", "classifier")


def _conv_norm(ours: str, theirs: str) -> Iterator[Pair]:
    yield Pair(f"{ours}.conv.weight", f"{theirs}/kernel")
    yield from norm(f"{ours}.bn", f"{theirs}/bn/", KERAS_NORM)


RESNET = dict(stride_in="1x1", eps=1e-3, momentum=0.01, unbiased=False, stem_padding="same", pool_padding="valid",
              **caffe_input(RESNET_MEAN))  # fmt: skip
SOURCE = "keras-vggface"
MAPS = (
    Map(SOURCE, "vgg16", 224, 2622, dict(dropout=0.0, **caffe_input(VGG_MEAN)), vgg16,
        (("rcmalli_vggface_tf_vgg16.h5", "580 MB"), ("rcmalli_vggface_tf_notop_vgg16.h5", "59 MB")),
        compared="Keras", top=("fc8/kernel", "fc8/bias"), head=("fc6", "fc7")),
    Map(SOURCE, "resnet50", 224, 8631, RESNET, resnet50,
        (("rcmalli_vggface_tf_resnet50.h5", "165 MB"), ("rcmalli_vggface_tf_notop_resnet50.h5", "94 MB")),
        compared="Keras", top=("classifier/kernel", "classifier/bias")),
)  # fmt: skip
