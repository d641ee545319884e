"""The fields of a network's definition: what each may be, and where two definitions compute different things."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import InputError
from ..inputs import python_number
from ..ops.conv import resolve_padding

LARGEST = 2**29  # numbers in a network: 2 GB of float32


def _whole(least: int, most: int) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and least <= v <= most


def _number(least: float, most: float) -> Callable[[Any], bool]:
    """A finite number; NaN and infinity lie in no range."""
    return lambda v: isinstance(v, int | float) and not isinstance(v, bool) and least <= v <= most


def _few(rule: Callable[[Any], bool], most: int) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, list | tuple) and 1 <= len(v) <= most and all(map(rule, v))


def _padding(v: Any) -> bool:
    side = _whole(0, 16)
    pairs = (
        isinstance(v, list | tuple) and len(v) == 2 and all(side(p) or (_few(side, 2)(p) and len(p) == 2) for p in v)
    )
    return v in ("same", "valid") if isinstance(v, str) else side(v) or pairs


def _or_none(rule: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda v: v is None or rule(v)


RATE = _number(0, 0.999999)
FLAG: tuple[str, Callable[[Any], bool]] = ("True or False", lambda v: isinstance(v, bool))
PADDING = ('"same", "valid", a whole number up to 16 or ((top, bottom), (left, right))', _padding)
TEXT: tuple[str, Callable[[Any], bool]] = ("a short text", lambda v: isinstance(v, str) and len(v) <= 40)
RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "name": TEXT, "stride_in": TEXT, "stem": TEXT, "shortcut": TEXT,
    "classes": ("a whole number from 2 to 100,000", _whole(2, 100_000)),
    "width": ("a number above 0 and at most 16", _number(1e-6, 16)),
    "size": ("a whole number from 1 to 4,096", _whole(1, 4096)),
    "channels": ("1 or 3", lambda v: _whole(1, 3)(v) and v != 2),
    "mean": ("a number for each channel, from -1,000 to 1,000", _or_none(_few(_number(-1000, 1000), 3))),
    "std": ("a number above 0 for each channel, at most 1,000", _or_none(_few(_number(1e-6, 1000), 3))),
    "dropout": ("a rate from 0 to below 1, or one for each dropout", _or_none(lambda v: RATE(v) or _few(RATE, 9)(v))),
    "eps": ("a number above 0 and at most 1", _number(1e-12, 1)),
    "momentum": ("a number from 0 to 1", _number(0, 1)),
    "blocks": ("1 to 8 whole numbers from 1 to 100", _few(_whole(1, 100), 8)),
    "first_width": ("a whole number from 1 to 1,024", _whole(1, 1024)),
    "stem_padding": PADDING, "pool_padding": PADDING,
    **dict.fromkeys(("bgr", "exact", "batch_norm", "bottleneck", "conv_bias", "unbiased", "pool_ceil", "zero_gamma",
                     "bn_scale", "count_padding", "zero_residual"), FLAG),
}  # fmt: skip
NOT_COMPARED = (  # the shape, which shows in the arrays; what only training reads; what only rounding reads
    "classes", "width", "size", "channels", "dropout", "momentum", "unbiased", "zero_gamma", "zero_residual", "exact",
)  # fmt: skip


def checked(values: Mapping[str, Any], start: str) -> dict[str, Any]:
    """The fields with NumPy's numbers as Python's and lists as tuples; an InputError with `start` for a wrong value."""
    clean = {field: _python(value) for field, value in values.items()}
    for field, value in clean.items():
        rule, holds = RULES.get(field, TEXT)
        if field in RULES and not holds(value):
            shown = repr(value) if len(repr(value)) < 60 else repr(value)[:60] + "..."
            raise InputError(f"{start} {field}={shown}: it must be {rule}.")
    return clean


def _python(value: Any) -> Any:
    """0-dimensional values as Python numbers, and sequences of them as tuples."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return tuple(map(_python, value)) if isinstance(value, list | tuple) else python_number(value)


class Budget:
    """A generator of starting weights that refuses to draw more than so many: a network that no memory holds."""

    def __init__(self, rng: np.random.Generator, most: int, refusal: str) -> None:
        self.rng, self.left, self.refusal = rng, most, refusal

    def standard_normal(self, shape: tuple[int, ...], dtype: Any) -> Any:
        self.left -= math.prod(shape)
        if self.left < 0:
            raise InputError(self.refusal)
        return self.rng.standard_normal(shape, dtype)


def differences(ours: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """The fields in which two complete definitions compute different outputs, each with both values, as lines."""
    ours, stored = ({field: _python(value) for field, value in d.items()} for d in (ours, stored))
    fields = [f for f in [*ours, *(f for f in stored if f not in ours)] if f not in NOT_COMPARED]
    return [
        f"  another {field:<14}{stored.get(field)!r} in the file, {ours.get(field)!r} in the network"
        for field in fields
        if not _same(field, ours.get(field), stored.get(field))
    ]  # fmt: skip


def _same(field: str, a: Any, b: Any) -> bool:
    """Equal, numbers to 1e-6; a padding in whichever way it is written."""
    if field.endswith("_padding") and "same" not in (a, b) and None not in (a, b) and not isinstance(a, bool):
        a, b = (resolve_padding(p, (1, 1), (1, 1), (1, 1)) for p in (a, b))
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_same("", x, y) for x, y in zip(a, b))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)
    return bool(a == b)
