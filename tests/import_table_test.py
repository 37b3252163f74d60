"""Data flows one way: which room may import which, read from the source."""

import ast

import pytest
from conftest import REPOSITORY

LEAVES = {"platform", "files", "pickles", "terminal", "trees", "sharding", "grid", "torch_file", "hosts", "preemption"}
# room -> rooms it may import (itself is always allowed)
ALLOWED = {
    "platform": set(),
    "files": set(),
    "pickles": set(),
    "terminal": set(),
    "trees": set(),
    "sharding": set(),
    "grid": set(),
    "torch_file": {"pickles"},
    "hosts": {"terminal"},
    "preemption": set(),
    "data": {"files", "grid", "pickles", "terminal"},
    "models": {"trees", "grid", "pickles", "torch_file"},
    "training": LEAVES | {"models"},
    "passes": LEAVES | {"data"},
    "pseudo": LEAVES | {"models", "data", "passes"},
    "evaluation": LEAVES | {"data"},
    "predict": LEAVES | {"models", "data", "passes", "pseudo"},
    "report": {"data"},
    "recipe": LEAVES | {"data", "models", "pseudo", "training", "predict"},
    "profile": LEAVES | {"checks", "recipe", "data", "models", "training", "pseudo"},
    "aot": LEAVES | {"checks", "recipe", "data", "training", "passes"},
    "checks": {"sharding", "data", "models", "training", "pseudo", "predict"},
    "stages": LEAVES | {"checks", "recipe", "data", "models", "training", "pseudo", "evaluation", "passes", "predict", "report"},
}
FILES = sorted((REPOSITORY / "auxseg_jax").rglob("*.py"))


def room(path):
    parts = path.relative_to(REPOSITORY / "auxseg_jax").with_suffix("").parts
    return parts[0]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            if node.module == "auxseg_jax":
                yield from (f"auxseg_jax.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_rooms(path):
    names = [name for name in imported(path) if name.startswith("auxseg_jax.")]
    rooms = {name.split(".")[1] for name in names} - {room(path)}
    assert rooms <= ALLOWED.get(room(path), set()), f"{path} must not import {rooms - ALLOWED.get(room(path), set())}"


@pytest.mark.parametrize("path", [*FILES, REPOSITORY / "launch.py"], ids=lambda p: p.name)
def test_no_heavy_or_absent_packages(path):
    tops = {name.split(".")[0] for name in imported(path)}
    assert not tops & {"tensorflow", "torch", "mxnet", "pydensecrf", "configs", "tests"}


def test_mesh_axes_are_named_in_sharding_alone():
    for path in FILES:
        if path.name != "sharding.py":
            assert "PartitionSpec" not in path.read_text(), f"{path} names mesh axes"
