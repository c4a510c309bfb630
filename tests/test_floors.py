"""What keeps the house livable: short files and functions, few rooms outside wings, one name for one thing."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOUSE = ROOT / "renderer"
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60
MOST_TOP_LEVEL = 6

LONG: set[str] = set()
"""Files above the limit that are still to be mended. Add none."""

LONG_FUNCTIONS: set[str] = set()
"""Functions above the limit that are still to be mended. Add none."""

TWINS: Mapping[str, str] = {
    "LOG": "every room that logs has its own",
    "CODEC": "a precision has one, in its own room",
    "ARITHMETIC": "each way to multiply what is stored tells its own",
    "LARGEST_ERROR": "each way to multiply what is stored has its own",
    "READER": "a format has one, in its own room",
    "SCHEME": "a tool has one, in its own room",
}
"""Names of several things, and why each may be."""

TWINS_TO_MEND: set[str] = set()
"""Names of several things that are still to be mended. Add none."""

SAME_NAMES: Mapping[str, str] = {
    "plan": "a command, and what it shows",
    "prune": "a command, and what it does",
    "replay": "a command, and what it reads",
    "status": "a command, and what it shows",
    "worker": "the two ends of one pipe",
    "bf16": "a codec, and its numbers in torch",
    "fp8": "a codec, and its numbers in torch",
    "int8": "a codec, and its numbers in torch",
    "int4": "a codec, and its numbers in torch",
    "safetensors": "a reader, and its numbers in torch",
    "gguf": "a reader, and its numbers in torch",
    "bitsandbytes": "a scheme, and its numbers in torch",
    "scaled": "a scheme, and its numbers in torch",
}
"""Names of several modules, and why each may be."""

SAME_NAMES_TO_MEND: set[str] = set()
"""Names of several modules that are still to be mended. Add none."""


def python_files(*folders: str) -> Iterator[Path]:
    return (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


FILES = {name_of(path): path.read_text(encoding="utf-8") for path in python_files("renderer", "tests", "tools")}
TREES = {name: ast.parse(text) for name, text in FILES.items()}


def test_files_are_short() -> None:
    """No file is so long that nobody reads it whole."""
    long = {name for name, text in FILES.items() if len(text.splitlines()) > MOST_LINES}
    assert long <= LONG


def test_functions_are_short() -> None:
    """No function is so long that it does not fit a screen."""
    long = {
        f"{name} {node.name}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION
    }
    assert long <= LONG_FUNCTIONS


def test_rooms_stand_in_wings() -> None:
    """Beside the packages there are a few modules and no more."""
    assert len([path for path in HOUSE.glob("*.py") if path.stem != "__init__"]) <= MOST_TOP_LEVEL


WINGS = sorted(path.parent for path in HOUSE.rglob("__init__.py") if path.parent != HOUSE)


@pytest.mark.parametrize("wing", WINGS, ids=name_of)
def test_a_wing_names_its_rooms(wing: Path) -> None:
    """Its docstring says what it is for, and names every module and package in it."""
    told = ast.get_docstring(TREES[name_of(wing / "__init__.py")]) or ""
    assert told, "no docstring"
    modules = {path.stem for path in wing.glob("*.py") if not path.stem.startswith("__")}
    packages = {path.parent.name for path in wing.glob("*/__init__.py")}
    assert {room for room in modules | packages if not re.search(rf"\b{room}\b", told)} == set()


def test_tests_stand_where_what_they_test_stands() -> None:
    """Every folder of tests is a wing's, or a part of one; and there is one of what documents show."""
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    parts = {folder.relative_to(ROOT / "tests") for folder in folders}
    assert {part.as_posix() for part in parts if not (HOUSE / part).is_dir()} <= {"docs"}


def _names(tree: ast.Module) -> Iterator[str]:
    """The public classes, aliases and constants that a module defines itself."""
    for node in tree.body:
        match node:
            case ast.ClassDef(name=name):
                pass
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                pass
            case _:
                continue
        if name[0].isupper():
            yield name


def _several(places: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Names with more than one place."""
    found = defaultdict(list)
    for name, place in places:
        found[name].append(place)
    return {name: where for name, where in found.items() if len(set(where)) > 1}


def test_one_name_for_one_thing() -> None:
    """No public class, alias or constant has its name from two modules."""
    house = {name: tree for name, tree in TREES.items() if name.startswith("renderer/")}
    twins = _several((name, place) for place, tree in house.items() for name in _names(tree))
    known = TWINS.keys() | TWINS_TO_MEND
    assert {name: where for name, where in twins.items() if name not in known} == {}
    assert {name for name in known if name not in twins} == set(), "mended: take it off the list"


def test_one_module_of_a_name() -> None:
    """No two rooms have one name, unless the one is the door to the other."""
    rooms = ((path.stem, name_of(path)) for path in python_files("renderer") if not path.stem.startswith("__"))
    same = _several(rooms)
    known = SAME_NAMES.keys() | SAME_NAMES_TO_MEND
    assert {name: where for name, where in same.items() if name not in known} == {}
    assert {name for name in known if name not in same} == set(), "mended: take it off the list"
