"""The gradient reversal layer (Ganin et al. 2016): the identity forward, the opposite gradient backward."""

from __future__ import annotations

from ..tape import Array, Recorded
from ..tensor import op


@op
def reverse_gradient(x: Array, *, strength: float = 1.0) -> Recorded:
    """x itself; the gradient to x is -strength * g. It is the one op for which a finite-difference check must fail."""
    return x, (lambda g: -strength * g,)
