"""Every kernel as its formula says, in plain NumPy. Read this file first: numpy_kernels.py computes the same, faster.

Images are channels last: x (N, H, W, C), w (kh, kw, C, F), b (F,), out and its gradient g (N, P, Q, F). A kernel in _gx
is a gradient to x, one in _gw to w. A window of kh x kw pixels has kh * kw taps (i, j). Convolution and pooling go tap
by tap: the pixels under tap (i, j) of all windows together are one strided view of the padded image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray
Pair = tuple[int, int]  # (rows, columns)
Pads = tuple[Pair, Pair]  # ((top, bottom), (left, right))


def output_size(size: Pair, kernel: Pair, stride: Pair, pads: Pads, ceil: bool = False) -> Pair:
    """(P, Q): how many windows fit into (H, W); with ceil the last one may hang over the edge, if it starts inside."""
    counts = []
    for n, k, s, p in zip(size, kernel, stride, pads):
        room = n + sum(p) - k
        count = (-(-room // s) if ceil else room // s) + 1
        if ceil and (count - 1) * s >= n + p[0]:
            count -= 1
        if room < 0 or count < 1:
            raise ValueError(f"a window of {k} does not fit into {n} pixels with padding {p}; use a larger image.")
        counts.append(count)
    return counts[0], counts[1]


def pad(x: Array, pads: Pads, value: float = 0.0, more: Pair = (0, 0)) -> Array:
    """A copy of the image with constant pixels around it; more: rows below and columns at the right, beyond pads."""
    (top, bottom), (left, right) = pads
    return np.pad(x, ((0, 0), (top, bottom + more[0]), (left, right + more[1]), (0, 0)), constant_values=value)


def crop(padded: Array, pads: Pads, size: Pair) -> Array:
    """The image of size (H, W) inside its padding."""
    return padded[:, pads[0][0] : pads[0][0] + size[0], pads[1][0] : pads[1][0] + size[1]]


def taps(padded: Array, kernel: Pair, stride: Pair, out: Pair) -> Iterator[tuple[int, int, Array]]:
    """Yield (i, j, view) for each tap: view (N, P, Q, C) is the pixels under tap (i, j) of all windows."""
    (sh, sw), (P, Q) = stride, out
    for i, j in np.ndindex(*kernel):
        yield i, j, padded[:, i : i + sh * (P - 1) + 1 : sh, j : j + sw * (Q - 1) + 1 : sw]


def conv2d(
    x: Array, w: Array, b: Array | None, *, stride: Pair, pads: Pads, relu: bool = False, exact: bool = False
) -> Array:
    """out[n, p, q] = b + sum over (i, j) of x[n, p*sh + i - top, q*sw + j - left] @ w[i, j], x zero outside the image.

    exact: no faster algorithm that rounds more (Winograd's, in numpy_kernels); here it changes nothing.
    """
    kernel, size = w.shape[:2], output_size(x.shape[1:3], w.shape[:2], stride, pads)
    out = np.zeros((len(x), *size, w.shape[3]), x.dtype)
    for i, j, view in taps(pad(x, pads), kernel, stride, size):
        out += view @ w[i, j]  # (N, P, Q, C) @ (C, F) -> (N, P, Q, F)
    out = out if b is None else out + b
    return np.maximum(out, 0) if relu else out


def conv2d_gx(g: Array, w: Array, *, size: Pair, stride: Pair, pads: Pads, exact: bool = False) -> Array:
    """gx (N, H, W, C), size = (H, W): each tap adds g @ w[i, j]^T to the pixels under it."""
    gx = pad(np.zeros((len(g), *size, w.shape[2]), g.dtype), pads)
    for i, j, view in taps(gx, w.shape[:2], stride, g.shape[1:3]):
        view += g @ w[i, j].T  # (N, P, Q, F) @ (F, C) -> (N, P, Q, C)
    return crop(gx, pads, size)


def conv2d_gw(x: Array, g: Array, *, kernel: Pair, stride: Pair, pads: Pads, exact: bool = False) -> Array:
    """gw (kh, kw, C, F): for each tap the sum over all windows of (pixel under the tap)^T g."""
    gw = np.empty((*kernel, x.shape[3], g.shape[3]), x.dtype)
    for i, j, view in taps(pad(x, pads), kernel, stride, g.shape[1:3]):
        gw[i, j] = np.tensordot(view, g, ((0, 1, 2), (0, 1, 2)))  # (N, P, Q, C), (N, P, Q, F) -> (C, F)
    return gw


def max_pool(x: Array, *, kernel: Pair, stride: Pair, pads: Pads, ceil: bool) -> tuple[Array, Array]:
    """The largest pixel of each window and its tap's number i * kw + j, (N, P, Q, C); of equal pixels the first."""
    size = output_size(x.shape[1:3], kernel, stride, pads, ceil)
    padded = pad(x, pads, -np.inf, more=kernel)  # the last window may hang over
    views = np.stack([view for *_, view in taps(padded, kernel, stride, size)])  # (kh*kw, N, P, Q, C)
    return views.max(axis=0), views.argmax(axis=0).astype(np.uint8)


def max_pool_gx(g: Array, place: Array, *, size: Pair, kernel: Pair, stride: Pair, pads: Pads) -> Array:
    """gx (N, H, W, C): each g goes to the pixel that was the largest of its window, under the tap with number place."""
    gx = pad(np.zeros((len(g), *size, g.shape[3]), g.dtype), pads, more=kernel)
    for i, j, view in taps(gx, kernel, stride, g.shape[1:3]):
        view += g * (place == i * kernel[1] + j)
    return crop(gx, pads, size)


def avg_pool(x: Array, *, kernel: Pair, stride: Pair, pads: Pads, count_padding: bool) -> Array:
    """The mean of each window, (N, P, Q, C); count_padding: pixels outside the image count as zeros."""
    size = output_size(x.shape[1:3], kernel, stride, pads)
    total = sum(view for *_, view in taps(pad(x, pads), kernel, stride, size))
    return total / pixels(x.shape[1:3], kernel, stride, pads, size, count_padding, x.dtype)


def avg_pool_gx(g: Array, *, size: Pair, kernel: Pair, stride: Pair, pads: Pads, count_padding: bool) -> Array:
    """gx (N, H, W, C): each g is shared equally by the pixels of its window."""
    share = g / pixels(size, kernel, stride, pads, g.shape[1:3], count_padding, g.dtype)
    gx = pad(np.zeros((len(g), *size, g.shape[3]), g.dtype), pads)
    for *_, view in taps(gx, kernel, stride, g.shape[1:3]):
        view += share
    return crop(gx, pads, size)


def pixels(size: Pair, kernel: Pair, stride: Pair, pads: Pads, out: Pair, count_padding: bool, dtype: Any) -> Array:
    """How many pixels count in each window: (1, P, Q, 1)."""
    ones = pad(np.ones((1, *size, 1), dtype), pads, float(count_padding))
    return sum(view for *_, view in taps(ones, kernel, stride, out))


# A dense layer: x (N, D), w (D, F), b (F,) or None -> out (N, F)
linear = lambda x, w, b: x @ w if b is None else x @ w + b
linear_gx = lambda g, w: g @ w.T  # (N, F) @ (F, D) -> (N, D)
linear_gw = lambda x, g: x.T @ g  # (D, N) @ (N, F) -> (D, F)

# Element by element, arrays of one shape:
add = lambda a, b: a + b
relu = lambda x: np.maximum(x, 0)
add_relu = lambda a, b: np.maximum(a + b, 0)
relu_gx = lambda g, out: g * (out > 0)  # out is the output of the relu: where it is 0, the gradient is 0
dropout = lambda x, keep, scale: x * keep * scale  # keep is True or False
running_average = lambda running, batch, share, factor=1.0: running + share * (factor * batch - running)
sign_step = lambda x, g, step: np.clip(x + step * np.sign(g), 0, 1)  # x holds pixels in [0, 1]

# Per channel: x (..., C), scale and shift (C,); shift may be None
scale_shift = lambda x, scale, shift: x * scale if shift is None else x * scale + shift


def channel_sums(x: Array, y: Array | None = None) -> Array:
    """The sum of x, or of x * y, over all axes but the last: (..., C) -> (C,)."""
    return (x if y is None else x * y).reshape(-1, x.shape[-1]).sum(axis=0)


def batch_norm_train(x: Array, gamma: Array, beta: Array, *, eps: float, relu: bool = False) -> tuple[Any, ...]:
    """gamma * (x - mean) / sqrt(variance + eps) + beta (..., C); what the gradient needs; mean and variance (C,)."""
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axis=axes)
    centred = x - mean
    variance = (centred * centred).mean(axis=axes)
    inverse = 1 / np.sqrt(variance + eps)
    out = gamma * centred * inverse + beta
    return np.maximum(out, 0) if relu else out, (centred, inverse), mean, variance


def batch_norm_train_gx(g: Array, saved: tuple[Array, ...], gamma: Array, out: Array = None) -> tuple[Any, ...]:
    """The gradients to x (..., C), gamma and beta (C,); out: the output, if it went through a relu.

    gx = gamma/std * (g - mean(g) - centred * mean(g * centred) / std^2): the second term is there because the mean
    depends on x, the third because the variance does.
    """
    (centred, inverse), axes = saved, tuple(range(g.ndim - 1))
    g = g if out is None else g * (out > 0)
    along = (g * centred).mean(axis=axes)
    gx = gamma * inverse * (g - g.mean(axis=axes) - centred * along * inverse**2)
    return gx, (g * centred).sum(axis=axes) * inverse, g.sum(axis=axes)


def softmax_cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """loss (N,) = -sum over c of labels * log softmax(logits), and its gradient (N, C); logits and labels are (N, C).

    Subtracting the row's maximum leaves the formula as it is, and exp does not overflow. A class whose label is 0 adds
    nothing, not even where its logit is -infinity.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    total = exponentials.sum(axis=1, keepdims=True)
    terms = np.multiply(labels, np.log(total) - shifted, where=labels != 0, out=np.zeros_like(shifted))
    return terms.sum(axis=1), exponentials / total * labels.sum(axis=1, keepdims=True) - labels


def random_step(x: Array, bits: Array, alpha: float) -> Array:
    """x + alpha * sign(N(0, I)), clipped; the random signs are bits (1 is +, 0 is -), eight to a byte."""
    signs = np.unpackbits(bits, count=x.size).reshape(x.shape).astype(x.dtype) * 2 - 1
    return np.clip(x + alpha * signs, 0, 1)


def clip_by_norm(gradients: Sequence[Array], clip: float | None) -> tuple[float, float]:
    """The L2 norm of all gradients together, and the factor that makes it at most clip (NaN if it is not finite)."""
    norm = math.sqrt(sum(float((g * g).sum()) for g in gradients))
    return norm, (clip / norm if clip and norm > clip else 1.0) if math.isfinite(norm) else math.nan


def sgd_step(w: Array, g: Array, v: Array, scale: float, *, rate: float, momentum: float, weight_decay: float) -> None:
    """v = momentum * v + (scale * g + weight_decay * w), w = w - rate * v, in place; nothing if scale is NaN."""
    if not math.isnan(scale):
        v[...] = momentum * v + (scale * g + weight_decay * w)
        w -= rate * v


def adam_step(
    w: Array, g: Array, m: Array, v: Array, scale: float, *, rate: float, betas: tuple[float, float], steps: int,
    eps: float, weight_decay: float,
) -> None:  # fmt: skip
    """Kingma and Ba 2015, Algorithm 1, step number steps, for the same g as sgd_step's; nothing if scale is NaN."""
    if not math.isnan(scale):
        (b1, b2), g = betas, scale * g + weight_decay * w
        m[...] = b1 * m + (1 - b1) * g
        v[...] = b2 * v + (1 - b2) * g * g
        w -= rate * (m / (1 - b1**steps)) / (np.sqrt(v / (1 - b2**steps)) + eps)
