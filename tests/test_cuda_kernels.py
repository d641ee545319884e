"""The CUDA kernels against the NumPy ones: on a GPU, and on this CPU through the stand-in, under three schedules."""

import inspect

import cuda_checks
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minisatm import check
from minisatm.check import strategies
from minisatm.kernels import cuda_source, numpy_kernels
from minisatm.tensor import OPS

ALL_CHECKS = [
    pytest.param(cases, one, id=f"{file}-{one.__name__}")
    for file, own in cuda_checks.CHECKS.items()
    for cases, one in own
]
OPS_OF_OURS = sorted(name for name, op in OPS.items() if op.__module__.startswith("minisatm.ops"))


def test_both_backends_have_the_same_kernels(cupy):
    """By name, parameters, their kinds and defaults."""
    ours = cuda_checks.ours()
    for name in numpy_kernels.__all__:
        there, here = (inspect.signature(getattr(k, name)).parameters for k in (ours, numpy_kernels))
        assert [(p.name, p.kind, p.default) for p in there.values()] == [
            (p.name, p.kind, p.default) for p in here.values()
        ], name


def test_every_file_has_a_check():
    assert set(cuda_checks.CHECKS) == {k.file for k in cuda_source.catalogue().values()}


@pytest.mark.parametrize("cases, one", ALL_CHECKS)
def test_kernels_are_numpys(cupy, cases, one):
    @settings(max_examples=30, suppress_health_check=list(HealthCheck))
    @given(cases, st.sampled_from([0, 1, 2]))  # ascending, descending, random
    def agrees(case, order):
        with cupy.schedule(order):
            one(case)

    agrees()


def test_every_kernel_is_launched_by_these_checks(cupy, monkeypatch):
    from minisatm.kernels import launch

    launched, function = set(), launch._function
    monkeypatch.setattr(launch, "_function", lambda name, dtype: launched.add(name) or function(name, dtype))
    for own in cuda_checks.CHECKS.values():
        for cases, one in own:
            for case in cuda_checks.fixed(cases, 12):
                one(case.again())
    assert launched == set(cuda_source.catalogue())


def test_same_input_same_bits(cupy):
    """Whatever the order in which blocks and threads run: nothing is added up as it comes."""
    case = cuda_checks.Case(3, "float32")
    x, g, w = case.array(2, 20, 20, 33), case.array(2, 20, 20, 9), case.array(3, 3, 33, 9)
    where = dict(stride=(1, 1), pads=((1, 1), (1, 1)))

    def bits():
        k = cuda_checks.ours()
        with cuda_checks.ways(CHUNK_ROWS=32, PIXELS=64, cublas=False):
            out, _, mean, variance = k.batch_norm_train(*cuda_checks.up(x, w[0, 0, :, 0], w[0, 0, :, 1]), eps=1e-5)
            made = [out, mean, variance, k.channel_sums(*cuda_checks.up(x)), k.clip_by_norm(cuda_checks.up(x, g), 1)[0]]
            made += [k.conv2d_gw(*cuda_checks.up(x, g), kernel=(3, 3), **where)]
            made += [k.conv2d_gx(*cuda_checks.up(g, w), size=(20, 20), **where)]
        return [a.get().tobytes() for a in made]

    first = bits()
    for order in (1, 2, 3):
        with cupy.schedule(order):
            assert bits() == first


# --- ops ------------------------------------------------------------------------------------------------------------


def on_device(op):
    """The op's bare function from NumPy arrays to NumPy arrays, with the work done on the device."""

    def down(value):
        if isinstance(value, tuple | list):
            return tuple(down(v) for v in value)
        return value.get() if cuda_checks.backend.on_gpu(value) else value

    def there(value):
        return cuda_checks.up(value)[0] if isinstance(value, np.ndarray | np.generic) else value

    def raw(*arrays, **chosen):
        value, vjps, *aux = op.raw(*map(there, arrays), **{k: there(v) for k, v in chosen.items()})
        if callable(vjps):
            return down(value), lambda g, wanted: down(tuple(vjps(there(g), wanted))), *map(down, aux)
        return down(value), tuple(v and (lambda g, v=v: down(v(there(g)))) for v in vjps), *map(down, aux)

    raw.__signature__ = inspect.signature(op.raw)
    raw.__name__ = op.__name__
    return raw


@pytest.mark.parametrize("name", OPS_OF_OURS)
def test_ops_are_numpys(cupy, name):
    """Value and every vjp of every op, for the cases of the gradient checks."""
    there = on_device(OPS[name])
    for arrays, chosen in strategies.examples(name, 12):
        expected, rules, *aux = OPS[name].raw(*arrays, **chosen)
        found, found_rules, *found_aux = there(*arrays, **chosen)
        g = np.cos(np.arange(1.0, np.size(expected) + 1)).reshape(np.shape(expected))
        wanted = (True,) * len(arrays)
        if callable(rules):
            parts, found_parts = rules(g, wanted), found_rules(g, wanted)
        else:
            parts, found_parts = ([v and v(g) for v in own] for own in (rules, found_rules))
        pairs = [(found, expected), *zip(found_parts, parts, strict=True)]
        pairs += [pair for one, other in zip(found_aux, aux, strict=True) for pair in zip(one, other, strict=True)]
        for one, other in pairs:
            assert (one is None) == (other is None)
            if one is not None:
                assert one.shape == np.shape(other) and one.dtype == other.dtype
                np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [n for n in OPS_OF_OURS if n != "reverse_gradient"])
def test_gradients_on_the_device(cupy, name):
    """Against central differences in float64."""
    for arrays, chosen in strategies.examples(name, 3 if cupy.stand_in else 40):
        check.gradients(on_device(OPS[name]), *arrays, **chosen)
