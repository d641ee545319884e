"""A check that has never failed is not a check: each wrong version here must be caught by the check that names it.

`python -m pytest -k mutant -v` prints the list.
"""

import functools
import importlib
import inspect
import sys
import textwrap
from typing import Any

import numpy as np
import pytest
import test_gradients
from mutants import SOURCE, WINOGRAD

from minisatm import check
from minisatm.check import strategies
from minisatm.kernels import winograd as winograd_module
from minisatm.tensor import OPS

cases = functools.lru_cache(strategies.examples)

# --- every vjp of every op, scaled, flipped and zeroed -----------------------------------------------------------

CHANGES = {"scaled": lambda part: 1.01 * part, "flipped": lambda part: -part, "zeroed": lambda part: 0 * part}
CONSTANTS = {  # arguments without a gradient: there is no vjp to break
    "softmax_cross_entropy": {"labels"},
    "binary_cross_entropy": {"targets"},
    "batch_norm_eval": {"mean", "var"},
}
EQUIVALENT: dict[tuple[str, str, str], str] = {}  # (op, argument, change): why it cannot be told apart; there is none


def arguments(name):
    """The arguments of this op that have a gradient, as (place, name); of concat the first three."""
    parameters = inspect.signature(OPS[name].raw).parameters.values()
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    names += [f"{p.name}{i}" for p in parameters if p.kind is p.VAR_POSITIONAL for i in range(3)]
    return [(i, argument) for i, argument in enumerate(names) if argument not in CONSTANTS.get(name, ())]


def with_changed_vjp(name, place, change):
    @functools.wraps(OPS[name].raw)
    def mutant(*arrays, **settings):
        value, vjps, *aux = OPS[name].raw(*arrays, **settings)
        if callable(vjps):
            return value, shared(vjps), *aux
        changed = [v if i != place or v is None else (lambda g, v=v: change(v(g))) for i, v in enumerate(vjps)]
        return value, tuple(changed), *aux

    def shared(vjps):
        def vjp(g, wanted):
            return [change(part) if i == place and wanted[i] else part for i, part in enumerate(vjps(g, wanted))]

        return vjp

    return mutant


def exactly_reversed(function, x, *, strength=1.0):
    _, (vjp,) = function(x, strength=strength)
    np.testing.assert_array_equal(vjp(np.ones(x.shape)), np.full(x.shape, -strength))


REGISTRY = [
    pytest.param(name, place, change, id=f"{name}.{argument}-{change}")
    for name in test_gradients.NAMES
    for place, argument in arguments(name)
    for change in CHANGES
    if (name, argument, change) not in EQUIVALENT
]


@pytest.mark.parametrize("name, place, change", REGISTRY)
def test_mutant_of_a_vjp_is_caught(name, place, change):
    mutant = with_changed_vjp(name, place, CHANGES[change])
    compare = exactly_reversed if name == "reverse_gradient" else check.gradients
    with pytest.raises(AssertionError) as caught:
        for arrays, settings in cases(name):
            compare(mutant, *arrays, **settings)
    if compare is check.gradients:
        assert caught.value.argument == place


def test_constants_have_no_vjp():
    for name, names in CONSTANTS.items():
        arrays, settings = cases(name)[0]
        _, vjps = OPS[name].raw(*arrays, **settings)
        listed = {p for p, v in zip(inspect.signature(OPS[name].raw).parameters, vjps) if v is None}
        assert listed == names


# --- mistakes a person would make, in the source (mutants.py) ----------------------------------------------------


def mutate(mutant, monkeypatch):
    """Put the wrong version in the right one's place, for ops as the op's `raw`, in every module that holds it."""
    place, _, path = mutant.where.partition(":")
    module = importlib.import_module(f"minisatm.{place}")
    *owner, name = path.split(".")
    holder = getattr(module, owner[0]) if owner else module
    right = getattr(holder, name)
    if hasattr(right, "raw"):
        monkeypatch.setattr(right, "original", right.raw, raising=False)
        holder, name, right = right, "raw", right.raw
    if place == WINOGRAD:  # the matrices may be the mutant's: none may be kept, before or after
        monkeypatch.setattr(winograd_module, "_both_sides", winograd_module._both_sides.__wrapped__)
    wrong = mutant.instead
    if wrong is None:
        wrong = edited(right, mutant.before, mutant.after, vars(module))
    monkeypatch.setattr(holder, name, wrong)
    for other in [m for n, m in sys.modules.items() if n.startswith("minisatm.")]:
        if vars(other).get(name) is right:  # imported by name
            monkeypatch.setattr(other, name, wrong)


def edited(function, before, after, namespace):
    """The function made again from its source, with one place changed."""
    source = textwrap.dedent(inspect.getsource(function)).removeprefix("@op\n")
    assert source.count(before) == 1, f"{before!r} occurs {source.count(before)} times in {function.__name__}"
    made: dict[str, Any] = {}
    # annotations stay text, as in the module itself
    exec("from __future__ import annotations\n" + source.replace(before, after), namespace, made)
    return made[function.__name__]


@pytest.mark.parametrize("mutant", SOURCE, ids=lambda m: m.name)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_mutant_of_the_source_is_caught(mutant, monkeypatch):
    mutate(mutant, monkeypatch)
    # also pytest's own Failed, which is no Exception; a slip in the edited text is no catch
    with pytest.raises((Exception, pytest.fail.Exception)) as caught:
        mutant.caught_by()
    assert not isinstance(caught.value, NameError | SyntaxError | UnboundLocalError | ImportError)


CHECKS = {m.caught_by: m.name for m in SOURCE}


@pytest.mark.parametrize("caught_by", CHECKS, ids=CHECKS.get)
def test_control_the_unmutated_passes(caught_by):
    """The same checks pass on the code as it is."""
    caught_by()


def test_there_are_enough_of_them():
    assert len(SOURCE) >= 25 and len({m.name for m in SOURCE}) == len(SOURCE)
