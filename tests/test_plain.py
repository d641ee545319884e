"""plain.py against loops and against the fast kernels; a step of SATM on plain kernels."""

import inspect
import math

import loops
import numpy as np
import pytest
from cuda_checks import Case, matrices, windows
from hypothesis import given
from hypothesis import strategies as st
from test_twins import close

from minisatm import backend, models, optim, satm
from minisatm.domain import DomainClassifier
from minisatm.kernels import numpy_kernels, plain
from minisatm.satm import Learner, Rules
from minisatm.streams import stream

# --- shapes ------------------------------------------------------------------------------------------------------

SMALL = st.integers(1, 4)


def doubles(case, **settings):
    """The case in float64, whatever dtype was drawn."""
    return Case(case.drawn[0][0], np.float64, **{**case.drawn[1], **settings})


def where(case):
    return dict(stride=case.stride, pads=case.pads)


def out_size(case, ceil=False):
    return plain.output_size(case.size, case.kernel, case.stride, case.pads, ceil)


def adjoint(value, g, *pairs):
    """<value, g> = <x, gx> for a function that is linear in each x: the definition of a gradient."""
    product = np.sum(value * g)
    for x, gx in pairs:
        assert x.shape == gx.shape
        assert abs(np.sum(x * gx) - product) <= 1e-12 * (np.sum(np.abs(value * g)) + 1)


# --- plain kernels against loops ---------------------------------------------------------------------------------


def conv2d_is_its_loops(case):
    x, w, b = (case.array(*s) for s in ((case.n, *case.size, case.c), (*case.kernel, case.c, case.f), (case.f,)))
    bias = b if case.bias else None
    value, expected = plain.conv2d(x, w, bias, **where(case), relu=case.flag), loops.conv2d(x, w, bias, **where(case))
    close(value, np.maximum(expected, 0) if case.flag else expected)
    straight, g = plain.conv2d(x, w, None, **where(case)), case.array(*value.shape)
    gx = plain.conv2d_gx(g, w, size=case.size, **where(case))
    adjoint(straight, g, (x, gx), (w, plain.conv2d_gw(x, g, kernel=case.kernel, **where(case))))


def max_pool_is_its_loops(case):
    x = np.round(case.array(case.n, *case.size, case.c))  # many ties
    settings = dict(kernel=case.kernel, **where(case))
    value, place = plain.max_pool(x, ceil=case.flag, **settings)
    expected, first = loops.max_pool(x, ceil=case.flag, **settings)
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(place, first)
    g, gx = case.array(*value.shape), np.zeros(x.shape)
    for n, p, q, c in np.ndindex(value.shape):
        i, j = divmod(int(first[n, p, q, c]), case.kernel[1])
        row, column = (
            k * s + t - before for k, s, t, (before, _) in zip((p, q), case.stride, (i, j), case.pads, strict=True)
        )
        gx[n, row, column, c] += g[n, p, q, c]
    close(plain.max_pool_gx(g, place, size=case.size, **settings), gx)


def avg_pool_is_its_loops(case):
    x = case.array(case.n, *case.size, case.c)
    settings = dict(kernel=case.kernel, **where(case), count_padding=case.flag)
    value = plain.avg_pool(x, **settings)
    close(value, loops.avg_pool(x, **settings))
    g = case.array(*value.shape)
    adjoint(value, g, (x, plain.avg_pool_gx(g, size=case.size, **settings)))


def dense_is_its_loops(case):
    x, w, b = case.array(case.rows, case.c), case.array(case.c, case.f), case.array(case.f)
    bias = b if case.bias else None
    value, g = plain.linear(x, w, bias), case.array(case.rows, case.f)
    close(value, loops.linear(x, w, bias))
    adjoint(plain.linear(x, w, None), g, (x, plain.linear_gx(g, w)), (w, plain.linear_gw(x, g)))


def batch_norm_is_its_loops(case):
    x, gamma, beta = case.array(case.rows, 1, case.c, shift=case.shift), case.array(case.c), case.array(case.c)
    value, saved, mean, variance = plain.batch_norm_train(x, gamma, beta, eps=1e-3, relu=case.flag)
    statistics = loops.batch_statistics(x)
    np.testing.assert_allclose(mean, statistics[0], rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(variance, statistics[1], rtol=1e-9, atol=1e-12)
    expected = loops.batch_norm(x, gamma, beta, *statistics, eps=1e-3)
    close(value, np.maximum(expected, 0) if case.flag else expected, 1e-9)


def loss_is_its_loops(case):
    logits, labels = case.array(case.rows, case.c) + 10 * case.shift, case.rng.random((case.rows, case.c))
    loss, gradient = plain.softmax_cross_entropy(logits, labels)
    np.testing.assert_allclose(loss, loops.softmax_cross_entropy(logits, labels), rtol=1e-10, atol=1e-12)
    step = 1e-5 * np.ones(case.c) * np.cos(np.arange(case.c))
    after, before = (loops.softmax_cross_entropy(logits + s, labels) for s in (step, -step))
    if case.shift == 0:
        np.testing.assert_allclose(gradient @ step, (after - before) / 2, rtol=1e-6, atol=1e-12)


LOOPS = {
    "conv2d": (windows(SMALL), conv2d_is_its_loops),
    "max_pool": (windows(SMALL), max_pool_is_its_loops),
    "avg_pool": (windows(SMALL), avg_pool_is_its_loops),
    "linear": (matrices(SMALL), dense_is_its_loops),
    "batch_norm_train": (matrices(SMALL), batch_norm_is_its_loops),
    "softmax_cross_entropy": (matrices(SMALL), loss_is_its_loops),
}


@pytest.mark.parametrize("name", LOOPS)
def test_plain_is_its_loops(name):
    cases, holds = LOOPS[name]
    given(cases)(lambda case: holds(doubles(case)))()


# --- plain kernels against the fast ones -------------------------------------------------------------------------


def both(name, *args, tolerance=1e-12, **settings):
    """The kernel of this name, plain and fast: every array that it returns, or that it changes."""
    results = []
    for kernels in (plain, numpy_kernels):
        given_arrays = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
        value = getattr(kernels, name)(*given_arrays, **settings)
        results.append([value] if value is not None else given_arrays)
    for one, other in zip(*([leaf for v in r for leaf in leaves(v)] for r in results), strict=True):
        assert np.asarray(one).dtype == np.asarray(other).dtype, name
        close(np.asarray(one), np.asarray(other), tolerance)
    return results[0][0]


def leaves(value):
    return [leaf for v in value for leaf in leaves(v)] if isinstance(value, tuple | list) else [value]


def windowed(case, called):
    both_of = called(both)
    x, w = case.array(case.n, *case.size, case.c), case.array(*case.kernel, case.c, case.f)
    b, g = case.array(case.f) if case.bias else None, case.array(case.n, *out_size(case), case.f)
    both_of("conv2d", x, w, b, relu=case.flag, exact=case.bias, **where(case))
    both_of("conv2d_gx", g, w, size=case.size, **where(case))
    both_of("conv2d_gw", x, g, kernel=case.kernel, **where(case))
    settings = dict(kernel=case.kernel, **where(case))
    best, place = both_of("max_pool", x, ceil=case.flag, **settings)
    both_of("max_pool_gx", case.array(*best.shape), place, size=case.size, **settings)
    both_of("avg_pool", x, count_padding=case.flag, **settings)
    g = case.array(case.n, *out_size(case), case.c)
    both_of("avg_pool_gx", g, size=case.size, count_padding=case.flag, **settings)


def of_matrices(case, called):
    both_of = called(both)
    x, y, w = case.array(case.rows, case.c), case.array(case.rows, case.c), case.array(case.c, case.f)
    g, scale, shift = case.array(case.rows, case.f), case.array(case.c), case.array(case.c)
    b = case.array(case.f) if case.bias else None
    both_of("linear", x, w, b)
    both_of("linear_gx", g, w)
    both_of("linear_gw", x, g)
    both_of("add", x, y)
    both_of("relu", x)
    both_of("add_relu", x, y)
    both_of("relu_gx", y, np.maximum(x, 0))
    both_of("scale_shift", x, scale, shift if case.bias else None)
    both_of("dropout", x, y > 0, 2.0)
    both_of("channel_sums", x, *([y] if case.flag else []), tolerance=1e-11)
    both_of("running_average", scale, shift, 0.1, 1.25)
    far, near = x + case.shift, 1e-12 * (1 + case.shift) ** 2
    both_of("batch_norm_train", far, scale, shift, eps=1e-3, relu=case.flag, tolerance=near)
    out, saved, *_ = plain.batch_norm_train(far, scale, shift, eps=1e-3, relu=case.flag)
    one, other = (k.batch_norm_train_gx(y, saved, scale, out if case.flag else None) for k in (plain, numpy_kernels))
    called(lambda name: None)("batch_norm_train_gx")
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9 * max(1.0, np.abs(b).max(initial=0)))
    of_steps(case, both_of, x, y)


def of_steps(case, both_of, x, g):
    pixels, bits = case.rng.random(x.shape), np.frombuffer(case.rng.bytes(-(-x.size // 8)), np.uint8)
    both_of("sign_step", pixels, g, 0.25 if case.flag else -0.25)
    both_of("random_step", pixels, bits, 0.125)
    both_of("softmax_cross_entropy", 5 * x + 10 * case.shift, case.rng.random(x.shape), tolerance=1e-10)
    for clip in (None, 0.5, 1e6):
        both_of("clip_by_norm", [x, g], clip)
    infinite = [kernels.clip_by_norm([x * math.inf], 1.0) for kernels in (plain, numpy_kernels)]
    assert all(not math.isfinite(norm) and math.isnan(scale) for norm, scale in infinite)
    for scale in (0.5, math.nan):
        both_of("sgd_step", x, g, pixels, scale, rate=0.1, momentum=0.9, weight_decay=0.01)
        settings = dict(rate=0.1, betas=(0.9, 0.99), steps=3, eps=1e-8, weight_decay=0.01)
        both_of("adam_step", x, g, g, pixels, scale, **settings)


@pytest.mark.filterwarnings("ignore:invalid value encountered in multiply")  # 0 * inf, on purpose
def test_every_plain_kernel_is_the_fast_one():
    names = set()

    def called(function):
        return lambda name, *args, **settings: names.add(name) or function(name, *args, **settings)

    given(windows())(lambda case: windowed(doubles(case), called))()
    given(matrices())(lambda case: of_matrices(doubles(case), called))()
    assert names == set(numpy_kernels.__all__)


def test_plain_has_every_kernel_with_the_same_parameters():
    for name in numpy_kernels.__all__:
        there, here = (inspect.signature(getattr(k, name)).parameters for k in (plain, numpy_kernels))
        assert [(p.name, p.kind, p.default) for p in there.values()] == [
            (p.name, p.kind, p.default) for p in here.values()
        ], name


# --- a step of SATM ----------------------------------------------------------------------------------------------


def satm_step(domain):
    """Loss terms and all weights after a step of thin networks in float64."""
    learners = []
    for name in ("vgg16", "resnet50"):
        network = models.build(name, classes=5, width=1 / 16, size=32, rng=stream(0, name)).astype(np.float64)
        learner = Learner(name, network, optim.SGD(network.parameters(), 0.05))
        if domain:
            learner.domain = DomainClassifier(network.feature_width, width=6, rng=stream(0, name, "domain"))
            learner.domain.astype(np.float64)
            learner.domain_optimiser = optim.Adam(learner.domain.parameters(), 0.01)
        learners.append(learner)
    rng = np.random.default_rng(3)
    losses = satm.step(learners, rng.random((4, 32, 32, 3)), rng.integers(0, 5, 4), Rules(clip=1.0), 0)
    state = {f"{u.name}.{part}.{k}": a for u in learners for part, s in u.state().items() for k, a in s.items()}
    return losses, state


@pytest.mark.parametrize("domain", [False, True])
def test_a_step_of_satm_on_plain_kernels_is_numpys(domain):
    losses, state = satm_step(domain)
    with backend.using("plain"):
        plain_losses, plain_state = satm_step(domain)
    assert plain_losses.keys() == losses.keys() and plain_state.keys() == state.keys()
    for name, terms in losses.items():
        assert plain_losses[name] == pytest.approx(terms, rel=1e-10, abs=1e-10)
        assert ("domain" in terms) == domain
    for name, array in state.items():
        np.testing.assert_allclose(plain_state[name], array, rtol=0, atol=1e-10, err_msg=name)
    assert any((plain_state[name] != array).any() for name, array in state.items())  # it was another computation
