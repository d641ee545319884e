"""A stand-in for CuPy on NumPy, as strict as CuPy is, so that the package runs unchanged where there is no GPU.

    with standing_in(), waiting() as waits:
        import cupy  # this module
        ...
    assert not waits  # nowhere did the host wait for the device

Like CuPy's, its arrays refuse NumPy's, are never converted unasked, and reduce to arrays of no dimensions. Beyond CuPy,
memory that nobody has written is NaN, and waits are noted.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import operator
import sys
import types
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from . import device, runner
from .device import cuda, get_default_memory_pool, waiting, waits  # noqa: F401  (names that users import from here)

__version__ = "14.0.0"
quiet = functools.partial(np.errstate, all="ignore")  # a GPU warns of nothing

# What NumPy has and CuPy has not.
ABSENT = {
    *("block", "bytes_", "datetime64", "einsum_path", "errstate", "frompyfunc", "geomspace", "insert", "longdouble"),
    *("matvec", "memmap", "nanpercentile", "nanquantile", "ndenumerate", "nditer", "object_", "recarray", "spacing"),
    *("seterr", "str_", "timedelta64", "unstack", "vecdot", "vecmat", "void"),
}
WAITING = {"argwhere", "flatnonzero", "nonzero", "unique"}  # the size of the result is the device's to tell
ABSENT_KEYWORDS = {"correction", "count", "device", "initial", "like", "stable", "where"}

# --- between the device's arrays and the host's ----------------------------------------------------------------------


def _wrapped(value: Any) -> Any:
    """NumPy's arrays and scalars as the device's arrays, also those in tuples and lists; anything else as it is."""
    if isinstance(value, list):
        return [_wrapped(v) for v in value]
    if isinstance(value, tuple):
        return tuple(_wrapped(v) for v in value)
    if not isinstance(value, np.ndarray | np.generic):
        return value
    host = root = np.asarray(value)
    if host.dtype.char not in "?bhilqBHILQefdFD":
        raise ValueError(f"Unsupported dtype {host.dtype}")
    while hasattr(root.base, "base"):
        root = root.base
    device.pool.enter(root)
    array = object.__new__(ndarray)
    array._host = host
    return array


def _unwrapped(value: Any, uploading: bool = False) -> Any:
    """The device's arrays as NumPy's; TypeError for an array that is on the host, unless it is to be uploaded."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, np.ndarray) and not uploading:
        raise TypeError(f"Unsupported type {type(value)}")
    return type(value)(_unwrapped(v, uploading) for v in value) if isinstance(value, tuple | list) else value


def _called(name: str, function: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """The host's function on the device's arrays. Where it wrote to `out`, that array itself is returned."""
    if absent := ABSENT_KEYWORDS.intersection(settings):
        raise TypeError(f"{name}() got an unexpected keyword argument {min(absent)!r}")
    if name in WAITING or (name == "where" and len(args) == 1):
        device.wait(name)
    out = settings.get("out")
    with quiet():
        made = function(*map(_unwrapped, args), **{key: _unwrapped(value) for key, value in settings.items()})
    return _wrapped(made) if out is None else out[0] if isinstance(out, tuple) else out


def _elementwise(name: str, function: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """As _called, of arrays and numbers, not of lists."""
    for value in args:
        if not isinstance(value, ndarray | int | float | complex | np.generic):
            raise TypeError(f"Unsupported type {type(value)}")
    return _called(name, function, *args, **settings)


class ufunc:
    def __init__(self, function: np.ufunc) -> None:
        self._function, self.__name__ = function, function.__name__
        self.at, self.reduce = (functools.partial(_called, n, getattr(function, n)) for n in ("at", "reduce"))

    def __call__(self, *args: Any, **settings: Any) -> Any:
        return _elementwise(self.__name__, self._function, *args, **settings)


@functools.cache
def __getattr__(name: str) -> Any:
    """NumPy's function of this name, made to work on the device's arrays; NumPy's types and constants as they are."""
    found = getattr(np, name, None)
    if name.startswith("_") or name in ABSENT or not hasattr(np, name) or isinstance(found, types.ModuleType):
        raise AttributeError(f"module 'cupy' has no attribute {name!r}")
    if isinstance(found, np.ufunc):
        return ufunc(found)
    if isinstance(found, type) or not callable(found):
        return found

    @functools.wraps(found)
    def function(*args: Any, **settings: Any) -> Any:
        made = _called(name, found, *args, **settings)
        return _wrapped(np.asarray(made)) if name in ("allclose", "array_equal") else made

    return function


# --- the array -----------------------------------------------------------------------------------------------------


class ndarray:
    """An array on the device: a NumPy array that nobody comes at but by get()."""

    __module__ = "cupy"
    __slots__ = ("_host", "__weakref__")
    __array_priority__ = 100
    _host: np.ndarray

    def __new__(
        cls, shape: Any, dtype: Any = float, memptr: None = None, strides: None = None, order: str = "C"
    ) -> Any:
        return empty(shape, dtype, order)

    T = property(lambda self: _wrapped(self._host.T))
    data = property(lambda self: SimpleNamespace(ptr=self._host.ctypes.data))

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        device.wait("get")
        if out is None:
            return np.array(self._host, order=order)
        np.copyto(out, self._host, casting="no")
        return out

    def __getitem__(self, key: Any) -> ndarray:
        key = _unwrapped(key)
        if any(isinstance(k, np.ndarray) and k.dtype == bool for k in (key if isinstance(key, tuple) else (key,))):
            device.wait("mask")
        return _wrapped(self._host[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        with quiet():
            self._host[_unwrapped(key)] = _unwrapped(value)

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator[ndarray]:
        if not self._host.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, function: np.ufunc, method: str, *inputs: Any, **settings: Any) -> Any:
        if method != "__call__":
            return NotImplemented
        if function.__name__ in ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal"):
            # NumPy turns `np.float32(2) < x` into less(array(2), x), and CuPy back
            inputs = tuple(x.item() if isinstance(x, np.ndarray) and x.ndim == 0 else x for x in inputs)
        return __getattr__(function.__name__)(*inputs, **settings)

    def __array_function__(self, function: Any, kinds: Any, args: Any, settings: Any) -> Any:
        own = getattr(sys.modules[__name__], function.__name__, None)
        return NotImplemented if function.__module__ != "numpy" or own is None else own(*args, **settings)

    def __reduce__(self) -> Any:
        return array, (self.get(),)


ATTRIBUTES = ("shape", "dtype", "ndim", "size", "nbytes", "itemsize", "strides", "flags")
METHODS = (
    *("all", "any", "argmax", "argmin", "argsort", "astype", "clip", "conj", "copy", "cumprod", "cumsum", "diagonal"),
    *("dot", "fill", "flatten", "max", "mean", "min", "nonzero", "prod", "ravel", "repeat", "reshape", "round", "sort"),
    *("squeeze", "std", "sum", "swapaxes", "take", "trace", "transpose", "var", "view"),
)
UNARY = ("neg", "pos", "abs", "invert")
BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift", "matmul")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")


def _method(name: str) -> Callable[..., Any]:
    def call(self: ndarray, *args: Any, **settings: Any) -> Any:
        return _called(name, getattr(self._host, name), *args, **settings)

    return call


def _operator(name: str, reflected: bool = False) -> Callable[..., Any]:
    function = getattr(operator, f"__{name}__")

    def call(self: ndarray, *others: Any) -> Any:
        if any(getattr(other, "__array_ufunc__", True) is None for other in others):
            return NotImplemented  # it has an __radd__ of its own
        return _elementwise(name, function, *(*others, self) if reflected else (self, *others))

    return call


def _in_place(name: str) -> Callable[..., Any]:
    def call(self: ndarray, other: Any) -> ndarray:
        _elementwise(name, getattr(operator, f"__{name}__"), self, other)
        return self

    return call


def _waits(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: ndarray, *args: Any) -> Any:
        device.wait(name)
        return function(self._host, *args)

    return call


_members: dict[str, Any] = {
    **{name: property(lambda self, name=name: getattr(self._host, name)) for name in ATTRIBUTES},
    **{name: _method(name) for name in METHODS},
    **{f"__{name}__": _operator(name) for name in (*UNARY, *BINARY, *COMPARISONS)},
    **{f"__r{name}__": _operator(name, reflected=True) for name in BINARY},
    **{f"__i{name}__": _in_place(f"i{name}") for name in BINARY[:-1]},  # CuPy has no @= of its own
    **{f"__{f.__name__}__": _waits(f.__name__, f) for f in (bool, int, float, complex, str, repr, format)},
    **{name: _waits(name, getattr(np.ndarray, name)) for name in ("item", "tolist")},
    "__copy__": _method("copy"),
    "__deepcopy__": lambda self, memo: self.copy(),
    "__hash__": None,
}
for _name, _member in _members.items():
    setattr(ndarray, _name, _member)


# --- making arrays ---------------------------------------------------------------------------------------------------


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    """NaN, a strange integer or True in each place: nobody should read it."""
    host = np.empty(shape, dtype, order)
    host.fill(math.nan) if host.dtype.kind in "fcb" else host.view(np.uint8).fill(0xA5)
    return _wrapped(host)


def empty_like(prototype: Any, dtype: Any = None, order: str = "K", subok: None = None, shape: Any = None) -> ndarray:
    like = _unwrapped(prototype)
    return empty(like.shape if shape is None else shape, like.dtype if dtype is None else dtype)


def array(obj: Any, dtype: Any = None, copy: bool = True, order: str = "K", subok: bool = False, ndmin: int = 0) -> Any:
    """An upload, or a copy."""
    return _wrapped(np.array(_unwrapped(obj, uploading=True), dtype, order=order, ndmin=ndmin))


def asarray(a: Any, dtype: Any = None, order: Any = None, *, copy: bool | None = None) -> ndarray:
    """The array itself if it is on the device and of this dtype."""
    there = isinstance(a, ndarray) and not copy and (dtype is None or a.dtype == dtype)
    return a if there else array(a, dtype, order=order or "K")


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    a = asarray(a, dtype)
    return a if a.ndim and a.flags.c_contiguous else _wrapped(np.ascontiguousarray(a._host))


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> np.ndarray:
    return a.get(stream, order, out) if isinstance(a, ndarray) else np.array(a, order=order)


# --- kernels -------------------------------------------------------------------------------------------------------

races = False  # are kernels watched for races, too? set by standing_in


class RawModule:
    """Compiles with g++ and runs on this CPU."""

    def __init__(
        self, code: str, *, options: tuple[str, ...] = (), backend: str = "nvrtc", name_expressions: Any = None
    ) -> None:
        if name_expressions and not any("-std=" in option for option in options):
            raise ValueError("need to specify C++ standard for compiling template code")
        self.code, self.names, self.race = code, tuple(name_expressions or ()), races

    def get_function(self, name: str) -> Any:
        return RawKernel(runner.Module(self.code, self.names, race=self.race).get_function(name))


class RawKernel:
    def __init__(self, kernel: runner.Kernel) -> None:
        vars(self)["kernel"] = kernel

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int = 0) -> None:
        if any(value is None for value in args):
            raise TypeError("CuPy 13 would pass None as the address 0xffffffff: a null pointer is numpy.uint64(0)")
        null = (np.uint64(0),)
        given = [None if isinstance(value, np.uint64) and value in null else value for value in args]
        vars(self)["kernel"](grid, block, _unwrapped(given), shared_mem)

    def __setattr__(self, name: str, value: Any) -> None:  # max_dynamic_shared_size_bytes
        setattr(vars(self)["kernel"], name, value)


@contextlib.contextmanager
def standing_in(race: bool = False) -> Iterator[types.ModuleType]:
    """In this block `import cupy` gives this module, and minisatm's modules that import it are loaded anew.

    race: kernels are watched for data races, which takes ten times as long.
    """
    global races
    package, users = importlib.import_module("minisatm.kernels"), ("cupy_kernels", "launch")

    def take_out() -> tuple[dict[str, Any], dict[str, Any]]:
        paths = [f"{package.__name__}.{user}" for user in users]
        names = [n for n in sys.modules if n.split(".")[0] in ("cupy", "cupyx") or n in paths]
        return (
            {name: sys.modules.pop(name) for name in names},
            {name: vars(package).pop(name) for name in users if name in vars(package)},
        )

    before, races_before = take_out(), races
    sys.modules.update(device.MODULES, cupy=sys.modules[__name__])
    races = race
    try:
        yield sys.modules[__name__]
    finally:
        races = races_before
        take_out()
        sys.modules.update(before[0])
        vars(package).update(before[1])
