"""Data flows one way: which room may import which, read from the source."""

import ast

import pytest
from conftest import REPOSITORY

LEAVES = {"arrays", "errors", "grid", "pixel_labels", "trees", "files"}
# {room: rooms it may import}; itself is always allowed.
ALLOWED = {
    "__init__": {"api"},
    "__main__": {"cli"},
    "arrays": set(),
    "errors": set(),
    "grid": set(),
    "pixel_labels": set(),
    "trees": {"errors"},
    "files": {"errors", "pixel_labels"},
    "devices": {"errors", "files"},
    "data": LEAVES,
    "models": (LEAVES - {"files"}) | {"config"},  # `config.field` declares a backbone's fields.
    "weights": LEAVES | {"models"},
    "training": LEAVES | {"devices", "models"},
    "inference": LEAVES | {"devices", "data", "models"},
    "pseudo": LEAVES | {"models", "inference"},
    "evaluation": LEAVES | {"devices", "data"},
    "report": LEAVES | {"data", "evaluation"},
    "configs": {"config", "data", "models"},
    "config": {"errors", "configs", "models", "trees"},
    "runs": LEAVES
    | {"config", "devices", "data", "models", "weights", "training", "inference", "pseudo"}
    | {"evaluation", "report"},
    "studies": LEAVES | {"data", "devices", "evaluation", "report", "runs"},
    "analysis": LEAVES
    | {"config", "configs", "devices", "data", "models", "weights", "training", "inference"}
    | {"pseudo", "runs", "evaluation"},
    "api": {"config", "data", "errors", "evaluation", "report", "runs"},
    "cli": LEAVES
    | {"__init__", "api", "config", "devices", "data", "inference", "weights", "evaluation"}
    | {"report", "runs", "studies", "analysis"},
}
PACKAGE = REPOSITORY / "auxseg_jax"
FILES = sorted(PACKAGE.rglob("*.py")) + sorted((PACKAGE / "configs").glob("*.py"))


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


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
    rooms = {name.split(".")[1] for name in names} - {room(path), "__version__"}
    unexpected = rooms - ALLOWED[room(path)]
    assert not unexpected, f"{path} must not import {unexpected}"


def test_every_room_is_in_the_table():
    assert {room(path) for path in FILES} == set(ALLOWED)


@pytest.mark.parametrize("path", [*FILES, REPOSITORY / "launch.py"], ids=lambda p: p.name)
def test_no_absent_packages(path):
    tops = {name.split(".")[0] for name in imported(path)}
    assert not tops & {"tensorflow", "torch", "mxnet", "pydensecrf", "configs", "tests"}


def test_mesh_axes_are_named_in_one_module():
    for path in FILES:
        if path != PACKAGE / "devices/mesh.py":
            assert "PartitionSpec" not in path.read_text(), f"{path} names mesh axes"


def test_rooms_are_small():
    """Modules have at most 300 lines, functions at most 60."""
    for path in FILES:
        text = path.read_text()
        assert len(text.splitlines()) <= 300 or path.name in LONG_MODULES, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length <= 60 or node.name in LONG_FUNCTIONS, f"{path}: {node.name} {length}"


LONG_MODULES = {"fields.py"}  # A table of all fields, which is looked up, not read.
LONG_FUNCTIONS = {"fit"}  # The training loop is read top to bottom.
