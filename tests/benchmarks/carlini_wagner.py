"""Carlini-Wagner in L2 on MNIST, ours beside Foolbox's at the same budget: success, distance, seconds.

    MINISATM_DATA=DIR python tests/benchmarks/carlini_wagner.py         # needs PyTorch and Foolbox; writes the .txt

The network is Caffe's LeNet (99.05 % on the test set), converted, with the same weights in PyTorch; the images are
those of the test set that it gets right. Both attacks have the same binary search, steps, step size, first c and
confidence, and both give up early, ours image by image, Foolbox (as the published code) for a whole batch. The programs
take turns; seconds are medians over rounds, each of its own images. --threads: of PyTorch, for one Foolbox each. DIR
holds data/mnist and weights/mnist_lenet.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import pair

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("MINISATM_DATA", "."))
Task = tuple[int, int]  # the first image and the image after the last


def lenet() -> Any:
    """Caffe's LeNet, converted to ours."""
    from minisatm import models
    from weights_convert import convert

    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "lenet.h5"
        convert.convert(FOLDER / "weights/mnist_lenet/lenet_iter_10000.caffemodel", file, model="lenet")
        return models.build("lenet", weights=str(file))


def digits(network: Any, count: int) -> tuple[Any, Any]:
    """The first test images that the network gets right: (count, 28, 28, 1) in [0, 1], and their classes."""
    import numpy as np

    from minisatm import attacks
    from minisatm.data import mnist

    data = mnist.load(FOLDER / "data" / "mnist")
    test = np.flatnonzero(data.official_test)[: 2 * count]
    x, y = (data.read(test) / 255).astype(np.float32), data.labels[test]
    right = np.flatnonzero(attacks.logits_of(network, x).argmax(axis=1) == y)[:count]
    return x[right], y[right]


def crafted(found: list[Any], network: Any, x: Any, y: Any) -> dict[str, Any]:
    """Success, and mean distances of the examples that fool, also as 8-bit pixels, judged by our network."""
    import numpy as np

    from minisatm import attacks

    x_adv = np.concatenate(found)
    x, y, result = x[: len(x_adv)], y[: len(x_adv)], {}
    for what, images in (("", x_adv), (" rounded", attacks.rounded(x_adv))):
        fooled = attacks.logits_of(network, images).argmax(axis=1) != y
        away = np.abs(images - x).reshape(len(x), -1)[fooled]
        result["success" + what] = float(fooled.mean())
        result["L2" + what] = float(np.sqrt((away**2).sum(axis=1)).mean())
    return result | {"Linf": float(away.max(axis=1).mean()), "L0": float((away > 0).sum(axis=1).mean())}


def ours(serve: Any, args: Any) -> None:
    from minisatm import attacks

    network = lenet()
    x, y = digits(network, args.images)
    found: list[Any] = []
    budget = dict(search_steps=args.search, steps=args.steps, learning_rate=args.rate, c=args.c)

    def run(task: Task, **options: Any) -> float:
        part = slice(*task)
        return pair.timed(
            lambda: found.append(attacks.carlini_wagner_l2(network, x[part], y[part], **budget | options))
        )

    def other(name: str) -> dict[str, Any]:
        moved: list[Any] = []
        seconds = pair.timed(lambda: moved.append(attacks.ATTACKS[name](network, x[: args.few], y[: args.few])))
        return {"seconds": seconds} | crafted(moved, network, x, y)

    run((0, 4), steps=2, search_steps=1)
    found.clear()
    serve({"time": run, "result": lambda _: crafted(found, network, x, y), "other": other})


def theirs(serve: Any, args: Any, threads: int) -> None:
    sys.path.insert(0, str(HERE.parent))
    import foolbox
    import torch
    from peers import torch_lenet

    network = lenet()
    x, y = digits(network, args.images)
    found: list[Any] = []
    torch.set_num_threads(threads)
    model = foolbox.PyTorchModel(torch_lenet.LeNet(network), bounds=(0, 1), device="cpu")

    def run(task: Task, steps: int = args.steps, search: int = args.search) -> float:
        attack = foolbox.attacks.L2CarliniWagnerAttack(
            binary_search_steps=search, steps=steps, stepsize=args.rate, initial_const=args.c, confidence=0,
            abort_early=True,
        )  # fmt: skip
        images, labels = torch_lenet.first(x[slice(*task)]), torch.from_numpy(y[slice(*task)])
        return pair.timed(lambda: found.append(torch_lenet.last(attack(model, images, labels, epsilons=None)[0])))

    run((0, 4), 2, 1)
    found.clear()
    serve({"time": run, "result": lambda _: crafted(found, network, x, y)})


def main() -> None:
    cli = pair.parser(__doc__ or "")
    cli.add_argument("--images", type=int, default=250, help="that the network gets right (default 250)")
    cli.add_argument("--search", type=int, default=9, help="binary search steps (default 9)")
    cli.add_argument("--steps", type=int, default=100, help="steps of Adam in each (default 100)")
    cli.add_argument("--rate", type=float, default=0.05, help="their size (default 0.05)")
    cli.add_argument("--c", type=float, default=1e-3, help="the first c (default 1e-3)")
    cli.add_argument("--few", type=int, default=50, help="images for the attacks in the other norms (default 50)")
    cli.add_argument("--threads", default="1,2", help="of PyTorch (default 1,2)")
    args = cli.parse_args()
    programs = pair.Programs({
        "minisatm": (ours, (args,)),
        **{f"Foolbox, {n} thread(s)": (theirs, (args, int(n))) for n in args.threads.split(",")},
    })  # fmt: skip
    per_round = args.images // args.rounds
    seconds: dict[str, list[float]] = {name: [] for name in programs.wires}
    for k in range(args.rounds):
        for name, took in programs.rounds(1, (k * per_round, (k + 1) * per_round)).items():
            seconds[name] += took
    results = {name: programs.ask(name, "result") for name in seconds}
    others = {
        name: programs.ask("minisatm", "other", name)
        for name in ("carlini_wagner_l2", "deepfool", "carlini_wagner_linf", "carlini_wagner_l0")
    }
    programs.stop()
    text = report(args, per_round, seconds, results, others)
    print(text)
    (HERE / "carlini_wagner.txt").write_text(text + "\n")


def report(args: Any, per_round: int, seconds: Any, results: Any, others: Any) -> str:
    from importlib.metadata import version

    lines = [
        f"Carlini-Wagner L2 on {per_round * args.rounds} MNIST test images, Caffe's LeNet: {args.search} search steps "
        f"of {args.steps}, step size {args.rate:g}, first c {args.c:g}",
        f"{pair.machine()}; {pair.torch_version()}, Foolbox {version('foolbox')}; {args.rounds} interleaved rounds of "
        f"{per_round} images",
        "",
        f"{'':22}{'seconds a round':>24}{'ratio':>7}{'success':>10}{'mean L2':>9}{'8-bit: success':>16}{'mean L2':>9}",
    ]
    for name, result in results.items():
        ratio = median(o / t for o, t in zip(seconds["minisatm"], seconds[name]))
        lines.append(
            f"{name:22}{pair.in_words(seconds[name]):>24}{ratio:7.2f}{result['success']:10.1%}{result['L2']:9.4f}"
            f"{result['success rounded']:16.1%}{result['L2 rounded']:9.4f}"
        )
    head = f"{'success':>10}{'mean L2':>9}{'8-bit: success':>16}{'mean L2':>9}"
    lines += [
        "(ratio: our seconds to theirs, the median over rounds)",
        "",
        f"Attacks that look for the smallest perturbation, by default; {args.few} images",
        f"{'':22}{'seconds':>9}{head}{'Linf':>8}{'pixels':>8}",
    ]
    for name, r in others.items():
        lines.append(
            f"{name:22}{r['seconds']:9.1f}{r['success']:10.1%}{r['L2']:9.4f}{r['success rounded']:16.1%}"
            f"{r['L2 rounded']:9.4f}{r['Linf']:8.4f}{r['L0']:8.1f}"
        )
    return "\n".join([*lines, "(Linf and changed pixels are those of the examples as 8-bit pixels)"])


if __name__ == "__main__":
    main()
