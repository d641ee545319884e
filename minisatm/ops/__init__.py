"""The ops: functions of tensors, each with its value and its vjps side by side."""

from .basic import (  # noqa: I001  (ruff would write one name a line)
    add, add_relu, concat, div, exp, log, matmul, mean, mul, neg, pad, relu, reshape, slice, sqrt, sub, sum, tanh,
    transpose,
)  # fmt: skip
from .conv import avg_pool, conv2d, global_avg_pool, linear, max_pool
from .domain import reverse_gradient
from .loss import binary_cross_entropy, softmax_cross_entropy
from .norm import batch_norm_eval, batch_norm_train, dropout

__all__ = [
    "add", "add_relu", "avg_pool", "batch_norm_eval", "batch_norm_train", "binary_cross_entropy", "concat", "conv2d",
    "div", "dropout", "exp", "global_avg_pool", "linear", "log", "matmul", "max_pool", "mean", "mul", "neg", "pad",
    "relu", "reshape", "reverse_gradient", "slice", "softmax_cross_entropy", "sqrt", "sub", "sum", "tanh", "transpose",
]  # fmt: skip
