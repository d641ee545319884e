"""minisatm: Simultaneous Adversarial Training from scratch, on a small autograd engine over NumPy arrays."""

from .errors import InputError
from .tape import no_grad
from .tensor import Tensor, grad, op

__all__ = ["InputError", "Tensor", "grad", "no_grad", "op"]
__version__ = "0.1.0"
