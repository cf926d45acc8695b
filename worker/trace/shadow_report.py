"""Disagreements on stdout, for people or as JSON lines."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.markup import escape

from worker.trace.differences import FieldChange, Kind
from worker.trace.lines import dump
from worker.trace.shadow import Disagreement, ShadowResult

VALUE_CHARS: Final = 60
_VERBS: Final = {
    Kind.MISSING: "only Kazoo",
    Kind.UNEXPECTED: "only we",
    Kind.CHANGED: "differs",
    Kind.ORDER: "other order",
    Kind.LATE: "Kazoo later",
    Kind.EARLY: "Kazoo earlier",
}


class ShadowReport:
    """Counts what is not explained. ``as_json``: one object per line."""

    def __init__(self, *, as_json: bool = False, console: Console | None = None) -> None:
        self._as_json = as_json
        self._console = console or Console(highlight=False)
        self.unexplained = 0

    def whole(self, name: str, result: ShadowResult) -> None:
        """A whole recording: its summary, then each disagreement."""
        if not self._as_json:
            self.summary(name, result)
        for one in result.disagreements:
            self.one(one)
        if self._as_json:
            self.summary(name, result)

    def one(self, one: Disagreement) -> None:
        """One disagreement."""
        self.unexplained += not one.row
        difference = one.difference
        if self._as_json:
            self._json(
                {
                    "event": "disagreement",
                    "at_ms": difference.at_ms,
                    "call_id": one.call_id,
                    "kind": difference.kind.value,
                    "subject": difference.subject,
                    "fields": [
                        {"pointer": c.pointer, "kazoo": c.recorded, "we": c.replayed}
                        for c in difference.fields
                    ],
                    "row": one.row or None,
                    "follows": one.follows,
                }
            )
            return
        told = f"[dim]{escape(one.row)}[/]" if one.row else "[bold red]not explained[/]"
        fields = "; ".join(_change(change) for change in difference.fields)
        text = f"{_VERBS[difference.kind]}: {escape(difference.subject)}"
        text += f" ({fields})" if fields else ""
        line = f"  {difference.at_ms / 1000:9.3f} s  {text}  {told}"
        self._console.print(line, soft_wrap=True)

    def summary(self, name: str, result: ShadowResult) -> None:
        """How a run went."""
        unexplained = len(result.unexplained)
        if self._as_json:
            self._json(
                {
                    "event": "summary",
                    "of": name,
                    "parked_calls": result.calls,
                    "other_calls": result.unknown,
                    "agreed": result.agreed,
                    "disagreements": len(result.disagreements),
                    "unexplained": unexplained,
                    "crashes": list(result.crashes),
                }
            )
            return
        color = "red" if unexplained else "green"
        explained = len(result.disagreements) - unexplained
        self._console.print(
            f"{escape(name)}: {result.calls} calls at a park node, {result.agreed} actions alike, "
            f"{explained} differences explained, [{color}]{unexplained} not explained[/]",
            soft_wrap=True,
        )
        for crash in result.crashes:
            self._console.print(f"  [red]session crashed:[/] {escape(crash)}")

    def _json(self, value: dict[str, object]) -> None:
        self._console.file.write(dump(value).decode("utf-8", "replace") + "\n")
        self._console.file.flush()


def _change(change: FieldChange) -> str:
    kazoo, we = _short(change.recorded), _short(change.replayed)
    return escape(f"{change.pointer}: Kazoo {kazoo}, we {we}")


def _short(value: object) -> str:
    text = "nothing" if value is None else dump(value).decode("utf-8", "replace")
    return text if len(text) <= VALUE_CHARS else f"{text[:VALUE_CHARS]}…"
