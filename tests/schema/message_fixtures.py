"""The files of ``fixtures/messages``: one per schema, a message and what may be done to it.

A case is the file's message with some places ``set`` (by JSON pointer), ``without`` some, with a
text ``repeat``-ed at some, or something else ``instead`` of it. The format: fixtures/README.md.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "messages"
CASE_KEYS = {"title", "set", "without", "repeat", "instead"}
FILE_KEYS = {"about", "message", "valid", "invalid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One message. ``pointer`` None: it is valid; else where it is not, and how that is told."""

    schema: str
    title: str
    message: Any
    pointer: str | None = None
    reason: str = ""

    @property
    def id(self) -> str:
        return f"{self.schema}: {self.title}"


def names() -> list[str]:
    """The schemas that have a file."""
    return sorted(path.name.removesuffix(".json") for path in FOLDER.glob("*.json"))


def cases(name: str) -> list[Case]:
    """Every message of one file, the one it begins with first. Raises ValueError for a bad file."""
    told = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    if told.keys() != FILE_KEYS:
        raise ValueError(f"{name}: keys are {', '.join(told)}")
    found = [Case(schema=name, title="as it stands", message=told["message"])]
    for how in told["valid"]:
        found.append(_case(name, told["message"], how, how.keys() - CASE_KEYS))
    for how in told["invalid"]:
        odd = how.keys() - CASE_KEYS - {"pointer", "reason"}
        found.append(_case(name, told["message"], how, odd))
    return found


def _case(name: str, message: Any, how: dict[str, Any], odd: set[str]) -> Case:
    if odd:
        raise ValueError(f"{name}: {how['title']}: unknown keys {', '.join(sorted(odd))}")
    changed = copy.deepcopy(how.get("instead", message))
    for pointer, value in how.get("set", {}).items():
        _put(changed, pointer, value)
    for pointer, (text, times) in how.get("repeat", {}).items():
        _put(changed, pointer, text * times)
    for pointer in how.get("without", ()):
        place, key = _place(changed, pointer)
        del place[key]
    return Case(
        schema=name,
        title=how["title"],
        message=changed,
        pointer=how.get("pointer"),
        reason=how.get("reason", ""),
    )


def _put(message: Any, pointer: str, value: object) -> None:
    place, key = _place(message, pointer)
    place[key] = value


def _place(message: Any, pointer: str) -> tuple[Any, Any]:
    """The container a pointer names a place in, and the key there."""
    *path, last = [_unescaped(part) for part in pointer.split("/")[1:]]
    place = message
    for part in path:
        place = place[_key(place, part)]
    return place, _key(place, last)


def _key(place: Any, part: str) -> Any:
    return int(part) if isinstance(place, list) else part


def _unescaped(part: str) -> str:
    return part.replace("~1", "/").replace("~0", "~")
