"""Layers: modules with weights (Tensors) and buffers (arrays), made of ops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from . import ops
from .backend import array_module, copied_to, kernels, placed, require
from .inputs import EXACT_ENOUGH, PythonNumbers, check_choice
from .kernels.plain import Pair
from .ops.conv import Padding, pair
from .tape import Array, only
from .tensor import Tensor, grad

Rng = np.random.Generator


class Module(PythonNumbers):
    """The base class of layers and networks: its attributes are weights, buffers and sub-modules, in definition order.

    Tensors are weights; arrays named in `buffer_names` are buffers, which are saved but not trained. Each module has
    its own `training`: batch norm and dropout read it.
    """

    training = True

    def __call__(self, *args: Any, **settings: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward pass: define its __call__.")

    def modules(self, prefix: str = "") -> list[tuple[str, Module]]:
        """This module and all modules below it, with dotted names, in definition order; those in a list by number."""
        pairs, start = [(prefix, self)], f"{prefix}." if prefix else ""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                pairs += value.modules(start + name)
            elif isinstance(value, list):
                for i, part in enumerate(value):
                    pairs += part.modules(f"{start}{name}.{i}") if isinstance(part, Module) else []
        return pairs

    def _arrays(self) -> Iterator[tuple[str, Module, str, Any]]:
        """Yield (dotted name, module, name, value) for each weight and each buffer."""
        for path, module in self.modules():
            for name, value in vars(module).items():
                if isinstance(value, Tensor) or name in module.buffer_names:
                    yield f"{path}.{name}" if path else name, module, name, value

    def parameters(self) -> dict[str, Tensor]:
        """{dotted name: Tensor} in definition order."""
        return {dotted: value for dotted, _, _, value in self._arrays() if isinstance(value, Tensor)}

    def buffers(self) -> dict[str, Array]:
        """{dotted name: array} in definition order: the running statistics of batch norm."""
        return {dotted: value for dotted, _, _, value in self._arrays() if not isinstance(value, Tensor)}

    def state(self) -> dict[str, Array]:
        """Weights and buffers as arrays (not copies), by dotted name."""
        return {**{name: t.data for name, t in self.parameters().items()}, **self.buffers()}

    def set_state(self, state: dict[str, Array]) -> None:
        """Copy in what state() returned; names and shapes must fit exactly."""
        wrong = sorted(state.keys() ^ self.state().keys())
        if wrong:
            raise ValueError(f"these names are in only one of state and network: {', '.join(wrong[:5])}.")
        for name, old in self.state().items():
            if state[name].shape != old.shape:
                raise ValueError(f"{name} has shape {tuple(state[name].shape)}, the network needs {tuple(old.shape)}.")
        self._replace(lambda name, old: copied_to(old, state[name]))

    def train(self, training: bool = True) -> Any:
        """Set this module and all below it to train mode (or to eval mode); returns the module."""
        for _, module in self.modules():
            module.training = training
        return self

    def eval(self) -> Any:
        """train(False)."""
        return self.train(False)

    @contextmanager
    def mode(self, training: bool) -> Iterator[None]:
        """Train or eval mode within a block; after it each module has the mode that it had before."""
        before = [(module, module.training) for _, module in self.modules()]
        self.train(training)
        try:
            yield
        finally:
            for module, was in before:
                module.training = was

    def logits_and_vjp(self, x: Array) -> tuple[Array, Callable[[Array], Array]]:
        """The logits of a network for the array x, and vjp(g), the gradient of <g, logits> to x; call it at will."""
        image = Tensor(x, requires_grad=True)
        with only(image):
            logits, _ = self(image)
        return logits.data, lambda g: grad(logits, [image], g, keep=True)[0]

    def zero_grad(self) -> None:
        """Forget the gradients of all weights."""
        for parameter in self.parameters().values():
            parameter.grad = None

    def requires_grad(self, value: bool) -> Any:
        """Freeze all weights (False), or let them be trained (True)."""
        for parameter in self.parameters().values():
            parameter.requires_grad = value
        return self

    def astype(self, dtype: Any) -> Any:
        """Weights and buffers in another dtype: float32 to train, float64 to check."""
        check_choice("dtype", str(np.dtype(dtype)), EXACT_ENOUGH)
        self.zero_grad()
        return self._replace(lambda _, array: array.astype(dtype))

    def to(self, backend: str) -> Any:
        """Move weights and buffers to the GPU ("cupy") or to main memory ("numpy", "plain").

        Raises InputError with the reason if CuPy cannot be used.
        """
        require(backend)
        self.zero_grad()
        return self._replace(lambda _, array: placed(array, backend))

    def _replace(self, change: Callable[[str, Array], Array]) -> Any:
        """Put change(dotted name, array) in the place of each weight and buffer."""
        for dotted, module, name, value in self._arrays():
            if isinstance(value, Tensor):
                value.data = change(dotted, value.data)
            else:
                setattr(module, name, change(dotted, value))
        return self


def he_normal(rng: Rng, shape: tuple[int, ...]) -> Tensor:
    """Weights drawn from N(0, 2 / fan_in), fan_in the product of all axes but the last. He et al. 2015."""
    fan_in = int(np.prod(shape[:-1]))
    return Tensor(rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / fan_in)), requires_grad=True)


def _constant(value: float, size: int) -> Tensor:
    return Tensor(np.full(size, value, np.float32), requires_grad=True)


class Conv2D(Module):
    """Convolution with weight (kh, kw, C_in, C_out) and bias (C_out,) or none: (N, H, W, C_in) -> (N, P, Q, C_out)."""

    def __init__(
        self, channels: int, filters: int, kernel: int | Pair, *, stride: int = 1, padding: Padding = "same",
        bias: bool = True, exact: bool = False, rng: Rng,
    ) -> None:  # fmt: skip
        self.weight = he_normal(rng, (*pair(kernel), channels, filters))
        self.bias = _constant(0, filters) if bias else None
        self.stride, self.padding, self.exact = stride, padding, exact

    def __call__(self, x: Tensor, *, relu: bool = False) -> Tensor:
        return self.convolve(x, self.weight, self.bias, relu)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
        """This layer's convolution with other weights: those that include batch norm (see ConvNorm)."""
        return ops.conv2d(x, weight, bias, stride=self.stride, padding=self.padding, relu=relu, exact=self.exact)


class Linear(Module):
    """Dense layer with weight (in, out) and bias (out,): (N, in) -> (N, out). std: draw weights from N(0, std^2)."""

    def __init__(self, inputs: int, outputs: int, *, rng: Rng, std: float | None = None) -> None:
        self.weight = he_normal(rng, (inputs, outputs))
        if std is not None:
            self.weight.data *= np.float32(std / np.sqrt(2 / inputs))
        self.bias = _constant(0, outputs)

    def __call__(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.weight, self.bias)


class BatchNorm(Module):
    """Batch norm over all axes but the last, with running mean and variance for eval mode.

    running = (1 - momentum) * running + momentum * batch. unbiased: the running variance takes the batch's variance
    over n - 1 (PyTorch), else over n (Keras). gamma: the first value of the scale; None: there is no scale.
    """

    buffer_names = ("mean", "var")

    def __init__(
        self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1, unbiased: bool = True,
        gamma: float | None = 1.0,
    ) -> None:  # fmt: skip
        self.gamma = None if gamma is None else _constant(gamma, channels)
        self.beta = _constant(0, channels)
        self.mean: Array = np.zeros(channels, np.float32)
        self.var: Array = np.ones(channels, np.float32)
        self.eps, self.momentum, self.unbiased = eps, momentum, unbiased

    def __call__(self, x: Tensor, *, relu: bool = False) -> Tensor:
        if not self.training:
            out = ops.batch_norm_eval(x, self.scale(), self.beta, self.mean, self.var, eps=self.eps)
            return ops.relu(out) if relu else out
        out, (mean, var) = ops.batch_norm_train(x, self.scale(), self.beta, eps=self.eps, relu=relu)
        n, k = x.data.size // x.shape[-1], kernels(x.data)
        self.mean = k.running_average(self.mean, mean, self.momentum)
        self.var = k.running_average(self.var, var, self.momentum, n / max(n - 1, 1) if self.unbiased else 1.0)
        return out

    def folded(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Weight (..., C) and bias (C,) of the layer before, changed so that this layer also does batch norm (eval)."""
        scale = self.scale() * (1 / np.sqrt(self.var + self.eps))
        shift = self.beta - self.mean * scale
        return weight * scale, shift if bias is None else bias * scale + shift

    def scale(self) -> Tensor:
        """gamma, or ones where there is none."""
        return Tensor(array_module(self.mean).ones_like(self.mean)) if self.gamma is None else self.gamma


class ConvNorm(Module):
    """Convolution, then batch norm; in eval mode the statistics are constants, and both are one convolution.

    padding: half the kernel if not given. norm: the settings of BatchNorm.
    """

    def __init__(
        self, channels: int, filters: int, kernel: int | Pair, *, stride: int = 1, padding: Padding | None = None,
        bias: bool = False, exact: bool = False, rng: Rng, **norm: Any,
    ) -> None:  # fmt: skip
        if padding is None:
            kh, kw = pair(kernel)
            padding = (kh // 2, kh // 2), (kw // 2, kw // 2)
        self.conv = Conv2D(channels, filters, kernel, stride=stride, padding=padding, bias=bias, exact=exact, rng=rng)
        self.bn = BatchNorm(filters, **norm)

    def __call__(self, x: Tensor, *, relu: bool = False) -> Tensor:
        if self.bn.training:
            return self.bn(self.conv(x), relu=relu)
        return self.conv.convolve(x, *self.bn.folded(self.conv.weight, self.conv.bias), relu)


class Dropout(Module):
    """Dropout in train mode, nothing in eval mode. seed_dropout sets `rng`, which draws the masks, for each step."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.rng: Rng | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        if self.rng is None:
            raise RuntimeError("dropout in train mode needs random numbers: call seed_dropout(network, rng) first.")
        return ops.dropout(x, rate=self.rate, rng=self.rng)


def seed_dropout(module: Module, rng: Rng) -> None:
    """Let every dropout layer of this module draw from this generator."""
    for _, layer in module.modules():
        if isinstance(layer, Dropout):
            layer.rng = rng


class Normalize(Module):
    """From pixels in [0, 1] to the input that the network was trained on: (x - mean) / std per channel.

    It is a part of the network, so that an attack's epsilon always means pixels. bgr: reverse the channels first. mean
    and std (C,) are for these channels and for [0, 1]: those of a network trained on 0..255 must be divided by 255.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], *, bgr: bool = False) -> None:
        self.mean_values, self.std_values, self.bgr = tuple(mean), tuple(std), bgr
        self._constants: dict[Any, tuple[Array, ...]] = {}  # by library and dtype, so that a GPU gets them only once

    def __call__(self, x: Tensor) -> Tensor:
        if self.bgr:
            x = x[..., ::-1]
        xp = array_module(x.data)
        if (xp, x.dtype) not in self._constants:
            mean, std = (np.asarray(values, x.dtype) for values in (self.mean_values, self.std_values))
            constants = np.ones_like(mean), np.zeros_like(mean), mean, std * std
            self._constants[xp, x.dtype] = tuple(xp.asarray(c) for c in constants)
        # batch norm with gamma 1, beta 0 and eps 0 is (x - mean) / std, in one pass of a fast kernel
        return ops.batch_norm_eval(x, *self._constants[xp, x.dtype], eps=0.0)


class Sequential(Module):
    """Modules or functions of one tensor, one after the other."""

    def __init__(self, *layers: Callable[[Tensor], Tensor]) -> None:
        self.layers = list(layers)

    def __call__(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x
