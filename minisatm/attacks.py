"""Single-step attacks: x in [0, 1] in, adversarial x out, epsilon and alpha in pixels of that range.

J is the cross-entropy on logits summed over the batch, so that each image's gradient is its own. Networks craft in eval
mode unless craft_mode="train"; either way weights, gradients and running statistics come out as they went in. clip is
to [0, 1]: kernels.sign_step and random_step do it in the same pass. On a GPU, where looking at x would mean waiting, a
pixel outside of that range comes out as NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import ops
from .backend import kernels, on_gpu
from .errors import InputError
from .layers import BatchNorm
from .parallel import one_blas_thread
from .streams import random_bits
from .tape import no_grad, only
from .tensor import Tensor, grad

Array = Any


def input_gradient(network: Any, x: Array, y: Array, *, craft_mode: str = "eval") -> Array:
    """The gradient of J(x, y) to x, (N, H, W, C); no gradient of a weight is computed."""
    image = Tensor(x, requires_grad=True)
    with _crafting(network, craft_mode), only(image):
        logits, _ = network(image)
        loss = ops.softmax_cross_entropy(logits, Tensor(y), reduction="sum")
        (g,) = grad(loss, [image])
    return g


def least_likely(network: Any, x: Array, *, craft_mode: str = "eval") -> Array:
    """y_LL = argmin_y p(y | x), (N,)."""
    with _crafting(network, craft_mode), no_grad():
        logits, _ = network(Tensor(x))
    return logits.data.argmin(axis=1)


class _crafting:
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


def fgsm(network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, craft_mode: str = "eval") -> Array:
    """clip(x + epsilon * sign(grad J(x, y))): Eq. 1 of the paper; Goodfellow et al. 2015."""
    _check(x, y, epsilon)
    return kernels(x).sign_step(x, input_gradient(network, x, y, craft_mode=craft_mode), epsilon)


def step_ll(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, as_printed: bool = False, craft_mode: str = "eval"
) -> Array:
    """clip(x - epsilon * sign(grad J(x, y_LL))): a step towards the least likely class. Kurakin et al. 2017.

    y is not used. Eq. 2 of the paper prints a plus, which steps away from the class that is least likely anyway;
    as_printed=True does that.
    """
    _check(x, y, epsilon)
    g = input_gradient(network, x, least_likely(network, x, craft_mode=craft_mode), craft_mode=craft_mode)
    return kernels(x).sign_step(x, g, epsilon if as_printed else -epsilon)


def r_fgsm(
    network: Any,
    x: Array,
    y: Array,
    *,
    epsilon: float = 16 / 256,
    alpha: float | None = None,
    rng: np.random.Generator | None = None,
    noise: Array | None = None,
    craft_mode: str = "eval",
) -> Array:
    """Random step, then one signed gradient step: Eq. 3 of the paper, which calls it R+Step-LL; Tramer et al. 2018.

    x' = clip(x + alpha * sign(N(0, I)));  clip(x' + (epsilon - alpha) * sign(grad J(x', y))).
    x (N, H, W, C) in [0, 1], y (N,) class indices; alpha is epsilon / 2 unless given and must be below epsilon. The
    random step comes from rng, or is the sign of `noise`. Returns x_adv with |x_adv - x| <= epsilon, inside [0, 1].
    Raises InputError (a ValueError).
    """
    # Lines 17-21 of Algorithm 1, with Tramer's clipping to the pixel range after either step
    start, alpha = _random_start(x, y, epsilon, alpha, rng, noise)  # 18: x' = x + alpha * sign(N(0, I))
    g = input_gradient(network, start, y, craft_mode=craft_mode)  # 19: the gradient of Network_loss(x', y_true) to x'
    return kernels(x).sign_step(start, g, epsilon - alpha)  # 19, 20: clip(x' + (epsilon - alpha) * sign(gradient))


def r_step_ll(
    network: Any,
    x: Array,
    y: Array,
    *,
    epsilon: float = 16 / 256,
    alpha: float | None = None,
    rng: np.random.Generator | None = None,
    noise: Array | None = None,
    craft_mode: str = "eval",
) -> Array:
    """r_fgsm's random step, then a step towards the class least likely for the clean x; y is not used.

    What the name R+Step-LL promises: Eq. 3 with y_LL and a minus.
    """
    start, alpha = _random_start(x, y, epsilon, alpha, rng, noise)
    y_ll = least_likely(network, x, craft_mode=craft_mode)
    g = input_gradient(network, start, y_ll, craft_mode=craft_mode)
    return kernels(x).sign_step(start, g, alpha - epsilon)


ATTACKS: dict[str, Callable[..., Array]] = {"fgsm": fgsm, "step_ll": step_ll, "r_fgsm": r_fgsm, "r_step_ll": r_step_ll}
RANDOM = ("r_fgsm", "r_step_ll")  # these take alpha and rng


def craft(
    name: str,
    network: Any,
    x: Array,
    y: Array,
    *,
    epsilon: float,
    alpha: float | None,
    rng: Any,
    craft_mode: str = "eval",
) -> Array:
    """The attack of this name; alpha and rng go to those that draw a random step."""
    if name not in ATTACKS:
        raise InputError(f"unknown attack {name!r}: choose one of {', '.join(ATTACKS)}.")
    start = dict(alpha=alpha, rng=rng) if name in RANDOM else {}
    return ATTACKS[name](network, x, y, epsilon=epsilon, craft_mode=craft_mode, **start)


def resolve_alpha(epsilon: float, alpha: float | None) -> float:
    """The random step's size: epsilon / 2 unless given; InputError unless 0 <= alpha < epsilon."""
    if not 0 <= epsilon <= 1:
        raise InputError(f"epsilon {epsilon:g} is not in pixels of [0, 1]: write it like 16/256.")
    if alpha is None:
        return epsilon / 2
    if alpha < 0:
        raise InputError(f"alpha {alpha:g} is negative: leave it out for epsilon / 2.")
    if not alpha < epsilon and alpha != 0:  # also NaN
        raise InputError(
            f"alpha {alpha:g} must be below epsilon {epsilon:g}: the random step may not use up the whole budget; "
            "leave alpha out for epsilon / 2."
        )
    return alpha


def _random_start(x: Array, y: Array, epsilon: float, alpha: float | None, rng: Any, noise: Any) -> tuple[Array, float]:
    alpha = resolve_alpha(epsilon, alpha)
    _check(x, y, epsilon)
    if noise is None:
        if rng is None:
            raise InputError("a random attack needs rng (a numpy Generator) or the noise itself.")
        return kernels(x).random_step(x, random_bits(rng, x.size), alpha), alpha
    return kernels(x).sign_step(x, noise, alpha), alpha


def _check(x: Array, y: Array, epsilon: float) -> None:
    if not 0 <= epsilon <= 1:
        raise InputError(f"epsilon {epsilon:g} is not in pixels of [0, 1]: write it like 16/256.")
    if x.ndim != 4 or len(x) != len(y):
        raise InputError(f"an attack takes x (N, H, W, C) and y (N,), got {x.shape} and {np.shape(y)}.")
    if not on_gpu(x) and len(x) and not (x.min() >= 0 and x.max() <= 1):  # also false for NaN
        raise InputError("images must lie in [0, 1] without NaN before an attack: divide 8-bit pixels by 255.")
