"""The base class of all networks: images in, logits and features out, and files of weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..backend import on_gpu, placed
from ..errors import InputError
from ..guards import described
from ..inputs import check_pixels
from ..layers import Linear, Module, Normalize
from ..parallel import one_blas_thread
from ..tape import no_grad
from ..tensor import Tensor
from . import files

Array = Any
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def input_layer(
    channels: int, mean: Any = None, std: Any = None, bgr: bool = False, usual: Any = (IMAGENET_MEAN, IMAGENET_STD)
) -> Normalize:
    """The layer that normalises pixels: by mean and std (C,), or by the usual ones (for grey images their average)."""
    means, stds = (values if channels == 3 else (sum(values) / 3,) for values in usual)
    mean, std = means if mean is None else mean, stds if std is None else std
    if len(mean) != channels or len(std) != channels:
        raise InputError(f"mean {mean} and std {std} must have one value for each of the {channels} channels.")
    return Normalize(mean, std, bgr=bgr)


def scaled(channels: int, width: float) -> int:
    """A channel count times the width, at least 1."""
    return max(1, round(channels * width))


class Network(Module):
    """logits, features = network(x), for x (N, size, size, channels) in [0, 1].

    logits (N, classes); features (N, feature_width), the last hidden layer, which is the domain classifier's input.
    build(**definition) makes the same graph with new weights.
    """

    definition: dict[str, Any]
    usual_pixels: tuple[tuple[float, ...], ...] = (IMAGENET_MEAN, IMAGENET_STD)  # mean and std where none are given
    feature_width: int
    top: str  # the name of the layer that gives the logits

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not isinstance(x, Tensor):
            raise InputError(f"a network takes a Tensor, not {described(x)}: give Tensor(images).")
        size, channels = self.definition["size"], self.definition["channels"]
        if x.ndim != 4 or x.shape[1:] != (size, size, channels):
            raise InputError(
                f"{self.definition['name']} was built for images of {size}x{size}x{channels}, got an array of shape "
                f"{x.shape}; build it with size={x.shape[1] if x.ndim == 4 else '...'} or resize the images."
            )
        weights = getattr(self, self.top).weight.data
        check_pixels(x, weights)
        if on_gpu(x.data) != on_gpu(weights):
            here, there = ("cupy", "numpy") if on_gpu(x.data) else ("numpy", "cupy")
            raise InputError(
                f"the images are a {here} array and the weights of {self.definition['name']} are {there}'s: move one "
                f'of them (network.to("{here}"), or backend.placed(images, "{there}")).'
            )
        features = self.features(x)
        return self.logits(features), features

    def features(self, x: Tensor) -> Tensor:
        """The last hidden layer: (N, size, size, channels) -> (N, feature_width)."""
        raise NotImplementedError

    def logits(self, features: Tensor) -> Tensor:
        """The last layer: (N, feature_width) -> (N, classes)."""
        last: Linear = getattr(self, self.top)
        return last(features)

    def logits_and_vjp(self, x: Array) -> tuple[Array, Callable[[Array], Array]]:
        check_pixels(x, getattr(self, self.top).weight.data)  # here, for only floats can ask for a gradient
        return super().logits_and_vjp(x)

    def as_function(self) -> Callable[[Array], tuple[Array, Callable[[Array], Array]]]:
        """This network in eval mode as a function of arrays, for other libraries: images -> (logits, vjp).

        vjp(g) is the gradient of <g, logits> with respect to the images (N, size, size, channels) in [0, 1].
        """

        def function(x: Array) -> tuple[Array, Callable[[Array], Array]]:
            with self.mode(False):
                return self.logits_and_vjp(x)

        return function

    def defaults(self) -> dict[str, Any]:
        """The default of each field that the definition may leave out."""
        parameters = inspect.signature(type(self).__init__).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not p.empty}

    def complete(self, definition: dict[str, Any]) -> dict[str, Any]:
        """A definition of this kind of network with a value for every field, also for mean and std."""
        full = {**self.defaults(), **definition}
        for field, usual in zip(("mean", "std"), self.usual_pixels):
            if full.get(field) is None:
                full[field] = usual if full.get("channels") == 3 else (sum(usual) / 3,)
        return full

    def count_parameters(self) -> int:
        """How many numbers the weights have, buffers not counted."""
        return sum(t.data.size for t in self.parameters().values())

    def save(self, path: str | Path, labels: Sequence[str] = ()) -> None:
        """Write weights, buffers, definition and the labels of the classes, if given, to an .h5 file."""
        files.save(self, path, labels)

    def load(self, path: str | Path, strict: bool = True) -> str:
        """Copy weights and buffers from an .h5 file; returns a report. See files.load."""
        return files.load(self, path, strict=strict)


def predict(network: Network, x: Array) -> Array:
    """The class of each image, in eval mode: (N, H, W, C) -> (N,), a NumPy array."""
    with network.mode(False), no_grad(), one_blas_thread:
        return placed(network(Tensor(x))[0].data.argmax(axis=1), "numpy")
