"""One SATM step, ours beside PyTorch's: seconds, ratio, peak memory, GFLOP/s, and where our time goes.

    python tests/benchmarks/satm_step.py                                           # VGG16 + ResNet50, 224x224, batch 8
    python tests/benchmarks/satm_step.py --width 0.125 --size 64 --batch 32        # the default run's shape
    python tests/benchmarks/satm_step.py --craft resnet50 --batch 16               # R+FGSM alone
    python tests/benchmarks/satm_step.py --plot cost.png                           # seconds against batch and side

The peer does Algorithm 1 as a good PyTorch user writes it: R+FGSM examples from each network (gradients to the input
only), then on each network clean and adversarial images as one batch, both losses and the domain classifier behind a
gradient reversal, SGD with momentum. The programs take turns; figures are medians over rounds, with their range.
"""

from __future__ import annotations

import json
import sys
from statistics import median
from typing import Any

import pair

EPSILON, ALPHA, CLASSES = 16 / 256, 8 / 256, 8
LAYOUTS = {"torch, channels last": True, "torch, default layout": False}


# --- ours --------------------------------------------------------------------------------------------------------


def our_learners(args: Any) -> list[Any]:
    import numpy as np

    from minisatm import models, optim, satm
    from minisatm.domain import DomainClassifier

    learners = []
    for k, name in enumerate([args.craft] if args.craft else args.pair.split(",")):
        network = models.build(name, classes=CLASSES, width=args.width, size=args.size, rng=k)
        domain = DomainClassifier(network.feature_width, rng=np.random.default_rng(k))
        learners.append(
            satm.Learner(
                f"{name}-{k}",
                network,
                optim.SGD(network.parameters(), 1e-3),
                domain,
                optim.SGD(domain.parameters(), 1e-3),
            )
        )
    return learners


def ours(serve: Any, args: Any) -> None:
    import numpy as np

    from minisatm import attacks, parallel, satm
    from minisatm.run import experiment

    learners = our_learners(args)
    rng = np.random.default_rng(0)
    x = rng.random((args.batch, args.size, args.size, 3), np.float32)
    y = rng.integers(0, CLASSES, args.batch)

    def one(team: Any) -> None:
        if args.craft:
            attacks.r_fgsm(learners[0].network, x, y, epsilon=EPSILON, alpha=ALPHA, rng=rng)
        else:
            satm.step(learners, x, y, satm.Rules(epsilon=EPSILON, alpha=ALPHA), 0, team)

    def work(team: Any) -> None:
        def together(wanted: str) -> Any:
            """The step, or the peak memory, of all processes; those that do not lead wait here for orders."""
            while True:
                order = team.map(lambda _: wanted, [0])[0]
                if order == "step":
                    one(team)
                elif order == "fetch":
                    team.fetch(learners)
                elif order == "memory":
                    memory = sum(team.map(lambda _: pair.peak_mib(), range(team.size)))
                if team.leads:
                    return memory if order == "memory" else None
                if order == "stop":
                    return None

        def kernels(_: Any) -> Any:
            together("fetch")  # then this process has all networks, and takes the step by itself
            return shares_of_time(lambda: one(parallel.ALONE))

        if team.leads:
            together("step")
            serve({"time": lambda _: pair.timed(lambda: together("step")), "memory": lambda _: together("memory"),
                   "kernels": kernels})  # fmt: skip
        together("stop")

    narrow = experiment.is_narrow(args.batch, args.size, args.width)
    parallel.in_processes(work, len(learners) if narrow else 1)


def shares_of_time(step: Any) -> dict[str, tuple[float, float]]:
    """{kernel: (seconds, FLOP)} of one step in one process; a convolution counts as the definition multiplies."""
    import time

    from minisatm import optim
    from minisatm.kernels import numpy_kernels

    found: dict[str, list[float]] = {}
    inside = False

    def watched(name: str, function: Any) -> Any:
        def call(*arrays: Any, **settings: Any) -> Any:
            nonlocal inside
            if inside:
                return function(*arrays, **settings)
            inside, start = True, time.perf_counter()
            try:
                out = function(*arrays, **settings)
            finally:
                inside = False
            seconds = time.perf_counter() - start
            label, flop = described(name, arrays, settings, out)
            entry = found.setdefault(label, [0.0, 0.0])
            entry[0] += seconds
            entry[1] += flop
            return out

        return call

    places = [(numpy_kernels, name) for name in numpy_kernels.__all__] + [(optim.Optimiser, "step")]
    before = {(place, name): getattr(place, name) for place, name in places}
    try:
        for (place, name), function in before.items():
            setattr(place, name, watched(name, function))
        total = pair.timed(step)
    finally:
        for (place, name), function in before.items():
            setattr(place, name, function)
    found["everything else (tape, attack, losses)"] = [total - sum(seconds for seconds, _ in found.values()), 0.0]
    return {label: (seconds, flop) for label, (seconds, flop) in found.items()}


def described(name: str, arrays: Any, settings: Any, out: Any) -> tuple[str, float]:
    """A kernel call's row in the table, and how many multiplications and additions its definition asks for."""
    if name.startswith("conv2d"):
        if name == "conv2d_gw":
            kernel, pixels, flop = out.shape[:2], arrays[1], 2 * out[..., 0].size * arrays[1].size
        else:
            w = arrays[1]
            kernel, pixels = w.shape[:2], out if name == "conv2d" else arrays[0]
            flop = 2 * pixels.size * w[..., 0].size
        part = {"conv2d": "forward", "conv2d_gx": "gradient to x", "conv2d_gw": "gradient to w"}[name]
        return f"convolution {kernel[0]}x{kernel[1]}, {part}", float(flop)
    if name.startswith("linear"):
        sizes = {"linear": arrays[0].shape[-1], "linear_gx": arrays[0].shape[-1], "linear_gw": len(arrays[0])}
        return "dense layers", 2.0 * out.size * sizes[name]
    rows = {"batch_norm": "batch norm", "max_pool": "pooling", "avg_pool": "pooling", "step": "optimiser"}
    return next((row for start, row in rows.items() if name.startswith(start)), "relu, sums, scaling"), 0.0


# --- PyTorch -----------------------------------------------------------------------------------------------------


def torch_network(name: str, width: float, size: int) -> Any:
    """(logits, features) as a torch Module, with every channel count scaled by width."""
    import torch
    from torch import nn

    def scaled(channels: int) -> int:
        return max(1, round(channels * width))

    class Vgg16(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers, channels = [], 3
            for filters, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
                for _ in range(count):
                    layers += [nn.Conv2d(channels, scaled(filters), 3, padding=1), nn.ReLU(inplace=True)]
                    channels = scaled(filters)
                layers.append(nn.MaxPool2d(2))
            hidden = self.feature_width = scaled(4096)
            self.convolutions = nn.Sequential(*layers, nn.Flatten())
            self.fc6 = nn.Sequential(nn.Linear(channels * (size // 32) ** 2, hidden), nn.ReLU(), nn.Dropout())
            self.fc7 = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU())
            self.fc8 = nn.Sequential(nn.Dropout(), nn.Linear(hidden, CLASSES))

        def forward(self, x: Any) -> Any:
            features = self.fc7(self.fc6(self.convolutions(x)))
            return self.fc8(features), features

    def conv_norm(channels: int, filters: int, kernel: int, stride: int = 1) -> Any:
        conv = nn.Conv2d(channels, filters, kernel, stride, kernel // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(filters))

    class Block(nn.Module):
        def __init__(self, channels: int, filters: int, stride: int) -> None:
            super().__init__()
            first, second = conv_norm(channels, filters, 1), conv_norm(filters, filters, 3, stride)
            third, relu = conv_norm(filters, 4 * filters, 1), nn.ReLU(inplace=True)
            self.body = nn.Sequential(first, relu, second, relu, third)
            changes = stride != 1 or channels != 4 * filters
            self.shortcut = conv_norm(channels, 4 * filters, 1, stride) if changes else nn.Identity()

        def forward(self, x: Any) -> Any:
            return torch.relu(self.body(x) + self.shortcut(x))

    class ResNet(nn.Module):
        def __init__(self, counts: tuple[int, ...]) -> None:
            super().__init__()
            channels = scaled(64)
            layers = [conv_norm(3, channels, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
            for stage, count in enumerate(counts):
                filters = scaled(64 * 2**stage)
                for i in range(count):
                    layers.append(Block(channels, filters, 2 if stage and i == 0 else 1))
                    channels = 4 * filters
            self.body, self.fc, self.feature_width = nn.Sequential(*layers), nn.Linear(channels, CLASSES), channels

        def forward(self, x: Any) -> Any:
            features = self.body(x).mean((2, 3))
            return self.fc(features), features

    return Vgg16() if name == "vgg16" else ResNet({"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}[name])


def theirs(serve: Any, args: Any, channels_last: bool) -> None:
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return -g

    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    networks = [
        torch_network(name, args.width, args.size).to(memory_format=layout)
        for name in ([args.craft] if args.craft else args.pair.split(","))
    ]
    domains = [nn.Sequential(nn.Linear(n.feature_width, 256), nn.ReLU(), nn.Linear(256, 1)) for n in networks]
    optimisers = [
        torch.optim.SGD([*n.parameters(), *d.parameters()], 1e-3, momentum=0.9) for n, d in zip(networks, domains)
    ]
    x = torch.rand(args.batch, 3, args.size, args.size).to(memory_format=layout)
    y = torch.randint(0, CLASSES, (args.batch,))
    domain_truth = torch.arange(2.0).repeat_interleave(args.batch)

    def craft(network: Any) -> Any:
        network.eval()  # as ours does
        start = (x + ALPHA * torch.sign(torch.randn_like(x))).clamp(0, 1).requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(network(start)[0], y, reduction="sum"), start)
        network.train()
        return (start.detach() + (EPSILON - ALPHA) * g.sign()).clamp(0, 1)

    def step() -> None:
        crafted = [craft(network) for network in networks]
        if args.craft:
            return
        for network, domain, optimiser, other in zip(networks, domains, optimisers, crafted[::-1]):
            logits, features = network(torch.cat([x, other]))
            clean, adversarial = logits.split(args.batch)
            truth = domain(Reverse.apply(features)).squeeze(1)
            loss = F.cross_entropy(clean, y) + F.cross_entropy(adversarial, y)
            loss = loss + 0.1 * F.binary_cross_entropy_with_logits(truth, domain_truth)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    step()
    serve({"time": lambda _: pair.timed(step), "memory": lambda _: pair.peak_mib()})


# --- the tables --------------------------------------------------------------------------------------------------


def compare(args: Any) -> dict[str, Any]:
    """One table, printed; and its figures."""
    wanted = {name: last for name, last in LAYOUTS.items() if args.layout in ("both", "last" if last else "default")}
    programs = pair.Programs({"ours": (ours, (args,))} | {n: (theirs, (args, last)) for n, last in wanted.items()})
    before = pair.product_speed()
    seconds = programs.rounds(args.rounds)
    speed = (before + pair.product_speed()) / 2
    memory = {name: programs.ask(name, "memory") for name in seconds}
    kernels = programs.ask("ours", "kernels")
    programs.stop()

    flop = sum(f for _, f in kernels.values())
    faster = min(wanted, key=lambda name: median(seconds[name]))
    what = f"crafting (R+FGSM), {args.craft}" if args.craft else f"SATM step, {args.pair}"
    print(
        f"\n{what}, width {args.width:g}, {args.size}x{args.size}, batch {args.batch}; {args.rounds} interleaved rounds"
    )
    print(f"{pair.machine()}; {pair.torch_version()}")
    print(f"{flop / 1e9:,.1f} GFLOP as the definition counts; matrix product {speed:.0f} GFLOP/s on this machine now\n")
    print(f"{'':24}{'seconds: median (range)':>28}{'ratio':>8}{'peak MiB':>10}{'GFLOP/s':>9}")
    for name, own in seconds.items():
        ratio = median([a / b for a, b in zip(own, seconds[faster])])
        print(f"{name:24}{pair.in_words(own, digits=3):>28}{ratio:>8.2f}{memory[name]:>10,}"
              f"{flop / median(own) / 1e9:>9.0f}")  # fmt: skip
    print("(ratio: to PyTorch in its faster layout, the median over rounds)\n")
    total = sum(s for s, _ in kernels.values())
    print(f"{'where our time goes, one process':44}{'ms':>9}{'share':>8}{'GFLOP/s':>9}")
    for label, (own, work) in sorted(kernels.items(), key=lambda item: -item[1][0]):
        print(f"{label:44}{1e3 * own:>9.1f}{own / total:>8.0%}" + (f"{work / own / 1e9:>9.0f}" if work else ""))
    return {"seconds": seconds, "memory": memory}


def sweep(args: Any) -> None:
    """Seconds of our step against the batch and against the side, as a plot."""
    import argparse

    import matplotlib
    import numpy as np

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    for axis, option, values, measure in (
        (axes[0], "batch", (1, 2, 4, 8, 16), lambda v: v),
        (axes[1], "size", (64, 96, 128, 160, 192, 224), lambda v: v * v),
    ):
        programs = pair.Programs(
            {str(value): (ours, (argparse.Namespace(**{**vars(args), option: value}),)) for value in values}
        )
        cost = list(programs.rounds(args.rounds).values())
        programs.stop()
        for value, own in zip(values, cost):
            print(f"{option} {value}: {pair.in_words(own)} s", flush=True)
        amounts, middle = [measure(v) for v in values], [median(c) for c in cost]
        slope, constant = np.polyfit(amounts, middle, 1, w=1 / np.array(middle))  # every point counts alike, in percent
        off = max(abs(constant + slope * a - m) / m for a, m in zip(amounts, middle))
        axis.plot(amounts, middle, "o")
        axis.vlines(amounts, [min(c) for c in cost], [max(c) for c in cost], lw=1)
        axis.plot([0, max(amounts)], [constant, constant + slope * max(amounts)], lw=1)
        axis.set(ylim=0, xlim=0, ylabel="seconds a step", title=f"straight line: off by at most {off:.0%}")
        axis.set_xlabel(f"batch, at {args.size}x{args.size}" if option == "batch" else f"pixels, at batch {args.batch}")
        if option == "size":
            axis.set_xticks(amounts, [f"{v}²" for v in values])
        print(f"  {constant:.2f} s + {slope:.3g} s for each; the line is off by at most {off:.0%}")
    figure.savefig(args.plot, dpi=110)
    print(f"wrote {args.plot}")


def main() -> None:
    cli = pair.parser(__doc__)
    cli.add_argument("--pair", default="vgg16,resnet50")
    cli.add_argument("--craft", metavar="NETWORK", help="time crafting on this network alone, not a step of the pair")
    cli.add_argument("--width", type=float, default=1.0)
    cli.add_argument("--size", type=int, default=224)
    cli.add_argument("--batch", type=int, default=8)
    cli.add_argument("--layout", choices=("both", "last", "default"), default="both", help="PyTorch's memory layout")
    cli.add_argument("--plot", metavar="FILE", help="draw our seconds against batch and side, without the peer")
    cli.add_argument("--json", metavar="FILE", help="also write the figures here")
    args = cli.parse_args()
    if args.plot:
        sweep(args)
        return
    try:
        import torch  # noqa: F401
    except ImportError:
        sys.exit("the peer is PyTorch, which is not installed: pip install -e '.[peers]'")
    figures = compare(args)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(figures, f)


if __name__ == "__main__":
    main()
