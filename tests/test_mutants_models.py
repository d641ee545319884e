"""Mistakes planted in the networks, layers, data, attacks and optimisers: each must make the test beside it fail.

Each mistake is one changed text in a copy of the package, in a temporary folder; the test runs there in a process of
its own. `python -m pytest -m slow -k mutant -v tests/test_mutants_models.py` prints the list.
"""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "minisatm"
AT_ONCE = 2  # processes

pytestmark = pytest.mark.slow


class Mutant(NamedTuple):
    """`name`, what is wrong; `before`, a text that occurs in `file` once, becomes `after`; `test` must then fail."""

    name: str
    file: str
    before: str
    after: str
    test: str


def fingerprint(case):
    return f"test_fingerprints.py::test_fingerprint[{case}]"


START, BATCHES, RULES = (f"test_{topic}.py::test_" for topic in ("starting_weights", "data_properties", "attack_rules"))
VGG, RESNET, INCEPTION, MNIST, NETWORK = (f"models/{f}.py" for f in ("vgg", "resnet", "inception", "mnist", "network"))
LAYERS, SHORT = "layers.py", "resnet50 blocks=(2,1,1,1)"

MODELS = [
    Mutant("fc6-without-relu", VGG, "ops.relu(self.fc6(x.reshape(len(x), -1)))", "self.fc6(x.reshape(len(x), -1))",
           fingerprint("vgg16-eval")),
    Mutant("fc7-without-relu", VGG, "ops.relu(self.fc7(x))", "self.fc7(x)", fingerprint("vgg16-eval")),
    Mutant("dropout7-forgotten", VGG, "self.fc8(self.dropout7(features))", "self.fc8(features)",
           fingerprint("vgg16-train")),
    Mutant("dropout6-forgotten", VGG, "x = self.dropout6(ops.relu(self.fc6(x.reshape(len(x), -1))))",
           "x = ops.relu(self.fc6(x.reshape(len(x), -1)))", fingerprint("vgg16-train")),
    Mutant("dropout-rate-ignored", VGG, "self.dropout7 = Dropout(dropout)", "self.dropout7 = Dropout(0.5)",
           fingerprint("vgg16 dropout=0.3-train")),
    Mutant("fc8-drawn-as-he-has-it", VGG, "self.fc8 = Linear(hidden, classes, rng=rng, std=0.01)",
           "self.fc8 = Linear(hidden, classes, rng=rng)", START + "weights_have_hes_spread_and_the_last_layer_0_01"),
    Mutant("std-with-green-and-blue-exchanged", NETWORK, "(0.229, 0.224, 0.225)", "(0.229, 0.225, 0.224)",
           fingerprint("vgg16-eval")),
    Mutant("bgr-ignored", NETWORK, "Normalize(mean, std, bgr=bgr)", "Normalize(mean, std)",
           fingerprint(f"{SHORT} bgr=True-eval")),
    Mutant("grey-normalised-as-red", NETWORK, "else (sum(values) / 3,) for values", "else (values[0],) for values",
           fingerprint("vgg16 channels=1 size=32-eval")),
    Mutant("stride-in-the-other-convolution", RESNET, '(stride, 1) if d.stride_in == "1x1"',
           '(stride, 1) if d.stride_in == "3x3"', fingerprint("resnet50-eval")),
    Mutant("zeros-behind-all-channels", RESNET, "(missing // 2, missing - missing // 2)", "(0, missing)",
           fingerprint("resnet20-eval")),
    Mutant("block-without-relu", RESNET, "ops.add_relu(y, self.shortcut(x))", "y + self.shortcut(x)",
           fingerprint("resnet101-eval")),
    Mutant("relu-after-the-second-convolution-of-a-basic-block", RESNET, "relu=self.bottleneck)", "relu=True)",
           fingerprint("resnet20-eval")),
    Mutant("blocks-do-not-start-as-shortcuts", RESNET, "last = 0.0 if d.zero_gamma else 1.0", "last = 1.0",
           START + "the_last_gamma_of_each_block_is_zero"),
    Mutant("residual-blocks-of-inception-that-start-awake", INCEPTION, "zero_residual: bool = True",
           "zero_residual: bool = False", START + "residual_blocks_of_inception_start_as_their_shortcuts"),
    Mutant("resnet-eps-ignored", RESNET, "dict(eps=d.eps, momentum", "dict(momentum",
           fingerprint(f"{SHORT} eps=0.001-eval")),
    Mutant("resnet-unbiased-ignored", RESNET, "momentum=d.momentum, unbiased=d.unbiased)", "momentum=d.momentum)",
           fingerprint(f"{SHORT} unbiased=False-train")),
    Mutant("resnet-momentum-ignored", RESNET, "eps=d.eps, momentum=d.momentum,", "eps=d.eps,",
           fingerprint(f"{SHORT} momentum=0.01-train")),
    Mutant("stem-padding-ignored", RESNET, "padding=d.stem_padding", "padding=3",
           fingerprint(f"{SHORT} stem_padding=same-eval")),
    Mutant("pool-ceil-ignored", RESNET, ", ceil=self.d.pool_ceil", "",
           fingerprint(f"{SHORT} pool_padding=0 pool_ceil=True size=52-eval")),
    Mutant("5x5-branch-that-is-3x3", INCEPTION, "((48, 1), (64, 5))", "((48, 1), (64, 3))",
           fingerprint("inception_v3-eval")),
    Mutant("scale-of-block17", INCEPTION, "Res(BLOCK_17, 0.1)", "Res(BLOCK_17, 0.17)",
           fingerprint("inception_resnet_v2-eval")),
    Mutant("relu-after-the-last-block", INCEPTION, "Res(BLOCK_8, 1.0, relu=False)", "Res(BLOCK_8, 1.0)",
           fingerprint("inception_resnet_v2-eval")),
    Mutant("inception-eps-of-pytorchs-default", INCEPTION, "eps: float = 1e-3", "eps: float = 1e-5",
           fingerprint("inception_v3-eval")),
    Mutant("rows-and-columns-exchanged", INCEPTION, "((n, 1), (n, ROW), (192, COLUMN))",
           "((n, 1), (n, COLUMN), (192, ROW))", fingerprint("inception_v3-eval")),
    Mutant("count-padding-ignored", INCEPTION, "count_padding=d.count_padding", "count_padding=True",
           fingerprint("inception_v3 count_padding=False-eval")),
    Mutant("max-pool-rounded-up", INCEPTION, "ops.max_pool, kernel=3, stride=2)",
           "ops.max_pool, kernel=3, stride=2, ceil=True)", fingerprint("inception_v3 size=81-eval")),
    Mutant("lenet-with-a-relu-between", MNIST, "ops.max_pool(self.conv2(x), ", "ops.max_pool(ops.relu(self.conv2(x)), ",
           fingerprint("lenet-eval")),
    Mutant("rate-of-the-first-dropout", MNIST, '"mnist_b": (Drop(0.2)', '"mnist_b": (Drop(0.25)',
           fingerprint("mnist_b-train")),
    Mutant("kernel-of-structure-c", MNIST, "(Conv(128, 3), Conv(64, 3)", "(Conv(128, 3), Conv(64, 5)",
           fingerprint("mnist_c-eval")),
    Mutant("running-variance-over-n", LAYERS, "n / max(n - 1, 1) if self.unbiased else 1.0", "1.0",
           fingerprint("resnet20-train")),
    Mutant("momentum-of-the-old-statistics", LAYERS, "running_average(self.mean, mean, self.momentum)",
           "running_average(self.mean, mean, 1 - self.momentum)", fingerprint("resnet20-train")),
    Mutant("eps-left-out-of-the-folded-norm", LAYERS, "np.sqrt(self.var + self.eps)", "np.sqrt(self.var)",
           fingerprint("resnet20-eval")),
    Mutant("bias-not-scaled-by-the-folded-norm", LAYERS, "else bias * scale + shift", "else bias + shift",
           fingerprint(f"{SHORT} conv_bias=True-eval")),
    Mutant("dropout-in-eval-mode", LAYERS, "if not self.training or self.rate == 0:", "if self.rate == 0:",
           fingerprint("mnist_a-eval")),
    Mutant("spread-of-glorot", LAYERS, "np.float32(np.sqrt(2 / fan_in))", "np.float32(np.sqrt(1 / fan_in))",
           START + "weights_have_hes_spread_and_the_last_layer_0_01"),
    Mutant("fan-out-for-fan-in", LAYERS, "np.prod(shape[:-1])", "np.prod(shape[1:])",
           START + "weights_have_hes_spread_and_the_last_layer_0_01"),
    Mutant("biases-that-do-not-start-at-zero", LAYERS, "self.bias = _constant(0, outputs)",
           "self.bias = _constant(0.01, outputs)", START + "biases_and_running_statistics"),
]  # fmt: skip

DATA = [
    Mutant("same-augmentation-every-epoch", "data/batches.py", 'stream(self.seed, "augment", iteration)',
           'stream(self.seed, "augment", step)', BATCHES + "no_two_batches_are_augmented_alike"),
    Mutant("one-augmentation-for-all-batches", "data/batches.py", 'stream(self.seed, "augment", iteration)',
           'stream(self.seed, "augment", epoch)', BATCHES + "no_two_batches_are_augmented_alike"),
    Mutant("augmentation-whatever-the-seed", "data/batches.py", 'stream(self.seed, "augment"', 'stream(0, "augment"',
           BATCHES + "another_seed_augments_otherwise"),
    Mutant("a-whole-batch-mirrored-or-none", "data/batches.py", "rng.random(n) < 0.5",
           "np.full(n, rng.random() < 0.5)", BATCHES + "each_image_of_a_batch_is_mirrored_or_not_by_itself"),
    Mutant("mirrored-though-it-may-not-be", "data/batches.py", "if self.dataset.mirror else np.zeros(n, bool)", "",
           BATCHES + "an_augmented_image_is_a_window_of_the_reflected_image[False]"),
    Mutant("one-shift-for-a-whole-batch", "data/batches.py", "(n, 2, 1))", "(1, 2, 1)).repeat(n, axis=0)",
           BATCHES + "each_image_is_shifted_by_itself_in_both_directions_alike"),
    Mutant("rows-and-columns-shifted-alike", "data/batches.py", "(n, 2, 1))", "(n, 1, 1)).repeat(2, axis=1)",
           BATCHES + "each_image_is_shifted_by_itself_in_both_directions_alike"),
    Mutant("upside-down", "data/batches.py", "picks[mirrored, 1] = picks[mirrored, 1, ::-1]",
           "picks[mirrored, 0] = picks[mirrored, 0, ::-1]",
           BATCHES + "an_augmented_image_is_a_window_of_the_reflected_image[True]"),
    Mutant("border-repeated-not-reflected", "data/batches.py",
           "last - np.abs(last - np.abs(np.arange(size) + shifts))",
           "np.clip(np.arange(size) + shifts, 0, last)",
           BATCHES + "an_augmented_image_is_a_window_of_the_reflected_image"),
    Mutant("shift-by-an-eighth", "data/batches.py", "size // 12", "size // 8",
           BATCHES + "the_shift_is_a_twelfth_of_the_side_rounded_down"),
    Mutant("same-order-every-epoch", "data/batches.py", 'stream(self.seed, "shuffle", epoch)',
           'stream(self.seed, "shuffle")', BATCHES + "every_epoch_has_an_order_of_its_own_and_leaves_others_over"),
    Mutant("a-limit-takes-the-first-images", "data/batches.py", "choice(len(self.indices), limit",
           "choice(limit, limit", "test_data_batches.py::test_a_limit_draws_from_all_classes_and_stays_the_same"),
    Mutant("pixels-of-256ths", "data/batches.py", ".astype(np.float32) / 255", ".astype(np.float32) / 256",
           BATCHES + "pixels_are_255ths"),
    Mutant("odd-row-of-zeros-at-the-beginning", "data/pixels.py", "((size - h) // 2, (size - h + 1) // 2)",
           "((size - h + 1) // 2, (size - h) // 2)",
           BATCHES + "a_digit_is_padded_on_all_sides_and_the_odd_row_is_at_the_end"),
    Mutant("nearest-pixels", "data/pixels.py", "Image.Resampling.BILINEAR", "Image.Resampling.NEAREST",
           BATCHES + "resizing_averages_what_it_leaves_out_and_blends_what_it_adds"),
    Mutant("folders-inside-a-class-not-read", "data/folder.py", '.rglob("*")', '.glob("*")',
           BATCHES + "images_in_folders_inside_a_class_belong_to_the_class"),
    Mutant("validation-of-a-wrong-whole", "data/dataset.py", "validation /= 1 - TEST_SHARE", "validation /= 1",
           BATCHES + "the_parts_have_their_shares"),
    Mutant("validation-drawn-from-test-too", "data/dataset.py", "self._draw(rng, ~test, validation)",
           "self._draw(rng, test | ~test, validation)", BATCHES + "parts_hold_each_image_once"),
    Mutant("another-fold-held-out", "data/dataset.py", "self.folds == fold", "self.folds == (fold + 1) % 5",
           BATCHES + "parts_hold_each_image_once"),
    Mutant("parts-whatever-the-seed", "data/dataset.py", 'stream(seed, "split")', 'stream(0, "split")',
           BATCHES + "each_seed_draws_other_parts"),
    Mutant("digits-mirrored", "data/mnist.py", "mirror=False", "mirror=True",
           "test_data_mnist.py::test_reads_gzipped_and_plain_files"),
]  # fmt: skip

ATTACKS = [
    Mutant("momentum-without-decay", "attacks/iterative.py", "decay * momentum + g", "momentum + g",
           RULES + "momentum_decays"),
    Mutant("projection-left-out-of-pgd", "attacks/iterative.py", "* direction, x, epsilon, norm)",
           "* direction, x, 1.0, norm)", RULES + "a_step_of_any_size_ends_in_the_ball_and_a_small_one_moves_that_far"),
    Mutant("projection-left-out-of-momentum", "attacks/iterative.py", "* np.sign(momentum), x, epsilon)",
           "* np.sign(momentum), x, 1.0)",
           RULES + "a_step_of_any_size_ends_in_the_ball_and_a_small_one_moves_that_far"),
    Mutant("restarts-ignored", "attacks/iterative.py", "in starts.swapaxes(0, 1):", "in starts.swapaxes(0, 1)[:1]:",
           RULES + "each_restart_is_tried_in_full"),
    Mutant("last-restart-kept", "attacks/iterative.py", "per_sample(margin < smallest, x)",
           "per_sample(margin < np.inf, x)", "test_attack_traps.py::test_restarts_that_keep_the_last_try"),
    Mutant("square-goes-on-after-success", "attacks/search.py", "(new_margin < margin) & (margin >= 0)",
           "(new_margin < margin)", RULES + "square_stops_at_the_first_success_and_else_keeps_the_best"),
    Mutant("squares-that-do-not-shrink", "attacks/search.py", "first * (1 - step / steps) ** 2", "first",
           RULES + "squares_shrink_to_a_pixel_and_have_one_sign_in_each_channel"),
    Mutant("squares-of-one-sign-in-all-channels", "attacks/search.py", "rng_i.integers(0, 2, C) - 1\n        signs",
           "rng_i.integers(0, 2) - 1\n        signs",
           RULES + "squares_shrink_to_a_pixel_and_have_one_sign_in_each_channel"),
    Mutant("step-of-half-epsilon", "attacks/iterative.py", "(epsilon / 4 if step is None else step) * direction",
           "(epsilon / 2 if step is None else step) * direction",
           RULES + "a_step_is_a_quarter_of_epsilon_unless_given"),
    Mutant("carlini-wagner-never-stops-early", "attacks/carlini_wagner.py", "0.9999 * last_loss", "1.0001 * last_loss",
           RULES + "an_image_whose_loss_does_not_fall_stops_at_the_next_tenth"),
    Mutant("confidence-ignored", "attacks/carlini_wagner.py", "(margin < -confidence) & ", "(margin < 0) & ",
           RULES + "a_confidence_is_the_margin_by_which_an_example_fools"),
    Mutant("c-doubles", "attacks/carlini_wagner.py", "10 * weight)", "2 * weight)",
           RULES + "c_grows_tenfold_until_the_image_is_fooled"),
    Mutant("steps-forgotten-at-a-restart", "optim.py", 'self.steps = int(state["steps"])', "pass",
           "test_optim.py::test_the_state_goes_on_where_it_was"),
    Mutant("warm-up-from-zero", "optim.py", "(iteration + 1) / warmup", "iteration / warmup",
           "test_optim.py::test_schedule_values"),
]  # fmt: skip

MUTANTS = [*MODELS, *DATA, *ATTACKS]


def outcome(folder, tests, mutant=None):
    """(exit status, output) of tests on a copy of the package in `folder`, perhaps with a mistake in it.

    pytest's status is 1 where tests failed, 0 where all passed, and more where it could not run them.
    """
    shutil.copytree(PACKAGE, folder / "minisatm", ignore=shutil.ignore_patterns("__pycache__"))
    if mutant is not None:
        path = folder / "minisatm" / mutant.file
        source = path.read_text()
        if source.count(mutant.before) != 1:
            return 99, f"{mutant.before!r} occurs {source.count(mutant.before)} times in {mutant.file}, not once"
        path.write_text(source.replace(mutant.before, mutant.after))
        compile(path.read_text(), str(path), "exec")  # a slip in the new text is no catch
    options = ["-x", "-q", "-p", "no:cacheprovider", "-c", str(TESTS.parent / "pyproject.toml")]
    done = python(folder, "-m", "pytest", *options, "--rootdir", str(TESTS.parent), *(str(TESTS / t) for t in tests))
    return done.returncode, done.stdout[-3000:] + done.stderr[-1000:]


def python(folder, *command):
    """A Python process that finds the package in `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory):
    """{name of a mutant: its outcome to come} for all that were chosen: two run at a time."""
    items = [item for item in request.session.items if item.module is request.module and hasattr(item, "callspec")]
    chosen = [item.callspec.params["mutant"] for item in items]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {m.name: pool.submit(outcome, tmp_path_factory.mktemp("copy"), [m.test], m) for m in chosen}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_mutant_is_caught(mutant, outcomes):
    status, output = outcomes[mutant.name].result()
    assert status == 1, f"{mutant.test} gives {status}, where 1 is a failed test:\n{output}"
    assert not any(slip in output for slip in ("NameError", "SyntaxError", "ImportError", "UnboundLocalError")), output


def test_control_without_a_mutant_all_pass(tmp_path):
    """The same tests pass on a copy of the package as it is, and the copy is what they import."""
    status, output = outcome(tmp_path, sorted({mutant.test for mutant in MUTANTS}))
    assert status == 0, output
    assert python(tmp_path, "-c", "import minisatm; print(minisatm.__file__)").stdout.startswith(str(tmp_path))


def test_a_mutant_whose_text_is_gone_fails(tmp_path):
    """When the source was rewritten, its mutant must say so and not pass for a mistake that was caught."""
    status, output = outcome(tmp_path, [MODELS[0].test], MODELS[0]._replace(before="no such text"))
    assert status == 99 and output == f"'no such text' occurs 0 times in {VGG}, not once"


def test_there_are_enough_mutants():
    assert len(MODELS) >= 25 and len(DATA) >= 12 and len(ATTACKS) >= 8
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
