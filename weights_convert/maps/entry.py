"""What a map is, and what several sources have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

KERAS_NORM = ("gamma", "beta", "moving_mean", "moving_variance")  # our gamma, beta, mean and var
TORCH_NORM = ("weight", "bias", "running_mean", "running_var")
COUNTS = r".*num_batches_tracked"  # PyTorch counts batches; no network needs the number
CAFFE_MEAN = (103.939, 116.779, 123.68)  # blue, green, red in 0..255: the mean of ImageNet in Caffe's networks


class Pair(NamedTuple):
    """Our weight, its name in the source, and the change of layout.

    layout: same, OIHW->HWIO (convolution), OI->IO (dense layer) or O(CHW)->(HWC)O (dense layer on a flattened image,
    whose (C, H, W) is chw).
    """

    ours: str
    theirs: str
    layout: str = "same"
    chw: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Map:
    """A name map: how a source's files for one network become our weights.

    variant: the fields of the definition that models.build needs to build the source's graph. pairs: a function from a
    network built so to its Pairs. ignored: patterns of tensors that our network does not need. files: public names and
    sizes. order: the names of the layers in the model's order, for Keras 3 files, which only number them. top: weight
    and bias of the last layer in the source; head: our other layers that are missing in a file without top ("notop").
    tried: tested on the published file. compared: the library whose networks and files the map was compared with.
    """

    source: str
    model: str
    size: int
    classes: int
    variant: dict[str, Any]
    pairs: Callable[[Any], Iterable[Pair]]
    files: tuple[tuple[str, str], ...]
    ignored: tuple[str, ...] = ()
    order: Callable[[Any], Sequence[str]] | None = None
    tried: bool = False
    compared: str = ""
    channels: int = 3
    top: tuple[str, ...] = ()
    head: tuple[str, ...] = ()


def caffe_input(mean: Sequence[float]) -> dict[str, Any]:
    """Return the fields for networks that take BGR pixels of 0..255 less a mean; ours are 0..1."""
    return dict(bgr=True, mean=tuple(m / 255 for m in mean), std=(1 / 255,) * 3)


def keras_layer(ours: str, theirs: str) -> Iterator[Pair]:
    """Yield the pairs of a Keras layer's kernel and bias, which have our layout."""
    yield from (Pair(f"{ours}.weight", f"{theirs}/kernel"), Pair(f"{ours}.bias", f"{theirs}/bias"))


def caffe_layer(name: str, layout: str, chw: tuple[int, int, int] | None = None) -> Iterator[Pair]:
    """Yield the pairs of a Caffe layer's two arrays, where it has our name."""
    yield from (Pair(f"{name}.weight", f"{name}/0", layout, chw), Pair(f"{name}.bias", f"{name}/1"))


def norm(ours: str, theirs: str, words: Sequence[str]) -> Iterator[Pair]:
    """Yield the pairs of a batch norm's gamma, beta, mean and var; words: the source's names of these four."""
    for name, word in zip(("gamma", "beta", "mean", "var"), words):
        yield Pair(f"{ours}.{name}", f"{theirs}{word}")


def blocks(network: Any) -> Iterator[tuple[int, int, str, Any]]:
    """Yield (stage from 1, number from 0, our name, block) of each residual block."""
    for stage in range(1, len(network.d.blocks) + 1):
        for i, block in enumerate(getattr(network, f"stage{stage}")):
            yield stage, i, f"stage{stage}.{i}", block


VGG_CONVS = [f"conv{b}_{i}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, n + 1)]
