"""What every attack asks of its arguments: `@attack` stands above each of them, so that none forgets to."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from ..backend import on_gpu
from ..errors import InputError

Array = Any
LOSSES = ("cross_entropy", "margin")
CHOICES = {"norm": ("linf", "l2"), "scale": ("l2", "max", "none"), "loss": LOSSES}
COUNTS = ("steps", "restarts", "search_steps", "rounds")  # whole numbers from 1 up
ABOVE_ZERO = ("step", "learning_rate", "c", "largest_c", "share", "first")
NOT_BELOW_ZERO = ("confidence", "decay")


def attack(function: Callable[..., Array]) -> Callable[..., Array]:
    """Check images, labels and options before the attack; no images are no attack, and NaN images are not silent."""
    parameters = inspect.signature(function).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}

    @wraps(function)
    def call(network: Any, x: Array, y: Array, **options: Any) -> Array:
        check_images(x, y)
        check_options(x, defaults | options)
        if not len(x):
            return x.copy()
        crafted = function(network, x, y, **options)
        if not on_gpu(crafted) and np.isnan(crafted.sum()):  # no error: training has words of its own
            name, lost = function.__name__, int(np.isnan(crafted).any(axis=(1, 2, 3)).sum())
            warnings.warn(
                f"{name}: the network's gradient is NaN for {lost} of {len(x)} images, and so are their examples.",
                RuntimeWarning, stacklevel=2,
            )  # fmt: skip
        return crafted.copy() if crafted is x else crafted  # where nothing had to move

    return call


def check_images(x: Array, y: Array) -> None:
    """An InputError for images that are none, or labels that are not theirs."""
    if x.ndim != 4 or len(x) != len(y):
        raise InputError(f"an attack takes x (N, H, W, C) and y (N,), got {x.shape} and {np.shape(y)}.")
    if x.dtype.kind != "f" or (not on_gpu(x) and len(x) and not (x.min() >= 0 and x.max() <= 1)):  # also for NaN
        raise InputError("images must lie in [0, 1] without NaN before an attack: divide 8-bit pixels by 255.")


def check_options(x: Array, options: dict[str, Any]) -> None:
    """An InputError for an option that no attack could mean."""
    for name, known in CHOICES.items():
        if name in options and options[name] not in known:
            raise InputError(f"{name} {options[name]!r}: choose {', '.join(known[:-1])} or {known[-1]}.")
    for name in (n for n in COUNTS if n in options):
        if not isinstance(options[name], int | np.integer) or options[name] < 1:
            raise InputError(f"{name} {options[name]!r} must be a whole number from 1 up.")
    for name in (n for n in ABOVE_ZERO + NOT_BELOW_ZERO if options.get(n) is not None):
        value = options[name]
        if not (0 < value < math.inf or (value == 0 and name in NOT_BELOW_ZERO)):
            raise InputError(f"{name} {value:g} must be {'0 or above' if name in NOT_BELOW_ZERO else 'above 0'}.")
    a_length = "l2" in (options.get("norm"), options.get("scale"))
    diagonal = math.inf if options.get("scale") == "none" else math.sqrt(math.prod(x.shape[1:])) if a_length else 1.0
    check_epsilon(options.get("epsilon", 0.0), diagonal)


def check_epsilon(epsilon: float, most: float = 1.0) -> None:
    """An InputError for an epsilon in other units; `most` is 1, or for an L2 length the diagonal of the cube."""
    if not 0 <= epsilon <= 1 and most == 1.0:
        raise InputError(f"epsilon {epsilon:g} is not in pixels of [0, 1]: write it like 16/256.")
    if not 0 <= epsilon <= most:
        raise InputError(f"epsilon {epsilon:g} is not a length in pixels of [0, 1]: here none exceeds {most:.3g}.")


def given(rng: np.random.Generator | None) -> np.random.Generator:
    """The generator, which a random attack cannot do without."""
    if rng is None:
        raise InputError("a random attack needs rng (a numpy Generator) or the noise itself.")
    return rng


def fitting(noise: Array, shape: tuple[int, ...]) -> Array:
    """The noise, whose shape must be this one."""
    if noise.shape != shape:
        raise InputError(f"noise has shape {noise.shape}, and this attack draws {shape}.")
    return noise
