"""What users give: numbers as Python numbers, names with the nearest known one, and images of the right kind."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Number
from typing import Any

from .errors import InputError

EXACT_ENOUGH = ("float32", "float64")  # float16 is not: small gradients become 0 in it


def python_number(value: Any) -> Any:
    """The Python number in a NumPy scalar, a 0-dimensional array or a fraction; a tuple of them; all else as it is.

    A float32 array times a Python number stays float32, but times a np.float64 it becomes float64.
    """
    if type(value) is tuple:
        return tuple(map(python_number, value))
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    known = isinstance(value, int | float | complex) or not isinstance(value, Number)
    return value if known else float(value)  # Fraction, Decimal, np.longdouble


class PythonNumbers:
    """Attributes that are numbers become Python numbers when they are set, but not those in `buffer_names`."""

    buffer_names: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value if name in self.buffer_names else python_number(value))


def listed(names: Iterable[Any], link: str) -> str:
    """ "a, b and c", where the link is "and"."""
    *others, last = map(str, names)
    return f"{', '.join(others)} {link} {last}" if others else last


def nearest(name: Any, known: Iterable[Any]) -> list[str]:
    """The known names that begin with this one, or else the one that is most like it; case does not matter."""
    known = tuple(known)
    if not isinstance(name, str) or not name.strip("-_ ") or name in known:
        return []
    by_lower, name = {str(k).lower(): str(k) for k in known}, name.lower()
    longer = [k for k in by_lower if k.startswith(name)]
    return [by_lower[k] for k in longer or get_close_matches(name, by_lower, n=1)]


def did_you_mean(name: Any, known: Iterable[Any]) -> str:
    """The words (did you mean vgg16?), or nothing where no known name is near."""
    near = nearest(name, known)
    return f" (did you mean {listed(near, 'or')}?)" if near else ""


def unknown(what: str, name: Any, known: Iterable[Any]) -> str:
    """The sentence about a name that is none of the known ones."""
    known = tuple(known)
    return f"unknown {what} {name!r}: choose {', '.join(map(str, known))}{did_you_mean(name, known)}."


def check_choice(what: str, name: Any, known: Iterable[Any]) -> None:
    """Raise an InputError unless the name is one of those known."""
    if name not in (known := tuple(known)):
        raise InputError(unknown(what, name, known))


def check_pixels(images: Any, weights: Any = None) -> None:
    """Raise an InputError unless images have a dtype to compute in, which is that of the weights (an array), if given.

    A network has one dtype: a mixture would be computed in the larger one, slower and with other rounding.
    """
    have, wanted = str(images.dtype), "float32" if weights is None else str(weights.dtype)
    if wanted not in EXACT_ENOUGH:
        raise InputError(f"the network's weights are {wanted}: compute in float32, network.astype(np.float32).")
    if have in EXACT_ENOUGH and weights is None or have == wanted:
        return
    why, todo = "", f"images.astype(np.{wanted})"
    if images.dtype.kind in "iu":
        why, todo = ", and a network takes pixels in [0, 1]", todo + " / 255"
    elif have == "float16":
        why = ", in which small gradients become 0"
    elif have in EXACT_ENOUGH:
        why = f" and the network's weights are {wanted}"
    raise InputError(f"the images are {have}{why}: give {todo}.")
