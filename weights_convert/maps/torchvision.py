"""torchvision: convolutions (out, in, h, w), dense layers (out, in), images flattened channels first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from . import inception
from .entry import COUNTS, TORCH_NORM, VGG_CONVS, Map, Pair, blocks, norm


def conv(ours: str, theirs: str, bias: bool = True) -> Iterator[Pair]:
    yield Pair(f"{ours}.weight", f"{theirs}.weight", "OIHW->HWIO")
    if bias:
        yield Pair(f"{ours}.bias", f"{theirs}.bias")


def dense(ours: str, theirs: str, chw: tuple[int, int, int] | None = None) -> Iterator[Pair]:
    layout = "O(CHW)->(HWC)O" if chw else "OI->IO"
    yield from (Pair(f"{ours}.weight", f"{theirs}.weight", layout, chw), Pair(f"{ours}.bias", f"{theirs}.bias"))


def vgg16(network: Any) -> Iterator[Pair]:
    place = 0  # the index in `features`: a convolution, perhaps its batch norm, a relu; after each block a pool
    for ours in VGG_CONVS:
        if ours.endswith("_1") and place:
            place += 1
        if network.definition.get("batch_norm"):
            yield from conv(f"{ours}.conv", f"features.{place}")
            yield from norm(f"{ours}.bn", f"features.{place + 1}.", TORCH_NORM)
            place += 3
        else:
            yield from conv(ours, f"features.{place}")
            place += 2
    side = network.definition["size"] // 32
    yield from dense("fc6", "classifier.0", (network.fc6.weight.shape[0] // side**2, side, side))
    yield from dense("fc7", "classifier.3")
    yield from dense("fc8", "classifier.6")


def resnet(network: Any) -> Iterator[Pair]:
    yield from conv("stem.conv", "conv1", bias=False)
    yield from norm("stem.bn", "bn1.", TORCH_NORM)
    for stage, i, ours, block in blocks(network):
        theirs = f"layer{stage}.{i}"
        for name in ("conv1", "conv2", "conv3") if network.d.bottleneck else ("conv1", "conv2"):
            yield from conv(f"{ours}.{name}.conv", f"{theirs}.{name}", bias=False)
            yield from norm(f"{ours}.{name}.bn", f"{theirs}.bn{name[-1]}.", TORCH_NORM)
        if block.project is not None:
            yield from conv(f"{ours}.project.conv", f"{theirs}.downsample.0", bias=False)
            yield from norm(f"{ours}.project.bn", f"{theirs}.downsample.1.", TORCH_NORM)
    yield from dense("fc", "fc")


SOURCE = "torchvision"
VGG_TOP, TOP = ("classifier.6.weight", "classifier.6.bias"), ("fc.weight", "fc.bias")
MAPS = (
    Map(SOURCE, "vgg16", 224, 1000, dict(dropout=0.5), vgg16, (("vgg16-397923af.pth", "528 MB"),),
        top=VGG_TOP, compared="torchvision"),
    Map(SOURCE, "vgg16", 224, 1000, dict(dropout=0.5, batch_norm=True), vgg16, (("vgg16_bn-6c64b313.pth", "528 MB"),),
        (COUNTS,), top=VGG_TOP, compared="torchvision"),
    Map(SOURCE, "resnet50", 224, 1000, {}, resnet,
        (("resnet50-0676ba61.pth", "98 MB"), ("resnet50-11ad3fa6.pth", "98 MB")), (COUNTS,),
        top=TOP, compared="torchvision"),
    Map(SOURCE, "resnet101", 224, 1000, {}, resnet,
        (("resnet101-63fe2227.pth", "171 MB"), ("resnet101-cd907fc2.pth", "171 MB")), (COUNTS,),
        top=TOP, compared="torchvision"),
    Map(SOURCE, "inception_v3", 299, 1000, inception.VARIANTS["torchvision_inception_v3"],
        inception.torchvision_inception_v3, (("inception_v3_google-0cc3c7bd.pth", "104 MB"),),
        (r"AuxLogits\..*", COUNTS), top=TOP, compared="torchvision"),
)  # fmt: skip
