"""The table that print(network) shows: its layers, the shapes of their weights and the number of parameters."""

from __future__ import annotations

from typing import Any


def table(module: Any, parts: list[tuple[str, Any]]) -> str:
    """A row for each part (its name, a module): name, kind, shape of its weights, parameters; the totals."""
    rows = [("name", "kind", "weights", "parameters")]
    for name, part in parts:
        weights = part.parameters().values()
        shapes = [str(t.shape) for t in weights if t.ndim > 1] or [str(t.shape) for t in weights]
        shape = shapes[0] if len(shapes) == 1 else f"{len(shapes)} arrays" if shapes else "-"
        rows.append((name, type(part).__name__, shape, f"{sum(t.data.size for t in weights):,}"))
    a, b, c, d = (max(map(len, column)) for column in zip(*rows))
    lines = [f"{name:{a}}  {kind:{b}}  {shape:{c}}  {count:>{d}}" for name, kind, shape, count in rows]
    total = sum(t.data.size for t in module.parameters().values())
    definition = "".join(f", {key}={value!r}" for key, value in getattr(module, "definition", {}).items())
    return "\n".join([*lines, f"{type(module).__name__}: {total:,} parameters{definition}"])
