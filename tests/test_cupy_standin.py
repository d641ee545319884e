"""The stand-in for CuPy is as strict as CuPy: what would fail or wait on a GPU fails or is noted here."""

import copy
import gc
import importlib
import importlib.util
import inspect
import operator
import pickle
import sys
import types
import warnings

import numpy as np
import pytest
from cuda_on_cpu import cupy_standin, runner
from cuda_on_cpu.cupy_standin import asarray, ndarray, standing_in, waiting

f32 = np.float32
OPERATORS = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "lt", "le", "gt", "ge", "eq", "ne"),
    *("iadd", "isub", "imul", "ifloordiv", "imod", "ipow", "imatmul"),
)
INTEGER_OPERATORS = ("and_", "or_", "xor", "lshift", "rshift", "iand", "ior", "ixor", "ilshift", "irshift")


@pytest.fixture
def pool():
    gc.collect()
    pool = cupy_standin.get_default_memory_pool()
    pool.free_all_blocks()
    yield pool
    pool.set_limit(0)


def host(x):
    """The array's content, whatever it would cost on a GPU."""
    assert type(x) is ndarray
    return x.get()


# --- operators and functions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATORS + INTEGER_OPERATORS)
def test_operators_are_numpys_and_refuse_numpys_arrays(name):
    function, dtype = getattr(operator, name), int if name in INTEGER_OPERATORS else f32
    a, b = (np.array(v, dtype) for v in ([[1, 2], [3, 4]], [[5, 3], [1, 2]]))
    number = dtype(2)
    for left, right in ((a, b), (a, number), (number, b)):
        if "matmul" in name and (left is number or right is number) or (left is number and name[0] == "i"):
            continue
        up = [asarray(v) if isinstance(v, np.ndarray) else v for v in (left, right)]
        made, wanted = function(*up), function(np.copy(left), right)
        np.testing.assert_array_equal(host(made), wanted)
        assert made.dtype == wanted.dtype and (made is up[0]) == (name[0] == "i" and name != "imatmul")
    for mixed in ((asarray(a), b), (a, asarray(b)), (asarray(a), [1, 2])):
        with pytest.raises(TypeError, match="Unsupported type <class '(numpy.ndarray|list)'>"):
            function(*mixed)


def test_numbers_follow_numpys_promotion():
    x = asarray(np.ones(3, f32))
    assert (x * 2.5).dtype == (1 / x).dtype == (x + np.float32(1)).dtype == f32
    assert (x + np.float64(1)).dtype == (np.float64(1) + x).dtype == np.float64
    assert (-x).dtype == f32 and host(abs(-x)).tolist() == [1] * 3 and host(~asarray([True, False])).tolist() == [0, 1]
    with warnings.catch_warnings(action="error"):  # a GPU gives none
        assert host(asarray([1.0]) / 0).tolist() == host(np.divide(asarray([1.0]), 0)).tolist() == [np.inf]


def test_an_operand_that_wants_its_own_operator_gets_it():
    class Own:
        __array_ufunc__ = None

        def __radd__(self, other):
            return "own"

    assert asarray([1.0]) + Own() == "own"


def test_numpys_functions_work_on_it_but_not_on_both():
    x, y, out = asarray([1.0, -2.0]), asarray([3.0, 4.0]), asarray([0.0, 0.0])
    assert np.add(x, y, out=out) is out and host(out).tolist() == [4, 2]
    assert host(np.exp(x)).tolist() == np.exp([1.0, -2.0]).tolist()
    assert host(np.maximum(x, 0)).tolist() == [1, 0] and host(np.isfinite(x)).tolist() == [True, True]
    assert host(np.concatenate([x, y])).tolist() == [1, -2, 3, 4]
    assert host(np.where(x > 0, x, 0)).tolist() == [1, 0] and host(np.clip(x, 0, 1)).tolist() == [1, 0]
    assert host(np.zeros_like(x)).tolist() == [0, 0] and np.isnan(host(np.empty_like(x, shape=(2, 3)))).all()
    for function in (np.add, np.maximum, lambda *both: np.concatenate(both), lambda *both: np.where(x > 0, *both)):
        for both in ((x, np.ones(2)), (np.ones(2), x)):
            with pytest.raises(TypeError, match="Unsupported type <class 'numpy.ndarray'>"):
                function(*both)
    with pytest.raises(TypeError, match="Unsupported type <class 'numpy.ndarray'>"):
        np.add(x, 1, out=np.ones(2))
    with pytest.raises(TypeError):
        np.add.at(x, asarray([0]), 1)  # NumPy's; CuPy's own works
    cupy_standin.add.at(x, asarray([0, 0]), 1)
    assert host(x).tolist() == [3, -2]


def test_the_module_has_numpys_functions_and_only_those_that_cupy_has():
    x = cupy_standin.arange(6.0, dtype=f32).reshape(2, 3)
    out = cupy_standin.empty((2, 2), f32)
    assert cupy_standin.matmul(x, x.T, out=out) is out and host(out).tolist() == [[5, 14], [14, 50]]
    assert host(cupy_standin.stack([x, x], axis=1)).shape == (2, 2, 3)
    assert host(cupy_standin.einsum("ij,ij->j", x, x)).tolist() == [9, 17, 29]
    assert host(cupy_standin.pad(x, 1)).shape == (4, 5) and host(cupy_standin.broadcast_to(x, (4, 2, 3))).shape == (
        4,
        2,
        3,
    )
    assert host(cupy_standin.unpackbits(asarray(np.array([5], np.uint8)))).tolist() == [0, 0, 0, 0, 0, 1, 0, 1]
    assert host(cupy_standin.allclose(x, x)) and type(cupy_standin.allclose(x, x)) is ndarray
    assert cupy_standin.float32 is np.float32 and cupy_standin.pi == np.pi and cupy_standin.newaxis is None
    for call in (
        lambda: cupy_standin.exp([1.0]),
        lambda: cupy_standin.exp(np.ones(2)),
        lambda: cupy_standin.stack([x, np.ones((2, 3))]),
        lambda: cupy_standin.sum(x, where=x > 0),
        lambda: cupy_standin.unpackbits(asarray(np.array([5], np.uint8)), count=3),
        lambda: x.sum(initial=1),
    ):
        with pytest.raises(TypeError, match="Unsupported type|unexpected keyword argument"):
            call()
    for name in ("geomspace", "random", "no_such_name", "__path__"):
        with pytest.raises(AttributeError, match="module 'cupy' has no attribute"):
            getattr(cupy_standin, name)


# --- the array -------------------------------------------------------------------------------------------------------


def test_it_is_no_numpy_array_and_becomes_none_unasked():
    x = asarray([1.0, 2.0])
    assert not isinstance(x, np.ndarray) and type(x).__module__ == "cupy" and isinstance(x, cupy_standin.ndarray)
    for convert in (np.asarray, np.array, lambda x: np.ones(2).__iadd__(x), lambda x: np.ones(2).__setitem__(..., x)):
        with pytest.raises(TypeError, match="Implicit conversion|Unsupported type"):
            convert(x)
    with pytest.raises(TypeError):
        range(asarray(3))  # CuPy's arrays have no __index__
    with pytest.raises(TypeError):
        hash(x)


def test_uploads_and_downloads_copy():
    a = np.ones(3)
    for upload in (cupy_standin.array, asarray, cupy_standin.ascontiguousarray):
        x = upload(a)
        x += 1
        assert (a == 1).all() and type(x) is ndarray
        x.get()[:] = 7
        assert host(x).tolist() == [2, 2, 2]
    assert asarray(x) is x and asarray(x, np.float64) is x and asarray(x, f32).dtype == f32
    assert cupy_standin.ascontiguousarray(x) is x and cupy_standin.ascontiguousarray(x[::2]).flags.c_contiguous
    assert host(asarray([[1, 2], [3, 4]])).tolist() == [[1, 2], [3, 4]] and host(asarray([a, a])).shape == (2, 3)
    assert host(cupy_standin.array([x.sum(), x.max()])).tolist() == [6, 2]
    with pytest.raises(ValueError, match="Unsupported dtype"):
        asarray(np.array(["a"]))


def test_reductions_and_elements_are_arrays_of_no_dimensions():
    x = asarray(np.arange(6, dtype=f32).reshape(2, 3))
    for made in (x.sum(), x.mean(), x.max(), x.argmax(), x[1, 2], cupy_standin.sum(x), x.reshape(-1) @ x.reshape(-1)):
        assert type(made) is ndarray and made.shape == ()
    assert float(x.sum()) == 15 and int(x.argmax()) == 5 and bool(x[0, 1]) and x[1].tolist() == [3, 4, 5]
    assert (x.shape, x.ndim, x.size, x.nbytes, x.itemsize, x.strides, len(x)) == ((2, 3), 2, 6, 24, 4, (12, 4), 2)
    assert [host(row).tolist() for row in x] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(TypeError):
        len(x.sum())
    with pytest.raises(TypeError, match="iteration over a 0-d array"):
        iter(x.sum())


def test_keys_hold_its_own_arrays():
    x, i = asarray(np.arange(12.0).reshape(3, 4)), asarray([2, 0])
    assert host(x[i]).tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]] and host(x[i, 1:3]).tolist() == [[9, 10], [1, 2]]
    assert host(x[..., None, -1]).shape == (3, 1)
    x[i, asarray([0, 0])] = asarray([-1.0, -2.0])
    x[1] = 5
    assert host(x[:, 0]).tolist() == [-2, 5, -1]
    for wrong in (lambda: x[np.array([2, 0])], lambda: x.__setitem__(0, np.ones(4))):
        with pytest.raises(TypeError, match="Unsupported type <class 'numpy.ndarray'>"):
            wrong()


def test_unwritten_memory_shows():
    for made in (cupy_standin.empty(3), cupy_standin.empty_like(asarray([1.0])), ndarray((2, 2), f32)):
        assert np.isnan(host(made)).all()
    assert host(cupy_standin.empty(2, np.int32)).tolist() == [np.frombuffer(b"\xa5" * 4, np.int32)[0]] * 2


def test_copies_have_memory_of_their_own():
    x = asarray([1.0, 2.0])
    for made in (x.copy(), copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x)), x.astype(f32)):
        made += 1
    assert host(x).tolist() == [1, 2] and type(made) is ndarray


# --- waits and memory ------------------------------------------------------------------------------------------------


def test_waits_are_counted():
    x, device = asarray([1.0, 2.0]), cupy_standin.cuda.Device()
    waiting_calls = (
        lambda: x.get(), lambda: cupy_standin.asnumpy(x), lambda: float(x[0]), lambda: int(x[0]), lambda: bool(x[0]),
        lambda: x[0].item(), lambda: x.tolist(), lambda: f"{x[0]:.1f}", lambda: repr(x), device.synchronize,
        cupy_standin.cuda.Stream.null.synchronize, lambda: x[x > 1], lambda: cupy_standin.nonzero(x), x.nonzero,
        lambda: cupy_standin.where(x), lambda: 1.0 in x[:1],
    )  # fmt: skip
    for number, call in enumerate(waiting_calls):
        with waiting() as waits, waiting() as inner:
            call()
        assert len(waits) == 1 and waits == inner, number
        assert waits[0].startswith("test_cupy_standin.py:") and waits[0].endswith("()")
    assert cupy_standin.waits[waits[0]] >= 1
    with waiting() as waits:
        y = asarray(np.ones(2)) + x
        y[1:] *= cupy_standin.where(y > 1, y, 0).sum()
        assert y.shape == (2,) and len(y) == 2 and y[0].dtype == float
    assert waits == []


def test_the_pool_counts_living_memory(pool):
    before = pool.used_bytes()
    x = cupy_standin.zeros(1024, f32)
    assert pool.used_bytes() == before + 4096
    views = [x[:10], x.reshape(2, -1).T, cupy_standin.broadcast_to(x, (5, 1024)), x.view(np.int32)]
    assert pool.used_bytes() == before + 4096 and {v.data.ptr for v in views} == {x.data.ptr}
    views[0][:] = 3
    assert float(x[:10].sum()) == 30  # views share memory
    del x
    assert pool.used_bytes() == before + 4096
    del views
    y = cupy_standin.zeros(1)
    del y
    assert pool.used_bytes() == before and pool.total_bytes() >= before + 4096
    pool.free_all_blocks()
    assert pool.total_bytes() == before
    tiny = cupy_standin.zeros(1)
    assert pool.used_bytes() == pool.total_bytes() == before + 512, "as CuPy's pool, it rounds up to 512 bytes"
    assert cupy_standin.cuda.runtime.memGetInfo()[0] == cupy_standin.cuda.Device().mem_info[1] - pool.total_bytes()
    del tiny


def test_the_pool_has_a_limit(pool):
    pool.set_limit(size=pool.used_bytes() + 10240)
    kept = cupy_standin.zeros(1024)
    used = pool.used_bytes()
    for too_much in (lambda: cupy_standin.zeros(1024), lambda: kept + 1, lambda: asarray(np.ones(1024)), kept.copy):
        with pytest.raises(MemoryError, match="Out of memory allocating 8,192 bytes") as problem:
            too_much()
        assert problem.type is cupy_standin.cuda.memory.OutOfMemoryError
    problem = None
    gc.collect()
    assert pool.used_bytes() == used and pool.get_limit() > 0
    kept += 1
    pool.set_limit(size=0)
    assert float((kept + 1)[0]) == 2


# --- as "cupy" -------------------------------------------------------------------------------------------------------


def test_it_stands_in_for_cupy_and_leaves_no_trace(monkeypatch):
    package = importlib.import_module("minisatm.kernels")
    for name in ("cupy", "cupy.cuda", "minisatm.kernels.launch"):  # as if CuPy were installed and in use
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(package, "launch", sys.modules["minisatm.kernels.launch"], raising=False)
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] in ("cupy", "minisatm")}
    with standing_in() as module:
        import cupy
        import cupy.cuda.runtime
        from cupy.cuda.memory import OutOfMemoryError

        importlib.import_module("cupy.cublas")
        assert cupy is module is cupy_standin and issubclass(OutOfMemoryError, MemoryError)
        assert importlib.util.find_spec("cupy") is not None and importlib.import_module("cupy") is cupy
        assert cupy.cuda.runtime.getDeviceCount() == 1 and cupy.cuda.is_available()
        assert cupy.cuda.runtime.getDeviceProperties(0)["name"] == b"CPU stand-in"
        assert cupy.cuda.nvrtc.getVersion() >= (12, 0) and cupy.cuda.Device().compute_capability == "80"
        launch = importlib.import_module("minisatm.kernels.launch")
        assert launch.cupy is cupy_standin
    after = {name: module for name, module in sys.modules.items() if name.split(".")[0] in ("cupy", "minisatm")}
    assert {name: after.get(name) for name in before} == before
    assert not [name for name in set(after) - set(before) if name.startswith("cupy")]
    assert package.launch is sys.modules["minisatm.kernels.launch"] is not launch


@pytest.mark.skipif(not runner.available(), reason="g++ is not installed")
def test_kernels_run_on_its_arrays():
    code = "template <typename T> __global__ void add(const T* x, T* y, T a, int n) { y[threadIdx.x] += x ? x[n] : a; }"
    module = cupy_standin.RawModule(code=code, options=("--std=c++17",), name_expressions=["add<float>"])
    x, y = asarray(np.arange(4, dtype=f32)), cupy_standin.zeros(4, f32)
    kernel = module.get_function("add<float>")
    with waiting() as waits:
        kernel((1,), (4,), (x, y, f32(0.5), np.int32(3)))
        kernel((1,), (2,), (np.uint64(0), y, f32(0.5), np.int32(3)), shared_mem=64)
    assert not waits and host(y).tolist() == [3.5, 3.5, 3, 3]
    with pytest.raises(TypeError, match="Unsupported type <class 'numpy.ndarray'>"):
        kernel((1,), (4,), (np.ones(4, f32), y, f32(1), np.int32(0)))
    with pytest.raises(TypeError, match="argument 1: .* not contiguous"):
        kernel((1,), (4,), (x, cupy_standin.zeros((4, 2), f32)[:, 0], f32(1), np.int32(0)))
    with pytest.raises(TypeError, match="argument 2"):
        kernel((1,), (4,), (x, y, 1.0, np.int32(0)))
    kernel.max_dynamic_shared_size_bytes = 2**16
    kernel((1,), (1,), (x, y, f32(1), np.int32(0)), shared_mem=2**16)
    with pytest.raises(ValueError, match="C\\+\\+ standard"):
        cupy_standin.RawModule(code=code, name_expressions=["add<float>"])


def test_what_it_offers_is_what_cupy_has():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed: the stand-in's names are not compared with it")
    own = {
        name: value
        for name, value in vars(cupy_standin).items()
        if getattr(value, "__module__", "") in (cupy_standin.__name__, "cupy") and not name.startswith("_")
    }
    tools = {"standing_in", "RawKernel"}  # RawModule's functions; cupy.RawKernel is made in another way
    offered = {name for name in own if name not in tools and not inspect.isgenerator(own[name])}
    assert {"ndarray", "asarray", "array", "empty", "empty_like", "asnumpy", "RawModule"} <= offered
    for name in offered:
        assert hasattr(cupy, name), name
        try:
            theirs = inspect.signature(getattr(cupy, name)).parameters
        except (TypeError, ValueError):
            continue
        if any(p.kind is p.VAR_KEYWORD for p in theirs.values()):
            continue
        ours = list(inspect.signature(own[name]).parameters)
        assert set(ours) <= set(theirs) and ours == [p for p in theirs if p in ours], name
    assert not [name for name in cupy_standin.ABSENT if hasattr(cupy, name)]
    members = {name for name in vars(ndarray) if name not in ("_host", "__annotations__", "__weakref__")}
    assert not [name for name in members if not hasattr(cupy.ndarray, name)]
    assert not [
        m for m in ("__index__", "__imatmul__", "__contains__") if hasattr(cupy.ndarray, m) or hasattr(ndarray, m)
    ]
