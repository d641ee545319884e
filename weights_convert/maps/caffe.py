"""Caffe: arrays by layer and number (weight 0, bias 1); (out, in, h, w), BGR, images flattened channels first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from . import lenet
from .entry import CAFFE_MEAN, VGG_CONVS, Map, Pair, caffe_input, caffe_layer

VGG_FACE_MEAN = (93.5940, 104.7624, 129.1863)  # blue, green, red, of the faces it was trained on


def vgg_face(network: Any) -> Iterator[Pair]:
    for name in VGG_CONVS:
        yield from caffe_layer(name, "OIHW->HWIO")
    side = network.definition["size"] // 32
    yield from caffe_layer("fc6", "O(CHW)->(HWC)O", (network.fc6.weight.shape[0] // side**2, side, side))
    for name in ("fc7", "fc8"):
        yield from caffe_layer(name, "OI->IO")


MAPS = (
    Map("VGG_FACE", "vgg16", 224, 2622, dict(dropout=0.5, **caffe_input(VGG_FACE_MEAN)), vgg_face,
        (("VGG_FACE.caffemodel", "580 MB"),), top=("fc8/0", "fc8/1"), head=("fc6", "fc7")),
    Map("VGG_ILSVRC_16", "vgg16", 224, 1000, dict(dropout=0.5, **caffe_input(CAFFE_MEAN)), vgg_face,
        (("VGG_ILSVRC_16_layers.caffemodel", "553 MB"),), top=("fc8/0", "fc8/1"), head=("fc6", "fc7")),
    Map("caffe", "lenet", 28, 10, dict(lenet.VARIANTS["caffe_lenet"]), lenet.caffe_lenet,
        (("lenet_iter_10000.caffemodel", "1.7 MB"),), tried=True, channels=1, top=("ip2/0", "ip2/1")),
)  # fmt: skip
