"""The whole program on the CuPy backend: on a GPU, or on this CPU through the stand-in, against the NumPy backend."""

import json
import re

import cuda_checks
import numpy as np
import pytest
from commands import call, mistake, table

from minisatm import Tensor, attacks, backend, models, ops, optim, satm
from minisatm.data import Batches
from minisatm.domain import DomainClassifier
from minisatm.errors import InputError
from minisatm.kernels import numpy_kernels
from minisatm.run import experiment, gpu_memory, monitor
from minisatm.satm import Learner, Rules
from minisatm.streams import stream

SIZE, CLASSES, N = 32, 8, 2
KINDS = {"vgg16": {"dropout": 0.5}, "resnet50": {}}


def network(kind, where, dtype=np.float32):
    made = models.build(kind, classes=CLASSES, width=1 / 16, size=SIZE, rng=stream(0, kind), **KINDS[kind])
    return made.astype(dtype).to(where)


def pair(where, dtype=np.float32, optimiser="sgd"):
    """A thin VGG16 and a thin ResNet50 with all that belongs to them."""
    learners = []
    for kind in KINDS:
        own = network(kind, where, dtype)
        domain = DomainClassifier(own.feature_width, width=16, rng=stream(0, kind, "domain")).astype(dtype).to(where)
        make = [optim.build(optimiser, part.parameters(), 0.01) for part in (own, domain)]
        learners.append(Learner(kind, own, make[0], domain, make[1]))
    return learners


def batch(dtype=np.float32, iteration=0):
    rng = np.random.default_rng([5, iteration])
    return rng.random((N, SIZE, SIZE, 3), np.float32).astype(dtype), rng.integers(0, CLASSES, N)


def states(learners):
    return {
        f"{learner.name}.{part}.{n}": backend.placed(a, "numpy")
        for learner in learners
        for part, owner in learner.parts().items()
        for n, a in owner.state().items()
    }


def assert_close(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        size = max(np.abs(value).max(initial=0), 1e-2)
        np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance * size, err_msg=name)


# --- SATM -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, tolerance, cublas", [(np.float32, 1e-3, True), (np.float64, 1e-9, False)])
def test_a_step_of_a_thin_pair_is_numpys(cupy, dtype, tolerance, cublas):
    """Losses, weights, running statistics, momentum, the domain classifier: everything that a step changes."""
    x, y = batch(dtype)
    ours, theirs, rules = pair("cupy", dtype), pair("numpy", dtype), Rules(clip=1.0)
    with cuda_checks.ways(cublas=cublas):
        losses = backend.as_floats(satm.step(ours, backend.placed(x, "cupy"), y, rules, 0))
    expected = satm.step(theirs, x, y, rules, 0)
    for name, terms in expected.items():
        assert losses[name] == pytest.approx(terms, rel=tolerance)
        assert all(isinstance(v, float) for v in losses[name].values())
    assert_close(states(ours), states(theirs), tolerance)


@pytest.mark.parametrize("attack, optimiser", [("r_fgsm", "sgd"), ("r_step_ll", "adam")])
def test_a_step_never_waits_for_the_device(cupy, attack, optimiser):
    learners = pair("cupy", optimiser=optimiser)
    x, y = backend.placed(batch()[0], "cupy"), batch()[1]
    with cupy.waiting() as waits:
        losses = satm.step(learners, x, y, Rules(clip=1.0, attack=attack), 0)
    assert list(waits) == []
    with cupy.waiting() as waits:
        numbers = backend.as_floats(losses)
    assert all(np.isfinite(v) for terms in numbers.values() for v in terms.values())
    assert len(waits) == 1 or not cupy.stand_in


def test_the_same_seed_gives_the_same_bits(cupy):
    def course(order):
        learners, x = pair("cupy"), backend.placed(batch()[0], "cupy")
        with cupy.schedule(order):
            x_adv = satm.examples(learners[0], x, batch()[1], Rules(), 0)
            for learner in learners:
                satm.learn_from(learner, x, batch()[1], x_adv, Rules(), 0)
        return {n: a.tobytes() for n, a in states(learners).items()}

    assert course(0) == course(3)


def test_a_loss_that_is_not_finite_moves_nothing(cupy):
    own, other = pair("cupy")
    own.network.fc8.bias.data = own.network.fc8.bias.data * np.nan

    def rest():
        return {n: a.tobytes() for n, a in states([own]).items() if "fc8.bias" not in n and not n.endswith(".steps")}

    before, x, y = rest(), backend.placed(batch()[0], "cupy"), batch()[1]
    terms = satm.learn_from(own, x, y, satm.examples(other, x, y, Rules(), 0), Rules(), 0)
    assert np.isnan(float(terms["loss"])) and np.isnan(float(terms["gradient_norm"]))
    assert rest() == before


def hundred_steps():
    """The thin pair in float64 on both backends, each on its own: every loss of 100 steps to 1e-6.

    Rounding differs by 1e-16, and training multiplies that: to 1e-11 after 100 steps. In float32, where it differs by
    1e-7, step 40 has no digit left to compare.
    """
    rules = Rules(clip=1.0)
    ours, theirs = pair("cupy", np.float64), pair("numpy", np.float64)
    for i in range(100):
        x, y = batch(np.float64, i)
        expected = satm.step(theirs, x, y, rules, i)
        for name, terms in backend.as_floats(satm.step(ours, backend.placed(x, "cupy"), y, rules, i)).items():
            assert terms == pytest.approx(expected[name], rel=1e-6), f"step {i} of {name}"


@pytest.mark.slow
def test_a_hundred_steps_of_a_thin_pair(cupy):
    with cuda_checks.ways(WORTH_COLUMNS=1 if cupy.stand_in else cuda_checks.ours().WORTH_COLUMNS):
        hundred_steps()


# --- networks and attacks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, craft_mode", [("vgg16", "eval"), ("resnet50", "eval"), ("resnet50", "train")])
def test_attacks_are_numpys(cupy, kind, craft_mode):
    """In float64, where rounding does not turn a sign; networks come out as they went in."""
    here, there = network(kind, "numpy", np.float64), network(kind, "cupy", np.float64)
    x, y = batch(np.float64)
    before = {n: a.get().tobytes() for n, a in there.state().items()}
    for name in ("fgsm", "step_ll", "r_fgsm", "r_step_ll") if craft_mode == "eval" else ["r_fgsm"]:
        settings = dict(epsilon=0.1, alpha=0.04, craft_mode=craft_mode)
        expected = attacks.craft(name, here, x, y, rng=np.random.default_rng(1), **settings)
        found = attacks.craft(name, there, backend.placed(x, "cupy"), y, rng=np.random.default_rng(1), **settings)
        wrong = np.abs(found.get() - expected) > 1e-12
        assert wrong.mean() < 1e-3  # a pixel whose gradient is zero to within rounding
    assert {n: a.get().tobytes() for n, a in there.state().items()} == before


def test_pixels_outside_the_box_become_nan(cupy):
    x, y = batch()
    x[1, 2, 3, 0] = 1.5
    adversarial = attacks.r_fgsm(network("vgg16", "cupy"), backend.placed(x, "cupy"), y, rng=np.random.default_rng(0))
    assert np.isnan(adversarial.get()[1, 2, 3, 0])
    assert not np.isnan(adversarial.get()[0]).any()


def test_labels_out_of_range(cupy):
    logits = Tensor(backend.placed(np.zeros((3, 4), np.float32), "cupy"))
    for wrong in (4, -1):
        y = np.array([0, wrong, 3])
        with pytest.raises(InputError, match=f"label {wrong} is out of range: the network has 4 classes"):
            ops.softmax_cross_entropy(logits, Tensor(y))
        loss = ops.softmax_cross_entropy(logits, Tensor(backend.placed(y, "cupy")), reduction="none")
        assert np.isnan(loss.data.get()).tolist() == [False, True, False]  # looking would be waiting


def test_there_and_back_changes_no_bit(cupy):
    own = network("resnet50", "numpy")
    before = {n: a.tobytes() for n, a in own.state().items()}
    own.to("cupy")
    assert all(backend.on_gpu(a) for a in own.state().values())
    assert {n: a.tobytes() for n, a in own.to("numpy").state().items()} == before


def test_weights_files_know_no_backend(cupy, tmp_path):
    own, other = network("vgg16", "cupy"), network("vgg16", "numpy")
    own.fc8.bias.data = own.fc8.bias.data + 1
    own.save(str(tmp_path / "a.h5"))
    other.load(str(tmp_path / "a.h5"))
    assert {n: a.tobytes() for n, a in other.state().items()} == {n: a.get().tobytes() for n, a in own.state().items()}
    other.save(str(tmp_path / "b.h5"))
    own.load(str(tmp_path / "b.h5"))
    assert all(backend.on_gpu(a) for a in own.state().values())


def test_images_and_weights_on_different_sides(cupy):
    x, _ = batch()
    with pytest.raises(InputError, match=r"the images are a numpy array and the weights of vgg16 are cupy's: move one"):
        network("vgg16", "cupy")(Tensor(x))
    with pytest.raises(InputError, match=r'one of them \(network.to\("cupy"\), or backend.placed\(images, "numpy"\)'):
        network("vgg16", "numpy")(Tensor(backend.placed(x, "cupy")))


def test_batches_are_the_same_bits(cupy, drawn):
    from minisatm import data

    dataset = data.load("faces", drawn)
    ours, theirs = (Batches(dataset, range(40), batch=8, size=16, augment=True, backend=b) for b in ("cupy", "numpy"))
    for (i, x, y), (j, found, labels) in zip(theirs.stream(0, 7), ours.stream(0, 7), strict=True):
        assert backend.on_gpu(found) and found.dtype == np.float32 and i == j
        np.testing.assert_array_equal(found.get(), x)
        np.testing.assert_array_equal(labels, y)
    for (x, _), (found, _) in zip(theirs.in_order(), ours.in_order(), strict=True):
        np.testing.assert_array_equal(found.get(), x)


# --- launches ---------------------------------------------------------------------------------------------------------


def test_a_launch_takes_only_what_its_kernel_declares(cupy):
    from minisatm.kernels.launch import each, launch

    x, out = cuda_checks.up(np.ones((4, 6), np.float32), np.zeros((4, 6), np.float32))
    scale = cuda_checks.up(np.ones(6, np.float32))[0]
    each("scale_shift", 24, x, scale, None, out, 6, 24)
    assert (out.get() == 1).all()
    wrong = {
        "scale_shift takes 6 arguments, got 5": (x, scale, None, out, 6),
        "scale_shift: scale must be a CuPy array, got ndarray": (x, np.ones(6, np.float32), None, out, 6, 24),
        "scale must be a CuPy array, got float32": (x, np.float32(1), None, out, 6, 24),
        "scale must be contiguous float32, got float64": (x, scale.astype(np.float64), None, out, 6, 24),
        r"x must be contiguous float32, got float32 \(4, 6\) with strides \(4, 16\)": (
            cuda_checks.up(np.ones((6, 4), np.float32))[0].T, scale, None, out, 6, 24,
        ),
        "C must be a Python number that fits int, got 6.0": (x, scale, None, out, 6.0, 24),
        "n must be a Python number that fits int, got 2147483648": (x, scale, None, out, 6, 2**31),
        r"C must be a Python number that fits int, got array\(\[6\]\)": (x, scale, None, out, np.array([6]), 24),
    }  # fmt: skip
    for message, args in wrong.items():
        with pytest.raises(TypeError, match=message):
            each("scale_shift", 24, *args)
    with pytest.raises(TypeError, match="relu works on float32 or float64, not on float16"):
        half = x.astype(np.float16)
        launch("relu", (1,), (256,), half, half, 24)
    with pytest.raises(TypeError, match="step must be a Python number that fits T"):
        each("sign_step", 24, x, x, out, scale[:1], 24)


def test_an_array_that_kernels_cannot_count(cupy, monkeypatch):
    from minisatm.kernels import launch

    monkeypatch.setattr(launch, "LARGEST", 23)
    with pytest.raises(InputError, match="relu: x has 24 elements, more than the kernels can count: use a smaller"):
        cuda_checks.ours().relu(*cuda_checks.up(np.ones((4, 6), np.float32)))


def test_tf32_is_for_convolutions_alone(cupy, monkeypatch):
    """PyTorch's default: convolutions in TF32, dense layers not; and never float64."""
    from cupy._core import _routines_linalg as linalg

    ours, seen, matmul = cuda_checks.ours(), [], cupy.module.matmul

    def watched(a, b, out=None):
        seen.append(linalg.get_compute_type(np.float32) == linalg.COMPUTE_TYPE_TF32)
        return matmul(a, b, out=out)

    monkeypatch.setattr(cupy.module, "matmul", watched)
    where = dict(stride=(1, 1), pads=((0, 0), (0, 0)))
    for tf32 in (True, False):
        backend.use("cupy", tf32=tf32)
        for dtype in (np.float32, np.float64):
            x, w = cuda_checks.up(np.ones((1, 2, 2, 3), dtype), np.ones((1, 1, 3, 2), dtype))
            seen.clear()
            ours.conv2d(x, w, None, **where)
            ours.conv2d_gw(x, ours.conv2d(x, w, None, **where), kernel=(1, 1), **where)
            ours.linear(x.reshape(4, 3), w.reshape(3, 2), None)
            assert seen == [*[tf32 and dtype == np.float32] * 3, False]
    backend.use("cupy")


def test_tf32_needs_a_gpu_that_has_it(cupy, monkeypatch):
    device = type("Device", (), {"compute_capability": "75"})
    monkeypatch.setattr(cupy.module.cuda, "Device", device)
    backend.use("cupy")
    with pytest.raises(
        InputError, match=r"--tf32 needs a GPU of compute capability 8.0 or more, this one has 7.5: leave"
    ):
        backend.use("cupy", tf32=True)


# --- the command ------------------------------------------------------------------------------------------------------

SHORT = [
    *("--preset", "smoke", "--networks", "x=resnet20,y=resnet20", "--holdout", "none", "--width", "1/8"),
    *("--size", "16", "--batch", "4", "--clean-iterations", "1", "--iterations", "2", "--evaluate-images", "4"),
    *("--test-images", "4"),
]


@pytest.fixture
def quick(cupy):
    """The stand-in's matrix products are NumPy's, far faster than our own kernels on a CPU."""
    with cuda_checks.ways(WORTH_COLUMNS=1 if cupy.stand_in else cuda_checks.ours().WORTH_COLUMNS):
        yield


@pytest.fixture(scope="module")
def on_numpy(drawn, tmp_path_factory):
    """A short run on the NumPy backend."""
    out = tmp_path_factory.mktemp("numpy") / "run"
    assert call(*SHORT, "--data-dir", drawn, "--out", out)[0] == 0
    return out


def test_a_whole_run(cupy, quick, here, drawn, on_numpy):
    """Same seed, either backend: nearly the same losses; and all that a run promises."""
    status, _, err = call(*SHORT, "--data-dir", drawn, "--backend", "cupy", "--out", "cupy")
    assert status == 0, err
    ours, theirs = (table(run / "log.csv") for run in (here / "cupy", on_numpy))
    assert len(ours) == len(theirs) == 3
    for one, other in zip(ours, theirs):
        for column, value in other.items():
            if column.endswith((".loss", ".clean", ".adversarial", ".domain")) and value:
                assert float(one[column]) == pytest.approx(float(value), rel=1e-2)
    assert {p.name for p in (here / "cupy").rglob("*")} == {p.name for p in on_numpy.rglob("*")}


@pytest.mark.parametrize("first, then", [("numpy", "cupy"), ("cupy", "numpy"), ("numpy", "plain"), ("plain", "numpy")])
def test_a_checkpoint_of_one_resumes_on_the_other(cupy, quick, here, drawn, on_numpy, first, then, monkeypatch):
    """Stopped after the first SATM step; the step after that is that of a run on one backend alone."""
    monkeypatch.setattr(experiment.Experiment, "report", lambda self, run, *measured: run.path)  # it draws figures
    monkeypatch.setattr(backend, "_of_process", numpy_kernels)  # a command changes it for the whole process
    stop = monitor.Monitor.stop

    def interrupted(self, iteration, losses):
        self._interrupted = self.position.phase == "satm"
        return stop(self, iteration, losses)

    with monkeypatch.context() as patch:
        patch.setattr(monitor.Monitor, "stop", interrupted)
        assert call(*SHORT, "--data-dir", drawn, "--backend", first, "--out", "run")[0] == 130
    status, _, err = call("--resume", "run", "--backend", then)
    assert status == 0, err
    ours, whole = (table(run / "log.csv") for run in (here / "run", on_numpy))
    assert [(r["phase"], r["iteration"]) for r in ours] == [(r["phase"], r["iteration"]) for r in whole]
    assert float(ours[2]["x.loss"]) == pytest.approx(float(whole[2]["x.loss"]), rel=1e-2)
    assert json.loads((here / "run" / "config.json").read_text())["backend"] == first  # the run's own settings stay


def test_too_little_memory_names_the_batch_that_fits(cupy, quick, here, drawn, monkeypatch):
    monkeypatch.setattr(experiment.Experiment, "report", lambda self, run, *measured: run.path)  # it draws figures
    pool = cupy.module.get_default_memory_pool()
    pool.free_all_blocks()
    limit = pool.get_limit()
    clean = ["--preset", "smoke", "--method", "clean", "--networks", "resnet20", "--holdout", "none", "--width", "1/16"]
    clean += ["--size", "16", "--data-dir", drawn, "--backend", "cupy", "--iterations", "1"]
    clean += ["--evaluate-images", "4", "--test-images", "4"]
    pool.set_limit(size=pool.used_bytes() + 3 * 2**20)
    try:
        found = re.fullmatch(
            r"a step with 16x16 images and --batch 64 needs about ([\d.]+) MiB of GPU memory, of 3\.0 MiB: use "
            r"--batch (\d+), which fits\.",
            sentence := mistake(*clean, "--batch", "64", "--out", "run"),
        )
        assert found, sentence
        need, fits = float(found[1]), int(found[2])
        assert need > 3 and 1 <= fits < 64
        if cupy.stand_in:  # whose pool is never in pieces
            assert 3 * 64 / need / 2 < fits < 1.1 * 3 * 64 / need
        status, _, err = call(*clean, "--batch", fits, "--out", "other")
        assert status == 0, err
    finally:
        pool.set_limit(size=limit)


@pytest.mark.parametrize(
    "fixed, each, room, batch, fits", [(10, 1, 50, 64, 40), (0, 3, 100, 64, 33), (20, 7, 29, 8, 1)]
)
def test_the_batch_that_fits(cupy, fixed, each, room, batch, fits):
    """A step that takes so many KiB, and so many for each image."""
    kib, held = 2**10, []
    pool = cupy.module.get_default_memory_pool()
    pool.free_all_blocks()
    limit = pool.get_limit()
    pool.set_limit(size=pool.used_bytes() + room * kib)

    def step(n):
        held[:] = [cupy.module.zeros(fixed * kib, np.uint8), cupy.module.zeros(n * each * kib, np.uint8)]
        held.clear()

    try:
        with pytest.raises(InputError, match=f"a step and --batch {batch} needs .* use --batch {fits}, which fits"):
            gpu_memory.check(step, batch, "a step")
        gpu_memory.check(step, fits, "a step")
        with pytest.raises(InputError, match="a step does not fit the GPU even with --batch 1 .*: use a smaller"):
            gpu_memory.check(lambda n: cupy.module.zeros((1 + room) * kib, np.uint8), batch, "a step")
    finally:
        pool.set_limit(size=limit)
