"""LeNet as a PyTorch user would write it (channels first), with the weights of ours."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

torch.set_num_threads(1)


class LeNet(nn.Module):
    def __init__(self, ours):
        super().__init__()
        state = ours.state()
        dtype = torch.from_numpy(state["ip2.bias"]).dtype
        self.layers = nn.ModuleDict()
        for name in ("conv1", "conv2", "ip1", "ip2"):
            w = state[f"{name}.weight"]
            layer = nn.Conv2d(w.shape[2], w.shape[3], 5) if w.ndim == 4 else nn.Linear(*w.shape)
            self.layers[name] = layer.to(dtype).requires_grad_(False)
            layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(w.transpose(3, 2, 0, 1) if w.ndim == 4 else w.T)))
            layer.bias.copy_(torch.from_numpy(state[f"{name}.bias"].copy()))
        self.eval()

    def forward(self, x):
        x = F.max_pool2d(self.layers["conv1"](x * (255 / 256)), 2, ceil_mode=True)
        x = F.max_pool2d(self.layers["conv2"](x), 2, ceil_mode=True)
        x = x.permute(0, 2, 3, 1).flatten(1)  # ours flattens rows, columns, channels
        return self.layers["ip2"](F.relu(self.layers["ip1"](x)))


def first(x):
    """(N, H, W, C) of NumPy -> (N, C, H, W) of PyTorch."""
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def last(x):
    """And back."""
    return np.ascontiguousarray(x.detach().numpy().transpose(0, 2, 3, 1))


def as_function(model):
    """A PyTorch model as minisatm's attacks take any network: images (N, H, W, C) -> (logits, vjp)."""

    def function(x):
        image = first(x).requires_grad_()
        logits = model(image)

        def vjp(g):
            (gradient,) = torch.autograd.grad(logits, image, torch.from_numpy(np.asarray(g)), retain_graph=True)
            return last(gradient)

        return logits.detach().numpy(), vjp

    return function
