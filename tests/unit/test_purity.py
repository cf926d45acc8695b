"""Imports go one way, and the pure packages do no I/O (design §2): read from the source itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LEVELS: dict[str, int] = {
    "errors": 0,
    "__init__": 0,
    "parking": 1,
    "kapi": 2,
    "engine": 3,
    "options": 4,
    "settings": 4,
    "replica": 4,
    "broker": 4,
    "run": 4,
    "ops": 4,
    "trace": 4,
    "switch": 4,
    "demo": 4,
    "lint": 4,
    "app": 5,
    "cli": 6,
    "__main__": 7,
}
"""A module may import its own level and those below; the pure packages have a level each."""

PLAIN = frozenset(
    {
        "__future__", "abc", "bisect", "collections", "copy", "dataclasses", "enum", "functools",
        "hashlib", "heapq", "itertools", "math", "operator", "re", "string", "types", "typing",
        "unicodedata", "urllib",
    }
)  # fmt: skip
WIRE = PLAIN | {
    "base64", "binascii", "erlang", "html", "importlib", "json", "jsonschema", "orjson", "pathlib",
    "referencing", "struct", "xml",
}  # fmt: skip
PURE: dict[str, frozenset[str]] = {"parking": PLAIN, "kapi": WIRE, "engine": WIRE}
"""What each pure package may import beside ``worker``. No clock, no chance, no network."""

EXACT: dict[str, frozenset[str]] = {
    "importlib": frozenset({"importlib.resources"}),
    "urllib": frozenset({"urllib.parse"}),
    "xml": frozenset({"xml.sax.saxutils"}),
}
"""Packages of which only a part is pure."""

IMPURE_CALLS = frozenset({"open", "print", "input", "eval", "exec", "__import__", "id", "hash"})
"""``hash`` of text differs between processes; ``id`` always does."""


@dataclass(frozen=True)
class Import:
    module: str
    line: int


def sources(package: str) -> list[Path]:
    return sorted((ROOT / "worker" / package).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[Import]:
    """Every import anywhere in the file, also inside functions and ``if TYPE_CHECKING``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            if module in {"worker", "importlib", "urllib", "xml", "xml.sax"}:
                for alias in node.names:
                    yield Import(f"{module}.{alias.name}", node.lineno)
            else:
                yield Import(module, node.lineno)


def impurities(source: str, allowed: frozenset[str]) -> list[str]:
    """What a pure module must not hold."""
    tree = ast.parse(source)
    found = []
    for item in imports(tree):
        top = item.module.split(".")[0]
        parts = EXACT.get(top)
        if top in {"worker", ""}:  # which parts of it: `upward`
            continue
        if top not in allowed or (parts and item.module not in parts):
            found.append(f"line {item.line}: imports {item.module}")
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await):
            found.append(f"line {node.lineno}: is asynchronous")
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in IMPURE_CALLS
        ):
            found.append(f"line {node.lineno}: calls {node.func.id}")
    return found


def upward(source: str, part: str) -> list[str]:
    """Imports of ``worker`` that look up from ``part``."""
    found = []
    for item in imports(ast.parse(source)):
        # No package of ours is deeper than worker/<part>/.
        module = item.module.replace("..", "worker.", 1) if ".." in item.module else item.module
        words = module.split(".")
        if words[0] == "worker" and len(words) > 1 and words[1] != "__version__":
            target = words[1]
            if target not in LEVELS:
                found.append(f"line {item.line}: {target} has no level in {Path(__file__).name}")
            elif LEVELS[target] > LEVELS[part]:
                found.append(f"line {item.line}: imports {item.module}")
    return found


def part_of(path: Path) -> str:
    return path.relative_to(ROOT / "worker").parts[0].removesuffix(".py")


def at(path: Path, found: list[str]) -> list[str]:
    return [f"{path.relative_to(ROOT)} {text}" for text in found]


@pytest.mark.parametrize("package", sorted(PURE))
def test_a_pure_package_does_no_io_and_knows_no_clock(package: str) -> None:
    assert sources(package)
    found = [
        line
        for path in sources(package)
        for line in at(path, impurities(path.read_text("utf-8"), PURE[package]))
    ]
    assert found == []


def test_imports_go_one_way() -> None:
    found = [
        line
        for path in sources("")
        for line in at(path, upward(path.read_text("utf-8"), part_of(path)))
    ]
    assert found == []


def test_every_part_has_a_level() -> None:
    assert {part_of(path) for path in sources("")} <= LEVELS.keys()


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "import asyncio",
        "from random import random",
        "def f():\n    import socket",
        "import importlib",
        "from urllib import request",
        "from urllib.request import urlopen",
        "async def f(): ...",
        "open('x')",
        "import datetime",
    ],
)
def test_an_impurity_is_found(source: str) -> None:
    assert impurities(source, WIRE)


def test_what_a_pure_module_needs_is_allowed() -> None:
    source = "import orjson\nfrom importlib.resources import files\nfrom urllib.parse import quote"
    assert impurities(source, WIRE) == []
    assert impurities(source, PLAIN) != []


@pytest.mark.parametrize(
    ("source", "part", "count"),
    [
        ("from worker.kapi.keys import encode", "parking", 1),
        ("from worker import kapi", "parking", 1),
        ("from worker import __version__", "broker", 0),
        ("from worker.parking.model import CallId", "kapi", 0),
        ("from worker.settings import Settings", "engine", 1),
        ("from worker.broker.port import Link", "run", 0),
        ("from worker.app import run", "broker", 1),
        ("from worker.unheard import x", "app", 1),
        ("from ..errors import WorkerError", "parking", 0),
        ("from ..run import table", "engine", 1),
        ("from .model import CallId", "parking", 0),
    ],
)
def test_an_upward_import_is_found(source: str, part: str, count: int) -> None:
    assert len(upward(source, part)) == count
