"""Every layer shape of VGG16 and ResNet50, ours beside PyTorch's: forward, gradient to x, gradient to w.

    python tests/benchmarks/ops.py                                    # width 1, 224x224, batch 8
    python tests/benchmarks/ops.py --width 0.125 --size 64 --batch 32

The programs take turns, layer by layer and round by round; PyTorch runs channels last. Milliseconds are medians;
GFLOP/s are ours, counted as the definition multiplies. W: by Winograd's way.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import pair

PASSES = ("forward", "to x", "to w")
Layer = tuple[str, int, int, int, int, int]  # network, side of the input, channels, filters, kernel, stride


def layers(width: float, size: int) -> list[Layer]:
    """Each different convolution of the two networks, from the input on; a dense layer has kernel 0."""

    def scaled(channels: int) -> int:
        return max(1, round(channels * width))

    found: list[Layer] = []
    side, channels = size, 3
    for filters, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            found.append(("vgg16", side, channels, scaled(filters), 3, 1))
            channels = scaled(filters)
        side //= 2
    found += [("vgg16", 1, channels * side * side, scaled(4096), 0, 1), ("vgg16", 1, scaled(4096), scaled(4096), 0, 1)]

    found.append(("resnet50", size, 3, scaled(64), 7, 2))
    side, channels = -(-size // 4), scaled(64)
    for stage, count in enumerate((3, 4, 6, 3)):
        filters = scaled(64 * 2**stage)
        for i in range(count):
            stride = 2 if stage and i == 0 else 1
            found.append(("resnet50", side, channels, filters, 1, 1))
            found.append(("resnet50", side, filters, filters, 3, stride))
            if i == 0:
                found.append(("resnet50", side, channels, 4 * filters, 1, stride))
            side = -(-side // stride)
            found.append(("resnet50", side, filters, 4 * filters, 1, 1))
            channels = 4 * filters
    return list(dict.fromkeys(found))


def ours(serve: Any, batch: int) -> None:
    import numpy as np

    from minisatm.kernels import numpy_kernels as k

    rng = np.random.default_rng(0)

    def actions(layer: Layer) -> list[Callable[[], Any]]:
        _, side, channels, filters, kernel, stride = layer
        if kernel == 0:
            x, w, g = (rng.random(s, np.float32) for s in ((batch, channels), (channels, filters), (batch, filters)))
            return [lambda: k.linear(x, w, None), lambda: k.linear_gx(g, w), lambda: k.linear_gw(x, g)]
        out = (side - 1) // stride + 1
        shapes = ((batch, side, side, channels), (kernel, kernel, channels, filters), (batch, out, out, filters))
        x, w, g = (rng.random(shape, np.float32) - np.float32(0.5) for shape in shapes)
        where = dict(stride=(stride, stride), pads=((kernel // 2, kernel // 2),) * 2)
        return [
            lambda: k.conv2d(x, w, None, **where),
            lambda: k.conv2d_gx(g, w, size=(side, side), **where),
            lambda: k.conv2d_gw(x, g, kernel=(kernel, kernel), **where),
        ]

    serve(answers(actions))


def theirs(serve: Any, batch: int) -> None:
    import torch
    from torch.nn import functional as F

    torch.manual_seed(0)

    def actions(layer: Layer) -> list[Callable[[], Any]]:
        _, side, channels, filters, kernel, stride = layer
        if kernel == 0:
            x, w = torch.rand(batch, channels, requires_grad=True), torch.rand(filters, channels, requires_grad=True)
            forward = lambda: F.linear(x, w)  # noqa: E731
        else:
            x = torch.rand(batch, channels, side, side).to(memory_format=torch.channels_last).requires_grad_()
            w = torch.rand(filters, channels, kernel, kernel).to(memory_format=torch.channels_last).requires_grad_()
            forward = lambda: F.conv2d(x, w, stride=stride, padding=kernel // 2)  # noqa: E731
        out = forward()
        g = torch.rand_like(out)
        return [forward, lambda: torch.autograd.grad(out, [x], g, retain_graph=True),
                lambda: torch.autograd.grad(out, [w], g, retain_graph=True)]  # fmt: skip

    serve(answers(actions))


def answers(actions: Callable[[Layer], list[Callable[[], Any]]]) -> pair.Answers:
    """Time one pass of one layer, warm, the better of two; the arrays stay until another layer comes."""
    ready: dict[Layer, list[Callable[[], Any]]] = {}

    def time(task: tuple[Layer, int]) -> float:
        layer, part = task
        if layer not in ready:
            ready.clear()
            ready[layer] = actions(layer)
        ready[layer][part]()
        return min(pair.timed(ready[layer][part]) for _ in range(2))

    return {"time": time}


def main() -> None:
    cli = pair.parser(__doc__)
    cli.add_argument("--width", type=float, default=1.0)
    cli.add_argument("--size", type=int, default=224)
    cli.add_argument("--batch", type=int, default=8)
    args = cli.parse_args()
    from minisatm.kernels import winograd

    table = layers(args.width, args.size)
    programs = pair.Programs({"ours": (ours, (args.batch,)), "torch": (theirs, (args.batch,))})
    before = pair.product_speed()
    print(f"single layers, width {args.width:g}, {args.size}x{args.size}, batch {args.batch}; {args.rounds} rounds")
    print(f"{pair.machine()}; {pair.torch_version()}, channels last; milliseconds: ours / PyTorch = ratio")
    print(f"{'':10}{'in-out@side kernel':24}" + "".join(f"{part + ' (ours GFLOP/s)':>36}" for part in PASSES))
    sums = dict.fromkeys(programs.wires, 0.0)
    for layer in table:
        network, side, channels, filters, kernel, stride = layer
        out = (side - 1) // stride + 1
        flop = 2 * args.batch * channels * filters * (kernel * kernel * out * out or 1)
        shape = f"{channels}-{filters}@{side} {kernel}x{kernel}/{stride}" if kernel else f"{channels}-{filters} dense"
        by_winograd = kernel == 3 and stride == 1 and winograd.pays((out, out), channels, filters)
        cells = []
        for part in range(len(PASSES)):
            seconds = {name: median(own) for name, own in programs.rounds(args.rounds, (layer, part)).items()}
            mine, peer = seconds["ours"], seconds["torch"]
            sums = {name: sums[name] + own for name, own in seconds.items()}
            cells.append(f"{1e3 * mine:>12.2f} /{1e3 * peer:>8.2f} ={mine / peer:>6.2f} {flop / mine / 1e9:>5.0f}")
        print(
            f"{network:10}{shape + (' W' if by_winograd else ''):24}" + "".join(f"{c:>36}" for c in cells), flush=True
        )
    programs.stop()
    ratio, speed = sums["ours"] / sums["torch"], (before + pair.product_speed()) / 2
    print(f"sum of all, each shape once: {1e3 * sums['ours']:.0f} / {1e3 * sums['torch']:.0f} ms = {ratio:.2f}")
    print(f"matrix product {speed:.0f} GFLOP/s on this machine now")


if __name__ == "__main__":
    main()
