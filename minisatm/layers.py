"""Layers: modules that own weights (Tensors) and buffers (arrays), built from the ops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from . import ops
from .backend import array_module, copied_to, kernels, placed, require
from .ops.conv import Padding, pair
from .tape import only
from .tensor import Tensor, grad

Array = Any
Rng = np.random.Generator


class Module:
    """Something with weights, sub-modules and buffers, found by walking its attributes in the order they were set.

    Tensors are weights; arrays named in `buffer_names` are buffers (state that is saved but not trained).
    `training` is per module: batch norm and dropout read it.
    """

    buffer_names: tuple[str, ...] = ()
    training = True

    def __call__(self, *args: Any, **settings: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward pass of its own.")

    def children(self) -> list[tuple[str, Module]]:
        """Direct sub-modules by attribute name; those in a list by number."""
        found: list[tuple[str, Module]] = []
        for name, value in vars(self).items():
            if isinstance(value, Module):
                found.append((name, value))
            elif isinstance(value, list):
                found += ((f"{name}.{i}", v) for i, v in enumerate(value) if isinstance(v, Module))
        return found

    def modules(self, prefix: str = "") -> list[tuple[str, Module]]:
        """This module and all below it, with dotted names, in definition order."""
        found = [(prefix, self)]
        for name, child in self.children():
            found += child.modules(f"{prefix}.{name}" if prefix else name)
        return found

    def parameters(self) -> dict[str, Tensor]:
        """{dotted name: Tensor} in definition order."""
        return {
            f"{path}.{name}" if path else name: value
            for path, module in self.modules()
            for name, value in vars(module).items()
            if isinstance(value, Tensor)
        }

    def buffers(self) -> dict[str, Array]:
        """{dotted name: array} of the running statistics, in definition order."""
        return {
            f"{path}.{name}" if path else name: getattr(module, name)
            for path, module in self.modules()
            for name in module.buffer_names
        }

    def state(self) -> dict[str, Array]:
        """Weights and buffers as arrays (not copies), by dotted name."""
        return {**{name: t.data for name, t in self.parameters().items()}, **self.buffers()}

    def set_state(self, state: dict[str, Array]) -> None:
        """Copy in what state() gave; names and shapes must fit exactly (weights.load says readably what does not)."""
        wrong = sorted(state.keys() ^ self.state().keys())
        if wrong:
            raise ValueError(f"these names are in the state or in the network only: {', '.join(wrong[:5])}.")
        for path, module in self.modules():
            prefix = f"{path}." if path else ""
            for name, value in vars(module).items():
                if isinstance(value, Tensor):
                    value.data = _fitting(state[prefix + name], value.data, prefix + name)
            for name in module.buffer_names:
                setattr(module, name, _fitting(state[prefix + name], getattr(module, name), prefix + name))

    def train(self, training: bool = True) -> Any:
        for _, module in self.modules():
            module.training = training
        return self

    def eval(self) -> Any:
        return self.train(False)

    @contextmanager
    def mode(self, training: bool) -> Iterator[None]:
        """Train or eval mode within a block; each module's own mode comes back afterwards."""
        before = [(module, module.training) for _, module in self.modules()]
        for module, _ in before:
            module.training = training
        try:
            yield
        finally:
            for module, was in before:
                module.training = was

    def logits_and_vjp(self, x: Array) -> tuple[Array, Callable[[Array], Array]]:
        """The logits of a network for the array x, and vjp(g), the gradient of <g, logits> to x, as often as asked."""
        image = Tensor(x, requires_grad=True)
        with only(image):
            logits, _ = self(image)
        return logits.data, lambda g: grad(logits, [image], g, keep=True)[0]

    def zero_grad(self) -> None:
        for parameter in self.parameters().values():
            parameter.grad = None

    def requires_grad(self, value: bool) -> Any:
        """Freeze (False) or thaw (True) all weights."""
        for parameter in self.parameters().values():
            parameter.requires_grad = value
        return self

    def astype(self, dtype: Any) -> Any:
        """Weights and buffers in another dtype: float32 to train, float64 to check."""
        return self._convert(lambda a: a.astype(dtype))

    def to(self, backend: str) -> Any:
        """Move weights and buffers to "numpy" or "cupy"; an InputError says why where CuPy cannot be used."""
        require(backend)
        return self._convert(lambda a: placed(a, backend))

    def _convert(self, convert: Callable[[Array], Array]) -> Any:
        for _, module in self.modules():
            for value in vars(module).values():
                if isinstance(value, Tensor):
                    value.data, value.grad = convert(value.data), None
            for name in module.buffer_names:
                setattr(module, name, convert(getattr(module, name)))
        return self


def _fitting(new: Array, old: Array, name: str) -> Array:
    if new.shape != old.shape:
        raise ValueError(f"{name} has shape {tuple(new.shape)}, the network needs {tuple(old.shape)}.")
    return copied_to(old, new)


def he_normal(rng: Rng, shape: tuple[int, ...]) -> Tensor:
    """Weights ~ N(0, 2 / fan_in), fan_in the product of all axes but the last. He et al. 2015."""
    fan_in = int(np.prod(shape[:-1]))
    return Tensor((rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / fan_in))), requires_grad=True)


def _constant(value: float, size: int) -> Tensor:
    return Tensor(np.full(size, value, np.float32), requires_grad=True)


class Conv2D(Module):
    """Convolution, weight (kh, kw, C_in, C_out) and, if asked, bias (C_out,): (N, H, W, C_in) -> (N, P, Q, C_out)."""

    def __init__(
        self,
        channels: int,
        filters: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: Padding = "same",
        bias: bool = True,
        exact: bool = False,
        rng: Rng,
    ) -> None:
        self.weight = he_normal(rng, (*pair(kernel), channels, filters))
        self.bias = _constant(0, filters) if bias else None
        self.stride, self.padding, self.exact = stride, padding, exact

    def __call__(self, x: Tensor, *, relu: bool = False) -> Tensor:
        return self.convolve(x, self.weight, self.bias, relu)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
        """This layer's convolution with other weights: those into which batch norm is folded."""
        return ops.conv2d(x, weight, bias, stride=self.stride, padding=self.padding, relu=relu, exact=self.exact)


class Linear(Module):
    """Dense layer with weight (in, out) and bias (out,): (N, in) -> (N, out). `std`: N(0, std^2) in place of He's."""

    def __init__(self, inputs: int, outputs: int, *, rng: Rng, std: float | None = None) -> None:
        self.weight = he_normal(rng, (inputs, outputs))
        if std is not None:
            self.weight.data *= np.float32(std / np.sqrt(2 / inputs))
        self.bias = _constant(0, outputs)

    def __call__(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.weight, self.bias)


class BatchNorm(Module):
    """Batch norm over all but the last axis, with running mean and variance for eval mode.

    running = (1 - momentum) * running + momentum * batch; `unbiased`: the variance that is folded in divides by n - 1
    (PyTorch) or by n (Keras). `gamma`: the starting scale; None: no scale at all.
    """

    buffer_names = ("mean", "var")

    def __init__(
        self,
        channels: int,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        unbiased: bool = True,
        gamma: float | None = 1.0,
    ) -> None:
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
        """Weight (..., C) and bias (C,) of the layer before, changed so that it does eval mode's work as well."""
        scale = self.scale() * (1 / np.sqrt(self.var + self.eps))
        shift = self.beta - self.mean * scale
        return weight * scale, shift if bias is None else bias * scale + shift

    def scale(self) -> Tensor:
        """gamma, or ones where there is none."""
        return Tensor(array_module(self.mean).ones_like(self.mean)) if self.gamma is None else self.gamma


class ConvNorm(Module):
    """Convolution, then batch norm: in eval mode, whose statistics are constants, both are one convolution.

    padding: half the kernel unless given. norm: BatchNorm's settings.
    """

    def __init__(
        self,
        channels: int,
        filters: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: Padding | None = None,
        bias: bool = False,
        exact: bool = False,
        rng: Rng,
        **norm: Any,
    ) -> None:
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
    """Dropout in train mode, nothing in eval mode. Draws come from `rng`, which whoever trains sets for each step."""

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
    """Let every dropout layer below draw from this generator."""
    for _, layer in module.modules():
        if isinstance(layer, Dropout):
            layer.rng = rng


class Normalize(Module):
    """From pixels in [0, 1] to what the network was trained on: (x[BGR?] - mean) / std per channel, no weights.

    It stands inside the network, so that an attack's epsilon always means pixels. mean and std (C,) in the order of the
    network's own channels; a source that works on 0..255 has them divided by 255.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], *, bgr: bool = False) -> None:
        self.mean_values, self.std_values, self.bgr = tuple(mean), tuple(std), bgr
        self._constants: dict[Any, tuple[Array, ...]] = {}  # by library and dtype: a GPU is sent them once

    def __call__(self, x: Tensor) -> Tensor:
        if self.bgr:
            x = x[..., ::-1]
        xp = array_module(x.data)
        if (xp, x.dtype) not in self._constants:
            mean, std = (np.asarray(values, x.dtype) for values in (self.mean_values, self.std_values))
            constants = np.ones_like(mean), np.zeros_like(mean), mean, std * std
            self._constants[xp, x.dtype] = tuple(xp.asarray(c) for c in constants)
        return ops.batch_norm_eval(x, *self._constants[xp, x.dtype], eps=0.0)


class Sequential(Module):
    """Modules or functions of one tensor, one after the other."""

    def __init__(self, *layers: Callable[[Tensor], Tensor]) -> None:
        self.layers = list(layers)

    def __call__(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x
