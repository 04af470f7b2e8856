"""The package as a whole: that it imports, in which direction, and that what its docstrings say is so."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import graftwork
from graftwork import errors
from graftwork.errors import GraftworkError

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "graftwork"
MIGRATIONS = "graftwork.registry.migrations"  # run by Alembic, in its own context
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages([str(SOURCE)], "graftwork.")
    if module.name != "graftwork.__main__" and not module.name.startswith(MIGRATIONS)
)

# Who may import whom, beside itself and errors: the rooms of the design, from the lowest up.
BELOW: dict[str, set[str]] = {
    "errors": set(),
    "settings": set(),
    "prices": set(),
    "data": set(),
    "registry": {"data"},
    "backbones": {"registry", "data"},
    "evaluation": {"registry", "data"},
    "reporting": {"evaluation", "data"},
    "adaptation": {"backbones", "registry", "data"},
    "training": {"adaptation", "backbones", "evaluation", "registry", "data", "prices"},
    "serving": {"adaptation", "backbones", "registry", "data"},
    "client": set(),
    "demo": set(),
    "wiring": {"settings", "serving", "backbones", "registry"},
    "estimator": {"wiring", "settings", "training", "backbones", "registry"},
    "classifier": {"estimator", "training", "adaptation", "data"},
    "multitask": {"estimator", "classifier", "training", "adaptation", "registry", "data"},
    "api": {"wiring", "serving", "registry", "data"},
    "cli": {"wiring", "settings", "api", "client", "demo", "training", "serving", "evaluation", "reporting",
            "backbones", "registry", "data", "prices"},
    "__init__": {"client", "classifier", "multitask"},
    "__main__": {"cli"},
}  # fmt: skip


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Rooms of this project that a file imports, anywhere in it, with the line."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"graftwork.{name}" for name in names] if node.module == "graftwork" else [node.module or ""]
        for name in names:
            parts = name.split(".")
            if parts[0] == "graftwork" and len(parts) > 1 and not parts[1].startswith("__version"):
                yield node.lineno, parts[1]


FILES = sorted(SOURCE.rglob("*.py"))


def test_every_room_has_its_place() -> None:
    assert {room_of(path) for path in FILES} == set(BELOW)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_point_downwards(path: Path) -> None:
    room = room_of(path)
    allowed = BELOW[room] | {room, "errors"}
    assert [f"line {line}: {name}" for line, name in imported(path) if name not in allowed] == []


def test_the_directions_have_no_circle_and_say_what_the_design_says() -> None:
    def reach(room: str, seen: tuple[str, ...] = ()) -> set[str]:
        assert room not in seen, f"a circle: {seen}"
        return {room}.union(*(reach(below, (*seen, room)) for below in BELOW[room]))

    reached = {room: reach(room) for room in BELOW}
    upper = {"backbones", "adaptation", "training", "serving", "evaluation", "api", "cli"}
    assert "serving" not in reached["training"]
    assert "training" not in reached["serving"]
    assert not upper & reached["registry"]
    assert not upper & reached["data"]
    assert reached["errors"] == {"errors"}
    assert {room for room in BELOW if "cli" in BELOW[room]} == {"__main__"}
    assert {room for room in BELOW if "api" in BELOW[room]} == {"cli"}


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports_and_says_what_it_is_for(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder()
    told = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(told) > 20


def test_the_version_is_said_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert graftwork.__version__ == project["version"]
    assert re.search(rf"^## .*{re.escape(graftwork.__version__)}", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)


def test_what_the_package_offers() -> None:
    assert {name: getattr(graftwork, name).__module__ for name in graftwork.__all__[:-1]} == {
        "Client": "graftwork.client",
        "AudioClassifier": "graftwork.classifier",
        "ImageClassifier": "graftwork.classifier",
        "MultiTaskClassifier": "graftwork.multitask",
        "TextClassifier": "graftwork.classifier",
    }
    assert sorted(graftwork.__all__) == [
        "AudioClassifier",
        "Client",
        "ImageClassifier",
        "MultiTaskClassifier",
        "TextClassifier",
        "__version__",
    ]
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        graftwork.Nonsense  # noqa: B018 - reading it is the test


ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GraftworkError)]


def drawn() -> dict[str, str]:
    """The tree at the top of errors.py: each error and the one it is drawn below."""
    below: dict[int, str] = {}
    found = {}
    for line in (errors.__doc__ or "").splitlines():
        name = re.match(r"[ │├└─]*([A-Z]\w+)(?:  |$)", line)
        if name is None:
            continue
        depth = name.start(1) // 4
        below[depth] = name[1]
        found[name[1]] = below.get(depth - 1, "")
    return found


def test_the_tree_of_errors_is_as_it_is_drawn() -> None:
    assert drawn() == {kind.__name__: (kind.__base__.__name__ if kind is not GraftworkError and kind.__base__ else "")
                       for kind in ERRORS}  # fmt: skip


def test_every_error_has_a_code_of_its_own_and_keeps_to_the_exit_codes() -> None:
    codes = [kind.code for kind in ERRORS]
    assert sorted(set(codes)) == sorted(codes)
    for kind in ERRORS:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.code)
        assert "code" in vars(kind), f"{kind.__name__} has its parent's code"
        interrupted = kind is errors.TrainingInterrupted
        told = 75 if interrupted else 2 if issubclass(kind, errors.UserError) else 1
        assert kind.exit_code == told
        assert 400 <= kind.status < 600
        assert kind.__doc__


def test_every_error_of_other_rooms_has_a_code_of_its_own_too() -> None:
    for name in MODULES:
        importlib.import_module(name)
    waiting, everywhere = [GraftworkError], []
    while waiting:
        kind = waiting.pop()
        everywhere.append(kind)
        waiting += [child for child in kind.__subclasses__() if child.__module__.startswith("graftwork.")]
    codes = [kind.code for kind in everywhere]
    assert sorted(set(codes)) == sorted(codes)
