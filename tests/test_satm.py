"""Algorithm 1, line by line: the losses, who sees whose examples, who moves whom, and what stays the same."""

import numpy as np
import pytest
from learners import CLASSES, ByHand, batch, bits, learner, record_crafting

from minisatm import Tensor, ops, optim, satm
from minisatm.domain import DomainClassifier
from minisatm.layers import seed_dropout
from minisatm.satm import Rules
from minisatm.streams import stream

# The loss and the step, by hand


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss_norm": "half"},
        {"r_adv": 0.3, "r_da": 0.7},
        {"r_adv": 0.0},
        {"r_da": 0.0},
        {"epsilon": 0.1, "alpha": 0.02, "seed": 3},
    ],
    ids=str,
)
def test_steps_equal_algorithm_1_written_by_hand(changes):
    rules = Rules(**changes)
    ours, theirs = [learner("a"), learner("b")], [learner("a"), learner("b")]
    a, b = map(ByHand, theirs)
    for iteration in range(2):
        x, y = batch(iteration)
        losses = satm.step(ours, x, y, rules, iteration)
        x_a, x_b = a.craft(x, y, rules, iteration), b.craft(x, y, rules, iteration)
        expected = {"a": a.learn(x, y, x_b, rules, iteration), "b": b.learn(x, y, x_a, rules, iteration)}
        for name, terms in expected.items():
            assert {t: losses[name][t] for t in terms} == terms
            assert ("domain" in losses[name]) == bool(rules.r_da)
    for own, hand in zip(ours, (a, b)):
        state = own.network.state()
        assert {n: v.tobytes() for n, v in state.items()} == {n: v.tobytes() for n, v in hand.network.state().items()}
        for n, v in own.domain.state().items():
            assert v.tobytes() == hand.domain.state()[n].tobytes()
        for n, slots in own.optimiser.slots.items():
            assert slots["velocity"].tobytes() == hand.velocity[f"network.{n}"].tobytes()


def test_the_terms_add_up_to_the_loss():
    for loss_norm, share in (("sum", 1.0), ("half", 0.5)):
        rules = Rules(r_adv=0.7, r_da=0.2, loss_norm=loss_norm)
        terms = satm.step([learner("a"), learner("b")], *batch(), rules, 0)["a"]
        expected = share * terms["clean"] + share * 0.7 * terms["adversarial"] + 0.2 * terms["domain"]
        assert terms["loss"] == pytest.approx(expected, rel=1e-6)
        assert terms["gradient_norm"] > 0
        assert 0 <= terms["rate"] <= 1 and 0 <= terms["adversarial_rate"] <= 1


def test_each_rate_is_of_its_own_half():
    """Clean images all right, adversarial ones right once in four: the log must not mix them up."""
    y = np.array([0, 1, 2, 3])
    right, wrong = (Tensor(np.eye(CLASSES, dtype=np.float32)[answers]) for answers in (y, [0, 2, 3, 4]))
    features = Tensor(np.zeros((4, 3), np.float32))
    for loss_norm in ("sum", "half"):
        one, rules = learner("a", domain=False), Rules(loss_norm=loss_norm)
        for clean, adversarial, rates in ((right, wrong, (1.0, 0.25)), (wrong, right, (0.25, 1.0))):
            _, terms = satm.loss_of(one, (clean, features, adversarial, features), y, rules)
            assert (terms["rate"], terms["adversarial_rate"]) == rates
            assert (terms["adversarial"] > terms["clean"]) == (rates[0] == 1)


def test_the_same_iteration_gives_the_same_bits_and_another_one_does_not():
    results = []
    for iteration in (0, 0, 1):
        pair = [learner("a"), learner("b")]
        satm.step(pair, *batch(), Rules(), iteration)
        results.append(bits(*pair))
    assert results[0] == results[1]
    assert results[0]["a.network.fc8.weight"] != results[2]["a.network.fc8.weight"]


# Who sees what, and when


def test_a_never_sees_its_own_examples(monkeypatch):
    crafted, learned = record_crafting(monkeypatch)
    pair = [learner("a"), learner("b")]
    before = bits(*pair)
    satm.step(pair, *batch(), Rules(), 0)
    seen = dict(learned)
    assert len(learned) == 2
    assert np.array_equal(seen["a"], crafted["b"][1]) and np.array_equal(seen["b"], crafted["a"][1])
    assert not np.array_equal(crafted["a"][1], crafted["b"][1])
    # Both crafted with the weights before the step: A had not moved yet when B crafted, nor B when A did.
    assert crafted["a"][0] | crafted["b"][0] == before
    assert bits(*pair) != before


def test_no_gradient_of_one_loss_reaches_the_other_network():
    a, b = learner("a"), learner("b", frozen=True)
    before = bits(b)
    for iteration in range(2):
        assert satm.step([a, b], *batch(iteration), Rules(), iteration)["b"] == {}
        assert all(t.grad is None for t in b.network.parameters().values())
    assert bits(b) == before


def test_the_loss_of_a_alone_gives_b_no_gradient():
    a, b = learner("a"), learner("b")
    x, y = batch()
    x_adv = satm.examples(b, x, y, Rules(), 0)
    assert isinstance(x_adv, np.ndarray)
    a.network.train()
    seed_dropout(a.network, stream(0, "a", "dropout", 0))
    total, _ = satm.loss_terms(a, x, y, x_adv, Rules())
    total.backward()
    assert all(t.grad is not None for t in [*a.network.parameters().values(), *a.domain.parameters().values()])
    assert all(t.grad is None for t in [*b.network.parameters().values(), *b.domain.parameters().values()])


def test_a_loss_that_is_not_finite_moves_nothing():
    a, b = learner("a", dropout=0.0), learner("b")
    a.network.fc8.bias.data = np.full(CLASSES, np.nan, np.float32)

    def rest():  # the count of steps goes on
        return {n: v for n, v in bits(a).items() if "fc8.bias" not in n and not n.endswith(".steps")}

    before = rest()
    terms = satm.learn_from(a, *batch(), satm.examples(b, *batch(), Rules(), 0), Rules(), 0)
    assert np.isnan(terms["loss"]) and np.isnan(terms["gradient_norm"])
    assert rest() == before


# The domain classifier


def test_domain_loss_by_hand():
    """In float64, from its definition: two dense layers, then the mean of -log p over both halves."""
    rng = np.random.default_rng(0)
    D = DomainClassifier(7, width=5, rng=rng).astype(np.float64)
    D.fc1.bias.data, D.fc2.bias.data = rng.standard_normal(5), rng.standard_normal(1)
    clean, adversarial = rng.standard_normal((3, 7)), rng.standard_normal((4, 7))
    features = np.concatenate([clean, adversarial])
    logit = np.maximum(features @ D.fc1.weight.data + D.fc1.bias.data, 0) @ D.fc2.weight.data + D.fc2.bias.data
    p = 1 / (1 + np.exp(-logit[:, 0]))  # of being adversarial
    expected = -(np.log(1 - p[:3]).sum() + np.log(p[3:]).sum()) / 7
    assert float(D.loss(Tensor(clean), Tensor(adversarial))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("strength", [1.0, 0.25])
def test_reversal_turns_the_features_gradient_and_not_the_classifiers(strength):
    rng = np.random.default_rng(1)
    D = DomainClassifier(7, width=5, strength=strength, rng=rng).astype(np.float64)
    features = Tensor(rng.standard_normal((6, 7)), requires_grad=True)
    truth = Tensor(np.repeat([0.0, 1.0], 3))
    D.loss(features[:3], features[3:]).backward()
    reversed_, own = features.grad, {n: t.grad for n, t in D.parameters().items()}
    features.grad = None
    D.zero_grad()

    hidden = ops.relu(ops.linear(features, D.fc1.weight, D.fc1.bias))
    ops.binary_cross_entropy(ops.linear(hidden, D.fc2.weight, D.fc2.bias).reshape(6), truth).backward()
    assert np.abs(features.grad).max() > 0
    assert np.array_equal(reversed_, -strength * features.grad)
    for n, t in D.parameters().items():
        assert np.abs(t.grad).max() > 0
        assert np.array_equal(own[n], t.grad)


def test_the_classifier_learns_and_the_features_unlearn():
    """A step along its own gradients lowers D's loss; one along the features' reversed gradient raises it."""
    rng = np.random.default_rng(2)
    D = DomainClassifier(7, width=5, rng=rng).astype(np.float64)
    features = Tensor(rng.standard_normal((6, 7)), requires_grad=True)

    def loss():
        return D.loss(features[:3], features[3:])

    before = loss()
    before.backward()
    g, value = features.grad, float(before)
    optimiser = optim.SGD(D.parameters(), 0.1)
    optimiser.step()
    assert float(loss()) < value
    D = DomainClassifier(7, width=5, rng=np.random.default_rng(2)).astype(np.float64)
    features.data = features.data - 0.1 * g
    assert float(loss()) > value


# Batch norm


def test_joint_and_separate_batches_differ_as_documented():
    """Joint: running statistics take one step towards those of all 2N images; separate: one towards each half's."""
    x, y = batch()
    x_adv = np.clip(x + 0.2, 0, 1)
    stems = {}
    for bn_batches in ("joint", "separate"):
        own = learner("b")
        satm.learn_from(own, x, y, x_adv, Rules(bn_batches=bn_batches), 0)
        stems[bn_batches] = own.network.stem.bn.mean
    network = learner("b").network

    def mean(images):
        return network.stem.conv(network.normalize(Tensor(images))).data.astype(np.float64).mean(axis=(0, 1, 2))

    assert stems["joint"] == pytest.approx(0.1 * mean(np.concatenate([x, x_adv])), rel=1e-4, abs=1e-6)
    first = 0.1 * mean(x)
    assert stems["separate"] == pytest.approx(first + 0.1 * (mean(x_adv) - first), rel=1e-4, abs=1e-6)
    assert np.abs(stems["joint"] - stems["separate"]).max() > 1e-3


def test_joint_and_separate_batches_agree_without_batch_norm():
    losses = []
    for bn_batches in ("joint", "separate"):
        own = learner("a", dropout=0.0)
        x, y = batch()
        losses.append(satm.learn_from(own, x, y, np.clip(x + 0.2, 0, 1), Rules(bn_batches=bn_batches), 0)["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_craft_mode_reaches_the_examples():
    x, y = batch()
    in_eval, in_train = (satm.examples(learner("b"), x, y, Rules(craft_mode=mode), 0) for mode in ("eval", "train"))
    assert not np.array_equal(in_eval, in_train)


def test_the_schedule_scales_both_steps():
    still = learner("b")
    before = bits(still)
    satm.learn_from(still, *batch(), batch(1)[0], Rules(schedule=lambda iteration: 0.0), 0)
    moved = {n for n, v in bits(still).items() if v != before[n]}
    assert moved and all(":velocity" in n or n.endswith((".mean", ".var", ":steps", ".steps")) for n in moved)


def test_the_gradient_of_a_network_and_of_its_classifier_is_no_longer_than_the_clip():
    """After the first step the velocity is the gradient; the norm that is logged is the one before clipping."""
    lengths = {}
    for clip in (None, 0.002, 0.004):
        own = learner("a")
        terms = satm.learn_from(own, *batch(), batch(1)[0], Rules(clip=clip), 0)
        for part in (own.optimiser, own.domain_optimiser):
            squares = sum((slots["velocity"].astype(float) ** 2).sum() for slots in part.slots.values())
            lengths[clip, part is own.optimiser] = squares**0.5
        assert terms["gradient_norm"] == pytest.approx(lengths[None, True], rel=1e-5)
    assert min(lengths[None, which] for which in (True, False)) > 0.004
    for clip in (0.002, 0.004):
        assert [lengths[clip, True], lengths[clip, False]] == pytest.approx([clip, clip], rel=1e-5)
