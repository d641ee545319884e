"""Numbers as people write them: fractions like 16/256."""

from __future__ import annotations

from fractions import Fraction
from typing import Any


def fraction(text: str) -> float:
    """A number or a fraction: "16/256" -> 0.0625. Raises ValueError for anything else."""
    try:
        return float(Fraction(text))
    except ArithmeticError as problem:  # 1/0, 1e999
        raise ValueError(f"{text} is no number") from problem


def epsilon_text(epsilon: Any) -> str:
    """Epsilon as the paper prints it, in 1/256 (0.0625 is 16/256), or as it is where that is not a whole number."""
    try:
        steps = float(epsilon) * 256
    except (TypeError, ValueError):
        return f"{epsilon}"
    return f"{steps:.0f}/256" if abs(steps - round(steps)) < 1e-9 else f"{epsilon}"
