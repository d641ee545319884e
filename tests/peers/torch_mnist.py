"""Tramer's four MNIST structures as a PyTorch user would write them, channels first, and our weights for them."""

import numpy as np
import torch
from torch import nn

from .torch_models import DrawnDropout, thin


def same(size, kernel, stride):
    """TensorFlow's "SAME" for one side of the image: ceil(size / stride) outputs, the odd zero at the end."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    before, after = total // 2, total - total // 2
    return nn.ZeroPad2d((before, after, before, after))


def build(name, *, classes, width, size, channels=1):
    """The structure and its top: logits = top(body(x)); the features are body(x), flattened."""
    n = {filters: thin(filters, width) for filters in (64, 128, 300)}
    conv = lambda *a, **k: [nn.Conv2d(*a, **k), nn.ReLU()]
    dense = lambda *a: [nn.Linear(*a), nn.ReLU()]
    if name == "mnist_a":
        body = [*conv(channels, n[64], 5), *conv(n[64], n[64], 5), DrawnDropout(0.25), nn.Flatten()]
        body += dense(n[64] * (size - 8) ** 2, n[128])
        wide = n[128]
    elif name == "mnist_b":
        body = [DrawnDropout(0.2), same(size, 8, 2), *conv(channels, n[64], 8, stride=2)]
        body += [*conv(n[64], n[128], 6, stride=2), *conv(n[128], n[128], 5)]
        wide = n[128] * (((size + 1) // 2 - 6) // 2 + 1 - 4) ** 2
    elif name == "mnist_c":
        body = [*conv(channels, n[128], 3), *conv(n[128], n[64], 3), DrawnDropout(0.25), nn.Flatten()]
        body += dense(n[64] * (size - 4) ** 2, n[128])
        wide = n[128]
    else:
        body = [nn.Flatten(), *dense(channels * size**2, n[300])]
        for _ in range(3):
            body += [DrawnDropout(0.5), *dense(n[300], n[300])]
        wide = n[300]
    return nn.Sequential(*body).double(), nn.Sequential(
        DrawnDropout(0.5), nn.Flatten(), nn.Linear(wide, classes)
    ).double()


def layers(*parts):
    """The layers with weights, in their order: those of ours have the same."""
    return [layer for part in parts for layer in part if isinstance(layer, nn.Conv2d | nn.Linear)]


def to_torch(array, channels=1):
    """(kh, kw, C, F) -> (F, C, kh, kw); (in, out) -> (out, in), its rows (pixel, channel) -> (channel, pixel)."""
    if array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    elif array.ndim == 2:
        array = flat_to_torch(array.T, channels)
    return torch.from_numpy(np.ascontiguousarray(array))


def flat_to_torch(array, channels):
    """Columns (N, pixels * channels) -> (N, channels * pixels)."""
    return array.reshape(len(array), -1, channels).transpose(0, 2, 1).reshape(len(array), -1)
