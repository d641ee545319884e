"""What Keras 1 and Theano laid out otherwise: kernels turned by 180 degrees, and images with their channels first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Tensors = dict[str, np.ndarray]


def as_tensorflow(path: Path, tensors: Tensors, backend: str, version: str, config: Any) -> tuple[Tensors, list[str]]:
    """Return the tensors as Keras writes them under TensorFlow, and notes of what was changed.

    Theano computes a true convolution, which turns the kernel; all other backends compute a correlation. backend and
    version: of the file's attributes, "" if there are none; config: the model's, None if the file has weights alone.
    """
    kernels = [name for name, array in tensors.items() if array.ndim == 4]
    if not kernels:
        return tensors, []
    result, notes = dict(tensors), []
    old = version.split(".")[0] == "1" or (not version and any(map(is_old, kernels)))
    first = old and has_filters_first([tensors[name].shape for name in kernels])
    if first:
        result |= {name: tensors[name].transpose(2, 3, 1, 0) for name in kernels}
        notes.append(f"Keras 1 with dim_ordering th: {len(kernels)} kernels were (out, in, height, width)")
    if not backend and old:  # Keras 1 did not store it; the published files have it in their names
        backend = "theano" if "th_kernels" in path.name or (first and "tf_kernels" not in path.name) else ""
    if backend == "theano":
        result |= {name: result[name][::-1, ::-1] for name in kernels}
        notes.append(f"written under Theano: {len(kernels)} kernels were turned by 180 degrees")
    if first or flattens_channels_first(config):
        rows_of_pixels_first(result, notes)
    return result, notes


def is_old(name: str) -> bool:
    """Return whether a kernel is named as in Keras 1: conv1_W, or conv1_W_2 where a session had several."""
    return name.rstrip("0123456789").rstrip("_").endswith("_W")


def has_filters_first(shapes: list[tuple[int, ...]]) -> bool:
    """Return whether kernels are (out, in, height, width): their sides are smaller than their numbers of channels."""
    return max(max(shape[2:]) for shape in shapes) < max(max(shape[:2]) for shape in shapes)


def flattens_channels_first(config: Any) -> bool:
    """Return whether the model flattens (C, H, W): a newer Flatten knows it and swaps the axes itself."""
    layers = list(layers_of(config))
    first = any(c.get("dim_ordering") == "th" or c.get("data_format") == "channels_first" for _, c in layers)
    return first and not any(kind == "Flatten" and c.get("data_format") == "channels_first" for kind, c in layers)


def rows_of_pixels_first(tensors: Tensors, notes: list[str]) -> None:
    """Put the rows of the first dense kernel after the convolutions in the order (H, W, C), from (C, H, W)."""
    names = list(tensors)
    last = max(i for i, name in enumerate(names) if tensors[name].ndim == 4)
    channels = tensors[names[last]].shape[-1]
    for name in names[last:]:
        array = tensors[name]
        if array.ndim == 2:
            if array.shape[0] % channels == 0 and array.shape[0] > channels:
                turned = array.reshape(channels, -1, array.shape[1]).swapaxes(0, 1)
                tensors[name] = turned.reshape(array.shape)
                layer = name.rpartition("/")[0]
                notes.append(f"channels first: the rows of {layer} were put in the order (height, width, channel)")
            return


def parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # the weights can be read without it
        return None


def layers_of(config: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the class and settings of every layer in a model's config, also of models in it."""
    left = [config]
    while left:
        entry = left.pop()
        if isinstance(entry, list):
            left += entry
        elif isinstance(entry, dict):
            inner = entry.get("config")
            if isinstance(inner, dict):
                yield str(entry.get("class_name")), inner
                left.append(inner.get("layers"))
            left.append(inner if isinstance(inner, list) else None)  # a Sequential of Keras 1
