"""Wrong CUDA kernels, made from the right ones: each must be caught by the checks, or by the race checker.

Every barrier is dropped in turn, and every term of every condition: guards, edges of an image, switches; and every loop
goes one step too far. `python -m pytest tests/test_cuda_mutants.py -v` lists them. There is no atomic to be made plain.
"""

import contextlib
import functools
import re
from typing import NamedTuple

import cuda_checks
import pytest
from cuda_on_cpu import cupy_standin, runner

from minisatm.kernels import cuda_source

FILES = sorted(cuda_checks.CHECKS)
HEADERS = {"common.cuh": "softmax_cross_entropy.cu", "columns.cuh": "batch_norm.cu"}
HEADERS |= {"tile.cuh": "conv2d.cu", "windows.cuh": "im2col.cu"}
CASES, ORDERS = 10, (5, 1, 0)  # of each check, each under three schedules: random, descending, ascending
RACE_CASES = 4

# Changes that no run can show, by a part of their name, with the reason.
EQUIVALENT = {
    "too far in for (; k0 < K; k0 += DEPTH)": "one tile more, of zeros",
    "no [threadIdx.x < LANES]": "the other warps sum what nobody reads",
}


class Mutant(NamedTuple):
    name: str
    file: str  # whose checks must catch it
    code: str


# --- making them ------------------------------------------------------------------------------------------------------


def closing(text, start):
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return i
    raise ValueError(f"no bracket closes {text[start : start + 40]!r}")


def beginning(text, end):
    """Where the condition before a question mark at `end` begins."""
    depth = 0
    for i in range(end - 1, -1, -1):
        depth += {")": 1, "]": 1, "(": -1, "[": -1}.get(text[i], 0)
        alone = text[i] in ":,;" or (text[i] == "=" and text[i - 1] not in "=<>!" and text[i + 1] != "=")
        if depth < 0 or (depth == 0 and (alone or text[i - 6 : i + 1] == "return ")):
            return i + 1
    raise ValueError(f"no beginning of {text[end - 40 : end]!r}")


def terms(condition):
    """[(start, end, joint)] of the terms between && or || outside of brackets, with what joins them, or ""."""
    depth, places = 0, []
    for i, letter in enumerate(condition):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth == 0 and condition[i : i + 2] in ("&&", "||"):
            places.append(i)
    ends = zip([0, *(i + 2 for i in places)], [*places, len(condition)])
    return [(a, b, condition[places[0] : places[0] + 2] if places else "") for a, b in ends]


def conditions(code):
    """(start, end) of what stands in `if (...)`, in `const bool name = ...;` and before a question mark."""
    for found in re.finditer(r"\bif \(", code):
        yield found.end(), closing(code, found.end() - 1)
    for found in re.finditer(r"const bool \w+ = ([^;]*);", code):
        yield found.span(1)
    for found in re.finditer(r" \? ", code):
        yield beginning(code, found.start()), found.start()


def changes(code):
    """(start, end, what stands there instead, in words) for every change."""
    for found in re.finditer(r"__syncthreads\(\);", code):
        yield *found.span(), "", f"no barrier {code[: found.start()].count('__syncthreads') + 1}"
    for start, end in conditions(code):
        leaves = code[end:].lstrip(") ").startswith(("return", "continue"))
        for a, b, joint in terms(code[start:end]):
            term = code[start + a : start + b].strip()
            yes = joint == "&&" or not (joint or leaves)
            yield start + a, start + b, " true " if yes else " false ", f"no [{term}]"
    for found in re.finditer(r"\bfor \([^;]*;([^;]*);", code):
        for less in re.finditer(" < ", found[1]):
            at = found.start(1) + less.start()
            yield at, at + 3, " <= ", "too far"


def mutants(file):
    """Every change of a .cu file, or of a header by way of a file that uses it."""
    text, user = (cuda_source.FOLDER / file).read_text(), HEADERS.get(file, file)
    code = re.sub(r"//[^\n]*", lambda m: " " * len(m[0]), text)
    for start, end, new, what in changes(code):
        line = " ".join(code[code.rfind("\n", 0, start) + 1 : code.find("\n", end)].split())
        changed = cuda_source.source(user, {file: code[:start] + new + code[end:]})
        yield Mutant(f"{file}:{code[:start].count(chr(10)) + 1}: {what} in {line}", user, changed)


ALL = [m for file in [*FILES, *HEADERS] for m in mutants(file)]


# --- catching them ----------------------------------------------------------------------------------------------------


def versions(file):
    """{name: code} of the right kernels ("") and of every mutant of a file."""
    return {"": cuda_source.source(file), **{m.name: m.code for m in ALL if m.file == file}}


def compiled(file, codes, race=False):
    """These versions of a file, float only."""
    names = cuda_source.instances(file, cuda_checks.FLOAT)
    return runner.variants(list(codes), names, filename=file, race=race) if codes else []


@contextlib.contextmanager
def kernels_of(file, module):
    """cupy_kernels launches this module's kernels in place of the file's."""
    from minisatm.kernels import launch

    before = launch._function

    def function(name, dtype):
        if cuda_source.catalogue()[name].file != file:
            return before(name, dtype)
        return cupy_standin.RawKernel(module.get_function(f"{name}<float>"))

    launch._function = function
    try:
        yield
    finally:
        launch._function = before


def caught(file, module, cases, orders):
    """What the checks of this file say of the module; "" if they find nothing wrong."""
    with kernels_of(file, module):
        for strategy, one in cuda_checks.CHECKS[file]:
            for case in cuda_checks.fixed(strategy, cases):
                for order in orders:
                    try:
                        with runner.schedule(order):
                            one(case.in_single_precision())
                    except (AssertionError, runner.KernelError) as problem:
                        return str(problem) or "an assertion"
    return ""


@functools.cache
def verdicts():
    """{name: what caught it} of every file's right kernels (file) and of every mutant.

    What the results do not show goes to the race checker, which sees every access to memory: also one that is not
    ordered, or that reads beyond an array and makes no use of it. It is slow, so it has few cases.
    """
    found, left = {}, {}
    for file in FILES:
        for (name, code), module in zip(versions(file).items(), compiled(file, versions(file).values()), strict=True):
            found[name or file] = caught(file, module, CASES, ORDERS)
            if not found[name or file]:
                left.setdefault(file, {})[name or file] = code
        runner.ahead([functools.partial(compiled, file, left.get(file, {}).values(), race=True)])
    for file, codes in left.items():
        for name, module in zip(codes, compiled(file, codes.values(), race=True), strict=True):
            found[name] = caught(file, module, RACE_CASES, (0,))
    return found


@pytest.fixture(scope="module")
def stand_in():
    with cupy_standin.standing_in():
        yield


@pytest.mark.parametrize("file", FILES)
def test_the_right_kernels_pass_and_race_nowhere(stand_in, file):
    assert verdicts()[file] == ""


@pytest.mark.parametrize("mutant", ALL, ids=lambda m: m.name)
def test_wrong_kernels_are_caught(stand_in, mutant):
    found = verdicts()[mutant.name]
    reasons = [reason for part, reason in EQUIVALENT.items() if part in mutant.name]
    assert bool(found) != bool(reasons), found or "nothing noticed"


def test_no_change_is_called_equivalent_that_is_not_made():
    assert all(any(part in m.name for m in ALL) for part in EQUIVALENT)
