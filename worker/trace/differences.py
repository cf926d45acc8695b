"""What differs between what was recorded and what replay says, in words people can use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

Plain = Mapping[str, object]


class Kind(Enum):
    """The sort of a difference."""

    MISSING = "missing"
    """The trace has it, replay does not say it."""
    UNEXPECTED = "unexpected"
    """Replay says it, the trace does not have it."""
    CHANGED = "changed"
    """Both have it, with other content."""
    ORDER = "order"
    """Both have it, at another place of its channel."""
    LATE = "late"
    """The trace has it later than its cause and the allowance."""
    EARLY = "early"
    """The trace has it before replay's timer, by more than the allowance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """``pointer``: JSON pointer of a field. None: the side has no such field."""

    pointer: str
    recorded: object = None
    replayed: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One difference. ``subject`` names the message, such as ``hold to call a@b``."""

    kind: Kind
    subject: str
    at_ms: int
    """Milliseconds since the trace began."""
    channel: str = ""
    line: int = 0
    """Line in the trace, 0 when it has none."""
    recorded: Plain | None = None
    replayed: Plain | None = None
    recorded_at_ms: int | None = None
    replayed_at_ms: int | None = None
    fields: tuple[FieldChange, ...] = ()
    reason: str = ""
    """Why replay says it, where it tells: of lamps."""

    def __str__(self) -> str:
        where = f" (line {self.line})" if self.line else ""
        text = f"{self.at_ms / 1000:.3f} s: {self.kind.value}: {self.subject}{where}"
        if self.fields:
            named = ", ".join(change.pointer for change in self.fields)
            text += f": {named}"
        return text


def field_changes(
    recorded: object, replayed: object, *, pointer: str = "", ignore: frozenset[str] = frozenset()
) -> Iterator[FieldChange]:
    """Where two JSON values differ. ``ignore``: pointers that may differ."""
    if pointer in ignore:
        return
    if isinstance(recorded, Mapping) and isinstance(replayed, Mapping):
        for name in sorted({*recorded, *replayed}, key=str):
            place = f"{pointer}/{_escaped(str(name))}"
            if name in recorded and name in replayed:
                yield from field_changes(
                    recorded[name], replayed[name], pointer=place, ignore=ignore
                )
            elif place not in ignore:
                yield FieldChange(
                    pointer=place, recorded=recorded.get(name), replayed=replayed.get(name)
                )
    elif isinstance(recorded, list) and isinstance(replayed, list):
        if len(recorded) != len(replayed):
            yield FieldChange(pointer=pointer, recorded=recorded, replayed=replayed)
            return
        for number, (left, right) in enumerate(zip(recorded, replayed, strict=True)):
            yield from field_changes(left, right, pointer=f"{pointer}/{number}", ignore=ignore)
    elif recorded != replayed or type(recorded) is not type(replayed):
        yield FieldChange(pointer=pointer, recorded=recorded, replayed=replayed)


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
