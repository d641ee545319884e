"""Checks of an attack's arguments, by the decorator `@checked_attack` that stands above every attack."""

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
CHOICES = {"norm": ("linf", "l2"), "scale": ("l2", "max", "none"), "loss": ("cross_entropy", "margin")}
COUNTS = ("steps", "restarts", "search_steps", "rounds")  # whole numbers of at least 1
ABOVE_ZERO = ("step", "learning_rate", "c", "largest_c", "share", "first")
NOT_BELOW_ZERO = ("confidence", "decay")


def checked_attack(function: Callable[..., Array]) -> Callable[..., Array]:
    """The attack with checks: images, labels and options before it, a warning about NaN examples after it."""
    parameters = inspect.signature(function).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}

    @wraps(function)
    def call(network: Any, x: Array, y: Array, **options: Any) -> Array:
        check_images(x, y)
        check_options(x, defaults | options)
        if not len(x):
            return x.copy()
        crafted = function(network, x, y, **options)
        if not on_gpu(crafted) and np.isnan(crafted.sum()):  # a warning: training reports a NaN loss by itself
            name, count = function.__name__, int(np.isnan(crafted).any(axis=(1, 2, 3)).sum())
            warnings.warn(
                f"{name}: the network's gradient is NaN for {count} of {len(x)} images, so their examples are NaN too.",
                RuntimeWarning, stacklevel=2,
            )  # fmt: skip
        return crafted.copy() if crafted is x else crafted  # a caller may change the examples, but not x

    return call


def check_images(x: Array, y: Array) -> None:
    """Raise an InputError unless x holds images in [0, 1] and y has one label for each image."""
    if x.ndim != 4 or len(x) != len(y):
        raise InputError(f"an attack takes x (N, H, W, C) and y (N,), got {x.shape} and {np.shape(y)}.")
    # "not (... and ...)" is true for NaN; on a GPU, reading x would make the host wait
    if x.dtype.kind != "f" or (not on_gpu(x) and len(x) and not (x.min() >= 0 and x.max() <= 1)):
        raise InputError("images must lie in [0, 1] without NaN before an attack: divide 8-bit pixels by 255.")


def check_options(x: Array, options: dict[str, Any]) -> None:
    """Raise an InputError for an option whose value is outside of its range."""
    for name, value in options.items():
        if name in CHOICES and value not in CHOICES[name]:
            raise InputError(f"{name} {value!r}: choose {', '.join(CHOICES[name][:-1])} or {CHOICES[name][-1]}.")
        if name in COUNTS and (not isinstance(value, int | np.integer) or value < 1):
            raise InputError(f"{name} {value!r} must be a whole number from 1 up.")
        if name in ABOVE_ZERO and value is not None and not 0 < value < math.inf:
            raise InputError(f"{name} {value:g} must be above 0.")
        if name in NOT_BELOW_ZERO and not 0 <= value < math.inf:
            raise InputError(f"{name} {value:g} must be 0 or above.")
    largest = 1.0
    if options.get("scale") == "none":  # epsilon is a factor on the gradient
        largest = math.inf
    elif "l2" in (options.get("norm"), options.get("scale")):  # an L2 length: at most the diagonal of [0, 1]^n
        largest = math.sqrt(math.prod(x.shape[1:]))
    check_epsilon(options.get("epsilon", 0.0), largest)


def check_epsilon(epsilon: float, largest: float = 1.0) -> None:
    """Raise an InputError unless 0 <= epsilon <= largest; `largest` is 1 unless epsilon is an L2 length or a factor."""
    if not 0 <= epsilon <= 1 and largest == 1.0:
        raise InputError(f"epsilon {epsilon:g} is not in pixels of [0, 1]: write it like 16/256.")
    if not 0 <= epsilon <= largest:
        what = f"epsilon {epsilon:g} is out of range"
        raise InputError(f"{what}: with this norm or scale choose a value from 0 to {largest:.3g}.")


def required_rng(rng: np.random.Generator | None) -> np.random.Generator:
    """The generator of a random attack; an InputError where there is none."""
    if rng is None:
        raise InputError("a random attack needs rng (a numpy Generator) or the noise itself.")
    return rng


def checked_noise(noise: Array, shape: tuple[int, ...]) -> Array:
    """The noise itself; an InputError unless it has this shape."""
    if noise.shape != shape:
        raise InputError(f"noise has shape {noise.shape}, but this attack needs {shape}.")
    return noise
