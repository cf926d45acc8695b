"""What the numbers and patterns of a flow can make of a slot.

The platform hands the park module the text a pattern's group captured (contract §2.3). Patterns
are PCRE; only those plain enough to be certain about are read, anything else "can capture" all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

FIRST_AUTOMATIC_SLOT = 101

_PLAIN = re.compile(
    r"(?:[A-Za-z0-9#_]|\\[dw*+.#]|\.|\[\^?[A-Za-z0-9*#_-]+\]|[*+?]|\{[0-9]{1,3}(?:,[0-9]{0,3})?\}|\|)*+"
)
_REPEATS = re.compile(r"[*+?{]")
_MAX_REPEATS = 3
_MAX_SLOT_LENGTH = 64
_MAX_PATTERN_LENGTH = 512
_OPTIONAL = re.compile(r"[?*]|\{0|\{,")
_NAMED = re.compile(r"\(\?P?<[A-Za-z_][A-Za-z0-9_]*>")
_CLASS = re.compile(r"\[\^?\]?[^\]\[\\]*(?:\\.[^\]\[\\]*)*\]")
_PLAIN_ESCAPES = frozenset("dDwWsS^$.|?*+()[]{}/\\#-_ @%&=:!~,")


@dataclass(frozen=True, slots=True)
class Group:
    """A capture group. ``optional``: the pattern matches without it, too."""

    source: str
    optional: bool


@dataclass(frozen=True, slots=True)
class Flow:
    """How callers get into a flow. Nothing at all: unknown, everything is possible."""

    numbers: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()

    def can_reach(self, slot: str) -> bool:
        """False only when no number or pattern of the flow can lead to ``slot``."""
        if not self.numbers and not self.patterns:
            return True
        if any(_captures(pattern, slot) for pattern in self.patterns):
            return True
        automatic = bool(self.numbers) or any(_without_capture(p) for p in self.patterns)
        return automatic and is_automatic(slot)


def is_automatic(slot: str) -> bool:
    """Whether the lowest free number from 101 can ever be ``slot``."""
    first = str(FIRST_AUTOMATIC_SLOT)
    plain = slot.isascii() and slot.isdigit() and not slot.startswith("0")
    return plain and (len(slot), slot) >= (len(first), first)


def _captures(pattern: str, slot: str) -> bool:
    groups = read_groups(pattern)
    return groups is None or any(_can_be(group.source, slot) for group in groups)


def _without_capture(pattern: str) -> bool:
    groups = read_groups(pattern)
    return groups is None or all(group.optional or _can_be(group.source, "") for group in groups)


@lru_cache(maxsize=1024)
def _can_be(source: str, text: str) -> bool:
    """Whether a group's source matches ``text``; True when that is not certain."""
    if len(text) > _MAX_SLOT_LENGTH or "--" in source or not _PLAIN.fullmatch(source):
        return True
    if len(_REPEATS.findall(source)) > _MAX_REPEATS:
        return True
    try:
        return re.fullmatch(source, text, re.ASCII) is not None
    except (re.error, OverflowError):
        return True


@lru_cache(maxsize=1024)
def read_groups(pattern: str) -> tuple[Group, ...] | None:
    """The capture groups of a pattern; None: too clever to be certain about."""
    if len(pattern) > _MAX_PATTERN_LENGTH:
        return None
    return _GroupReader(pattern).read()


class _GroupReader:
    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0
        self.open: list[tuple[int | None, int]] = []
        """Of each open parenthesis: where its source starts (None: captures nothing) and how many
        groups were complete before it."""
        self.groups: list[Group] = []
        self.choice = False
        """An alternative outside all groups: the other branch may capture nothing."""

    def read(self) -> tuple[Group, ...] | None:
        while self.at < len(self.pattern):
            if not self._step(self.pattern[self.at]):
                return None
        if self.open:
            return None
        if self.choice:
            return tuple(Group(group.source, True) for group in self.groups)
        return tuple(self.groups)

    def _step(self, char: str) -> bool:
        if char == "\\":
            return self._escape()
        if char == "[":
            return self._class()
        if char == "(":
            return self._enter()
        if char == ")":
            return self._leave()
        if char == "|" and all(start is None for start, _ in self.open):
            self.choice = True
        self.at += 1
        return True

    def _escape(self) -> bool:
        known = self.pattern[self.at + 1 : self.at + 2] in _PLAIN_ESCAPES
        self.at += 2
        return known and self.at <= len(self.pattern)

    def _class(self) -> bool:
        match = _CLASS.match(self.pattern, self.at)
        if match is None:
            return False
        self.at = match.end()
        return True

    def _enter(self) -> bool:
        named = _NAMED.match(self.pattern, self.at)
        if named is not None:
            self.at = named.end()
        elif self.pattern.startswith("(?:", self.at):
            self.at += 3
            self.open.append((None, len(self.groups)))
            return True
        elif self.pattern.startswith(("(?", "(*"), self.at):
            return False
        else:
            self.at += 1
        self.open.append((self.at, len(self.groups)))
        return True

    def _leave(self) -> bool:
        if not self.open:
            return False
        start, inside = self.open.pop()
        end = self.at
        self.at += 1
        optional = _OPTIONAL.match(self.pattern, self.at) is not None
        source = None if start is None else self.pattern[start:end]
        if optional or (source is not None and "|" in source):
            inner = [Group(group.source, True) for group in self.groups[inside:]]
            self.groups[inside:] = inner
        if source is not None:
            self.groups.append(Group(source, optional))
        return True
