"""The losses of the defences, by hand: soft labels, the input-gradient penalty, ADDA."""

import numpy as np
import pytest
from learners import N, batch, bits, learner
from smooth_networks import RATE, Points, points, smooth, weights_of

from minisatm import Tensor, attacks, grad, ops, optim, satm
from minisatm.defences import training as defences
from minisatm.domain import Discriminator, DomainClassifier
from minisatm.layers import BatchNorm, seed_dropout
from minisatm.satm import Rules
from minisatm.streams import stream

# Distillation


def test_soft_labels_by_hand():
    own, (x, _) = smooth(), points()
    logits = own.network(Tensor(x))[0].data / 5
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(defences.soft_labels(own, x, 5.0), p, rtol=1e-12)
    own.network.fc2.bias.data = own.network.fc2.bias.data + 1e4  # no overflow
    np.testing.assert_allclose(defences.soft_labels(own, x, 5.0), p, rtol=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_network_loss_at_a_temperature(temperature):
    """T * J(logits / T): the value from its definition; as T grows the gradient keeps its size."""
    rng = np.random.default_rng(0)
    logits, y = Tensor(rng.standard_normal((5, 4)), requires_grad=True), rng.integers(0, 4, 5)
    z = logits.data / temperature
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    loss = defences.at_temperature(temperature)(logits, y)
    assert float(loss) == pytest.approx(-temperature * np.log(p[np.arange(5), y]).mean(), rel=1e-12)
    (g,) = grad(loss, [logits])
    np.testing.assert_allclose(g, (p - np.eye(4)[y]) / 5, atol=1e-12)


def test_a_student_learns_its_teachers_answers():
    """Cross-entropy with the soft labels, by hand; nothing to learn from a teacher that is the student itself."""
    x, y = points()
    student, teacher = smooth(0), smooth(1, "teacher")
    before = bits(teacher)
    soft = defences.soft_labels(teacher, x, 4.0)
    loss, terms = defences.distillation_terms(student, x, y, soft, 4.0)
    logits = student.network(Tensor(x))[0].data
    z = logits / 4
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    assert float(loss) == pytest.approx(-4 * (soft * log_p).sum(axis=1).mean(), rel=1e-12) == terms["clean"]
    assert terms["rate"] == (logits.argmax(axis=1) == y).mean()
    for own, moves in ((teacher, True), (student, False)):
        watched = smooth(0)
        kept = weights_of(watched)
        defences.train_distilled([watched], [own if moves else smooth(0)], Rules(), Points(3), temperature=4.0)
        change = max(np.abs(w - kept[n]).max() for n, w in weights_of(watched).items())
        assert change > 1e-3 if moves else change < 1e-15
    assert bits(teacher) == before


# The input-gradient penalty


def squared_gradients(network, x, y):
    image = Tensor(x, requires_grad=True)
    loss = ops.softmax_cross_entropy(network(image)[0], Tensor(y), reduction="sum")
    (g,) = grad(loss, [image])
    return (g.reshape(len(x), -1) ** 2).sum(axis=1)


@pytest.mark.parametrize("step, tolerance", [(1e-2, 0.02), (1e-4, 2e-4)])
def test_the_penalty_is_the_squared_input_gradient(monkeypatch, step, tolerance):
    """Its value, and its gradient to every weight against central differences of mean ||grad_x J||^2."""
    monkeypatch.setattr(defences, "STEP", step)
    x, y = points()
    own = smooth()
    found = []
    for r_penalty in (1.0, 0.0):
        ahead = defences.a_step_up(own, x, y)
        total, terms = defences.penalty_terms(own, x, ahead, y, np.random.default_rng(0), r_penalty)
        found.append(grad(total, list(own.network.parameters().values())))
    exact = squared_gradients(own.network, x, y).mean()
    assert terms["penalty"] == pytest.approx(exact, rel=tolerance)
    for with_penalty, without, weight in zip(*found, own.network.parameters().values()):
        kept, numeric = weight.data.copy(), np.zeros_like(weight.data)
        for place in np.ndindex(kept.shape):
            values = []
            for way in (1e-5, -1e-5):
                weight.data = kept.copy()
                weight.data[place] += way
                values.append(squared_gradients(own.network, x, y).mean())
            numeric[place] = (values[0] - values[1]) / 2e-5
        weight.data = kept
        assert np.abs(with_penalty - without - numeric).max() <= tolerance * np.abs(numeric).max()


def test_the_penalty_makes_gradients_small():
    x, y = points()
    norms = []
    for r_penalty in (0.0, 1.0):
        own = smooth()
        defences.train_with_penalty([own], Rules(), Points(60), r_penalty=r_penalty)
        norms.append(squared_gradients(own.network, x, y).mean())
    assert norms[1] < 0.5 * norms[0]


def test_without_a_weight_the_penalty_is_clean_training():
    """To rounding: the same images twice, of which only the first count."""
    one, two = smooth(), smooth()
    defences.train_with_penalty([one], Rules(), Points(3), r_penalty=0.0)
    defences.train_clean([two], Rules(), Points(3))
    for n, w in weights_of(one).items():
        np.testing.assert_allclose(w, two.network.parameters()[n].data, rtol=0, atol=1e-14)


def test_the_penalty_goes_along_the_gradient_that_it_measures():
    """With batch norm in train mode, as in both looks: the slopes add up to the lengths of the gradients."""
    own, (x, y) = learner("b"), batch()
    for norm in (m for _, m in own.network.modules() if isinstance(m, BatchNorm)):
        norm.mean, norm.var = norm.mean + 0.5, 3 * norm.var  # running statistics that are not the batch's
    own.network.astype(np.float64)
    x = x.astype(np.float64)
    before = bits(own)
    ahead = defences.a_step_up(own, x, y)
    g = attacks.input_gradient(own.network, x, y, craft_mode="train")
    lengths = np.sqrt((g**2).reshape(N, -1).sum(axis=1))
    np.testing.assert_allclose(ahead - x, defences.STEP * g / lengths.reshape(-1, 1, 1, 1), atol=1e-12)
    assert bits(own) == before
    own.network.train()
    here, there = (
        float(ops.softmax_cross_entropy(own.network(Tensor(i))[0], Tensor(y), reduction="sum")) for i in (x, ahead)
    )
    assert (there - here) / defences.STEP == pytest.approx(lengths.sum(), rel=0.05)


def test_both_looks_drop_the_same_units():
    """Other units the second time, and the quotient would be their difference over a hundredth."""
    own = learner("a", dropout=0.5)
    x, y = batch()
    own.network.train()
    seed_dropout(own.network, stream(0, "a", "dropout", 0))
    with_dropout = defences.penalty_terms(own, x, x, y, stream(0, "a", "dropout", 0), 1.0)[1]["penalty"]
    assert with_dropout == 0  # looked at the same place twice
    ahead = defences.a_step_up(own, x, y)
    assert np.allclose(np.sqrt(((ahead - x) ** 2).reshape(N, -1).sum(axis=1)), defences.STEP, rtol=1e-3)


# ADDA


def test_adda_by_hand():
    """The first loss moves the classifier alone and tells the two apart; the second one the network alone."""
    rng = np.random.default_rng(1)
    D = Discriminator(7, width=5, rng=rng).astype(np.float64)
    D.fc2.bias.data = D.fc2.bias.data + 0.3
    clean, adversarial = (Tensor(rng.standard_normal((n, 7)), requires_grad=True) for n in (3, 4))
    loss = D.loss(clean, adversarial)
    loss.backward()
    assert clean.grad is None

    W1, W2 = D.fc1.weight.data, D.fc2.weight.data
    features = np.concatenate([clean.data, adversarial.data])
    hidden = np.maximum(features @ W1 + D.fc1.bias.data, 0)
    p = 1 / (1 + np.exp(-(hidden @ W2 + D.fc2.bias.data)[:, 0]))
    told = -(np.log(1 - p[:3]).sum() + np.log(p[3:]).sum()) / 7
    taken = -np.log(1 - p[3:]).mean()  # adversarial images, said to be clean
    assert float(loss) == pytest.approx(told + taken, rel=1e-12)
    g = (p - np.repeat([0, 1], [3, 4]))[:, None] / 7
    np.testing.assert_allclose(D.fc2.weight.grad, hidden.T @ g, atol=1e-12)
    np.testing.assert_allclose(D.fc1.weight.grad, features.T @ (g @ W2.T * (hidden > 0)), atol=1e-12)
    g_features = (p[3:, None] / 4) @ W2.T * (hidden[3:] > 0) @ W1.T
    np.testing.assert_allclose(adversarial.grad, g_features, atol=1e-12)
    assert all(t.requires_grad for t in D.parameters().values())


def test_adda_trains_beside_the_classes():
    """In SATM's step: the classifier and the network both move, by other gradients than behind a reversal."""
    results = []
    for kind in (DomainClassifier, Discriminator):
        pair = [learner("a"), learner("b")]
        for own in pair:
            own.domain = kind(own.network.feature_width, width=6, rng=stream(0, own.name, "domain"))
            own.domain_optimiser = optim.SGD(own.domain.parameters(), RATE)
        before = bits(*pair)
        terms = satm.step(pair, *batch(), Rules(), 0)
        assert terms["a"]["domain"] > 0
        results.append(bits(*pair))
        assert results[-1]["a.domain.fc1.weight"] != before["a.domain.fc1.weight"]
    reversal, adda = results
    assert reversal["a.domain.fc2.weight"] == adda["a.domain.fc2.weight"]  # D itself learns the same
    assert reversal["a.network.fc7.weight"] != adda["a.network.fc7.weight"]
