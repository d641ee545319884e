"""Images, labels and seeds as people give them to attacks and networks: taken where they are clear, or refused."""

import contextlib

import numpy as np
import pytest
from attack_cases import RANDOM, STEPS, double, images, run

from minisatm import InputError, Tensor, attacks, models


def same(one, other):
    assert one.dtype == other.dtype and one.tobytes() == other.tobytes()


LABELS = {
    "list": list, "tuple": tuple, "list of Python numbers": lambda y: y.tolist(), "column": lambda y: y[:, None],
    "column in lists": lambda y: y[:, None].tolist(), "uint8": lambda y: y.astype(np.uint8),
    "int32 column": lambda y: y.astype(np.int32)[:, None],
}  # fmt: skip
FAST = [name for name in attacks.ATTACKS if not name.startswith("carlini")]


@pytest.mark.parametrize("form", LABELS)
@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_labels_in_every_form_that_is_clear(dense, golden, name, form):
    x, y, options = golden["x"], golden["y"], STEPS.get(name, {})
    expected = run(name, dense, x, y, **options)
    same(run(name, dense, x, LABELS[form](y), **options), expected)
    options = options | ({"rng": np.random.default_rng(7)} if name in RANDOM else {})
    same(attacks.ATTACKS[name](dense, x, LABELS[form](y), batch=16, **options), expected)


def test_labels_in_a_column_by_batches(dense, golden):
    ours = attacks.ATTACKS["fgsm"](dense, golden["x"], golden["y"][:, None].tolist(), batch=3)
    same(ours, attacks.fgsm(dense, golden["x"], golden["y"]))


class Foreign:
    """An array of another library: it has a shape and a dtype."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, str(array.dtype), array.ndim

    def __len__(self):
        return len(self.array)


WRONG_LABELS = {
    "one-hot": (lambda y: np.eye(4, dtype=int)[y], r"y has shape \(16, 4\), .* give y.argmax\(axis=1\) for one-hot"),
    "float one-hot": (lambda y: np.eye(4)[y], r"give y.argmax\(axis=1\) for one-hot rows"),
    "one-hot lists": (lambda y: np.eye(4)[y].tolist(), r"give y.argmax\(axis=1\) for one-hot rows"),
    "float": (lambda y: y.astype(float), r"16 integers, got float64 \(16,\): give y.astype\(int\)"),
    "float list": (lambda y: y.astype(float).tolist(), r"16 integers, got float64 \(16,\)"),
    "bool": (lambda y: y > 1, r"16 integers, got bool \(16,\)"),
    "words": (lambda y: [str(k) for k in y], "16 integers, got <U1 .* give the numbers of the classes"),
    "Tensor": (Tensor, "y is a Tensor, and class labels are an array of integers: give a NumPy array"),
    "foreign": (Foreign, "y is a test_images_and_labels.Foreign, and class labels are an array of integers"),
    "none": (lambda y: None, "y is a NoneType, and class labels are an array of integers"),
    "one number": (lambda y: 3, "y is a int, and class labels"),
    "ragged": (lambda y: [[1], [2, 3]], "an attack takes x"),
    "too few": (lambda y: y[:5].tolist(), r"takes x \(N, H, W, C\) and y \(N,\), got \(16, 1, 3, 4\) and \(5,\)"),
    "row": (lambda y: y[None], r"got \(16, 1, 3, 4\) and \(1, 16\)"),
}  # fmt: skip


@pytest.mark.parametrize("form", WRONG_LABELS)
@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_labels_that_are_not_clear(dense, golden, name, form):
    """The same sentence from every attack, whether it reads the labels or not, whole or by batches."""
    wrong, message = WRONG_LABELS[form]
    for batch in ({}, {"batch": 5}):
        with pytest.raises(InputError, match=message) as problem:
            run(name, dense, golden["x"], wrong(golden["y"]), **batch)
        assert "\n" not in str(problem.value)


@pytest.mark.parametrize("name", RANDOM)
def test_a_seed_is_a_generator(dense, golden, name):
    x, y, options = golden["x"], golden["y"], STEPS.get(name, {})
    expected = attacks.ATTACKS[name](dense, x, y, rng=np.random.default_rng(5), **options)
    for seed in (5, np.int64(5), np.array(5)):
        same(attacks.ATTACKS[name](dense, x, y, rng=seed, **options), expected)
        same(attacks.ATTACKS[name](dense, x, y, rng=seed, batch=6, **options), expected)


@pytest.mark.parametrize(
    "wrong", [np.random.RandomState(0), np.random.SeedSequence(0), np.random, -1, 0.5, True, "0"], ids=str
)
@pytest.mark.parametrize("name", RANDOM)
def test_an_rng_of_another_kind(dense, golden, name, wrong):
    for batch in ({}, {"batch": 5}):
        with pytest.raises(
            InputError, match=r"^rng is .*: give a numpy Generator, np.random.default_rng\(0\), or a seed"
        ):
            run(name, dense, golden["x"], golden["y"], rng=wrong, **batch)


IMAGES = {
    "uint8": (lambda x: (255 * x).astype(np.uint8), "uint8, and .*: give images.astype(np.float32) / 255."),
    "int64": (lambda x: (255 * x).astype(int), "int64, and .*: give images.astype(np.float32) / 255."),
    "bool": (lambda x: x > 0.5, "bool: give images.astype(np.float32)."),
    "float16": (lambda x: x.astype(np.float16), "float16, in which small gradients become 0: give images.astype("),
    "float64": (lambda x: x.astype(float), "float64 and the network's weights are float32: give images.astype("),
    "complex": (lambda x: x.astype(complex), "complex128: give images.astype(np.float32)."),
    "longdouble": (lambda x: x.astype(np.longdouble), "float128: give images.astype(np.float32)."),
}  # fmt: skip


def refused(call, message):
    with pytest.raises(InputError) as problem:
        call()
    start, _, end = message.partition(".*")
    assert str(problem.value).startswith(f"the images are {start}") and end in str(problem.value), problem.value


@pytest.mark.parametrize("kind", IMAGES)
def test_images_of_another_dtype(dense, golden, resnet, kind):
    """One sentence about the images from a network, and from every attack on it."""
    convert, message = IMAGES[kind]
    y = images(2)[1]
    for network in (models.build("vgg16", classes=4, width=1 / 32, size=32), resnet):
        x = images(2, size=network.definition["size"])[0]
        refused(lambda network=network, x=x: network(Tensor(convert(x))), message)
        refused(lambda network=network, x=x: models.network.predict(network, convert(x)), message)
        refused(lambda network=network, x=x: network.as_function()(convert(x)), message)
    with pytest.raises(InputError, match="^the images are ") if kind != "float64" else contextlib.nullcontext():
        attacks.input_gradient(dense.logits_and_vjp, convert(golden["x"]), golden["y"])
    for name in attacks.ATTACKS:
        refused(lambda name=name: run(name, dense, convert(golden["x"]), golden["y"]), message)
        refused(lambda name=name: run(name, resnet, convert(x), y, batch=1), message)


def test_double_precision_needs_a_double_network(dense, golden):
    """float64 images are right for a float64 network, and float32 images are wrong for it."""
    x, y = golden["x"].astype(float), golden["y"]
    assert attacks.fgsm(double(dense), x, y).dtype == np.float64
    message = "float32 and the network's weights are float64: give images.astype(np.float64)."
    refused(lambda: attacks.fgsm(double(dense), golden["x"], y), message)
    network = models.build("resnet20", classes=4, width=1 / 4, size=8).astype(np.float64).eval()
    small = images(2, size=8)[0]
    refused(lambda: network(Tensor(small)), message)
    assert network(Tensor(small.astype(float)))[0].dtype == np.float64
    for number in (np.float32, np.float64):  # a function of another library has the dtype it likes
        answer = np.ones((16, 4), number), lambda g: np.ones_like(x)
        assert attacks.fgsm(lambda images, answer=answer: answer, x.astype(number), y).shape == x.shape


@pytest.mark.parametrize("dtype", [np.float16, int, "uint8", np.longdouble])
def test_a_network_in_half_precision(dtype):
    with pytest.raises(InputError, match="^unknown dtype '.*': choose float32, float64"):
        models.build("resnet20", classes=4, width=1 / 4, size=8).astype(dtype)
    network = models.build("resnet20", classes=4, width=1 / 4, size=8)
    for weight in network.parameters().values():
        weight.data = weight.data.astype(np.float16)
    with pytest.raises(InputError, match="the network's weights are float16: compute in float32, network.astype"):
        network(Tensor(np.zeros((1, 8, 8, 3), np.float16)))


@pytest.mark.parametrize(
    "form", [Tensor, list, lambda x: x.tolist(), Foreign], ids=["Tensor", "list", "lists", "foreign"]
)
@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_images_that_are_no_array(dense, golden, name, form):
    todo = "give its .data" if form is Tensor else "give a NumPy array"
    for batch in ({}, {"batch": 5}):
        with pytest.raises(InputError, match=f"^x is a .*, and an attack takes images as an array .*: {todo}"):
            run(name, dense, form(golden["x"]), golden["y"], **batch)
