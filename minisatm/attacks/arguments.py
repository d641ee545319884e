"""Checks of an attack's arguments, by the decorator `@checked_attack` that stands above every attack."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np

from ..backend import on_gpu
from ..errors import InputError
from ..inputs import check_pixels, did_you_mean, listed, python_number
from ..layers import Module
from ..tensor import Tensor

Array = Any
CHOICES = {"norm": ("linf", "l2"), "scale": ("l2", "max", "none"), "loss": ("cross_entropy", "margin")}
COUNTS = ("steps", "restarts", "search_steps", "rounds")  # whole numbers of at least 1
ABOVE_ZERO = ("step", "learning_rate", "c", "largest_c", "share", "first")
NOT_BELOW_ZERO = ("confidence", "decay")
NUMBERS = ("epsilon", "alpha", *ABOVE_ZERO, *NOT_BELOW_ZERO)


class ForEachImage:
    """A generator for each image: given as rng to an attack that spawns one for each, such as `square`."""

    def __init__(self, generators: list[np.random.Generator]) -> None:
        self.generators = generators

    def spawn(self, count: int) -> list[np.random.Generator]:
        assert count == len(self.generators), f"{count} generators for {len(self.generators)} images"
        return self.generators


Rng = np.random.Generator | ForEachImage


def checked_attack(function: Callable[..., Array]) -> Callable[..., Array]:
    """The attack with checks: images, labels and options before it, a warning about NaN examples after it.

    Numbers among the options become Python numbers, labels an array (N,), and a seed a generator.
    """
    parameters = inspect.signature(function).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}

    @wraps(function)
    def call(network: Any, x: Array, y: Array, **options: Any) -> Array:
        check_images(x, network)
        y = checked_labels(y, x)
        options = {k: v if k in ("noise", "mask") else python_number(v) for k, v in options.items()}
        check_options(function.__name__, x, options, defaults)
        if not len(x):
            return x.copy()
        if options.get("rng") is not None:
            options["rng"] = required_rng(options["rng"])
        crafted = function(network, x, y, **options)
        if not on_gpu(crafted) and np.isnan(crafted.sum()):  # a warning: training reports a NaN loss by itself
            name, count = function.__name__, int(np.isnan(crafted).any(axis=(1, 2, 3)).sum())
            warnings.warn(
                f"{name}: the network's gradient is NaN for {count} of {len(x)} images, so their examples are NaN too.",
                RuntimeWarning, stacklevel=2,
            )  # fmt: skip
        return crafted.copy() if crafted is x else crafted  # a caller may change the examples, but not x

    return call


def check_images(x: Array, network: Any = None) -> None:
    """Raise an InputError unless x is an array (N, H, W, C) of images in [0, 1], in the dtype of the network."""
    if not isinstance(x, np.ndarray) and not on_gpu(x):
        todo = "its .data" if isinstance(x, Tensor) else "a NumPy array"
        raise InputError(f"x is {kind_of(x)}, and an attack takes images as an array (N, H, W, C): give {todo}.")
    if x.ndim != 4:
        raise InputError(f"an attack takes x (N, H, W, C) and y (N,), got x {x.shape}.")
    for net in network if isinstance(network, Sequence) else (network,):
        modules = net.modules() if isinstance(net, Module) else []
        weights = (value.data for _, module in modules for value in vars(module).values() if isinstance(value, Tensor))
        check_pixels(x, next(weights, None))
    # "not (... and ...)" is true for NaN; on a GPU, reading x would make the host wait
    if not on_gpu(x) and len(x) and not (x.min() >= 0 and x.max() <= 1):
        raise InputError("images must lie in [0, 1] without NaN before an attack: divide 8-bit pixels by 255.")


def checked_labels(y: Any, x: Array) -> Array:
    """The labels as an array of integers (N,), from such an array, a column (N, 1), a list or a tuple.

    An InputError for all else: one-hot rows, floats, booleans, Tensors and arrays of other libraries.
    """
    if isinstance(y, list | tuple):
        try:
            y = np.asarray(y) if len(y) else np.zeros(0, int)
        except (ValueError, TypeError):  # rows of several lengths
            y = np.empty((0, 0))
    if not isinstance(y, np.ndarray) and not on_gpu(y):
        raise InputError(f"y is {kind_of(y)}, and class labels are an array of integers: give a NumPy array.")
    if on_gpu(y) and not on_gpu(x):
        raise InputError("the labels are a CuPy array and the images are a NumPy array: give y.get().")
    if y.shape == (len(x), 1):
        y = y[:, 0]
    if y.ndim == 2 and len(y) == len(x):
        raise InputError(f"y has shape {y.shape}, and a label is one integer: give y.argmax(axis=1) for one-hot rows.")
    if y.shape != (len(x),):
        raise InputError(f"an attack takes x (N, H, W, C) and y (N,), got {x.shape} and {y.shape}.")
    if y.dtype.kind not in "iu":
        todo = "y.astype(int) if these are classes" if y.dtype.kind in "fb" else "the numbers of the classes"
        raise InputError(f"class labels must be {len(x)} integers, got {y.dtype} {y.shape}: give {todo}.")
    return y


def kind_of(value: Any) -> str:
    """What a value is, in words: "a Tensor", "a torch.Tensor", "a list"."""
    module = type(value).__module__.partition(".")[0]
    return f"a {'' if module in ('builtins', 'minisatm') else module + '.'}{type(value).__name__}"


def check_options(attack: str, x: Array, options: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Raise an InputError for an option that the attack does not have, or whose value is outside of its range."""
    for name in options:
        if name not in defaults:
            near = did_you_mean(name, defaults)
            raise InputError(f"{attack} has no option {name!r}: it has {', '.join(defaults)}{near}.")
    options = defaults | options
    for name, value in options.items():
        if name in CHOICES and value not in CHOICES[name]:
            near, known = did_you_mean(value, CHOICES[name]), listed(CHOICES[name], "or")
            raise InputError(f"{name} {value!r}: choose {known}{near}.")
        if name in COUNTS and (type(value) is not int or value < 1):
            raise InputError(f"{name} {value!r} must be a whole number from 1 up.")
        if name in NUMBERS and type(value) not in (int, float) and not (value is None and defaults[name] is None):
            raise InputError(f"{name} must be a number, got {value!r}.")
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


def required_rng(rng: Any) -> Any:
    """The generator of a random attack, also from an integer seed; an InputError where there is none."""
    if rng is None:
        raise InputError("a random attack needs rng (a numpy Generator) or the noise itself.")
    rng = python_number(rng)
    if type(rng) is int and rng >= 0:
        return np.random.default_rng(rng)
    if not isinstance(rng, Rng):
        what = repr(rng) if isinstance(rng, bool | int | float | str) else kind_of(rng)
        raise InputError(f"rng is {what}: give a numpy Generator, np.random.default_rng(0), or a seed from 0 up.")
    return rng


def checked_noise(noise: Array, shape: tuple[int, ...]) -> Array:
    """The noise itself; an InputError unless it has this shape."""
    if np.shape(noise) != shape:
        raise InputError(f"noise has shape {np.shape(noise)}, but this attack needs {shape}.")
    return noise
