"""The Inception networks of keras.applications and torchvision, whose layers are created in the order of ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from minisatm.layers import ConvNorm

from .entry import KERAS_NORM, TORCH_NORM, Pair, keras_layer, norm

# Both sources scale pixels to -1 .. 1; torchvision's transform_input takes ImageNet's mean and std back first.
INPUT = dict(mean=(0.5,) * 3, std=(0.5,) * 3)
KERAS = dict(bn_scale=False, eps=1e-3, momentum=0.01, unbiased=False, count_padding=False, **INPUT)
VARIANTS: dict[str, dict[str, Any]] = {
    "keras_inception_v3": KERAS,
    "keras_inception_resnet_v2": KERAS,
    "torchvision_inception_v3": dict(
        bn_scale=True, eps=1e-3, momentum=0.1, unbiased=True, count_padding=True, **INPUT
    ),
}  # fmt: skip

MIXED_5 = "branch1x1 branch5x5_1 branch5x5_2 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3 branch_pool"
MIXED_6 = (
    "branch1x1 branch7x7_1 branch7x7_2 branch7x7_3 "
    "branch7x7dbl_1 branch7x7dbl_2 branch7x7dbl_3 branch7x7dbl_4 branch7x7dbl_5 branch_pool"
)
MIXED_7 = (
    "branch1x1 branch3x3_1 branch3x3_2a branch3x3_2b "
    "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3a branch3x3dbl_3b branch_pool"
)
TORCHVISION_BLOCKS = {
    **{f"Mixed_5{letter}": MIXED_5 for letter in "bcd"},
    "Mixed_6a": "branch3x3 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3",
    **{f"Mixed_6{letter}": MIXED_6 for letter in "bcde"},
    "Mixed_7a": "branch3x3_1 branch3x3_2 branch7x7x3_1 branch7x7x3_2 branch7x7x3_3 branch7x7x3_4",
    **{f"Mixed_7{letter}": MIXED_7 for letter in "bc"},
}
TORCHVISION = [
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"),
    *(f"{block}.{branch}" for block, branches in TORCHVISION_BLOCKS.items() for branch in branches.split()),
]


def keras_inception_v3(network: Any) -> list[Pair]:
    """Keras numbers these unnamed layers in the order of their creation: conv2d, conv2d_1 ... conv2d_93.

    The published .h5 files are of Keras 2, which counted from one: conv2d_1 ... conv2d_94, and the batch norms alike.
    """
    return [*_keras(network, _numbered(_convs(network))), *keras_layer("fc", "predictions")]


def keras_inception_resnet_v2(network: Any) -> list[Pair]:
    """The same for convolutions with batch norm (conv2d ... conv2d_202, counted from one in the published files).

    A convolution at a block's end, which is added to the shortcut, is block35_1_conv ... block8_10_conv. The last
    convolution of the network is conv_7b.
    """
    *convs, last = _convs(network)
    pairs = list(_keras(network, {**_numbered(convs), last: ("conv_7b", "conv_7b_bn")}))
    for side in (35, 17, 8):
        for i, block in enumerate(getattr(network, f"stage{side}")):
            if hasattr(block, "up"):
                pairs += keras_layer(f"stage{side}.{i}.up", f"block{side}_{i}_conv")
    return [*pairs, *keras_layer("fc", "predictions")]


def torchvision_inception_v3(network: Any) -> list[Pair]:
    pairs = []
    for ours, theirs in zip(_convs(network), TORCHVISION, strict=True):
        pairs.append(Pair(f"{ours}.conv.weight", f"{theirs}.conv.weight", "OIHW->HWIO"))
        pairs += norm(f"{ours}.bn", f"{theirs}.bn.", TORCH_NORM)
    return [*pairs, Pair("fc.weight", "fc.weight", "OI->IO"), Pair("fc.bias", "fc.bias")]


def _convs(network: Any) -> list[str]:
    return [name for name, module in network.modules() if isinstance(module, ConvNorm)]


def _numbered(convs: list[str]) -> dict[str, tuple[str, str]]:
    """Return Keras's names of each convolution and its batch norm: conv2d and batch_normalization, then conv2d_1 ..."""
    ends = ["", *(f"_{k}" for k in range(1, len(convs)))]
    return {ours: (f"conv2d{end}", f"batch_normalization{end}") for ours, end in zip(convs, ends)}


def _keras(network: Any, names: dict[str, tuple[str, str]]) -> Iterator[Pair]:
    weights = network.state()
    for ours, (conv, bn) in names.items():
        yield Pair(f"{ours}.conv.weight", f"{conv}/kernel")
        yield from (pair for pair in norm(f"{ours}.bn", f"{bn}/", KERAS_NORM) if pair.ours in weights)
