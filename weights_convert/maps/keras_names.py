"""The names of Keras's tensors as the maps know them: each version of Keras writes other names into its files."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from .entry import Map, Pair

Tensors = dict[str, np.ndarray]
KERAS_3 = {  # files of Keras 3 number the layers of a class, and a layer's arrays in this order
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}
KERAS_1 = {  # it called the variance running_std
    "W": "kernel", "b": "bias", "gamma": "gamma", "beta": "beta", "running_mean": "moving_mean",
    "running_std": "moving_variance",
}  # fmt: skip


def renamed(tensors: Tensors, format: str, m: Map, network: Any, pairs: list[Pair]) -> Tensors:
    """Return a file's tensors by the map's names; network: built for this map, pairs: its m.pairs(network)."""
    if format == "Keras 3 weights":
        return _by_layer(tensors, m, network, pairs)
    if format.startswith("Keras"):
        return _counted_from_zero({_of_keras_1(name): array for name, array in tensors.items()})
    return dict(tensors)


def _of_keras_1(name: str) -> str:
    """Return "block1_conv1/kernel" for "block1_conv1/block1_conv1_W_1", as the first published files call it."""
    last = name.rpartition("/")[2]
    stem, _, number = last.rpartition("_")
    if not number.isdecimal():
        stem = last
    for old, new in KERAS_1.items():
        layer = stem.removesuffix(f"_{old}")
        if layer != stem and name.startswith(f"{layer}/"):
            return f"{layer}/{new}"
    return name


def _counted_from_zero(tensors: Tensors) -> Tensors:
    """Count the unnamed layers of each class from zero: conv2d, conv2d_1 ...

    Keras counts through a session: in the file of a second network the first layer may be conv2d_95.
    """
    numbered = re.compile(r"(conv2d|batch_normalization|dense|activation)(?:_(\d{1,6}))?/(.*)", re.DOTALL)
    parts = {name: numbered.fullmatch(name) for name in tensors}
    first: dict[str, int] = {}
    for match in filter(None, parts.values()):
        first[match[1]] = min(first.get(match[1], 10**9), int(match[2] or 0))

    def counted(name: str) -> str:
        match = parts[name]
        if match is None:
            return name
        number = int(match[2] or 0) - first[match[1]]
        return f"{match[1]}{f'_{number}' if number else ''}/{match[3]}"

    return {counted(name): array for name, array in tensors.items()}


def _by_layer(tensors: Tensors, m: Map, network: Any, pairs: list[Pair]) -> Tensors:
    """Replace class and number ("conv2d_1/0") by layer and word; the model's order of layers tells which is which."""
    words: dict[str, list[str]] = {}
    for pair in pairs:
        layer, _, word = pair.theirs.rpartition("/")
        words.setdefault(layer, []).append(word)
    dense = {pair.theirs.rpartition("/")[0] for pair in pairs if pair.theirs.endswith("/kernel")
             and len(network.state()[pair.ours].shape) == 2}  # fmt: skip
    counts: dict[str, int] = {}
    result = dict(tensors)
    for layer in m.order(network) if m.order else ():
        kind = "batch_normalization" if "moving_mean" in words[layer] else "dense" if layer in dense else "conv2d"
        number = counts.get(kind, 0)
        counts[kind] = number + 1
        place = f"{kind}_{number}" if number else kind
        for k, word in enumerate(w for w in KERAS_3[kind] if w in words[layer]):
            if f"{place}/{k}" in result:
                result[f"{layer}/{word}"] = result.pop(f"{place}/{k}")
    return result
