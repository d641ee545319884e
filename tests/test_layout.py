"""The house: short files and functions, imports that point one way, and a reading path that fits in an afternoon."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("minisatm", "weights_convert")
FILES = sorted(path for top in (*PACKAGES, "tests") for path in (ROOT / top).rglob("*.py"))
COMMANDS = ("train", "evaluate", "reproduce", "classify", "report", "doctor")
READING_PATH = ("tape", "tensor", "ops", "kernels/plain", "layers", "satm", "attacks/single_step")


def lines(path):
    return len(path.read_text().splitlines())


def name_of(path):
    """minisatm/ops/__init__.py -> minisatm.ops"""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.fixture(scope="module")
def imports():
    """{module: the modules of ours that its file imports, anywhere in it}."""
    ours = {name_of(path): path for path in FILES if path.relative_to(ROOT).parts[0] in PACKAGES}
    edges = {}
    for name, path in ours.items():
        package = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
        edges[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                above = package[: len(package) - node.level + 1] if node.level else []
                module = ".".join([*above, *([node.module] if node.module else [])])
                wanted = [f"{module}.{alias.name}" for alias in node.names]
                edges[name] |= {w if w in ours else module for w in wanted} & set(ours)
            elif isinstance(node, ast.Import):
                edges[name] |= {alias.name for alias in node.names} & set(ours)
    assert len(edges) > 80 and "minisatm.kernels.numpy_kernels" in edges["minisatm.backend"]
    return edges


def reachable(edges, start):
    seen, left = set(), [start]
    while left:
        for other in edges[left.pop()] - seen:
            seen.add(other)
            left.append(other)
    return seen


def test_no_file_is_long():
    assert not {str(path.relative_to(ROOT)): n for path in FILES if (n := lines(path)) > 400}


def test_no_function_is_long():
    functions = [
        (name_of(path), node.name, node.end_lineno - node.lineno + 1)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]
    assert len(functions) > 2000
    assert not [function for function in functions if function[2] > 60]


def test_the_reading_path_from_the_tape_to_satm():
    path = [ROOT / "minisatm" / place for place in READING_PATH]
    files = [
        f for place in path for f in (sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")])
    ]
    assert len(files) > 10
    assert sum(map(lines, files)) <= 1750
    assert lines(ROOT / "minisatm/kernels/plain.py") <= 220


def test_the_only_circle_is_that_of_tensor_and_ops(imports):
    in_circles = {name for name in imports if name in reachable(imports, name)}
    assert in_circles <= {"minisatm.tensor", "minisatm.ops.basic"}


def test_nothing_imports_a_command(imports):
    commands = {f"minisatm.{command}" for command in COMMANDS} | {"weights_convert.__main__"}
    assert not {name: found for name, edges in imports.items() if (found := edges & commands)}


@pytest.mark.parametrize(
    "room, others",
    [
        ("attacks", ("progress", "cli", "run", "evaluation", "results", "satm", "defences")),
        ("kernels", ("tape", "tensor", "ops", "layers")),
        ("ops", ("layers", "models", "attacks")),
        ("models", ("attacks", "satm", "run", "evaluation")),
        ("satm", ("run", "evaluation", "results", "progress", "defences")),
        ("defences", ("run", "evaluation", "results", "progress")),
        ("evaluation", ("run",)),
        ("results", ("run", "evaluation", "satm")),
        ("metrics", ("attacks", "results", "evaluation")),
        ("parallel", ("satm", "run", "models")),
    ],
)
def test_imports_point_one_way(imports, room, others):
    room, others = f"minisatm.{room}", [f"minisatm.{other}" for other in others]
    wrong = {
        (name, found)
        for name, edges in imports.items()
        if name == room or name.startswith(room + ".")
        for found in edges
        if any(found == other or found.startswith(other + ".") for other in others)
    }
    assert not wrong


def test_converting_weights_loads_no_training():
    """The command of weights_convert needs models and files, not SATM, the defences or evaluation."""
    code = "import sys, weights_convert.__main__; print(*[m for m in sys.modules if m.startswith('minisatm')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    rooms = {name.split(".")[1] for name in done.stdout.split() if "." in name}
    assert "models" in rooms
    assert not rooms & {"satm", "defences", "evaluation", "run", "results", "attacks"}
