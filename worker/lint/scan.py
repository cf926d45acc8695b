"""JSON with positions: plain values, and where in the text each of them stands.

Strict (RFC 8259), without recursion, linear in the length of the text.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from dataclasses import dataclass, field

from worker.errors import WorkerError

Path = tuple[str | int, ...]
"""Keys and indexes from the root of a document."""

MAX_DEPTH = 512
"""Nesting beyond this is refused: callflows have none, and others down the line recurse."""

_BLANK = re.compile(r"[ \t\n\r]*+")
_STRING = re.compile(r'"[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+"')
_STRING_START = re.compile(r'"[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*+)(\.[0-9]++)?([eE][+-]?[0-9]++)?")
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None}
_WORD = re.compile(r"true|false|null")
_EXACT_DIGITS = 18


class BrokenJsonError(WorkerError):
    """The text is no JSON. ``offset`` counts characters from 0."""

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.offset = offset


@dataclass(slots=True)
class Document:
    """A parsed text. ``places`` has, for each container, its members' offsets: key and value."""

    text: str
    value: object = None
    root_offset: int = 0
    places: dict[int, dict[str | int, tuple[int, int]]] = field(default_factory=dict)
    duplicates: dict[int, list[tuple[str, int]]] = field(default_factory=dict)
    """Keys that stand twice in one object, with the offset of the later one, which counts."""
    _dropped: list[object] = field(default_factory=list)
    _newlines: list[int] | None = None

    def line_and_column(self, offset: int) -> tuple[int, int]:
        """Both from 1; columns count characters."""
        if self._newlines is None:
            self._newlines = [match.start() for match in re.finditer("\n", self.text)]
        line = bisect_right(self._newlines, offset - 1)
        start = self._newlines[line - 1] + 1 if line else 0
        return line + 1, offset - start + 1

    def offset(self, path: Path, *, key: bool = False) -> int:
        """Where the value at ``path`` begins, or its key. What is missing: where it should be."""
        at: object = self.value
        found = (self.root_offset, self.root_offset)
        for part in path:
            member = self.places.get(id(at), {}).get(part)
            if member is None:
                return found[1]
            found = member
            if isinstance(at, dict | list):
                at = at[part]  # type: ignore[index]  # a place names a member that is there
        return found[0] if key else found[1]


def pointer(path: Path) -> str:
    """The JSON pointer (RFC 6901) of a path; ``""`` is the whole document."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def line_and_column(text: str, offset: int) -> tuple[int, int]:
    """Line and column, from 1, of a place in a text that could not be parsed."""
    return Document(text).line_and_column(offset)


def scan(text: str) -> Document:
    """Parse a whole text. Raises BrokenJsonError."""
    return _Scanner(text).run()


class _Scanner:
    """One pass over the text with an explicit stack of open containers."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.document = Document(text)
        self.open: list[dict[str, object] | list[object]] = []

    def run(self) -> Document:
        self._skip_blank()
        self.document.root_offset = self.at
        self.document.value = self._value()
        while self.open:
            container = self.open[-1]
            if isinstance(container, dict):
                self._object_member(container)
            else:
                self._array_member(container)
        self._skip_blank()
        if self.at < len(self.text):
            raise BrokenJsonError("something follows the end of the document", self.at)
        return self.document

    def _skip_blank(self) -> str:
        """The next character that is not blank; empty at the end."""
        match = _BLANK.match(self.text, self.at)
        if match is not None:
            self.at = match.end()
        return self.text[self.at : self.at + 1]

    def _value(self) -> object:
        char = self.text[self.at : self.at + 1]
        if char == '"':
            return self._string()
        if char == "{":
            return self._opened({})
        if char == "[":
            return self._opened([])
        match = _NUMBER.match(self.text, self.at)
        if match is not None:
            self.at = match.end()
            return _number(match)
        match = _WORD.match(self.text, self.at)
        if match is not None:
            self.at = match.end()
            return _WORDS[match.group()]
        raise self._unexpected("a value")

    def _opened(self, container: dict[str, object] | list[object]) -> object:
        if len(self.open) >= MAX_DEPTH:
            raise BrokenJsonError(f"nested deeper than {MAX_DEPTH} levels", self.at)
        self.at += 1
        self.open.append(container)
        self.document.places[id(container)] = {}
        return container

    def _object_member(self, container: dict[str, object]) -> None:
        places = self.document.places[id(container)]
        if self._closed_or_next("}", first=not places):
            return
        key_offset = self.at
        if self.text[self.at : self.at + 1] != '"':
            raise self._unexpected("a key in double quotes")
        key = self._string()
        if self._skip_blank() != ":":
            raise self._unexpected("':' after the key")
        self.at += 1
        self._skip_blank()
        offset = self.at
        if key in container:
            # The dropped value must stay alive: places are found by the identity of containers.
            self.document._dropped.append(container[key])
            self.document.duplicates.setdefault(id(container), []).append((key, key_offset))
        container[key] = self._value()
        places[key] = (key_offset, offset)

    def _array_member(self, container: list[object]) -> None:
        places = self.document.places[id(container)]
        if self._closed_or_next("]", first=not places):
            return
        places[len(container)] = (self.at, self.at)
        container.append(self._value())

    def _closed_or_next(self, close: str, *, first: bool) -> bool:
        char = self._skip_blank()
        if char == close:
            self.at += 1
            self.open.pop()
            return True
        if not first:
            if char != ",":
                raise self._unexpected(f"',' or '{close}'")
            comma = self.at
            self.at += 1
            if self._skip_blank() == close:
                raise BrokenJsonError(f"a comma before '{close}'", comma)
        return False

    def _string(self) -> str:
        start = self.at
        match = _STRING.match(self.text, start)
        if match is None:
            raise self._broken_string(start)
        self.at = match.end()
        raw = match.group()
        if "\\" not in raw:
            return raw[1:-1]
        try:
            decoded: str = json.loads(raw)
        except json.JSONDecodeError as error:
            raise BrokenJsonError("a wrong escape in the text", start + error.pos) from None
        if not _is_unicode(decoded):
            raise BrokenJsonError("half of a surrogate pair in the text", start)
        return decoded

    def _broken_string(self, start: int) -> BrokenJsonError:
        match = _STRING_START.match(self.text, start)
        end = match.end() if match is not None else start
        if end < len(self.text) and self.text[end] != "\\":
            return BrokenJsonError("a control character or line break inside a text", end)
        return BrokenJsonError("the text is not closed", start)

    def _unexpected(self, wanted: str) -> BrokenJsonError:
        if self.at >= len(self.text):
            return BrokenJsonError(f"the document ends where {wanted} is expected", self.at)
        return BrokenJsonError(f"expected {wanted}, found {self.text[self.at]!r}", self.at)


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _number(match: re.Match[str]) -> int | float:
    text = match.group()
    exact = match.group(1) is None and match.group(2) is None and len(text) <= _EXACT_DIGITS
    return int(text) if exact else float(text)
