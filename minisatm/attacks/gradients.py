"""What every attack asks of a network: its logits, and what the image's gradient is.

A network is one of ours, or any function of images (N, ...) that returns (logits (N, C), vjp), where vjp(g) is the
gradient of <g, logits> to the images; so other people's models can be attacked, and ours through network.as_function().
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import ops
from ..backend import array_module, kernels, on_gpu
from ..errors import InputError
from ..layers import BatchNorm, Module
from ..parallel import one_blas_thread
from ..tape import no_grad, only
from ..tensor import Tensor, grad

Array = Any
Vjp = Callable[[Array], Array]


def answer(network: Any, x: Array, *, craft_mode: str = "eval") -> tuple[Array, Vjp]:
    """Logits (N, C), and the function that takes a gradient of theirs to one of x, as often as it is asked."""
    if not isinstance(network, Module):
        return network(x)
    with crafting(network, craft_mode):
        return network.logits_and_vjp(x)


def input_gradient(network: Any, x: Array, y: Array, *, craft_mode: str = "eval") -> Array:
    """The gradient of J(x, y) to x, (N, H, W, C); no gradient of a weight is computed."""
    if not isinstance(network, Module):
        return loss_gradient([network], x, y)
    image = Tensor(x, requires_grad=True)
    with crafting(network, craft_mode), only(image):
        logits, _ = network(image)
        loss = ops.softmax_cross_entropy(logits, Tensor(y), reduction="sum")
        (g,) = grad(loss, [image])
    return g


def loss_gradient(networks: Sequence[Any], x: Array, y: Array, *, craft_mode: str = "eval") -> Array:
    """The gradient of J to x, for the average of several networks' logits (Dong et al. 2018, Section 3.3)."""
    logits, vjps = zip(*(answer(network, x, craft_mode=craft_mode) for network in networks))
    total = sum(logits) / len(networks)
    labels = ops.loss.one_hot(y, total) if y.ndim == 1 else y
    _, g = kernels(total).softmax_cross_entropy(total, labels)
    return sum(vjp(g / len(networks)) for vjp in vjps)


def logits_of(network: Any, x: Array, *, craft_mode: str = "eval") -> Array:
    """The logits alone, (N, C)."""
    if not isinstance(network, Module):
        return network(x)[0]
    with crafting(network, craft_mode), no_grad():
        return network(Tensor(x))[0].data


def least_likely(network: Any, x: Array, *, craft_mode: str = "eval") -> Array:
    """y_LL = argmin_y p(y | x), (N,)."""
    return logits_of(network, x, craft_mode=craft_mode).argmin(axis=1)


class crafting:
    """Eval mode, or eval with batch norm alone in train mode; afterwards modes and buffers are what they were.

    Dropout never draws while crafting.
    """

    def __init__(self, network: Any, craft_mode: str) -> None:
        if craft_mode not in ("eval", "train"):
            raise InputError(f"craft mode {craft_mode!r}: choose eval or train.")
        self.mode, self.blas = network.mode(False), one_blas_thread()
        modules = network.modules() if craft_mode == "train" else []
        self.norms = [(module, module.mean, module.var) for _, module in modules if isinstance(module, BatchNorm)]

    def __enter__(self) -> None:
        self.blas.__enter__()
        self.mode.__enter__()
        for norm, _, _ in self.norms:
            norm.training = True

    def __exit__(self, *problem: Any) -> None:
        self.mode.__exit__(*problem)
        self.blas.__exit__(*problem)
        for norm, mean, var in self.norms:
            norm.mean, norm.var = mean, var


def check(x: Array, y: Array, epsilon: float = 0.0) -> None:
    """An InputError for images that are none, or labels that are not theirs."""
    if not 0 <= epsilon <= 1:
        raise InputError(f"epsilon {epsilon:g} is not in pixels of [0, 1]: write it like 16/256.")
    if x.ndim != 4 or len(x) != len(y):
        raise InputError(f"an attack takes x (N, H, W, C) and y (N,), got {x.shape} and {np.shape(y)}.")
    if not on_gpu(x) and len(x) and not (x.min() >= 0 and x.max() <= 1):  # also false for NaN
        raise InputError("images must lie in [0, 1] without NaN before an attack: divide 8-bit pixels by 255.")


def given(rng: np.random.Generator | None) -> np.random.Generator:
    """The generator, which a random attack cannot do without."""
    if rng is None:
        raise InputError("a random attack needs rng (a numpy Generator).")
    return rng


def per_sample(values: Array, x: Array) -> Array:
    """(N,) shaped to multiply (N, H, W, C)."""
    return values.reshape(-1, *(1,) * (x.ndim - 1))


def length(x: Array) -> Array:
    """The L2 norm of each image, (N,)."""
    return array_module(x).sqrt((x.reshape(len(x), -1) ** 2).sum(axis=1))
