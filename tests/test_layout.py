"""The architecture, held to a table: which room imports which, where text is printed, how long a module may be."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "modeldoctor"
TESTS = Path(__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))

# Room → the rooms it may import, from the ground floor up. A room is a subpackage of modeldoctor.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "runtime": {"errors"},
    "guide": {"errors"},
    "config": {"errors", "runtime"},
    "results": {"errors", "runtime", "config"},
    "checkpoint": {"errors", "runtime"},
    "graph": {"errors", "runtime"},
    "method": {"errors", "runtime", "graph"},
    "data": {"errors", "config", "runtime"},
    "zoo": {"errors", "runtime", "config", "checkpoint"},
    "evaluate": {"errors", "config", "results"},
    "report": {"errors", "runtime", "config", "results", "evaluate"},
    "diagnosis": {
        "errors", "runtime", "results", "config", "checkpoint", "graph", "method", "data", "zoo", "evaluate",
    },
    "treatment": {
        "errors", "runtime", "results", "config", "checkpoint", "graph", "method", "data", "zoo", "evaluate",
        "diagnosis",
    },
    "demo": {
        "errors", "runtime", "results", "config", "data", "zoo", "diagnosis", "treatment", "report",
    },
}  # fmt: skip
# The design's rule: a treatment is handed a diagnosis and never makes one. This module alone brings the two together.
BRINGS_TOGETHER = "treatment/pipeline.py"
ANYTHING = {"cli", "__init__", "__main__"}
# What must work where torch is not installed or must not be loaded: reports are made from plain records.
WITHOUT_TORCH = (
    "errors", "config/", "guide/", "results/", "evaluate/", "report/", "runtime/files", "runtime/interrupts",
    "runtime/progress", "checkpoint/metadata",
)  # fmt: skip
# What may speak to the terminal or end the process, and where.
CLI_ALONE = {"print", "typer", "sys.exit"}


def room(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> set[str]:
    """Dotted names of every module imported anywhere in a file, relative ones resolved."""
    found = set()
    package = ["modeldoctor", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module} if module != "modeldoctor" else {f"modeldoctor.{alias.name}" for alias in node.names}
    return found


def rooms_imported(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("modeldoctor.")} - {room(path)}


def ids(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_rooms_import_only_what_the_table_allows(path: Path) -> None:
    if room(path) in ANYTHING:
        return
    assert room(path) in MAY_IMPORT, "a new room: write into the table what it may import"
    assert rooms_imported(path) <= MAY_IMPORT[room(path)]


def test_the_table_has_no_circle_and_no_room_that_is_gone() -> None:
    assert set(MAY_IMPORT) | ANYTHING >= {room(path) for path in MODULES} >= set(MAY_IMPORT)
    left = {name: set(allowed) for name, allowed in MAY_IMPORT.items()}
    while left:
        free = {name for name, allowed in left.items() if not allowed & set(left)}
        assert free, f"these import each other: {sorted(left)}"
        left = {name: allowed for name, allowed in left.items() if name not in free}


def test_one_module_brings_diagnosis_and_treatment_together() -> None:
    importing = {ids(path) for path in MODULES if room(path) == "treatment" and "diagnosis" in rooms_imported(path)}
    assert importing == {BRINGS_TOGETHER}


@pytest.mark.parametrize("path", [path for path in MODULES if ids(path).startswith(WITHOUT_TORCH)], ids=ids)
def test_plain_rooms_do_without_torch(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & {"torch", "timm", "torchvision"}


def spoken(path: Path) -> set[str]:
    """Which of `CLI_ALONE` a file uses: calls and imports, not the words in comments and texts."""
    found = {"typer"} & {name.split(".")[0] for name in imports(path)}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            found |= {called} & {"print", "sys.exit"} | (
                {"sys.exit"} if called in ("exit", "quit", "os._exit") else set()
            )
    return found


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_only_the_command_line_prints_and_exits(path: Path) -> None:
    assert spoken(path) <= (CLI_ALONE if room(path) == "cli" else set())


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_a_module_says_what_it_is_and_is_not_long(path: Path) -> None:
    doc = ast.get_docstring(tree(path))
    assert doc, "no docstring"
    assert len(doc) > 10
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_a_script_runs_by_its_name() -> None:
    """As `scripts/FIGURES.md` calls them: executable, by the interpreter of the environment."""
    scripts = [path for path in (TESTS.parent / "scripts").rglob("*.py") if "__main__" in path.read_text("utf-8")]
    assert len(scripts) > 10
    for path in scripts:
        assert os.access(path, os.X_OK), path
        assert path.read_text("utf-8").startswith("#!/usr/bin/env python\n"), path


def test_every_room_has_its_tests() -> None:
    rooms = {room(path) for path in MODULES if path.parent != PACKAGE}
    assert {name for name in rooms if not any((TESTS / name).glob("test_*.py"))} == set()


def test_the_top_of_the_package_holds_rooms() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "errors.py"}
