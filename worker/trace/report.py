"""Differences for people: side by side, with times, on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from worker.trace.differences import Difference, FieldChange, Kind
from worker.trace.journal_replay import JournalReplay
from worker.trace.lines import dump
from worker.trace.replay import ReplayResult

SHOWN_MAX: Final = 20
"""Differences shown in full; what comes later mostly follows from the first ones."""
VALUE_CHARS: Final = 200

_TITLES: Final[Mapping[Kind, str]] = {
    Kind.MISSING: "missing: the trace has it, replay does not",
    Kind.UNEXPECTED: "unexpected: replay has it, the trace does not",
    Kind.CHANGED: "changed",
    Kind.ORDER: "other order",
    Kind.LATE: "later than allowed",
    Kind.EARLY: "earlier than its timer",
}
_BRIEF: Final = (
    "Event-Name",
    "Application-Name",
    "Call-ID",
    "State",
    "Parking-Slot",
    "Result",
    "Presence-ID",
    "Target-Call-ID",
    "Msg-ID",
    "op",
    "event",
    "t",
    "session",
    "slot",
    "reason",
    "key",
)


class Report:
    """Prints to stdout."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=False)

    def recording(self, path: Path, result: ReplayResult) -> None:
        """One replayed recording."""
        parts = [
            f"{result.inputs} inputs",
            f"{result.effects} effects equal" if not result.differences else "",
            f"{result.unseen} not observable" if result.unseen else "",
            f"{result.duration_ms / 1000:.1f} s",
        ]
        self._verdict(path, result.differences, [part for part in parts if part])
        for crash in result.crashes:
            self._console.print(f"  [red]session crashed:[/] {escape(crash)}")

    def journal(self, path: Path, run: JournalReplay) -> None:
        """One replayed journal."""
        parts = [
            f"{run.inputs} inputs",
            f"{len(run.recorded)} operations" + ("" if run.differences else " equal to the byte"),
            f"{(run.last_ms - run.first_ms) / 1000:.1f} s",
        ]
        if run.skipped_inputs:
            parts.append(f"{run.skipped_inputs} inputs of an unknown kind skipped")
        self._verdict(path, tuple(run.differences), parts)

    def _verdict(self, path: Path, found: tuple[Difference, ...], parts: list[str]) -> None:
        said = escape(f"{path}: ") + ("[red]different[/]" if found else "[green]equal[/]")
        details = [f"{len(found)} differences", *parts] if found else parts
        self._console.print(f"{said} ({', '.join(details)})", soft_wrap=True)
        self.differences(found)

    def differences(self, found: Iterable[Difference]) -> None:
        """Each with both sides."""
        listed = list(found)
        for one in listed[:SHOWN_MAX]:
            self._difference(one)
        if len(listed) > SHOWN_MAX:
            more = len(listed) - SHOWN_MAX
            self._console.print(f"  … and {more} more, which may follow from these")

    def _difference(self, one: Difference) -> None:
        place = f" [dim](line {one.line})[/]" if one.line else ""
        title = f"{one.at_ms / 1000:.3f} s  [bold]{_TITLES[one.kind]}[/]: {escape(one.subject)}"
        self._console.print(f"\n  {title}{place}", soft_wrap=True)
        if one.recorded is None and one.replayed is None:
            return
        table = Table("field", _column("trace", one.recorded_at_ms), box=None, padding=(0, 1))
        table.add_column(_column("replay", one.replayed_at_ms))
        for change in one.fields or _brief(one):
            table.add_row(
                escape(change.pointer or "/"), _value(change.recorded), _value(change.replayed)
            )
        self._console.print(table)


def _column(name: str, at_ms: int | None) -> str:
    return name if at_ms is None else f"{name} at {at_ms / 1000:.3f} s"


def _brief(one: Difference) -> list[FieldChange]:
    """The fields that tell what it is, when no field is to blame."""
    left, right = one.recorded or {}, one.replayed or {}
    names = [name for name in _BRIEF if name in left or name in right]
    changes = [
        FieldChange(pointer=f"/{name}", recorded=left.get(name), replayed=right.get(name))
        for name in names
    ]
    return changes or [FieldChange(pointer="/", recorded=one.recorded, replayed=one.replayed)]


def _value(value: object) -> str:
    if value is None:
        return "[dim]-[/]"
    text = value if isinstance(value, str) else dump(value).decode("utf-8", "replace")
    return escape(text if len(text) <= VALUE_CHARS else f"{text[:VALUE_CHARS]}…")
