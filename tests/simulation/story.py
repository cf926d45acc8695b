"""What happened in a run, told so that a person can follow it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Line:
    at_ms: int
    actor: str
    text: str
    about: frozenset[str] = frozenset()
    """Calls and sessions it concerns; empty: everybody."""

    def __str__(self) -> str:
        return f"{self.at_ms / 1000:9.3f}  {self.actor:<8} {self.text}"


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that did not hold. ``about``: whose lines to read."""

    at_ms: int
    rule: str
    text: str
    about: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.at_ms / 1000:9.3f}  {self.rule}: {self.text}"


@dataclass(slots=True)
class Story:
    """Lines in order; `told` shows those that matter for one violation."""

    lines: list[Line] = field(default_factory=list)

    def add(self, at_ms: int, actor: str, text: str, about: Iterable[str] = ()) -> None:
        self.lines.append(Line(at_ms, actor, text, frozenset(filter(None, about))))

    def told(self, violation: Violation | None = None) -> str:
        about = violation.about if violation is not None else frozenset()
        chosen = [
            str(line) for line in self.lines if not line.about or not about or line.about & about
        ]
        return "\n".join(chosen)
