"""backend.using and backend.use: which kernels serve NumPy arrays, and where."""

import contextlib
import threading
import types

import numpy as np
import pytest

from minisatm import Tensor, backend, grad, models, ops
from minisatm.errors import InputError
from minisatm.kernels import numpy_kernels, plain
from minisatm.parallel import on_cores, processes

IMAGE = np.zeros((1, 2, 2, 1))


def counting(*names):
    """A course's own module: the plain kernels, some of which count how often they are called."""
    module, calls = types.ModuleType("my_kernels"), dict.fromkeys(names, 0)
    vars(module).update({name: getattr(plain, name) for name in numpy_kernels.__all__})

    def counted(name):
        def kernel(*args, **settings):
            calls[name] += 1
            return getattr(plain, name)(*args, **settings)

        return kernel

    vars(module).update({name: counted(name) for name in names})
    return module, calls


def test_using_nests_and_ends():
    module, _ = counting()
    assert backend.kernels(IMAGE) is numpy_kernels
    with backend.using("plain"):
        assert backend.kernels(IMAGE) is plain
        with backend.using(module):
            assert backend.kernels(IMAGE) is module
            with backend.using("numpy"):
                assert backend.kernels(IMAGE) is numpy_kernels
        assert backend.kernels(IMAGE) is plain
    assert backend.kernels(IMAGE) is numpy_kernels


def test_using_ends_with_an_exception():
    with contextlib.suppress(ZeroDivisionError), backend.using("plain"):
        raise ZeroDivisionError
    assert backend.kernels(IMAGE) is numpy_kernels


def test_using_a_module_that_lacks_kernels():
    module, _ = counting()
    del module.conv2d_gw, module.relu
    module.add = "not a function"
    with pytest.raises(InputError) as caught, backend.using(module):
        pytest.fail("it was used all the same")
    assert str(caught.value) == (
        "my_kernels has no add, conv2d_gw, relu: kernels need every function of minisatm.kernels.plain."
    )
    with pytest.raises(InputError, match=r"backend.using\('cupy'\) is for NumPy arrays: give 'numpy' or 'plain'"):
        backend.using("cupy").__enter__()
    assert backend.kernels(IMAGE) is numpy_kernels


def test_a_courses_own_kernels_are_called_forwards_and_backwards():
    module, calls = counting("conv2d", "conv2d_gx", "conv2d_gw", "relu_gx")
    x, w = (Tensor(np.ones(s), requires_grad=True) for s in ((1, 4, 4, 2), (3, 3, 2, 2)))
    with backend.using(module):
        loss = ops.conv2d(x, w, relu=True).sum()
    grad(loss, [x, w])
    assert calls == {"conv2d": 1, "conv2d_gx": 1, "conv2d_gw": 1, "relu_gx": 1}


def test_a_module_that_begins_with_the_plain_kernels(tmp_path, monkeypatch):
    """As the docstring of backend.using says."""
    (tmp_path / "lesson_kernels.py").write_text(
        "from minisatm.kernels.plain import *\n\ndef linear(x, w, b):\n    return x @ w + 10\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import lesson_kernels

    with backend.using(lesson_kernels):
        assert ops.linear(Tensor(np.zeros((1, 2))), Tensor(np.zeros((2, 1)))).data == 10


def test_the_gradient_takes_the_kernels_of_the_value():
    module, calls = counting("relu", "relu_gx")
    with backend.using(module):
        value, (vjp,) = ops.relu.raw(np.ones(3))
    vjp(value)
    assert calls == {"relu": 1, "relu_gx": 1}


def test_an_object_with_kernels_of_its_own():
    class Mine:
        """Falsy, as an empty container would be: it is used all the same."""

        def __len__(self):
            return 0

        def relu(self, x):
            return np.full_like(x, 7)

    mine = Mine()
    for name in set(numpy_kernels.__all__) - {"relu"}:
        setattr(mine, name, getattr(plain, name))
    with backend.using(mine):
        assert ops.relu(Tensor(IMAGE)).data.max() == 7


def test_helping_threads_and_new_processes_use_the_same_kernels(monkeypatch):
    from minisatm.parallel import threads

    monkeypatch.setattr(threads, "cores", lambda: 3)
    meet = threading.Barrier(2, timeout=20)

    def who(_):
        meet.wait()  # two threads at once, so one of them is a helper
        return threading.get_ident(), backend.kernels(IMAGE) is plain

    with backend.using("plain"):
        seen = on_cores(who, range(2))
        assert len({ident for ident, _ in seen}) == 2 and all(is_plain for _, is_plain in seen)
        work = lambda team: team.map(lambda _: (team.rank, backend.kernels(IMAGE) is plain), range(2))
        assert processes.in_processes(work, 2) == [(0, True), (1, True)]


def test_use_is_for_the_process_and_using_for_a_block():
    seen = []
    try:
        backend.use("plain")
        other = threading.Thread(target=lambda: seen.append(backend.kernels(IMAGE)))
        other.start()
        other.join()
        assert seen == [plain] and backend.kernels(IMAGE) is plain
        with backend.using("numpy"):
            assert backend.kernels(IMAGE) is numpy_kernels
    finally:
        backend.use("numpy")
    assert backend.kernels(IMAGE) is numpy_kernels


def test_plain_arrays_stay_in_main_memory():
    x = np.ones((1, 2))
    network = models.build("resnet20", classes=2, width=1 / 8, size=32, rng=0).to("plain")
    assert backend.placed(x, "plain") is x
    assert all(type(a) is np.ndarray for a in network.state().values())


def test_an_unknown_backend():
    with pytest.raises(InputError, match="unknown backend 'tpu': choose numpy, plain, cupy"):
        backend.use("tpu")
