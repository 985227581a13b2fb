"""The wings: what may import what, and what only one file may do."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "bin" / "dodeka_db"
FLOWS, WINGS = "flows", ("restic", "sqlite", "host")
# what each wing may import besides itself and the floor
BELOW = {FLOWS: WINGS, "restic": ("host",), "sqlite": ("host",), "host": ()}
# the floor's own order: a file imports those in front of it
FLOOR = (
    *(
        "stream_types",
        "log",
        "interrupts",
        "errors",
        "safe_open",
        "formatting",
        "local_time",
        "schedule",
        "packages",
        "places",
        "progress",
        "progress_line",
    ),
    *("repository_address", "masking", "repository_settings", "settings_file", "settings"),
    *("data_description", "console"),
)
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
BELOW_THE_FLOWS = [file for file in FILES if file.parts[0] != FLOWS]


def tree(file: Path) -> ast.Module:
    return ast.parse((PACKAGE / file).read_text())


def imported(file: Path) -> Iterator[str]:
    """The names of the modules of the package that a file imports, as `wing.module` or `module`."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dodeka_db":
            inside = node.module.split(".")[1:]
            for name in node.names:
                path = [*inside, name.name]
                yield ".".join(path if (PACKAGE / Path(*path)).with_suffix(".py").exists() else inside)


def wing_of(module: str) -> str:
    return module.split(".", maxsplit=1)[0] if "." in module else ""


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_go_one_way(file):
    wing = file.parts[0] if len(file.parts) > 1 else ""
    for module in imported(file):
        if wing:
            assert wing_of(module) in ("", wing, *BELOW[wing]), module
        elif file.stem != "venv":  # it has told the monitor before anything else is there
            assert FLOOR.index(module) < FLOOR.index(file.stem), module


@pytest.mark.parametrize("wing", ["", FLOWS, *WINGS])
def test_no_circle(wing):
    graph = {
        ".".join(file.with_suffix("").parts): set(imported(file))
        for file in FILES
        if (file.parts[0] if len(file.parts) > 1 else "") == wing
    }
    while ready := [module for module, needs in graph.items() if not needs & graph.keys() - {module}]:
        for module in ready:
            del graph[module]
    assert graph == {}


@pytest.mark.parametrize("file", BELOW_THE_FLOWS, ids=str)
def test_what_only_one_file_does(file):
    calls = {ast.unparse(node.func) for node in ast.walk(tree(file)) if isinstance(node, ast.Call)}
    source = (PACKAGE / file).read_text()
    assert not calls & {"print", "input"} or file.stem == "console"
    assert not calls & {"sys.exit", "exit", "os._exit", "SystemExit"} or file.stem in ("console", "venv")
    assert "os.environ" not in source or file.stem == "settings"
    assert not re.search(r"^\s*import sh\b|load\(\"sh\"\)", source, re.MULTILINE) or file.stem == "programs"
    assert wing_of(".".join(file.with_suffix("").parts)) == "" or "dodeka_db import console" not in source


def test_every_wing_has_its_files():
    assert {file.parts[0] for file in FILES if len(file.parts) > 1} == {FLOWS, *WINGS}
    assert {file.stem for file in FILES if len(file.parts) == 1} == {*FLOOR, "venv"}
