"""The kernels of the GPU benchmark: each one alone, and both algorithms of convolution for each layer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import ops
import satm_step
from gpu_sides import Bench, using

LAYER_BATCH = 16
IN_PLACE = {"bias_relu": 1, "sgd_step": 2, "adam_step": 3}  # so many of the first arrays are read and written


class Scene(NamedTuple):
    """A call of cupy_kernels and which kernels it starts. Arguments as Bench.drawn takes them."""

    starts: str
    label: str
    function: str
    arguments: list[Any]
    settings: dict[str, Any] = {}

    def call(self, bench: Bench) -> partial[Any]:
        return partial(getattr(bench.kernels, self.function), *map(bench.drawn, self.arguments), **self.settings)


def convolution(bench: Bench, layer: ops.Layer) -> list[Scene]:
    """The three passes of a layer: forward, to x, to w."""
    network, *sizes, kernel, stride = layer
    side, channels, filters = map(bench.scaled, sizes)
    batch, out = bench.scaled(LAYER_BATCH), (side - 1) // stride + 1
    x, w, g = (batch, side, side, channels), (kernel, kernel, channels, filters), (batch, out, out, filters)
    where = dict(stride=(stride, stride), pads=((kernel // 2, kernel // 2),) * 2)
    label = f"{network} {channels}-{filters}@{side} {kernel}x{kernel}/{stride}"
    return [
        Scene("conv2d", label, "conv2d", [x, w, None], where),
        Scene("conv2d_gx", label, "conv2d_gx", [g, w], dict(size=(side, side), **where)),
        Scene("conv2d_gw", label, "conv2d_gw", [x, g], dict(kernel=(kernel, kernel), **where)),
    ]


def scenes(bench: Bench) -> Iterator[Scene]:
    """Every kernel of the .cu files at a shape that training has; large ones, which no cache holds."""
    s = bench.scaled
    for layer in (("vgg16", 224, 64, 64, 3, 1), ("vgg16", 56, 256, 256, 3, 1), ("vgg16", 14, 512, 512, 3, 1),
                  ("resnet50", 224, 3, 64, 7, 2), ("resnet50", 56, 128, 128, 3, 2)):  # fmt: skip
        yield from convolution(bench, layer)

    N, D, F = s(128), s(25088), s(4096)
    image, half = (s(16), s(224), s(224), s(64)), (s(16), s(224) // 2, s(224) // 2, s(64))
    w, same = (3, 3, s(64), s(64)), dict(stride=(1, 1), pads=((1, 1), (1, 1)))
    pool = dict(kernel=(2, 2), stride=(2, 2), pads=((0, 0), (0, 0)))
    back, pixels = dict(pool, size=image[1:3]), (s(64), s(224), s(224), 3)
    wide, C, vector = (s(64), s(56), s(56), s(256)), (s(256),), (s(64),)
    sgd = dict(rate=1e-3, momentum=0.9, weight_decay=1e-4)
    adam = dict(rate=1e-3, betas=(0.9, 0.999), steps=1, eps=1e-8, weight_decay=1e-4)
    bits = np.full(-(-math.prod(pixels) // 8), 0xA5, np.uint8)
    moments = "batch_norm_moments batch_norm_statistics batch_norm_train"
    sums = "batch_norm_sums batch_norm_gradients batch_norm_train_gx"
    for starts, function, arguments, settings in (
        ("linear", "linear", [(N, D), (D, F), (F,)], {}),
        ("linear_gx", "linear_gx", [(N, F), (D, F)], {}),
        ("linear_gw", "linear_gw", [(N, D), (N, F)], {}),
        ("im2col bias_relu", "conv2d", [image, w, vector], dict(relu=True, **same)),
        ("col2im", "conv2d_gx", [image, w], dict(size=image[1:3], **same)),
        ("max_pool", "max_pool", [image], dict(ceil=False, **pool)),
        ("max_pool_gx", "max_pool_gx", [half, lambda: (bench.drawn(half) > 0).view(np.uint8)], back),
        ("avg_pool", "avg_pool", [image], dict(count_padding=True, **pool)),
        ("avg_pool_gx", "avg_pool_gx", [half], dict(count_padding=True, **back)),
        ("relu", "relu", [wide], {}),
        ("relu_gx", "relu_gx", [wide, wide], {}),
        ("add_relu", "add_relu", [wide, wide], {}),
        ("scale_shift", "scale_shift", [wide, C, C], {}),
        ("channel_sums_part channel_sums_total", "channel_sums", [wide, wide], {}),
        (moments, "batch_norm_train", [wide, C, C], dict(eps=1e-5, relu=True)),
        (sums, "batch_norm_train_gx", [wide, lambda: tuple(map(bench.drawn, (wide, C, C))), C, wide], {}),
        ("running_average", "running_average", [C, C, 0.1], {}),
        ("sign_step", "sign_step", [pixels, pixels, 1 / 32], {}),
        ("random_step", "random_step", [pixels, bits, 1 / 32], {}),
        ("dropout", "dropout", [(N, F), lambda: bench.drawn((N, F)) > 0, 2.0], {}),
        ("softmax_cross_entropy", "softmax_cross_entropy", [(N, 8), (N, 8)], {}),
        ("squares clip_scale", "clip_by_norm", [lambda: [bench.drawn((D, F))], 1.0], {}),
        ("sgd_step", "sgd_step", [(D, F), (D, F), (D, F), (1,)], sgd),
        ("adam_step", "adam_step", [(D, F), (D, F), (D, F), (D, F), (1,)], adam),
    ):
        shape = arguments[0] if isinstance(arguments[0], tuple) else (D, F)
        yield Scene(starts, "x".join(map(str, shape)), function, arguments, settings)


def each_kernel(bench: Bench) -> None:
    bench.say(
        "\nkernels alone, float32; bytes: every array read or written once; floor: the time by the ceilings above"
    )
    bench.say(f"{'':24}{'shape':30}{'microseconds':>14}{'GFLOP/s':>10}{'GB/s':>8}{'floor / time':>14}")
    for scene in scenes(bench):
        seen: dict[str, Any] = {}
        for name in scene.starts.split():
            bench.row(f"{name:24}{scene.label:30}", partial(alone, bench, scene, seen, name))


def alone(bench: Bench, scene: Scene, seen: dict[str, Any], name: str) -> str:
    """A kernel repeated with the arguments that the scene, played once, gave it."""
    start = bench.launch.launch
    if not seen:

        def watched(kernel: str, *rest: Any) -> None:
            seen.setdefault(kernel, rest)
            start(kernel, *rest)

        tiles = scene.starts == scene.function  # our own product, not cuBLAS
        call = scene.call(bench)
        ways = dict(launch=watched, cublas=not tiles, WORTH_COLUMNS=0)
        with using(bench.launch, launch=watched), using(bench.kernels, **ways):
            out = call()
        seen["flop"] = satm_step.described(scene.function, call.args, scene.settings, out)[1] if tiles else 0.0
    seconds, flop = bench.clock.seconds(partial(start, name, *seen[name])), seen["flop"]
    arrays = [a for a in seen[name][2:] if isinstance(a, bench.cupy.ndarray)]
    moved = sum(a.nbytes for a in (*arrays, *arrays[: IN_PLACE.get(name, 0)]))
    floor = max(flop / bench.ceilings.get("float32", math.inf), moved / bench.ceilings.get("copy", math.inf))
    return (
        f"{1e6 * seconds:>14,.1f}{f'{flop / seconds / 1e9:,.0f}' if flop else '':>10}{moved / seconds / 1e9:>8,.0f}"
        f"{f'{floor / seconds:.0%}' if floor else '-':>14}"
    )


def both_ways(bench: Bench) -> None:
    """The rule of cupy_kernels.by_columns beside what it decides about."""
    ways = {"": dict(cublas=False), "float32": dict(cublas=True, WORTH_COLUMNS=0, tf32=False),
            "TF32": dict(cublas=True, WORTH_COLUMNS=0, tf32=True)}  # fmt: skip

    def measured(scenes: list[Scene], filters: int) -> str:
        cells, slower, columns = "", [], bench.kernels.by_columns(filters)
        for part, scene in zip(ops.PASSES, scenes):
            call, seconds = scene.call(bench), {}
            for way, settings in ways.items():
                with using(bench.kernels, **settings):
                    seconds[way] = bench.clock.seconds(call)
                cells += f"{1e3 * seconds[way]:>9.3f}"
            slower += [f"{part} {way}" for way in ("float32", "TF32") if columns != (seconds[way] < seconds[""])]
        verdict = "all" if len(slower) == 6 else ", ".join(slower)
        return f"{cells}   {'columns' if columns else 'implicit'}{f' (slower: {verdict})' if slower else ''}"

    layers = [layer for layer in ops.layers(1.0, 224) if layer[4] > 1][:: 3 if bench.args.quick else 1]
    bench.say(
        f"\nconvolution, batch {LAYER_BATCH}, milliseconds: implicit product, columns and cuBLAS, the same in TF32"
    )
    bench.say(f"{'':28}" + "".join(f"{part:>27}" for part in ops.PASSES) + "   the rule takes")
    for layer in layers:
        passes = convolution(bench, layer)
        bench.row(f"{passes[0].label:28}", partial(measured, passes, layer[3]))


def columns_at_a_time(bench: Bench) -> None:
    """How many columns to make before they are multiplied: few stay in the cache, many make long products."""
    sizes = [2**k for k in range(22, 29)]

    def measured(scene: Scene) -> str:
        call, cells = scene.call(bench), ""
        for size in sizes:
            with using(bench.kernels, COLUMN_BYTES=size, cublas=True, WORTH_COLUMNS=0, tf32=True):
                cells += f"{1e3 * bench.clock.seconds(call):>10.3f}"
        return cells

    now = "" if bench.problem else f" (now {bench.kernels.COLUMN_BYTES >> 20})"
    bench.say(
        f"\nMiB of columns at a time{now}, at least one image's: forward in TF32, batch {LAYER_BATCH}, milliseconds"
    )
    bench.say(f"{'':28}" + "".join(f"{size >> 20:>10}" for size in sizes))
    for layer in ops.layers(1.0, 224):
        if layer[0] == "vgg16" and layer[2] == layer[3] and layer[4]:
            scene = convolution(bench, layer)[0]
            bench.row(f"{scene.label:28}", partial(measured, scene))
