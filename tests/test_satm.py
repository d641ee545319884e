"""Algorithm 1, line by line: the losses, who sees whose examples, who moves whom, and what stays the same."""

import os
import sys

import numpy as np
import pytest

from minisatm import Tensor, grad, models, ops, optim, parallel, satm
from minisatm.defences import training as defences
from minisatm.domain import DomainClassifier
from minisatm.layers import seed_dropout
from minisatm.satm import Learner, Rules
from minisatm.streams import random_bits, stream

N, CLASSES, SIZE, RATE = 4, 5, 32, 0.05
KINDS = {"a": ("vgg16", 1 / 64), "b": ("resnet20", 1 / 8), "c": ("resnet20", 1 / 8), "d": ("resnet20", 1 / 8)}


def learner(name, *, domain=True, frozen=False, rate=RATE, dropout=0.5):
    kind, width = KINDS[name]
    variant = {"dropout": dropout} if kind == "vgg16" else {}
    network = models.build(kind, classes=CLASSES, width=width, size=SIZE, rng=stream(0, name, "start"), **variant)
    own = Learner(name, network, None if frozen else optim.SGD(network.parameters(), rate), frozen=frozen)
    if domain and not frozen:
        own.domain = DomainClassifier(network.feature_width, width=6, rng=stream(0, name, "domain"))
        own.domain_optimiser = optim.SGD(own.domain.parameters(), rate)
    return own


def batch(iteration=0):
    rng = np.random.default_rng([77, iteration])
    return rng.random((N, SIZE, SIZE, 3), np.float32), rng.integers(0, CLASSES, N)


def bits(*learners):
    """Everything that a step may change: weights, buffers, momentum, the classifier's too."""
    found = {}
    for own in learners:
        for part in ("network", "optimiser", "domain", "domain_optimiser"):
            if getattr(own, part) is not None:
                found |= {f"{own.name}.{part}.{n}": a.tobytes() for n, a in getattr(own, part).state().items()}
    return found


class Batches:
    """A monitor that hands out a few batches, notes the losses, and stops where it is told to."""

    def __init__(self, iterations, stop_after=None):
        self.iterations, self.stop_after, self.seen = iterations, stop_after, []

    def batches(self):
        for iteration in range(self.iterations):
            yield iteration, *batch(iteration)

    def stop(self, iteration, losses):
        self.seen.append((iteration, losses))
        return iteration == self.stop_after


# The loss and the step, by hand


class ByHand:
    """One network trained by Algorithm 1 with nothing but ops and arrays."""

    def __init__(self, own):
        self.name, self.network, self.domain = own.name, own.network, own.domain
        self.velocity = {n: np.zeros_like(t.data) for n, t in self._weights().items()}

    def _weights(self):
        own = {f"network.{n}": t for n, t in self.network.parameters().items()}
        return own | {f"domain.{n}": t for n, t in self.domain.parameters().items()}

    def craft(self, x, y, rules, iteration):
        alpha = rules.epsilon / 2 if rules.alpha is None else rules.alpha
        bits = np.unpackbits(random_bits(stream(rules.seed, self.name, "craft", iteration), x.size), count=x.size)
        signs = np.where(bits, np.float32(1), np.float32(-1)).reshape(x.shape)
        start = Tensor(np.clip(x + alpha * signs, 0, 1), requires_grad=True)
        self.network.eval()
        (g,) = grad(ops.softmax_cross_entropy(self.network(start)[0], Tensor(y), reduction="sum"), [start])
        return np.clip(start.data + (rules.epsilon - alpha) * np.sign(g), 0, 1)

    def learn(self, x, y, x_adv, rules, iteration):
        self.network.train()
        seed_dropout(self.network, stream(rules.seed, self.name, "dropout", iteration))
        logits, features = self.network(Tensor(np.concatenate([x, x_adv])))
        clean = ops.softmax_cross_entropy(logits[:N], Tensor(y))
        adversarial = ops.softmax_cross_entropy(logits[N:], Tensor(y))
        share = 0.5 if rules.loss_norm == "half" else 1.0
        total = share * clean + share * rules.r_adv * adversarial
        terms = {"clean": float(clean), "adversarial": float(adversarial)}
        if rules.r_da:
            D = self.domain
            hidden = ops.relu(ops.linear(ops.reverse_gradient(features, strength=1.0), D.fc1.weight, D.fc1.bias))
            logit = ops.linear(hidden, D.fc2.weight, D.fc2.bias).reshape(2 * N)
            domain = ops.binary_cross_entropy(logit, Tensor(np.repeat(np.float32([0, 1]), N)))
            total = total + rules.r_da * domain
            terms["domain"] = float(domain)
        total.backward()
        for n, w in self._weights().items():
            if w.grad is not None:
                self.velocity[n] = 0.9 * self.velocity[n] + w.grad
                w.data = w.data - RATE * self.velocity[n]
                w.grad = None
        return {"loss": float(total), **terms}


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


def test_the_same_iteration_gives_the_same_bits_and_another_one_does_not():
    results = []
    for iteration in (0, 0, 1):
        pair = [learner("a"), learner("b")]
        satm.step(pair, *batch(), Rules(), iteration)
        results.append(bits(*pair))
    assert results[0] == results[1]
    assert results[0]["a.network.fc8.weight"] != results[2]["a.network.fc8.weight"]


# Who sees what, and when


def record_crafting(monkeypatch):
    """Notes the state of all networks at each crafting, and what each network was given to learn from."""
    crafted, learned = {}, []
    craft, learn = satm.examples, satm.learn_from

    def examples(own, *rest):
        crafted[own.name] = (bits(own), craft(own, *rest))
        return crafted[own.name][1]

    def learn_from(own, x, y, x_adv, *rest):
        learned.append((own.name, x_adv))
        return learn(own, x, y, x_adv, *rest)

    monkeypatch.setattr(satm, "examples", examples)
    monkeypatch.setattr(satm, "learn_from", learn_from)
    return crafted, learned


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


# Relatives


@pytest.mark.parametrize(
    "rules", [Rules(), Rules(clip=1.0, loss_norm="half", bn_batches="separate")], ids=["plain", "clip"]
)
def test_with_b_frozen_it_is_ensemble_training(rules):
    """Weights, buffers, momentum and classifier, bit for bit; the learner has dropout, the source batch norm."""
    for name, other in (("a", "b"), ("b", "a")):
        one, source_of_one = learner(name), learner(other, frozen=True)
        satm.train([one, source_of_one], rules, Batches(4))
        two, source_of_two = learner(name), learner(other, frozen=True)
        defences.train_ensemble([two], [[source_of_two]], rules, Batches(4))
        assert bits(one) == bits(two)
        assert bits(source_of_one) == bits(source_of_two) == bits(learner(other, frozen=True))


def test_with_b_learning_it_is_not_ensemble_training():
    one, two = learner("a"), learner("a")
    satm.train([one, learner("b")], Rules(), Batches(3))
    defences.train_ensemble([two], [[learner("b", frozen=True)]], Rules(), Batches(3))
    differ = [n for n, v in bits(one).items() if v != bits(two)[n]]
    assert "a.network.conv1_1.weight" in differ and "a.optimiser.fc8.weight:velocity" in differ


def test_ensemble_sources_are_drawn_and_serve_several_learners():
    """One for each batch, by a stream of the learner's own; a source that two learners have drawn crafts once."""
    seen = []
    b, c = learner("b", frozen=True), learner("c", frozen=True)
    real = satm.examples

    def examples(own, x, y, rules, iteration, **rest):
        seen.append((iteration, own.name))
        return real(own, x, y, rules, iteration, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(defences, "examples", examples)
        defences.train_ensemble([learner("a"), learner("d")], [[b, c], [b]], Rules(seed=3), Batches(8))
    drawn = ["bc"[stream(3, "a", "source", iteration).integers(2)] for iteration in range(8)]
    assert set(drawn) == {"b", "c"}
    assert sorted(seen) == sorted({(i, own) for i in range(8) for own in ("b", drawn[i])})


def test_without_adversarial_and_domain_loss_it_is_clean_training():
    pair, clean = [learner("a"), learner("b")], [learner("a"), learner("b")]
    watch, watch_clean = Batches(3), Batches(3)
    satm.train(pair, Rules(r_adv=0, r_da=0), watch)
    defences.train_clean(clean, Rules(), watch_clean)
    assert bits(*pair) == bits(*clean)
    assert watch.seen == watch_clean.seen
    with_loss = [learner("a"), learner("b")]
    satm.train(with_loss, Rules(r_da=0), Batches(3))
    assert bits(*with_loss)["a.network.conv1_1.weight"] != bits(*pair)["a.network.conv1_1.weight"]


def test_clean_training_is_plain_sgd_on_the_clean_loss():
    own, hand = learner("b"), learner("b")
    defences.train_clean([own], Rules(), Batches(1))
    x, y = batch(0)
    ops.softmax_cross_entropy(hand.network.train()(Tensor(x))[0], Tensor(y)).backward()
    for n, w in hand.network.parameters().items():
        assert (w.data - RATE * w.grad).tobytes() == own.network.parameters()[n].data.tobytes()


def test_dropout_is_a_function_of_the_seed():
    results = []
    for seed in (0, 0, 1):
        own = learner("a")
        defences.train_clean([own], Rules(seed=seed), Batches(2))
        results.append(bits(own)["a.network.fc7.weight"])
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize("loop", ["clean", "ensemble", "satm"])
def test_loops_stop_when_the_monitor_says_so(loop):
    watch = Batches(5, stop_after=1)
    pair, frozen = [learner("b"), learner("c")], [learner("d", frozen=True)]
    if loop == "clean":
        defences.train_clean(pair, Rules(), watch)
    elif loop == "ensemble":
        defences.train_ensemble(pair, [frozen, frozen], Rules(), watch)
    else:
        satm.train(pair, Rules(), watch)
    assert [iteration for iteration, _ in watch.seen] == [0, 1]
    assert all(list(losses) == ["b", "c"] for _, losses in watch.seen)
    assert all(own.optimiser.steps == 2 for own in pair)


# More than two


@pytest.mark.parametrize("K", [2, 3, 4, 5])
def test_every_other_network_is_the_source_equally_often(K):
    team = [Learner(str(k), None, None) for k in range(K)]
    for k in range(K):
        turns = [satm.source(team, k, iteration).name for iteration in range(3 * (K - 1))]
        assert str(k) not in turns
        assert sorted(turns) == sorted(3 * [str(j) for j in range(K) if j != k])
        assert len(set(turns[: K - 1])) == K - 1  # in turn, not in runs


def test_three_networks_learn_from_one_another(monkeypatch):
    crafted, learned = record_crafting(monkeypatch)
    team = [learner(name) for name in "abc"]
    for iteration, sources in ((0, "bca"), (1, "cab"), (2, "bca")):
        learned.clear()
        satm.step(team, *batch(iteration), Rules(), iteration)
        assert sorted(name for name, _ in learned) == ["a", "b", "c"]
        for name, given in learned:
            assert np.array_equal(given, crafted[sources["abc".index(name)]][1])


# Nobody's draws depend on anybody else


@pytest.mark.skipif(sys.platform != "linux", reason="networks share one process where there is no fork")
@pytest.mark.parametrize("rules", [Rules(), Rules(clip=1.0, craft_mode="train", bn_batches="separate")], ids=str)
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_change_no_bit(monkeypatch, processes, rules):
    """Each process trains its own networks, and all hear the same losses."""
    monkeypatch.setattr(parallel.threads, "cores", lambda: processes)

    def course(team):
        networks, watch = [learner("a"), learner("b"), learner("c")], Batches(4)
        satm.train(networks, rules, watch, team)
        found = team.map(lambda own: (bits(own), os.getpid()), networks)
        return [own for own, _ in found], len({pid for _, pid in found}), team.map(lambda w: w.seen, [watch] * 3)

    states, used, seen = parallel.in_processes(course, processes)
    expected, alone, (losses, *_) = course(parallel.ALONE)
    assert (used, alone) == (processes, 1)
    assert states == expected
    assert seen == [losses] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="networks share one process where there is no fork")
def test_processes_change_no_bit_of_ensemble_training(monkeypatch):
    monkeypatch.setattr(parallel.threads, "cores", lambda: 2)

    def course(team):
        networks, sources = [learner("a"), learner("b")], [learner("c", frozen=True), learner("d", frozen=True)]
        defences.train_ensemble(networks, [sources, sources[::-1]], Rules(), Batches(3), team)
        return team.map(bits, networks)

    assert parallel.in_processes(course, 2) == course(parallel.ALONE)


@pytest.mark.skipif(sys.platform != "linux", reason="networks share one process where there is no fork")
def test_weights_trained_elsewhere_are_fetched_by_name_and_never_silently_old(monkeypatch):
    """Until they are fetched, using a network that another process has trained is an error that names it."""
    monkeypatch.setattr(parallel.threads, "cores", lambda: 2)
    x, y = batch()

    def course(team):
        networks = [learner("a"), learner("b")]
        defences.train_clean(networks, Rules(), Batches(2), team)
        other = networks[1 - team.rank]
        with pytest.raises(RuntimeError) as old:
            satm.examples(other, x, y, Rules(), 0)
        with pytest.raises(RuntimeError):
            other.state()
        team.fetch(networks)
        return team.map(lambda _: (str(old.value), bits(*networks)), range(2))

    (first, one), (second, two) = parallel.in_processes(course, 2)
    assert first == "process 1 has trained b, its weights here are old: call team.fetch first."
    assert second == "process 0 has trained a, its weights here are old: call team.fetch first."
    expected = [learner("a"), learner("b")]
    defences.train_clean(expected, Rules(), Batches(2))
    assert one == two == bits(*expected)


def test_the_order_of_the_networks_changes_no_bit():
    forth, back = [learner("a"), learner("b")], [learner("b"), learner("a")]
    satm.train(forth, Rules(), Batches(3))
    satm.train(back, Rules(), Batches(3))
    assert bits(*forth) == bits(*back)


def test_freezing_or_adding_a_network_changes_nobodys_draws(monkeypatch):
    results = []
    for team in (
        [learner("a"), learner("b")],
        [learner("a"), learner("b", frozen=True)],
        [learner("a"), learner("b"), learner("c")],
    ):
        with pytest.MonkeyPatch.context() as patch:
            crafted, _ = record_crafting(patch)
            satm.step(team, *batch(), Rules(), 0)
        results.append((crafted["a"][1].tobytes(), crafted["b"][1].tobytes(), bits(team[0])))
    assert results[0] == results[1] == results[2]  # at iteration 0 the source of A is B in all three


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
