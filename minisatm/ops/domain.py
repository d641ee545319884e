"""The gradient reversal layer (Ganin et al. 2016): nothing forwards, minus the gradient backwards."""

from ..tensor import op


@op
def reverse_gradient(x, *, strength=1.0):
    """x itself; its gradient comes back times -strength. The one op whose finite-difference check must fail."""
    return x, (lambda g: -strength * g,)
