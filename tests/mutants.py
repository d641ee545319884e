"""The mistakes a person would make, as changes of the source, each with the check that must catch it."""

import contextvars
import functools
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cuda_checks
import numpy as np
import test_blocks
import test_compositions
import test_gradients
import test_ops
import test_plain
import test_tape
import test_twins
import test_using

from minisatm import check, tape
from minisatm.check import strategies
from minisatm.kernels import winograd as winograd_module
from minisatm.tensor import OPS

cases = functools.lru_cache(strategies.examples)


def gradients_of(*names):
    """The check: gradients of these ops, as test_gradients does, on a fixed list of cases."""

    def run():
        for name in names:
            for arrays, settings in cases(name, 80):
                check.gradients(OPS[name], *arrays, **settings)

    return run


def twin_of(name):
    """The check: the op against plain.py, as test_twins does, on a fixed list of cases."""

    def run():
        for arrays, settings in cases(name.removesuffix("_blocks").removesuffix("_ties"), 80):
            getattr(test_twins, f"{name}_twin")(arrays, settings)

    return run


def loops_of(name):
    """The check: the kernel of plain.py against its loops, as test_plain does, on a fixed list of cases."""

    def run():
        drawn, holds = test_plain.LOOPS[name]
        for case in cuda_checks.fixed(drawn, 60):
            holds(test_plain.doubles(case))

    return run


def cut_up(*names):
    """The check: these ops in small parts, as test_blocks does."""

    def run():
        for name in names:
            test_blocks.cut_up(name)

    return run


def layout_of(name, layout):
    """The check: this op's arrays laid out otherwise in memory, as test_twins does."""
    return lambda: test_twins.test_the_layout_in_memory_does_not_matter(name, layout)


def blocks_checks():
    for images, rows, most, of in ((1, 7, 2.0, 1), (1, 9, 5.0, 4), (3, 7, 2.5, 2), (8, 4, 20.0, 4), (10, 10, 19.0, 1)):
        test_blocks.blocks_cover_all_once(images, rows, most, of)


def winograd_checks():
    for arrays, settings in test_twins.fixed_winograd_cases():
        test_twins.winograd_twin(arrays, settings)


def same_padding():
    for n, kernel, stride, pads, out in test_ops.test_same_padding_is_as_in_keras.pytestmark[0].args[1]:
        test_ops.test_same_padding_is_as_in_keras(n, kernel, stride, pads, out)


@dataclass(frozen=True)
class Mutant:
    """`name`, what is wrong; `where`, "module:function" or "module:Class.method"; `before`, a text that occurs in its
    source once, becomes `after` (or the whole function becomes `instead`); `caught_by` must then fail."""

    name: str
    where: str
    before: str
    after: str
    caught_by: Callable[[], Any]
    instead: Any = None


BASIC, CONV, NORM, LOSS = "ops.basic", "ops.conv", "ops.norm", "ops.loss"
KERNELS, IM2COL, WINOGRAD = "kernels.numpy_kernels", "kernels.im2col", "kernels.winograd"
BLOCKS, POOLING, PLAIN = "kernels.blocks", "kernels.pooling", "kernels.plain"
bn, ce, conv, max_pool, avg_pool = map(
    gradients_of, ("batch_norm_train", "softmax_cross_entropy", "conv2d", "max_pool", "avg_pool")
)
by_taps = functools.partial(
    test_twins.test_tap_by_tap_is_the_convolution_with_the_flipped_kernel.hypothesis.inner_test,
    channels=1, more=2, kernel=(3, 2), stride=(2, 1), pads=((2, 1), (1, 1)), images=2, cache=2**12,
)  # fmt: skip
bn_large_mean = test_gradients.test_batch_norm_of_a_large_mean_in_float32


def max_pool_that_splits_ties(x, *, kernel=2, stride=None, padding="valid", ceil=False):
    value, (first,) = OPS["max_pool"].original(x, kernel=kernel, stride=stride, padding=padding, ceil=ceil)
    flipped, (last,) = OPS["max_pool"].original(x[:, ::-1, ::-1], kernel=kernel, stride=stride)
    return value, (lambda g: (first(g) + last(g[:, ::-1, ::-1])[:, ::-1, ::-1]) / 2,)


def breadth_first(root):
    order = [root]
    for node in order:
        order += [p for p in node.parents if isinstance(p, tape.Node) and p not in order]
    return order[::-1]


SOURCE = [
    # batch norm and dropout
    Mutant("batch-norm-without-its-mean-path", f"{KERNELS}:batch_norm_train_gx", "-factor * g_sum / n", "0 * g_sum",
           bn),
    Mutant("batch-norm-without-its-variance-path", f"{KERNELS}:batch_norm_train_gx", "* gx_sum / n", "* gx_sum * 0",
           bn),
    Mutant("batch-norm-variance-path-over-std-not-variance", f"{KERNELS}:batch_norm_train_gx",
           "-factor * inverse * inverse", "-factor * inverse", bn),
    Mutant("batch-norm-gx-without-gamma", f"{KERNELS}:batch_norm_train_gx", "factor = gamma * inverse",
           "factor = inverse", bn),
    Mutant("batch-norm-gradient-not-cut-by-its-relu", f"{KERNELS}:batch_norm_train_gx", "g_rows[r] if on is None else",
           "g_rows[r] if True else", bn),
    Mutant("batch-norm-second-pass-not-cut-by-its-relu", f"{KERNELS}:batch_norm_train_gx",
           "g_rows if on is None else made", "g_rows", bn),
    Mutant("batch-norm-forgets-its-relu", f"{KERNELS}:batch_norm_train", "if relu:", "if False:",
           twin_of("batch_norm_train")),
    Mutant("batch-norm-divides-by-n-minus-1", f"{KERNELS}:batch_norm_train",
           "on_rows(centre, rows), x) / n", "on_rows(centre, rows), x) / max(n - 1, 1)", bn),
    Mutant("batch-norm-divides-by-n-minus-1-seen-by-plain", f"{KERNELS}:batch_norm_train",
           "on_rows(centre, rows), x) / n", "on_rows(centre, rows), x) / max(n - 1, 1)", twin_of("batch_norm_train")),
    Mutant("batch-norm-mean-of-squares-minus-squared-mean", f"{KERNELS}:batch_norm_train",
           "variance = _total(on_rows(centre, rows), x) / n",
           "on_rows(centre, rows); variance = channel_sums(x, x) / n - mean * mean", bn_large_mean),
    Mutant("batch-norm-eps-outside-the-root", f"{KERNELS}:batch_norm_train",
           "np.sqrt(variance + eps)", "(np.sqrt(variance) + eps)", twin_of("batch_norm_train")),
    Mutant("batch-norm-ggamma-of-the-centred-x", f"{KERNELS}:batch_norm_train_gx", "return gx, gx_sum * inverse",
           "return gx, gx_sum", bn),
    Mutant("batch-norm-eval-ggamma-without-the-mean", f"{NORM}:batch_norm_eval",
           "- mean * k.channel_sums(g)", "", gradients_of("batch_norm_eval")),
    Mutant("batch-norm-eval-shift-without-scale", f"{NORM}:batch_norm_eval",
           "beta - mean * scale", "beta - mean", twin_of("batch_norm_eval")),
    Mutant("dropout-mask-from-another-draw", f"{NORM}:dropout", "k.dropout(g, mask, scale)",
           "k.dropout(g, np.random.default_rng(0).random(g.shape) >= rate, scale)", gradients_of("dropout")),
    Mutant("dropout-backward-without-its-scale", f"{NORM}:dropout", "k.dropout(g, mask, scale)",
           "k.dropout(g, mask, 1)", gradients_of("dropout")),
    Mutant("dropout-without-its-scale", f"{PLAIN}:dropout", "", "",
           test_ops.test_dropout_keeps_the_mean_and_draws_from_the_generator, lambda x, keep, scale: x * keep),
    # convolution and dense layers
    Mutant("conv-gx-padding-off-by-one", f"{IM2COL}:_phase",
           "(count - 1 - first, last + 1 - m)", "(count - first, last - m)", conv),
    Mutant("conv-gx-kernel-not-flipped", f"{IM2COL}:_correlate_flipped", "w[::-1, ::-1]", "w", conv),
    Mutant("conv-gx-kernel-flipped-in-one-axis", f"{IM2COL}:_correlate_flipped", "w[::-1, ::-1]", "w[::-1]", conv),
    Mutant("conv-gx-channels-not-swapped", f"{IM2COL}:_correlate_flipped", ".swapaxes(2, 3)", "", conv),
    Mutant("conv-gx-strides-swapped", f"{IM2COL}:conv2d_gx", "w[r :: stride[0], c :: stride[1]]",
           "w[r :: stride[1], c :: stride[0]]", conv),
    Mutant("conv-gx-by-taps-strides-swapped", f"{IM2COL}:conv2d_gx_by_taps", "(kh, kw), stride,",
           "(kh, kw), stride[::-1],", by_taps),
    Mutant("conv-gx-by-taps-keeps-the-last", f"{IM2COL}:conv2d_gx_by_taps", "view += ", "view[...] = ", by_taps),
    Mutant("conv-gx-by-taps-crops-the-wrong-side", f"{IM2COL}:conv2d_gx_by_taps", "crop(padded, pads, size)",
           "crop(padded, (pads[0][::-1], pads[1]), size)", by_taps),
    Mutant("conv-gw-transposed-kernel", f"{IM2COL}:conv2d_gw", "gw.reshape(kernel[0], -1, C, r, F)",
           "gw.reshape(-1, kernel[0], C, r, F).swapaxes(0, 1)", conv),
    Mutant("conv-gw-of-the-first-neighbour-only", f"{IM2COL}:conv2d_gw", "for i in range(r)])",
           "for i in range(1)])", conv),
    Mutant("conv-neighbours-forget-the-stride", f"{IM2COL}:_side_by_side", "i * stride : i * stride + kw",
           "i : i + kw", twin_of("conv2d")),
    Mutant("conv-gw-of-the-last-block-only", f"{IM2COL}:conv2d_gw", "gw += np.matmul", "gw[...] = np.matmul",
           twin_of("conv2d_blocks")),
    Mutant("conv-row-blocks-forget-the-stride", f"{BLOCKS}:frames", "rows.start * stride", "rows.start",
           twin_of("conv2d_blocks")),
    Mutant("conv-frame-shifted-by-one", f"{BLOCKS}:frames", "left : left + W] =",
           "max(left - 1, 0) : max(left - 1, 0) + W] =", twin_of("conv2d")),
    Mutant("conv-frame-keeps-the-last-blocks-rows-above", f"{BLOCKS}:frames", "out[:, :above] = 0", "pass",
           twin_of("conv2d_blocks")),
    Mutant("conv-frame-keeps-the-last-blocks-rows-below", f"{BLOCKS}:frames",
           "out[:, above + inside :] = 0", "pass", twin_of("conv2d_blocks")),
    Mutant("frame-without-the-last-windows-rows", f"{BLOCKS}:frames",
           "(rows.stop - rows.start - 1) * stride + kernel", "(rows.stop - rows.start) * stride",
           test_blocks.a_few_frames),
    Mutant("frame-forgets-the-padding-above", f"{BLOCKS}:frames", "rows.start * stride - top",
           "rows.start * stride", test_blocks.a_few_frames),
    Mutant("frame-hands-out-x-where-rows-are-missing-below", f"{BLOCKS}:frames",
           "low == first and high == first + count", "low == first", test_blocks.a_few_frames),
    Mutant("frame-hands-out-x-where-rows-are-missing-above", f"{BLOCKS}:frames",
           "low == first and high == first + count", "high == first + count", test_blocks.a_few_frames),
    Mutant("frame-hands-out-x-without-its-zeros-right", f"{BLOCKS}:frames", "left == 0 and width == W and",
           "left == 0 and", test_blocks.a_few_frames),
    Mutant("frame-hands-out-x-whatever-its-layout", f"{BLOCKS}:frames", "width == W and x.flags.c_contiguous",
           "width == W", layout_of("conv2d", test_twins.gaps)),
    Mutant("blocks-lose-the-last-rows", f"{BLOCKS}:_equal", "count * i // number", "count // number * i",
           blocks_checks),
    Mutant("blocks-lose-the-last-rows-seen-by-plain", f"{BLOCKS}:_equal", "count * i // number", "count // number * i",
           twin_of("conv2d_blocks")),
    Mutant("blocks-lose-the-last-image", f"{BLOCKS}:image_blocks", "in range(images)", "in range(max(1, images - 1))",
           twin_of("conv2d_blocks")),
    Mutant("blocks-larger-than-the-cache", f"{BLOCKS}:image_blocks", "(most - most % rows)", "most", blocks_checks),
    Mutant("blocks-too-few-for-the-cores", f"{BLOCKS}:_equal", "-(-number // cores()) * cores()", "number",
           blocks_checks),
    Mutant("rows-after-the-last-full-block-lost", f"{BLOCKS}:on_rows", "range(0, len(x), step)",
           "range(0, len(x) - step + 1, step)", cut_up("relu", "batch_norm_train")),
    Mutant("sums-of-the-last-block-only", f"{KERNELS}:_total", "np.sum(sums, axis=0)", "sums[-1]",
           cut_up("batch_norm_train")),
    Mutant("images-after-the-last-full-block-lost", f"{BLOCKS}:on_rows", "range(0, len(x), step)",
           "range(0, len(x) - step + 1, step)", cut_up("max_pool", "avg_pool")),
    Mutant("blocks-of-a-layout-that-cannot-be-cut", f"{KERNELS}:_in_blocks",
           "not all(a.flags.c_contiguous for a in arrays)", "False", lambda: test_blocks.step_in_parts("sgd")),
    Mutant("conv-bias-of-the-first-filter-for-all", f"{BLOCKS}:finish", "tiled(block, b)", "tiled(block, b[:1])",
           twin_of("conv2d")),
    Mutant("conv-forgets-its-relu", f"{BLOCKS}:finish", "if relu:", "if False:", twin_of("conv2d")),
    Mutant("conv-gradient-not-cut-by-its-relu", f"{BASIC}:with_relu", "vjp(masked(g))", "vjp(g)", conv),
    Mutant("conv-gradient-cut-by-the-last-relu", f"{BASIC}:with_relu", "if last[0] is not g:", "if last[0] is None:",
           test_ops.test_a_kept_tape_cuts_each_gradient_anew),
    Mutant("winograd-wrong-number-in-b", f"{WINOGRAD}:B", "", "", winograd_checks,
           np.where(np.arange(36).reshape(6, 6) == 16, 2, winograd_module.B)),
    Mutant("winograd-wrong-number-in-g", f"{WINOGRAD}:G", "", "", winograd_checks, winograd_module.G * [1, 1, -1]),
    Mutant("winograd-wrong-number-in-a", f"{WINOGRAD}:A", "", "", winograd_checks,
           winograd_module.A[:, [0, 2, 1, 3, 4, 5]]),
    Mutant("winograd-bias-in-the-wrong-plane", f"{WINOGRAD}:conv2d", "m[7] += b", "m[6] += b", winograd_checks),
    Mutant("winograd-forgets-its-relu", f"{WINOGRAD}:conv2d", "finish(y, None, relu)", "pass", winograd_checks),
    Mutant("winograd-gw-of-the-last-block-only", f"{WINOGRAD}:conv2d_gw", "total += product", "total = product",
           winograd_checks),
    Mutant("winograd-gw-with-a-not-transposed", f"{WINOGRAD}:conv2d_gw", '_both_sides("A", x.dtype).T',
           '_both_sides("A", x.dtype).reshape(36, 16)', winograd_checks),
    Mutant("winograd-tiles-overlap-by-one-only", f"{WINOGRAD}:_gathered", "TILE * bh, TILE * bw",
           "(TILE + 1) * bh, TILE * bw", winograd_checks),
    Mutant("winograd-last-tiles-not-cut-off", f"{WINOGRAD}:_put_tiles", "TILE * across == Q", "True", winograd_checks),
    Mutant("winograd-in-double-precision", f"{KERNELS}:_by_winograd", "dtype == np.float32 and", "", 
           test_ops.test_double_precision_and_exact_never_take_winograds_way),
    Mutant("winograd-in-spite-of-exact", f"{KERNELS}:_by_winograd", "not exact and", "",
           test_ops.test_double_precision_and_exact_never_take_winograds_way),
    Mutant("conv-trusts-the-stride-of-a-grey-channel", f"{IM2COL}:column_blocks", "bc = image.itemsize",
           "bc = image.strides[3]",
           layout_of("conv2d", test_twins.new_axes)),
    Mutant("same-padding-odd-pixel-above", f"{CONV}:resolve_padding",
           "(total[0] // 2, total[0] - total[0] // 2)", "(total[0] - total[0] // 2, total[0] // 2)", same_padding),
    Mutant("same-padding-off-by-one", f"{CONV}:resolve_padding", "* s + k - n, 0)", "* s + k - n - 1, 0)",
           same_padding),
    Mutant("integer-padding-on-one-side", f"{CONV}:resolve_padding", "sides = (padding, padding), (padding, padding)",
           "sides = (padding, 0), (padding, 0)", test_ops.test_padding_in_all_its_forms),
    Mutant("linear-gx-product-not-transposed", f"{KERNELS}:linear_gx", "w[d].T", "w[d]", gradients_of("linear")),
    Mutant("linear-gw-transposed", f"{KERNELS}:linear_gw", "x[:, d].T, g", "g[:, d].T, x", gradients_of("linear")),
    Mutant("slices-lose-their-last-column", f"{BLOCKS}:slices", "part[-1] + 1", "part[-1]", cut_up("linear")),
    Mutant("sum-of-the-first-core-only", f"{BLOCKS}:add_up", "parts[0] += part", "pass", cut_up("conv2d")),
    Mutant("sum-of-the-first-core-only-seen-by-winograd", f"{BLOCKS}:add_up", "parts[0] += part", "pass",
           test_blocks.winograd_cut_up),
    Mutant("linear-gx-of-the-first-slice-for-all", f"{KERNELS}:linear_gx", "g, w[d].T", "g, w[: len(w[d])].T",
           cut_up("linear")),
    Mutant("linear-gw-of-the-first-slice-for-all", f"{KERNELS}:linear_gw", "x[:, d].T", "x[:, : len(gw[d])].T",
           cut_up("linear")),
    Mutant("linear-gb-mean-not-sum", f"{CONV}:linear", "g.sum(axis=0)", "g.mean(axis=0)", gradients_of("linear")),
    Mutant("matmul-gb-not-transposed", f"{BASIC}:matmul", "a.swapaxes(-1, -2) @ g", "a @ g", gradients_of("matmul")),
    # pooling
    Mutant("max-pool-ties-to-the-last", f"{POOLING}:max_pool", "view > largest", "view >= largest",
           twin_of("max_pool_ties")),
    Mutant("max-pool-gx-never-filled-between-windows", f"{POOLING}:max_pool_gx", "once = kernel == stride and",
           "once = kernel == stride or", cut_up("max_pool")),
    Mutant("max-pool-gx-fills-where-windows-overlap", f"{POOLING}:max_pool_gx", "once = kernel == stride and",
           "once =", test_ops.test_max_pool_adds_the_gradients_of_windows_that_overlap),
    Mutant("max-pool-ties-split", f"{CONV}:max_pool", "", "", test_ops.test_max_pool_gives_ties_to_the_first,
           max_pool_that_splits_ties),
    Mutant("max-pool-pads-with-zero", f"{POOLING}:max_pool", "pads, -np.inf", "pads, 0",
           twin_of("max_pool")),
    Mutant("max-pool-overlaps-overwrite", f"{POOLING}:max_pool_gx", "view += g[images] * (place[images] == k)",
           "np.copyto(view, g[images], where=place[images] == k)", max_pool),
    Mutant("max-pool-ceil-without-overhang", f"{POOLING}:_overhang", "(m - 1) * s + k - n - sum(p)",
           "(m - 1) * s + k - n - sum(p) - 1", max_pool),
    Mutant("max-pool-ceil-starts-in-the-padding", f"{PLAIN}:output_size", "if ceil and (count - 1)",
           "if False and (count - 1)", test_ops.test_max_pool_with_ceil_hangs_over_but_never_starts_outside),
    Mutant("avg-pool-counts-padding-always", f"{POOLING}:avg_pool", "out, count_padding,", "out, True,",
           twin_of("avg_pool")),
    Mutant("avg-pool-gx-counts-padding-always", f"{POOLING}:avg_pool_gx", "out, count_padding,", "out, True,",
           avg_pool),
    Mutant("avg-pool-gx-without-its-share", f"{POOLING}:avg_pool_gx", "g[images] * share", "g[images] * 1", avg_pool),
    Mutant("global-avg-pool-divides-by-the-height", f"{CONV}:global_avg_pool", "/ (H * W)", "/ H",
           gradients_of("global_avg_pool")),
    # plain.py, against its loops and against the fast kernels
    Mutant("plain-taps-strides-swapped", f"{PLAIN}:taps", "(sh, sw), (P, Q)", "(sw, sh), (P, Q)", loops_of("conv2d")),
    Mutant("plain-crop-on-the-wrong-side", f"{PLAIN}:crop", "pads[0][0] : pads[0][0] +", "pads[0][1] : pads[0][1] +",
           loops_of("conv2d")),
    Mutant("plain-conv-forgets-its-relu", f"{PLAIN}:conv2d", "if relu else out", "if False else out",
           loops_of("conv2d")),
    Mutant("plain-conv-gx-keeps-the-last", f"{PLAIN}:conv2d_gx", "view += ", "view[...] = ", loops_of("conv2d")),
    Mutant("plain-conv-gw-flipped", f"{PLAIN}:conv2d_gw", "gw[i, j] =", "gw[-1 - i, j] =", loops_of("conv2d")),
    Mutant("plain-max-pool-ties-to-the-last", f"{PLAIN}:max_pool", "views.argmax(axis=0)",
           "(len(views) - 1 - views[::-1].argmax(axis=0))", loops_of("max_pool")),
    Mutant("plain-max-pool-pads-with-zero", f"{PLAIN}:max_pool", "-np.inf", "0", loops_of("max_pool")),
    Mutant("plain-max-pool-gx-under-another-tap", f"{PLAIN}:max_pool_gx", "i * kernel[1] + j", "i * kernel[0] + j",
           loops_of("max_pool")),
    Mutant("plain-avg-pool-counts-padding-always", f"{PLAIN}:pixels", "float(count_padding)", "1.0",
           loops_of("avg_pool")),
    Mutant("plain-avg-pool-gx-keeps-the-last", f"{PLAIN}:avg_pool_gx", "view += ", "view[...] = ",
           loops_of("avg_pool")),
    Mutant("plain-batch-norm-divides-by-n-minus-1", f"{PLAIN}:batch_norm_train", "(centred * centred).mean(axis=axes)",
           "centred.var(axis=axes, ddof=1)", loops_of("batch_norm_train")),
    Mutant("plain-batch-norm-gx-without-its-variance-path", f"{PLAIN}:batch_norm_train_gx",
           " - centred * along * inverse**2", "", test_plain.test_every_plain_kernel_is_the_fast_one),
    Mutant("plain-cross-entropy-without-subtracting-labels", f"{PLAIN}:softmax_cross_entropy",
           "keepdims=True) - labels", "keepdims=True)", loops_of("softmax_cross_entropy")),
    Mutant("plain-relu-gx-of-everything", f"{PLAIN}:relu_gx", "", "",
           test_plain.test_every_plain_kernel_is_the_fast_one, lambda g, out: g),
    Mutant("plain-sgd-without-momentum", f"{PLAIN}:sgd_step", "] = momentum * v", "] = v",
           test_plain.test_every_plain_kernel_is_the_fast_one),
    Mutant("plain-adam-without-its-correction", f"{PLAIN}:adam_step", "(m / (1 - b1**steps))", "m",
           test_plain.test_every_plain_kernel_is_the_fast_one),
    Mutant("using-never-ends", "backend:using", "_of_block.reset(token)", "pass",
           lambda: contextvars.copy_context().run(test_using.test_using_nests_and_ends)),  # or it would go on here
    Mutant("using-takes-an-object-for-nothing", "backend:kernels", "chosen is None", "not chosen",
           test_using.test_an_object_with_kernels_of_its_own),
    Mutant("relu-asks-for-its-kernels-again", f"{BASIC}:relu", "k.relu_gx(g, out)", "kernels(g).relu_gx(g, out)",
           test_using.test_the_gradient_takes_the_kernels_of_the_value),
    # losses
    Mutant("cross-entropy-without-subtracting-labels", f"{PLAIN}:softmax_cross_entropy", "keepdims=True) - labels",
           "keepdims=True)", ce),
    Mutant("mean-loss-forgets-one-over-n", f"{LOSS}:_reduce", "gradient * (g / n)", "gradient * g", ce),
    Mutant("loss-per-sample-ignores-its-gradient", f"{LOSS}:_reduce", "gradient * g.reshape(per_row)", "gradient", ce),
    Mutant("cross-entropy-without-taking-off-the-maximum", f"{PLAIN}:softmax_cross_entropy",
           "logits - logits.max(axis=1, keepdims=True)", "logits",
           lambda: test_gradients.test_softmax_cross_entropy_with_logits_of_ten_thousand(np.float64)),
    Mutant("logistic-of-negative-logits", f"{LOSS}:binary_cross_entropy", "np.where(logits >= 0, 1, small)", "1",
           gradients_of("binary_cross_entropy")),
    # basic ops
    Mutant("unbroadcast-forgets-axes-of-one", f"{BASIC}:unbroadcast",
           "return g.sum(axis=stretched, keepdims=True) if stretched else g", "return g", gradients_of("add", "mul")),
    Mutant("unbroadcast-averages", f"{BASIC}:unbroadcast", "g.sum(axis=stretched", "g.mean(axis=stretched",
           gradients_of("add", "mul")),
    Mutant("sub-without-its-sign", f"{BASIC}:sub", "unbroadcast(-g,", "unbroadcast(g,", gradients_of("sub")),
    Mutant("div-by-b-once", f"{BASIC}:div", "-g * out / b", "-g * out", gradients_of("div")),
    Mutant("mean-forgets-its-count", f"{BASIC}:mean", "g / count", "g", gradients_of("mean")),
    Mutant("sum-spreads-along-the-wrong-axis", f"{BASIC}:_spread", "g = xp.expand_dims(g, axis)", "pass",
           gradients_of("sum")),
    Mutant("add-relu-gradient-not-cut", f"{BASIC}:add_relu", "with_relu(out, (lambda g: g, lambda g: g))",
           "(lambda g: g, lambda g: g)", gradients_of("add_relu")),
    Mutant("add-relu-not-cut", f"{KERNELS}:add_relu", "_positive(np.add(a, b, out=out), out)", "np.add(a, b, out=out)",
           lambda: test_compositions.test_add_relu_is_a_composition()),
    Mutant("relu-mask-stale", f"{KERNELS}:relu_gx", "out > 0", "np.roll(out, 1) > 0", gradients_of("relu")),
    Mutant("tanh-without-the-square", f"{BASIC}:tanh", "1 - out * out", "1 - out", gradients_of("tanh")),
    Mutant("transpose-by-the-same-axes", f"{BASIC}:transpose", "np.argsort([a % x.ndim for a in axes])", "axes",
           gradients_of("transpose")),
    Mutant("slice-picked-twice-counts-once", f"{BASIC}:slice", "once = all(", "once = True or all(",
           gradients_of("slice")),
    Mutant("pad-gradient-not-shifted", f"{BASIC}:pad", "slice(before, before + n)", "slice(0, n)", gradients_of("pad")),
    Mutant("concat-cut-off-by-one", f"{BASIC}:concat", "slice(end - size, end)",
           "slice(max(end - size - 1, 0), max(end - 1, size))", gradients_of("concat")),
    # the tape
    Mutant("tape-overwrites-instead-of-adding", "tape:_add", "(kernels(total).add(total, part), True)", "(part, True)",
           test_tape.test_diamond_adds_both_paths),
    Mutant("tape-adds-into-the-vjps-array", "tape:_add", "elif ours and total.ndim:", "elif total.ndim:",
           test_tape.test_gradients_never_land_in_foreign_arrays),
    Mutant("tape-frees-nothing", "tape:gradients", "if not keep:", "if False:",
           test_tape.test_backward_frees_what_the_closures_hold),
    Mutant("tape-frees-in-spite-of-keep", "tape:gradients", "if not keep:", "if True:",
           test_tape.test_keep_allows_a_second_backward),
    Mutant("tape-visits-before-all-paths-have-come", "tape:topological", "", "",
           test_tape.test_long_and_short_paths_meet, breadth_first),
    Mutant("tape-runs-every-vjp", "tape:gradients", "(on_path is None or id(p) in on_path)", "True",
           test_tape.test_grad_runs_only_the_vjps_on_the_path),
    Mutant("tape-walks-into-every-branch", "tape:_on_path",
           "if any(p is not None and id(p) in on_path for p in node.parents)", "if True",
           test_tape.test_grad_runs_only_the_vjps_on_the_path),
    Mutant("tape-blind-to-changed-weights", "tape:Node.pull",
           "if leaf.version != version or guards.changed(leaf.data, mark):", "if False:",
           test_tape.test_weights_changed_after_the_forward_pass),
    Mutant("tape-accepts-any-gradient", "tape:_check_part",
           "if getattr(part, \"shape\", None) != shape or part.dtype != dtype:", "if False:",
           lambda: test_tape.test_a_gradient_of_the_wrong_shape_or_dtype(lambda g: g[:1], "returned", True)),
    Mutant("tape-forgets-who-is-recorded", "tape:is_recorded", "leaf.requires_grad and ", "",
           test_tape.test_frozen_weights_get_no_gradient_and_no_vjp),
    Mutant("tape-only-is-ignored", "tape:is_recorded", "and (_state.only is None or id(leaf) in _state.only)", "",
           test_tape.test_only_makes_constants_of_all_other_leaves),
    Mutant("tape-one-switch-for-all-threads", "tape:_state", "", "",
           test_tape.test_no_grad_in_one_thread_is_not_seen_in_another,
           types.SimpleNamespace(recording=True, only=None)),
    Mutant("backward-replaces-the-leafs-gradient", "tensor:Tensor.backward", "else leaf.grad + part", "else part",
           test_tape.test_leaf_gradients_accumulate_until_cleared),
    Mutant("backward-adds-in-place-to-the-leafs-gradient", "tensor:Tensor.backward",
           "leaf.grad = part if leaf.grad is None else leaf.grad + part",
           "leaf.grad = part if leaf.grad is None else leaf.grad.__iadd__(part)",
           test_tape.test_gradients_never_land_in_foreign_arrays),
]  # fmt: skip
