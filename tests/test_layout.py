"""The architecture, held to a table: which room imports which, where text is printed, how long a module may be."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "modeldoctor"
TESTS = Path(__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))

# Room → the rooms it may import. A room is a module or a subpackage of modeldoctor.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "config": {"errors"},
    "treat_config": {"errors", "config", "trial_records"},
    "files": {"errors"},
    "memory": {"errors"},
    "distributed": {"errors"},
    "interrupts": {"errors"},
    "progress": set(),
    "checkpoint": {"errors", "files", "checkpoint_file", "checkpoint_metadata"},
    "checkpoint_file": {"errors", "files", "checkpoint_metadata"},
    "checkpoint_metadata": {"errors"},
    "zoo": {"errors", "config", "checkpoint"},
    "data": {"errors", "config"},
    "graph": {"errors", "distributed"},
    "correlation": {"errors", "graph", "memory"},
    "records": set(),
    "maps": {"graph", "correlation", "memory"},
    "explain": {"errors", "graph", "correlation", "memory", "records", "maps"},
    "setting": {"errors", "data", "zoo"},
    "diagnosis": {
        "errors", "config", "files", "interrupts", "zoo", "data", "graph", "correlation", "records", "explain", "store",
        "setting", "maps", "memory", "distributed", "progress",
    },
    # The design's rule: a treatment is handed a diagnosis and never makes one.
    "treatment": {
        "errors", "config", "treat_config", "files", "interrupts", "zoo", "data", "graph", "correlation", "records",
        "attribution", "constraints", "checkpoint", "checkpoint_write", "distributed", "evaluate", "trial_records",
        "trial_maps", "setting", "maps", "memory", "progress",
    },
    "attribution": {"graph", "memory"},
    "constraints": {"attribution"},
    "checkpoint_write": {"errors", "files", "checkpoint", "checkpoint_file"},
    "trial_records": {"errors", "files"},
    "trial_maps": {"errors", "files", "records"},
    "evaluate": {"errors", "records", "trial_records"},
    "annotate": {"errors", "progress", "config", "files", "interrupts", "data", "diagnosis", "graph", "zoo", "setting"},
    "store": {"errors", "files", "records"},
    "terminal": {"errors", "progress"},
    "summary": {"files", "records"},
    "report": {"errors", "files", "records", "store", "summary", "trial_records", "trial_maps", "evaluate"},
    "screen": {"graph", "trial_records"},
    "training": {"config", "data", "progress"},
    "pipeline": {
        "errors", "config", "treat_config", "zoo", "diagnosis", "distributed", "records", "store", "treatment",
        "trial_records", "progress",
    },
    "demo": {
        "errors", "config", "treat_config", "files", "records", "data", "diagnosis", "treatment", "trial_records",
        "zoo", "training", "report", "progress",
    },
}  # fmt: skip
# Imports for the sake of types alone.
TYPES_ONLY = {("screen", "graph"), ("screen", "trial_records")}
ANYTHING = {"cli", "__init__", "__main__"}
# Rooms that must work where torch is not installed or must not be loaded: reports are made from plain records.
WITHOUT_TORCH = {
    "errors", "config", "treat_config", "files", "interrupts", "records", "store", "summary", "checkpoint_metadata",
    "evaluate", "trial_records", "trial_maps", "report",
}  # fmt: skip
# Modules that need no test file of their own: what they hold is tested with the room's others.
TESTED_ELSEWHERE = {
    "__init__": "test_public_api.py",
    "__main__": "test_cli.py",
    "errors": "test_cli.py",
    "checkpoint_file": "test_checkpoint.py",
    "checkpoint_metadata": "test_checkpoint.py",
    "attribution": "test_constraints.py",
    "trial_records": "test_evaluate.py",
    "setting": "test_diagnosis.py",
    "progress": "test_terminal.py",
}
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


@pytest.mark.parametrize(("importing", "imported"), sorted(TYPES_ONLY))
def test_types_are_imported_for_types_alone(importing: str, imported: str) -> None:
    for path in MODULES:
        if room(path) != importing:
            continue
        names = {
            alias.asname or alias.name
            for node in ast.walk(tree(path))
            if isinstance(node, ast.ImportFrom) and node.module == f"modeldoctor.{imported}"
            for alias in node.names
        }
        annotations = [
            part
            for node in ast.walk(tree(path))
            for part in (
                [node.annotation] if isinstance(node, ast.arg | ast.AnnAssign)
                else [node.returns] if isinstance(node, ast.FunctionDef) else []
            )
            if part is not None
        ]  # fmt: skip
        within = sum(isinstance(n, ast.Name) and n.id in names for part in annotations for n in ast.walk(part))
        everywhere = sum(isinstance(n, ast.Name) and n.id in names for n in ast.walk(tree(path)))
        assert 0 < within == everywhere


@pytest.mark.parametrize("path", [path for path in MODULES if room(path) in WITHOUT_TORCH], ids=ids)
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


def test_every_module_has_a_test() -> None:
    files = {path.name for path in TESTS.rglob("test_*.py")}
    missing = []
    for path in MODULES:
        inside = path.relative_to(PACKAGE)
        own = room(path)
        # A subpackage has test_ROOM.py, or a folder with test files of its own.
        names = {TESTED_ELSEWHERE.get(own, f"test_{own}.py")}
        if len(inside.parts) > 1 and any((TESTS / own).glob("test_*.py")):
            continue
        if not names & files:
            missing.append(inside.as_posix())
    assert not missing


def test_exceptions_of_the_table_are_needed() -> None:
    files = {path.name for path in TESTS.rglob("test_*.py")}
    for name, instead in TESTED_ELSEWHERE.items():
        assert (PACKAGE / f"{name}.py").exists()
        assert instead in files
        assert f"test_{name}.py" not in files
