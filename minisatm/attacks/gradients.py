"""What every attack needs of a network: its logits, and the gradient of a loss with respect to the images.

A network is one of ours, or any function of images (N, ...) that returns (logits (N, C), vjp), where vjp(g) is the
gradient of <g, logits> with respect to the images. So models of other libraries can be attacked, too; a network of ours
becomes such a function by network.as_function().
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .. import ops
from ..backend import array_module, kernels, on_gpu
from ..errors import InputError
from ..inputs import check_pixels, python_number, unknown
from ..layers import BatchNorm, Module
from ..parallel import one_blas_thread
from ..tape import no_grad, only
from ..tensor import Tensor, grad

Array = Any


def logits_and_vjp(network: Any, x: Array, *, craft_mode: str = "eval") -> tuple[Array, Callable[[Array], Array]]:
    """The logits (N, C), and vjp(g), the gradient of <g, logits> with respect to x; it may be called several times."""
    if isinstance(network, Module):
        with crafting(network, craft_mode):
            return network.logits_and_vjp(x)
    logits, vjp = network(x)
    return logits, vjp


def input_gradient(network: Any, x: Array, y: Array, *, loss: str = "cross_entropy", craft_mode: str = "eval") -> Array:
    """The gradient of J(x, y) with respect to x, (N, H, W, C); no gradient of a weight is computed.

    loss="margin" uses max_{i != y} Z_i - Z_y in place of J. Where logits are so large that softmax rounds to 0 and 1,
    the gradient of J is zero, but that of the margin is not.
    """
    check_pixels(x)
    if not isinstance(network, Module) or loss == "margin":
        return loss_gradient([network], x, y, loss=loss, craft_mode=craft_mode)
    image = Tensor(x, requires_grad=True)
    with crafting(network, craft_mode), only(image):
        logits, _ = network(image)
        total = ops.softmax_cross_entropy(logits, Tensor(y), reduction="sum")
        return grad(total, [image])[0]


def loss_gradient(
    networks: Sequence[Any], x: Array, y: Array, *, loss: str = "cross_entropy", craft_mode: str = "eval"
) -> Array:
    """The gradient of J with respect to x, for the mean of several networks' logits (Dong et al. 2018, Section 3.3)."""
    logits, vjps = zip(*(logits_and_vjp(network, x, craft_mode=craft_mode) for network in networks))
    total = sum(logits) / len(networks)
    if loss == "margin":
        g = -margin_and_slope(total, y)[1]
    else:
        labels = ops.loss.one_hot(y, total) if y.ndim == 1 else y
        _, g = kernels(total).softmax_cross_entropy(total, labels)
    return sum(vjp(g / len(networks)) for vjp in vjps)


def vanished(g: Array) -> Array:
    """Which images' gradients are exactly zero, (N,) booleans: no gradient step moves them, but they are not robust."""
    return ~(g != 0).reshape(len(g), -1).any(axis=1)


def margin_and_slope(logits: Array, y: Array) -> tuple[Array, Array]:
    """The margin Z_y - max_{i != y} Z_i, (N,), and its gradient with respect to the logits, (N, C)."""
    xp = array_module(logits)
    true = ops.loss.one_hot(y, logits)
    others = xp.where(true > 0, -np.inf, logits)  # -inf, not 0: all logits may be below zero
    margin = xp.where(true > 0, logits, -np.inf).max(axis=1) - others.max(axis=1)
    if not on_gpu(margin) and np.isnan(margin).any():
        raise InputError("the network's logits are NaN, so an attack cannot tell what fools it: use other weights.")
    return margin, true - (xp.arange(logits.shape[1]) == others.argmax(axis=1)[:, None])


def true_margin(logits: Array, y: Array) -> Array:
    """Z_y - max_{i != y} Z_i, (N,): below zero where the image is misclassified."""
    return margin_and_slope(logits, y)[0]


def logits_of(network: Any, x: Array, *, craft_mode: str = "eval") -> Array:
    """The logits alone, (N, C)."""
    if not isinstance(network, Module):
        return network(x)[0]
    with crafting(network, craft_mode), no_grad():
        return network(Tensor(x))[0].data


def least_likely(network: Any, x: Array, *, craft_mode: str = "eval") -> Array:
    """y_LL = argmin_y p(y | x), (N,)."""
    return logits_of(network, x, craft_mode=craft_mode).argmin(axis=1)


@contextmanager
def crafting(network: Any, craft_mode: str) -> Iterator[None]:
    """A block in eval mode; craft_mode="train" leaves batch norm alone in train mode. Dropout never draws in it.

    After the block, modes and running statistics are as before.
    """
    if craft_mode not in ("eval", "train"):
        raise InputError(unknown("craft mode", craft_mode, ("eval", "train")))
    modules = network.modules() if craft_mode == "train" else []
    norms = [(module, module.mean, module.var) for _, module in modules if isinstance(module, BatchNorm)]
    with one_blas_thread, network.mode(False):
        for norm, _, _ in norms:
            norm.training = True
        try:
            yield
        finally:
            for norm, mean, var in norms:
                norm.mean, norm.var = mean, var


def per_sample(values: Array, x: Array) -> Array:
    """The values (N,) in a shape that multiplies x (N, H, W, C)."""
    return values.reshape(-1, *(1,) * (x.ndim - 1))


def length(x: Array) -> Array:
    """The L2 norm of each image, (N,)."""
    return array_module(x).sqrt((x.reshape(len(x), -1) ** 2).sum(axis=1))


def rounded(x_adv: Array, x: Array = None, *, epsilon: float | None = None, norm: str = "linf") -> Array:
    """x_adv as 8-bit pixels: each pixel goes to the nearest of 0, 1/255 ... 1, as an image file keeps it.

    Where x and epsilon are given, the result stays in the ball of this norm around x. "linf": a pixel takes the nearest
    level inside x +- epsilon (the one nearest to x where none is inside). "l2": where the nearest levels are farther
    from an image than epsilon, each pixel of that image takes its neighbour level on the side of x instead.
    """
    moved, epsilon = 255 * x_adv, python_number(epsilon)
    levels = np.rint(moved)
    if x is not None and epsilon is not None and norm == "linf":
        # float32 computes 255 * x to 5e-5: a bound that is a whole level must not lose it
        low, high = np.ceil(255 * x - (255 * epsilon + 1e-4)), np.floor(255 * x + (255 * epsilon + 1e-4))
        levels = array_module(x).where(low <= high, np.minimum(np.maximum(levels, low), high), np.rint(255 * x))
    elif x is not None and epsilon is not None:
        too_far = length(levels - 255 * x) > 255 * epsilon
        nearer = np.minimum(np.maximum(np.rint(255 * x), np.floor(moved)), np.ceil(moved))
        levels = array_module(x).where(per_sample(too_far, x), nearer, levels)
    return levels / 255
