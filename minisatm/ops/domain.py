"""The gradient reversal layer (Ganin et al. 2016): nothing forwards, minus the gradient backwards."""

from ..tape import Array, Recorded
from ..tensor import op


@op
def reverse_gradient(x: Array, *, strength: float = 1.0) -> Recorded:
    """x itself; its gradient comes back times -strength. The one op whose finite-difference check must fail."""
    return x, (lambda g: -strength * g,)
