"""What a map is, and the parts that several sources have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from minisatm.models import Network

KERAS_NORM = ("gamma", "beta", "moving_mean", "moving_variance")  # our gamma, beta, mean and var
TORCH_NORM = ("weight", "bias", "running_mean", "running_var")
COUNTS = r".*num_batches_tracked"  # PyTorch's, which no network needs
CAFFE_MEAN = (103.939, 116.779, 123.68)  # blue, green, red of 0..255, as the first networks for ImageNet took off


class Pair(NamedTuple):
    """Our weight, its name in the source, and how it lies there; of flattened images also their (C, H, W)."""

    ours: str
    theirs: str
    layout: str = "same"
    chw: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Map:
    """A source's files for one network.

    variant: fields of the definition for models.build. pairs: of a network that was built so. ignored: patterns of
    source tensors that have no place in it. files: public names, with their sizes. order: for Keras 3 files, which know
    layers by class and number only, the names of the layers as the model lists them. top: the last layer's weight and
    bias in the source; head: our layers before it that a file without its top lacks as well. tried: on the published
    file itself; compared: with whose networks, on files that they wrote.
    """

    source: str
    model: str
    size: int
    classes: int
    variant: dict[str, Any]
    pairs: Callable[[Network], Sequence[tuple[Any, ...]]]
    files: tuple[tuple[str, str], ...]
    ignored: tuple[str, ...] = ()
    order: Callable[[Network], Sequence[str]] | None = None
    tried: bool = False
    compared: str = ""
    channels: int = 3
    top: tuple[str, ...] = ()
    head: tuple[str, ...] = ()


def caffe_input(mean: Sequence[float]) -> dict[str, Any]:
    """BGR pixels of 0..255 less their mean, in our pixels of 0..1."""
    return dict(bgr=True, mean=tuple(m / 255 for m in mean), std=(1 / 255,) * 3)


def norm(ours: str, theirs: str, words: Sequence[str]) -> Iterator[Pair]:
    """gamma, beta, mean and var of a batch norm; words: what the source calls these four."""
    for name, word in zip(("gamma", "beta", "mean", "var"), words):
        yield Pair(f"{ours}.{name}", f"{theirs}{word}")


def blocks(network: Any) -> Iterator[tuple[int, int, str, Any]]:
    """(stage, number, our name, block) of each residual block, counted from one and from zero."""
    for stage in range(1, len(network.d.blocks) + 1):
        for i, block in enumerate(getattr(network, f"stage{stage}")):
            yield stage, i, f"stage{stage}.{i}", block


VGG_CONVS = [f"conv{b}_{i}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, n + 1)]
