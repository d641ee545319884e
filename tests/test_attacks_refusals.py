"""What the attacks refuse, and in which words."""

import numpy as np
import pytest
from attack_cases import EPSILON, RANDOM, STEPS, WITH_EPSILON, run

from minisatm import InputError, attacks


def refused(dense, golden, **changes):
    options = {"x": golden["x"], "y": golden["y"], "rng": np.random.default_rng(0), **changes}
    with pytest.raises(InputError) as problem:
        attacks.r_fgsm(dense, options.pop("x"), options.pop("y"), **options)
    return str(problem.value)


def test_alpha_must_not_be_negative(dense, golden):
    assert refused(dense, golden, epsilon=EPSILON, alpha=-0.01).startswith("alpha -0.01 is negative: leave it out")


@pytest.mark.parametrize("alpha", [EPSILON, 0.2, float("nan")])
def test_alpha_must_be_below_epsilon(dense, golden, alpha):
    message = refused(dense, golden, epsilon=EPSILON, alpha=alpha)
    assert message.startswith(f"alpha {alpha:g} must be below epsilon 0.0625")
    assert "leave alpha out for epsilon / 2" in message


@pytest.mark.parametrize("name", WITH_EPSILON)
@pytest.mark.parametrize("epsilon", [-0.1, 1.5, 16.0, float("nan")])
def test_epsilon_is_in_pixels_of_the_unit_range(dense, golden, name, epsilon):
    options = {"scale": "max"} if name == "fast_gradient_value" else {}
    with pytest.raises(InputError, match=r"epsilon \S+ is not in pixels of \[0, 1\]: write it like 16/256"):
        run(name, dense, golden["x"], golden["y"], epsilon=epsilon, **options)


@pytest.mark.parametrize("name, l2", [("pgd", {"norm": "l2"}), ("fast_gradient_value", {"scale": "l2"})])
@pytest.mark.parametrize("epsilon", [-0.1, 3.5, 16.0, float("nan")])
def test_epsilon_as_a_length_stays_inside_the_cube(dense, golden, name, l2, epsilon):
    with pytest.raises(InputError, match=rf"epsilon {epsilon:g} is out of range: .*choose a value from 0 to 3.46"):
        run(name, dense, golden["x"], golden["y"], epsilon=epsilon, **l2)
    run(name, dense, golden["x"], golden["y"], epsilon=3.4, **l2)


@pytest.mark.parametrize("name", sorted(attacks.ATTACKS))
@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0, float("nan"), float("inf")])
def test_images_must_lie_in_the_unit_range(dense, golden, name, value):
    x = golden["x"].copy()
    x[3, 0, 1, 2] = value
    with pytest.raises(InputError, match=r"images must lie in \[0, 1\] without NaN .*divide 8-bit pixels by 255"):
        run(name, dense, x, golden["y"])


def test_shapes_must_fit(dense, golden):
    x, y = golden["x"], golden["y"]
    assert refused(dense, golden, x=x[0]) == "an attack takes x (N, H, W, C) and y (N,), got x (1, 3, 4)."
    assert refused(dense, golden, y=y[:5]) == "an attack takes x (N, H, W, C) and y (N,), got (16, 1, 3, 4) and (5,)."
    wrong = "noise has shape (3, 1, 3, 4), but this attack needs (16, 1, 3, 4)."
    assert refused(dense, golden, noise=golden["noise"][:3]) == wrong
    with pytest.raises(InputError, match=r"noise has shape \(16, 1, 3, 4\), .* needs \(16, 2, 1, 3, 4\)"):
        attacks.pgd(dense, x, y, restarts=2, noise=golden["noise"])


READ_LABELS = sorted(name for name, attack in attacks.ATTACKS.items() if attack.reads_label)


@pytest.mark.parametrize("name", READ_LABELS)
@pytest.mark.parametrize("function", [False, True])
@pytest.mark.parametrize(
    "wrong, message",
    [
        (-1, "label -1 is out of range: the network has 4 classes"),
        (4, "label 4 is out of range: the network has 4 classes"),
        (0.5, "class labels must be 16 integers, got float64"),
    ],
)
def test_labels_must_be_classes(dense, golden, name, function, wrong, message):
    network = dense.logits_and_vjp if function else dense
    y = golden["y"].astype(type(wrong))
    y[2] = wrong
    with pytest.raises(InputError, match=message):
        run(name, network, golden["x"], y, **STEPS.get(name, {}))


@pytest.mark.parametrize("name", sorted(attacks.ATTACKS))
def test_no_images_no_attack(dense, golden, name):
    nothing = run(name, dense, golden["x"][:0], golden["y"][:0])
    assert nothing.shape == (0, 1, 3, 4) and nothing.dtype == np.float32


@pytest.mark.parametrize("name", RANDOM)
def test_random_attacks_need_their_randomness(dense, golden, name):
    with pytest.raises(InputError, match="a random attack needs rng .a numpy Generator. or the noise itself"):
        attacks.ATTACKS[name](dense, golden["x"], golden["y"])


@pytest.mark.parametrize("name", sorted(attacks.ATTACKS))
def test_options_that_no_attack_could_mean(dense, golden, name):
    attack = attacks.ATTACKS[name]
    wrong = {"steps": (0, -1, 2.5), "restarts": (0,), "search_steps": (0,), "rounds": (0,), "step": (0, -0.1, np.nan)}
    wrong |= {"learning_rate": (-0.1, 0), "c": (0, -1), "largest_c": (0,), "share": (0,), "first": (0,), "decay": (-1,)}
    wrong |= {"confidence": (-1,), "norm": ("l1", None), "scale": ("linf",), "loss": ("hinge",)}
    for option in sorted(wrong.keys() & attack.defaults):
        for value in wrong[option]:
            with pytest.raises(InputError, match=f"^{option} .*(must be|choose) "):
                run(name, dense, golden["x"], golden["y"], **{option: value})


NEEDS_NO_NETWORK, ASKS_THE_MARGIN = {"random_noise"}, {"pgd", "deepfool", "hot_cold", "square"}


@pytest.mark.parametrize("name", sorted(set(attacks.ATTACKS) - NEEDS_NO_NETWORK))
def test_a_network_that_answers_nan(golden, name):
    """Attacks that must know what fools say so; of the others NaN images come out, with a warning (as in training)."""

    def broken(x):
        return np.full((len(x), 4), np.nan, np.float32), lambda g: np.full_like(x, np.nan)

    options = STEPS.get(name, {})
    if name in ASKS_THE_MARGIN or name.startswith("carlini"):
        with pytest.raises(InputError, match="logits are NaN, so an attack cannot tell what fools it: use other w"):
            run(name, broken, golden["x"], golden["y"], **options)
    else:
        with pytest.warns(RuntimeWarning, match=f"{name}: the network's gradient is NaN for 16 of 16 images"):
            assert np.isnan(run(name, broken, golden["x"], golden["y"], **options)).all()


def test_unknown_names(dense, golden):
    with pytest.raises(InputError, match="unknown attack 'pgdx': choose fgsm, step_ll, r_fgsm, r_step_ll"):
        attacks.craft("pgdx", dense, golden["x"], golden["y"], epsilon=0.1, alpha=None, rng=None)
    with pytest.raises(InputError, match="craft mode 'both': choose eval, train"):
        attacks.fgsm(dense, golden["x"], golden["y"], craft_mode="both")


def test_input_error_is_a_value_error():
    assert issubclass(InputError, ValueError)
