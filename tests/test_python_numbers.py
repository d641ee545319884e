"""What users give to attacks, ops, optimisers and networks: numbers of any library, labels, seeds and images."""

import decimal
import fractions

import numpy as np
import pytest
from attack_cases import images, run

from minisatm import InputError, Tensor, attacks, models, optim, satm
from minisatm.check import strategies
from minisatm.defences import training
from minisatm.domain import DomainClassifier
from minisatm.evaluation.setting import AttackSetting
from minisatm.inputs import python_number
from minisatm.layers import BatchNorm, Dropout
from minisatm.run import settings as config
from minisatm.tensor import OPS

# Each holds the number exactly, so that its Python number is the number itself.
KINDS = {
    "float64": np.float64, "float32": np.float32, "float16": np.float16, "longdouble": np.longdouble,
    "0-d": np.array, "0-d float32": lambda v: np.array(v, np.float32), "Fraction": fractions.Fraction,
    "Decimal": decimal.Decimal,
}  # fmt: skip
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


def whole(kind, value):
    """A whole number of this kind, where the kind has them."""
    return np.array(value) if kind is np.array else np.int64(value)


def same(one, other):
    assert one.dtype == other.dtype and one.tobytes() == other.tobytes()


def convert(kind, options):
    convert_one = {float: kind, int: lambda v: whole(kind, v)}
    return {k: convert_one.get(type(v), lambda v: v)(v) for k, v in options.items()}


NUMBERS = {
    "epsilon": 0.125,
    "alpha": 0.0625,
    "step": 0.03125,
    "steps": 2,
    "learning_rate": 0.0625,
    "c": 0.5,
    "first": 0.5,
}
NUMBERS |= {
    "decay": 0.5,
    "confidence": 0.0,
    "largest_c": 4.0,
    "share": 0.25,
    "restarts": 1,
    "search_steps": 1,
    "rounds": 2,
}


@each_kind
@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_an_attack_with_numbers_of_any_kind(dense, golden, name, kind):
    options = {k: v for k, v in NUMBERS.items() if attacks.ATTACKS[name].takes(k)}
    expected = run(name, dense, golden["x"], golden["y"], **options)
    same(run(name, dense, golden["x"], golden["y"], **convert(kind, options)), expected)
    assert expected.dtype == np.float32


@each_kind
def test_numbers_of_any_kind_become_python_numbers(kind):
    assert type(python_number(kind(0.5))) is float and python_number(kind(0.5)) == 0.5
    assert type(python_number(whole(kind, 3))) is int
    assert python_number((kind(0.5), 3, "a")) == (0.5, 3, "a")
    array, text = np.ones(1), "a"
    assert python_number(array) is array and python_number(text) is text and python_number(None) is None
    assert python_number(True) is True and python_number(np.bool_(True)) is True


@each_kind
@pytest.mark.parametrize("op", ["add", "sub", "mul", "div"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_op_with_a_scalar_of_any_kind(op, kind, dtype):
    array = np.array([0.3, -0.7, 1.9], dtype)

    def both(number):
        x = Tensor(array, requires_grad=True)
        one, other = OPS[op](x, number), OPS[op](number, x)
        (one * other).sum().backward()
        return one.data, other.data, x.grad

    for ours, expected in zip(both(kind(0.3125)), both(0.3125)):
        same(ours, expected)
        assert ours.dtype == dtype
    same((Tensor(array) * kind(0.5)).data, array * 0.5)
    same((kind(0.5) - Tensor(array)).data, 0.5 - array)


def in_kind(kind, value):
    """Every number of a setting in this kind; NumPy's axes, shapes and sizes stay whole numbers."""
    if isinstance(value, tuple):
        return tuple(in_kind(kind, v) for v in value)
    return kind(value) if type(value) is float else whole(kind, value) if type(value) is int else value


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.array], ids=["float32", "float64", "0-d"])
@pytest.mark.parametrize("name", sorted(OPS))
def test_every_op_with_settings_of_any_kind(name, kind):
    """The calls that the ops are checked with elsewhere, with each number in this kind: values and gradients."""
    for arrays, settings in strategies.examples(name, 8):
        settings = settings | ({"strength": 0.75} if name == "reverse_gradient" else {})
        converted = {k: in_kind(kind, v) for k, v in settings.items()}
        expected = called(OPS[name], arrays, settings, float)
        for ours, theirs in zip(called(OPS[name], arrays, converted, kind), expected, strict=True):
            same(ours, theirs)


def called(op, arrays, settings, scalar):
    """The value of an op in float32 and the gradients of its inputs; numbers beside arrays are scalars of this kind."""
    inputs = []
    for a in arrays:
        if isinstance(a, np.ndarray | np.generic):
            a = np.asarray(a, np.float32 if a.dtype.kind == "f" else a.dtype)
            inputs.append(Tensor(a, requires_grad=a.dtype.kind == "f"))
        else:
            inputs.append(a if a is None else scalar(a))
    out = op(*inputs, **settings)
    out = out[0] if isinstance(out, tuple) else out
    if out.requires_grad:
        out.backward(np.ones_like(out.data))
    return [out.data, *(i.grad for i in inputs if isinstance(i, Tensor) and i.grad is not None)]


def learner(rules):
    """One network in SATM's step, with a domain classifier."""
    network = models.build("resnet20", classes=4, width=1 / 4, size=8, rng=0)
    domain = DomainClassifier(network.feature_width, strength=rules.epsilon * 8, rng=np.random.default_rng(0))

    def make(module):
        return optim.build("sgd", module.parameters(), rules.r_adv / 16, momentum=rules.r_da)

    return satm.Learner("a", network, make(network), domain, make(domain))


@each_kind
def test_satm_with_rules_of_any_kind(kind):
    """Weights, schedule, clip and strength: the same step to the bit."""
    x, y = images(8, size=8, classes=4)
    steps = []
    for number in (float, kind):
        numbers = dict(epsilon=0.125, alpha=0.03125, r_adv=0.75, r_da=0.25, clip=0.5)
        rules = satm.Rules(**{k: number(v) for k, v in numbers.items()}, schedule=lambda step, n=number: n(0.25))
        one = learner(rules)
        terms = satm.step([one, satm.Learner("b", one.network, frozen=True)], x, y, rules, 0)["a"]
        steps.append((terms["loss"], one.network.state()))
    (loss, state), (ours, our_state) = steps
    assert ours == loss
    for name in state:
        same(our_state[name], state[name])


@each_kind
@pytest.mark.parametrize("name", optim.OPTIMISERS)
def test_an_optimiser_with_numbers_of_any_kind(name, kind):
    """Those of the constructor, those set later, and those of a step; also a schedule through np.exp."""
    more = {"sgd": dict(momentum=0.5), "adam": dict(betas=(0.5, 0.75), eps=0.0625)}[name]

    def moved(number):
        weight = Tensor(np.array([0.3, -0.7], np.float32), requires_grad=True)
        rates = {k: tuple(map(number, v)) if type(v) is tuple else number(v) for k, v in more.items()}
        optimiser = optim.OPTIMISERS[name]({"w": weight}, number(0.25), weight_decay=number(0.125), **rates)
        for _ in range(3):
            optimiser.learning_rate = number(0.5)
            weight.grad = np.array([1.7, 0.1], np.float32)
            optimiser.step(number(0.5), number(1.0))
        return weight.data

    same(moved(kind), moved(float))
    weight = Tensor(np.ones(2, np.float32), requires_grad=True)
    optimiser = optim.OPTIMISERS[name]({"w": weight}, 0.1)
    weight.grad = np.ones(2, np.float32)
    optimiser.step(np.exp(-np.float64(1)))
    assert weight.data.dtype == np.float32


@each_kind
def test_layers_and_losses_with_numbers_of_any_kind(kind):
    x = Tensor(np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32), requires_grad=True)
    for mode in (True, False):
        same(norm(kind, x, mode), norm(float, x, mode))
    layer = Dropout(kind(0.5))
    layer.rng = np.random.default_rng(0)
    assert type(layer.rate) is float and layer(x).dtype == np.float32
    one, other = (training_loss(number(4.0), x) for number in (float, kind))
    same(one, other)
    network = models.build("resnet20", classes=np.int64(3), width=kind(0.25), size=np.int32(8))
    assert {type(network.definition[k]) for k in ("classes", "size", "width")} == {int, float}


def norm(number, x, training):
    layer = BatchNorm(4, eps=number(0.125), momentum=number(0.25)).train(training)
    weight, _ = layer.folded(Tensor(np.ones((2, 4), np.float32)), None)
    assert layer.mean.dtype == layer.var.dtype == weight.dtype == np.float32
    return layer(x).data + layer.mean + weight.data[0]


def training_loss(temperature, logits):
    class Teacher:
        network = staticmethod(lambda x: (x, None))

    soft = training.soft_labels(Teacher, logits.data, temperature)
    assert soft.dtype == np.float32
    return training.at_temperature(temperature)(logits, soft).data


@each_kind
def test_settings_of_a_run_and_of_an_evaluation(kind):
    """A run's settings are checked and saved as if they were Python numbers; examples keep their dtype."""
    settings = config.from_preset("smoke", {"epsilon": kind(0.125), "batch": np.int64(8)})
    assert (type(settings.epsilon), type(settings.batch)) == (float, int)
    x = images(2)[0]
    one, other = (AttackSetting("fgsm", number(0.0625)).rounded(x * 0.9, x) for number in (float, kind))
    same(one, other)
    assert type(AttackSetting("fgsm", kind(0.0625)).epsilon) is float
    same(attacks.rounded(x, x, epsilon=kind(0.0625)), attacks.rounded(x, x, epsilon=0.0625))
    assert type(attacks.resolve_alpha(kind(0.125), None)) is float


# Options that are no numbers, or none of the attack's


@pytest.mark.parametrize("value", ["16/256", np.array([0.1, 0.2]), [0.1], None, True, 1j], ids=str)
def test_an_epsilon_that_is_no_number(dense, golden, value):
    with pytest.raises(InputError, match="^epsilon must be a number, got "):
        attacks.fgsm(dense, golden["x"], golden["y"], epsilon=value)


@pytest.mark.parametrize(
    "name, wrong, near", [("fgsm", "eps", "epsilon"), ("pgd", "step_size", "step"), ("pgd", "Steps", "steps")]
)
def test_an_option_that_the_attack_does_not_have(dense, golden, name, wrong, near):
    with pytest.raises(InputError, match=rf"^{name} has no option '{wrong}': it has .* \(did you mean {near}"):
        attacks.ATTACKS[name](dense, golden["x"], golden["y"], **{wrong: 0.1})
