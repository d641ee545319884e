"""Modules and weights in lists, tuples and dicts; shared ones; circles; the table that print shows."""

from collections import OrderedDict, deque

import numpy as np
import pytest

from minisatm import Tensor, models, optim
from minisatm.layers import BatchNorm, Conv2D, Dropout, Linear, Module


def dense(seed=0):
    return Linear(2, 2, rng=np.random.default_rng(seed))


class Holder(Module):
    def __init__(self, **parts):
        vars(self).update(parts)


HOLDERS = {
    "tuple": (lambda: (dense(), dense()), ["x.0", "x.1"]),
    "dict": (lambda: {"age": dense(), 5: dense()}, ["x.age", "x.5"]),
    "list of lists": (lambda: [[dense()], [dense(), dense()]], ["x.0.0", "x.1.0", "x.1.1"]),
    "nested dicts": (lambda: {"a": {"b": dense()}, "c": [dense()]}, ["x.a.b", "x.c.0"]),
    "ordered dict of tuples": (lambda: OrderedDict(a=(dense(), 3, None)), ["x.a.0"]),
    "deque": (lambda: deque([dense()]), ["x.0"]),
}


@pytest.mark.parametrize("kind", HOLDERS)
def test_modules_in_containers_are_trained_saved_and_switched(kind, tmp_path):
    make, names = HOLDERS[kind]
    holder = Holder(x=make())
    assert [name for name, _ in holder.modules()] == ["", *names]
    assert list(holder.parameters()) == [f"{name}.{w}" for name in names for w in ("weight", "bias")]
    holder.eval()
    assert not any(module.training for _, module in holder.modules())
    other = Holder(x=make())
    holder.set_state({n: a + 1 for n, a in holder.state().items()})
    other.set_state(holder.state())
    assert {n: a.tobytes() for n, a in other.state().items()} == {n: a.tobytes() for n, a in holder.state().items()}


def test_tensors_in_containers_are_weights_and_outputs_are_not():
    a, b = (Tensor(np.ones(2), requires_grad=True) for _ in range(2))
    holder = Holder(scales=[a], deep={"b": (b,)}, last=a * b, bn={"x": BatchNorm(3)})
    assert list(holder.parameters()) == ["scales.0", "deep.b.0", "bn.x.gamma", "bn.x.beta"]
    assert list(holder.buffers()) == ["bn.x.mean", "bn.x.var"]


def test_a_set_and_two_equal_names_are_refused():
    with pytest.raises(TypeError, match="x is a set, which has no order: keep modules"):
        Holder(x={dense()}).parameters()
    with pytest.raises(ValueError, match=r"two weights have the name x\.1\.weight"):
        Holder(x={1: dense(), "1": dense()}).parameters()
    assert not Holder(x={1, 2}, y=frozenset("ab")).parameters()


@pytest.mark.parametrize("optimiser", [optim.SGD, optim.Adam])
def test_a_shared_layer_is_stepped_once(optimiser):
    layer, alone = dense(3), dense(3)
    holder = Holder(first=layer, again=layer, list=[layer], tied=layer.weight)
    assert list(holder.parameters()) == ["tied", "first.bias"]
    given = {"a": layer.weight, "b": layer.weight, "c": layer.bias}  # by hand, under two names
    for parameters in (holder.parameters(), given):
        one = optimiser(parameters, 0.1)
        two = optimiser(alone.parameters(), 0.1)
        for module, o in ((layer, one), (alone, two)):
            for t in module.parameters().values():
                t.grad = np.full(t.shape, 0.5, np.float32)
            norm = o.step(clip=0.1)
            assert norm == pytest.approx(0.5 * 6**0.5)
        assert layer.weight.data.tobytes() == alone.weight.data.tobytes()
        one.set_state(one.state())
    other = Holder(first=(d := dense(9)), again=d, list=[d], tied=d.weight)
    other.set_state(holder.state())
    assert other.again.weight.data.tobytes() == layer.weight.data.tobytes()


def test_circles_of_modules_end():
    parent, child = Holder(), Holder(layer=dense())
    parent.children, child.parent, child.me = [child], parent, {"me": child}
    assert [name for name, _ in parent.modules()] == ["", "children.0", "children.0.layer"]
    assert list(child.parameters()) == ["layer.weight", "layer.bias"]
    assert parent.train(False).mode(True) and "Holder: 6 parameters" in repr(parent)


def test_print_shows_a_table():
    holder = Holder(conv=Conv2D(3, 8, 3, rng=np.random.default_rng(0)), drop=Dropout(0.5), heads={"age": dense()})
    assert repr(holder).splitlines() == [
        "name       kind     weights       parameters",
        "conv       Conv2D   (3, 3, 3, 8)         224",
        "drop       Dropout  -                      0",
        "heads.age  Linear   (2, 2)                 6",
        "Holder: 230 parameters",
    ]
    assert "Linear" in repr(dense()) and "6 parameters" in repr(dense())


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "lenet"])
def test_print_of_a_network_has_its_total_and_definition(name):
    network = models.build(name, classes=5, width=1 / 32, size=32)
    lines = repr(network).splitlines()
    assert f"{network.count_parameters():,} parameters, name='{name}', classes=5" in lines[-1] and len(lines) < 30
    assert sum(int(line.split()[-1].replace(",", "")) for line in lines[1:-1]) == network.count_parameters()
