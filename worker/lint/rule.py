"""What a rule is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from worker.lint.documents import Park
from worker.lint.scan import Path


class Severity(StrEnum):
    """Error: it does not work. Warning: it works, but hardly as meant."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Hit:
    """One place where a rule is broken."""

    path: Path
    message: str
    fix: str = ""
    """What to do here; empty: what the rule says."""
    key: bool = False
    """The key at ``path`` is meant rather than its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row of the table in docs/rules.md."""

    id: str
    severity: Severity
    title: str
    why: str
    fix: str
    bad: str
    """A JSON text with exactly this finding."""
    good: str
    """The same, put right: no finding at all."""
    check: Callable[[Park], Iterator[Hit]] | None = None
    """None: found while reading, not by looking at one park node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A hit with its place in a file. Line and column count from 1, columns in characters."""

    file: str
    line: int
    column: int
    pointer: str
    rule: str
    severity: Severity
    message: str
    fix: str
