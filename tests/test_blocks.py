"""Large arrays are cut up for the cache and the cores: nothing is lost at the cuts, and helpers change no bit."""

import math
from contextlib import ExitStack, contextmanager
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_twins import answers, cases, fixed_winograd_cases, winograd_twin

from minisatm import Tensor, ops, optim
from minisatm.kernels import blocks, im2col, winograd
from minisatm.parallel import threads

# --- blocks of images, and frames of zeros around them -----------------------------------------------------------


def blocks_cover_all_once(images, rows, most, of):
    with mock.patch.object(blocks, "cores", lambda: of):
        found = blocks.image_blocks(images, rows, most)
    seen, sizes = np.zeros((images, rows), int), [[part.stop - part.start for part in block] for block in found]
    for block in found:
        seen[block] += 1
    assert (seen == 1).all()
    for axis in zip(*sizes):
        assert min(axis) >= 1 and max(axis) - min(axis) <= 1
    assert max(i * r for i, r in sizes) <= math.ceil(most)
    assert len(found) == 1 or len(found) >= min(of, images if most >= rows else images * rows)
    assert blocks.largest(found) == tuple(map(max, zip(*sizes)))


@given(st.integers(1, 9), st.integers(1, 20), st.floats(0.1, 250), st.integers(1, 4))
def test_blocks_cover_all_images_and_rows_once(images, rows, most, of):
    blocks_cover_all_once(images, rows, most, of)


def frame_is_a_padded_image(size, pads, stride, kernel, windows, most, seed=0):
    """The frames of all blocks, in either order, against one image padded on all sides."""
    (top, left, right), (H, W) = pads, size
    x = np.random.default_rng(seed).standard_normal((3, H, W, 2))
    found = blocks.image_blocks(3, windows, most)
    below = max(0, stride * (windows - 1) + kernel - top - H)
    padded = np.pad(x, ((0, 0), (top, below), (left, right), (0, 0)))
    either = [*found, *found[::-1]]
    for images, rows, frame in blocks.frames(x, either, stride, kernel, top, left, left + W + right):
        end = (rows.stop - 1) * stride + kernel
        np.testing.assert_array_equal(frame, padded[images, rows.start * stride : end])


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 3)),
    st.tuples(st.integers(0, 7), st.integers(0, 2), st.integers(0, 2)),
    *(st.integers(1, most) for most in (4, 6, 6, 20)),
)
def test_a_frame_is_a_padded_image(size, pads, stride, kernel, windows, most):
    frame_is_a_padded_image(size, pads, stride, kernel, windows, most)


def a_few_frames():
    for stride, kernel, top in ((1, 3, 0), (1, 3, 1), (2, 3, 1), (4, 6, 1), (3, 2, 0), (1, 1, 0)):
        for windows, most in ((5, 1), (5, 2), (5, 12), (2, 100)):
            for left, right in ((0, 0), (1, 1), (0, 1)):
                frame_is_a_padded_image((9, 2), (top, left, right), stride, kernel, windows, most)


def test_rows_that_need_no_zeros_are_not_copied():
    x = np.ones((2, 5, 3, 1))
    _, _, frame = next(blocks.frames(x, [(slice(0, 2), slice(0, 3))], 1, 3, 0, 0, 3))
    assert np.shares_memory(frame, x)


# --- kernels on small arrays, cut up as if they were large -------------------------------------------------------


@contextmanager
def a_tiny_cache():
    """As if a core's cache held eight numbers and there were three cores; np.empty holds nan until it is filled."""

    def empty(*shape, **how):
        array = new(*shape, **how)
        array.fill(np.nan if array.dtype.kind == "f" else 99)
        return array

    new = np.empty
    with ExitStack() as stack:
        for module, name, value in (
            (blocks, "SMALL", 0), (blocks, "CACHE", 64), (blocks, "FEW", 0), (im2col, "COLUMN_BYTES", 64),
            (threads, "cores", lambda: 3), (blocks, "cores", lambda: 3), (np, "empty", empty),
        ):  # fmt: skip
            stack.enter_context(mock.patch.object(module, name, value))
        yield


def cut_up(name):
    """The op's value and gradients, in one piece and in the smallest parts."""
    for case in cases(name, 60):
        whole = answers(name, *case)
        with a_tiny_cache():
            parts = answers(name, *case)
        for a, b in zip(parts, whole, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ops.__all__)
def test_cutting_up_loses_nothing(name):
    cut_up(name)


def winograd_cut_up():
    for arrays, settings in fixed_winograd_cases():
        with a_tiny_cache():
            winograd_twin(arrays, settings)


def test_cutting_up_winograds_way_loses_nothing():
    winograd_cut_up()


def step_in_parts(name):
    """A step of an optimiser, in one piece and in the smallest parts, whatever the layout of weight and gradient."""
    rng, ends = np.random.default_rng(0), []
    start, gradients = rng.standard_normal((5, 7)), rng.standard_normal((2, 5, 7))
    for arrange, cache in ((np.array, ExitStack), (np.array, a_tiny_cache), (np.asfortranarray, a_tiny_cache)):
        weight = Tensor(arrange(start), requires_grad=True)
        optimiser = optim.build(name, {"w": weight}, 0.1, weight_decay=0.1)
        for g in gradients:
            weight.grad = g.copy()
            with cache():
                optimiser.step(clip=1.0)
        ends.append(weight.data)
    for end in ends[1:]:
        np.testing.assert_array_equal(end, ends[0])


@pytest.mark.parametrize("name", optim.OPTIMISERS)
def test_a_step_in_parts_is_a_step(name):
    step_in_parts(name)


# --- helpers -----------------------------------------------------------------------------------------------------

rng = np.random.default_rng(0)
IMAGES, KERNEL = rng.standard_normal((8, 40, 40, 64), np.float32), rng.standard_normal((3, 3, 64, 48), np.float32)
CHANNEL, DENSE = rng.standard_normal(64, np.float32), rng.standard_normal((6000, 300), np.float32)
CALLS = {  # name: the op and its arguments, large enough to be cut up
    "im2col": ("conv2d", [IMAGES, KERNEL, KERNEL[0, 0, 0]], {"exact": True, "relu": True}),
    "im2col with a stride": ("conv2d", [IMAGES, KERNEL], {"stride": 2}),
    "winograd": ("conv2d", [IMAGES, KERNEL, KERNEL[0, 0, 0]], {"relu": True}),
    "batch norm": ("batch_norm_train", [IMAGES, CHANNEL, CHANNEL], {"eps": 1e-5, "relu": True}),
    "batch norm in eval mode": ("batch_norm_eval", [IMAGES, *[CHANNEL] * 3, CHANNEL**2], {"eps": 1e-5}),
    "max pool": ("max_pool", [IMAGES], {"kernel": 3, "stride": 2, "padding": 1}),
    "max pool of twos": ("max_pool", [IMAGES], {}),
    "avg pool": ("avg_pool", [IMAGES], {"kernel": 3, "stride": 2}),
    "linear": ("linear", [rng.standard_normal((16, 6000), np.float32), DENSE], {}),
    "relu": ("relu", [IMAGES], {}),
    "add and relu": ("add_relu", [IMAGES, IMAGES[::-1].copy()], {}),
}


@pytest.mark.parametrize("call", CALLS)
def test_helpers_change_no_bit(call, monkeypatch):
    """Value and all gradients, by as many threads as there are cores and by one that does it all."""
    name, arrays, settings = CALLS[call]
    for module in (threads, blocks):
        monkeypatch.setattr(module, "cores", lambda: 3)
    reserve, reserved = threads._helpers.reserve, []

    def watched(wanted):
        reserved.append(reserve(wanted))
        return reserved[-1]

    monkeypatch.setattr(threads._helpers, "reserve", watched)
    together = [answers(name, arrays, settings) for _ in range(3)]
    assert any(reserved), "nobody helped"
    monkeypatch.setattr(threads._helpers, "reserve", lambda wanted: 0)
    alone = answers(name, arrays, settings)
    for values in together:
        assert [a.tobytes() for a in values] == [a.tobytes() for a in alone]


def test_the_calls_above_go_the_ways_that_they_name():
    assert winograd.pays((40, 40), 64, 48)
