"""Is a gradient right? Vector-Jacobian products against central differences, in float64."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from ..tensor import Tensor, grad

Array = Any
Rule = Callable[..., Any]  # arrays -> (value, vjps[, aux])
Row = tuple[str, float, float, float]  # entry, yours, finite differences, relative difference

# A central difference has two errors: step^2 / 6 times the third derivative, and rounding, 1e-16 / step times the
# value. With a step of 1e-5 both are below 1e-9 for values and derivatives of order one. A tolerance of 1e-6 leaves
# room for larger ones, and still finds a gradient that is wrong by a millionth.
STEP, TOLERANCE = 1e-5, 1e-6
EVERY_ENTRY = 100  # of a larger argument only so many entries are checked, drawn at random
DIRECTIONS = 2
WORST = 8  # rows in a message


class GradientError(AssertionError):
    """A gradient is wrong. `argument`: the number of the argument, or None; `rows`: the table of the message."""

    def __init__(self, message: str, argument: int | None = None, rows: Sequence[Row] = ()) -> None:
        super().__init__(message)
        self.argument, self.rows = argument, list(rows)


def gradients(
    op: Callable[..., Any],
    *arrays: Any,
    seed: int = 0,
    step: float = STEP,
    tolerance: float = TOLERANCE,
    **settings: Any,
) -> float:
    """Compare the gradients of `op` at these arrays with central differences; GradientError with a table if wrong.

    op: made with @op, or any function of arrays that returns (value, vjps) or (value, vjps, aux), or a function of
    Tensors that returns a Tensor (or a tuple, whose first entry is checked). Arrays of floats become float64 and are
    differentiated; integers, None, Python scalars and arguments whose vjp is None are constants. seed, step and
    tolerance belong to the check; all other keywords go to op (if op has settings of these names, use
    functools.partial).

    With a random cotangent g, the gradient is compared entry by entry (100 entries, drawn at random, of a large array)
    and along two random directions. Also checked: each gradient has its input's shape and dtype, also in float32; op
    does not write into its inputs or into g; one gradient alone, or a second call, gives the same. Differences are
    relative to the largest entry of the argument's gradient, or to a tenth of the largest value if that is more. Choose
    inputs that are more than `step` away from kinks and ties. Returns the largest relative difference. Background:
    Baydin et al. 2018, section 3.2.
    """
    check = _Check(op, arrays, settings, np.random.default_rng(seed))
    try:
        check.rule, on_arrays = _rule_of(op, check.doubles, settings)
        value, parts = check.pull(check.doubles)
        if not parts:  # or a check that compares nothing would pass
            check.fail("nothing to check: no input is an array of floats that has a vjp.")
        if on_arrays:
            check.pull([_readonly(a, np.float32) for a in arrays])
        return max(check.compare(i, value, part, step, tolerance) for i, part in parts.items())
    except ValueError as problem:
        if "read-only" not in str(problem):
            raise
        check.fail(f"it writes into an input or into g ({problem}), which other ops may need; make a new array.")


class _Check:
    """One op with one set of inputs: how to call it, what to compare it with, and its name in messages."""

    def __init__(self, op: Any, arrays: Sequence[Any], settings: dict[str, Any], rng: np.random.Generator) -> None:
        self.doubles = [_readonly(a, np.float64) for a in arrays]
        self.floats = [i for i, a in enumerate(self.doubles) if _is_float(a)]
        self.settings, self.rng = settings, rng
        self.title, self.names = _title(op, arrays, settings), _argument_names(op, len(arrays))
        self.rule: Rule = op
        self.g: Array = None

    def fail(self, problem: str, argument: int | None = None, rows: Sequence[Row] = ()) -> NoReturn:
        """Raise a GradientError that names the op."""
        raise GradientError(f"{self.title}: {problem}" + _table(rows), argument, rows)

    def call(self, arrays: Sequence[Any]) -> tuple[Array, Any]:
        """The value and the vjps of the op for these arrays."""
        value, vjps, *_ = self.rule(*arrays, **self.settings)
        if not callable(vjps) and len(vjps) < len(arrays):
            self.fail(f"it returned {len(vjps)} vjps for {len(arrays)} inputs: return one each, None for a constant.")
        return np.asarray(value), vjps

    def pull(self, arrays: list[Any]) -> tuple[Array, dict[int, Array]]:
        """The value, and the gradient of each differentiable argument; does every check that needs no differences."""
        value, vjps = self.call(arrays)
        dtype = arrays[self.floats[0]].dtype if self.floats else value.dtype
        if value.dtype != dtype:
            self.fail(f"the value is {value.dtype} for {dtype} inputs; an op keeps its input's dtype.")
        self.finite("the value", value)
        if not np.array_equal(value, self.call(arrays)[0]):
            self.fail("the same inputs gave two different values; pass it fixed random draws (a mask, a noise array).")
        if self.g is None:  # no entry near zero: it would hide an error in that entry of the output
            self.g = self.rng.choice([-1.0, 1.0], value.shape) * self.rng.uniform(0.5, 1.5, value.shape)
        g = _readonly(self.g, dtype)
        parts = self.apply(vjps, g, self.floats)
        for i, part in parts.items():
            if part.shape != arrays[i].shape or part.dtype != arrays[i].dtype:
                self.fail(
                    f"the gradient to {self.names[i]} is {part.dtype} {part.shape}, the input is {arrays[i].dtype} "
                    f"{arrays[i].shape}; a gradient has its input's dtype and shape.", i,
                )  # fmt: skip
            self.finite(f"the gradient to {self.names[i]}", part, i)
        self.repeat(vjps, g, parts)
        return value, parts

    def apply(self, vjps: Any, g: Array, wanted: Sequence[int]) -> dict[int, Array]:
        """The gradients of the wanted arguments by number; arguments without a gradient are left out."""
        flags = tuple(i in wanted for i in range(len(self.doubles)))
        if callable(vjps):
            try:
                inspect.signature(vjps).bind(g, flags)
            except TypeError:
                self.fail("vjps is one function of g alone; return a tuple with one per input: (lambda g: ...,).")
            parts = vjps(g, flags)
        else:
            parts = [vjp(g) if flag and vjp is not None else None for vjp, flag in zip(vjps, flags)]
        return {i: np.asarray(parts[i]) for i in wanted if parts[i] is not None}

    def repeat(self, vjps: Any, g: Array, parts: dict[int, Array]) -> None:
        """Fail unless a second call, and a call for one argument alone, give the same gradients."""
        first = {i: part.copy() for i, part in parts.items()}
        for i, part in self.apply(vjps, g, list(parts)).items():
            if not _same(part, first[i]):
                self.fail(f"calling the vjp of {self.names[i]} twice with the same g gave two different gradients.", i)
        for i in parts:
            alone = self.apply(vjps, g, [i]).get(i)
            if alone is None or not _same(alone, first[i]):
                self.fail(f"the gradient to {self.names[i]} is another when it is the only one wanted.", i)

    def finite(self, what: str, array: Array, argument: int | None = None) -> None:
        """Fail if the array holds NaN or infinity."""
        if not np.isfinite(array).all():
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            self.fail(f"{what} is {array[where]} at {where}.", argument)

    def compare(self, i: int, value: Array, part: Array, step: float, tolerance: float) -> float:
        """The largest relative difference of one argument's gradient; fail if it is above the tolerance."""
        probes = self.probes(part.shape)
        differences = [self.difference(i, v, step) for _, v in probes]
        floor = 0.1 * float(np.abs(value).max(initial=0)) or 1e-300
        entries = np.abs(differences[:-DIRECTIONS]).max(initial=0)
        largest = max(float(np.abs(part).max(initial=0)), entries, floor)
        rows = []
        for (where, v), other in zip(probes, differences):
            mine = float(np.sum(part * v))
            # along a direction the errors of its n entries add up; with random signs their sum grows as sqrt(n)
            scale = largest * float(np.sqrt(np.count_nonzero(v)))
            rows.append((where, mine, other, abs(mine - other) / scale))
        wrong = [row for row in rows if not row[3] <= tolerance]
        if wrong:
            worst = sorted(wrong, key=lambda row: -row[3] if row[3] == row[3] else -np.inf)[:WORST]
            self.fail(
                f"the gradient to {self.names[i]} is wrong in {len(wrong)} of {len(rows)} places: they differ by more "
                f"than {tolerance:g} of its largest entry ({largest:.4g}). The worst:", i, worst,
            )  # fmt: skip
        return max((row[3] for row in rows), default=0.0)

    def probes(self, shape: tuple[int, ...]) -> list[tuple[str, Array]]:
        """Where to compare: names and directions v, which are 1 at one entry; then DIRECTIONS that are random."""
        size = int(np.prod(shape))
        chosen = range(size) if size <= EVERY_ENTRY else np.sort(self.rng.choice(size, EVERY_ENTRY, replace=False))
        probes = []
        for place in (np.unravel_index(k, shape) for k in chosen):
            v = np.zeros(shape)
            v[place] = 1
            probes.append((str(tuple(map(int, place))), v))
        random = range(DIRECTIONS if size else 0)
        return probes + [(f"direction {k + 1}", self.rng.uniform(-1, 1, shape)) for k in random]

    def difference(self, i: int, v: Array, step: float) -> float:
        """<g, (f(x + h v) - f(x - h v)) / 2h>: subtracted before the sum, which loses fewer digits."""
        ahead, behind = self.doubles[i] + step * v, self.doubles[i] - step * v
        values = [self.call([*self.doubles[:i], a, *self.doubles[i + 1 :]])[0] for a in (ahead, behind)]
        if not all(np.isfinite(f).all() for f in values):
            return float("nan")
        # x + h v is rounded where x is large: divide by the actual step
        made = float(np.sum((ahead - behind) * v) / np.sum(v * v)) if v.any() else 2 * step
        return float(np.sum(self.g * (values[0] - values[1])) / made)


def _rule_of(function: Any, arrays: Sequence[Any], settings: dict[str, Any]) -> tuple[Rule, bool]:
    """The function as arrays -> (value, vjps), and whether it has this form itself (or is a function of Tensors)."""
    if hasattr(function, "raw"):
        return function.raw, True
    try:
        result = function(*arrays, **settings)
    except (AttributeError, TypeError):  # it may need Tensors; another mistake shows again when it gets them
        return _of_tensors(function), False
    if isinstance(result, tuple) and len(result) in (2, 3) and not isinstance(result[0], Tensor):
        vjps = result[1]
        if callable(vjps) or (isinstance(vjps, tuple | list) and all(v is None or callable(v) for v in vjps)):
            return function, True
    return _of_tensors(function), False


def _of_tensors(function: Callable[..., Any]) -> Rule:
    def rule(*arrays: Any, **settings: Any) -> Any:
        inputs = [Tensor(a, requires_grad=True) if _is_float(a) else a for a in arrays]
        out = function(*inputs, **settings)
        out = out[0] if isinstance(out, tuple) else out
        if not isinstance(out, Tensor):
            raise TypeError(
                f"it returned {type(out).__name__}; a function to check returns (value, vjps) from arrays, with vjps a "
                "tuple of functions, or a Tensor from Tensors."
            )

        def vjp(g: Array, wanted: tuple[bool, ...]) -> list[Any]:
            asked = [t for t, want in zip(inputs, wanted) if want]
            parts = iter(grad(out, asked, g, keep=True) if out.requires_grad else [np.zeros(t.shape) for t in asked])
            return [next(parts) if want else None for want in wanted]

        return out.data, vjp

    return rule


def _readonly(a: Any, dtype: Any) -> Any:
    if not isinstance(a, np.ndarray | np.generic):
        return a
    copy = np.array(a, dtype if a.dtype.kind == "f" else None)
    copy.flags.writeable = False
    return copy


def _is_float(a: Any) -> bool:
    return isinstance(a, np.ndarray) and a.dtype.kind == "f"


def _same(a: Array, b: Array) -> bool:
    """Are they equal up to the last bits, which may depend on where the arrays lie in memory?"""
    bits = 64 * np.finfo(b.dtype).eps * np.abs(b).max(initial=0)
    return a.shape == b.shape and bool(np.all(np.abs(a - b) <= bits))


def _argument_names(function: Any, count: int) -> list[str]:
    """The names of the function's arguments, or numbers where it has no names."""
    try:
        parameters = list(inspect.signature(getattr(function, "raw", function)).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "arguments")
    return [names[i] if i < len(names) else f"{rest}[{i - len(names)}]" for i in range(count)]


def _title(function: Any, arrays: Sequence[Any], settings: dict[str, Any]) -> str:
    shown = [f"{a.dtype} {a.shape}" if isinstance(a, np.ndarray) else repr(a) for a in arrays]
    short = {key: str(s.shape) if isinstance(s, np.ndarray) else repr(s) for key, s in settings.items()}
    name = getattr(function, "__name__", type(function).__name__)
    return f"{name}({', '.join(shown + [f'{key}={text}' for key, text in short.items()])})"


def _table(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    lines = [("entry", "yours", "finite differences", "relative difference")]
    lines += [(where, f"{mine:.8g}", f"{other:.8g}", f"{relative:.2g}") for where, mine, other, relative in rows]
    widths = [max(len(line[c]) for line in lines) for c in range(4)]
    return "\n" + "\n".join("  " + "   ".join(cell.rjust(w) for cell, w in zip(line, widths)) for line in lines)
