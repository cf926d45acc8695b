"""The demo's picture: what went over the wire, and what each phone shows."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from worker.switch import REALM, Line, Switch
from worker.switch.callflow import LATE_RESULT
from worker.switch.wire import ResultError, decode_result

LAMPS = {
    "off": "[dim]○ off[/]",
    "early": "[bold red]● blinking[/]",
    "confirmed": "[bold red]● lit[/]",
    "blank": "[bold magenta]? blank[/]",
}
COMMANDS = {
    "answer": "answer the call",
    "hold": "play hold music, now",
    "break": "stop what plays",
    "queue": "play a prompt",
    "say": "say the slot's number",
    "set": "set the callee shown",
    "bridge": "ring the parker",
    "call_pickup": "connect to the parked call",
    "hangup": "hang up",
    "park": "park in silence",
}
EVENTS = {
    "CHANNEL_ANSWER": "answered",
    "CHANNEL_BRIDGE": "talks to",
    "CHANNEL_INTERCEPTED": "was picked up by",
    "CHANNEL_UNBRIDGE": "no longer talks to",
    "CHANNEL_DESTROY": "hung up",
}


@dataclass(slots=True)
class Timeline:
    """Prints one line per message that matters. ``people``: call id → who that is."""

    console: Console
    switch: Switch
    slots: tuple[str, ...]
    people: dict[str, str] = field(default_factory=dict)
    _started_ms: int | None = None
    _lamps: dict[str, str] = field(default_factory=dict)

    def scene(self, number: int, title: str) -> None:
        self.console.print()
        self.console.rule(f"[bold]{number}. {escape(title)}[/]", align="left")

    def say(self, text: str) -> None:
        """What a person does."""
        self.console.print(f"          [bold yellow]{escape(text)}[/]")

    def check(self, fact: str) -> None:
        self.console.print(f"          [green]✓ {escape(fact)}[/]")

    def failed(self, text: str) -> None:
        self.console.print(f"          [bold red]✗ {escape(text)}[/]")

    def line(self, line: Line) -> None:
        """One message, if it tells something; then the lamps it changed."""
        if self._started_ms is None:
            self._started_ms = line.at_ms
        told = self._told(line)
        if told:
            who, colour, text = told
            seconds = (line.at_ms - self._started_ms) / 1000
            mark = _mark(line)
            self.console.print(
                f"[dim]{seconds:7.3f}[/]  [{colour}]{who:<17}[/] {text}{mark}", highlight=False
            )
        self._show_lamps()

    def _told(self, line: Line) -> tuple[str, str, str] | None:
        payload, name = line.payload, line.name
        if payload.get("Call-ID") not in self.switch.core.channels.by_id:
            return None  # a real call on the same broker
        who = escape(self._person(payload.get("Call-ID")))
        if line.exchange == "kapps":
            return "callflow → worker", "cyan", f"action.execute: {who} is at the park node"
        if line.exchange == "callctl":
            return "worker → switch", "blue", f"{name}: {COMMANDS.get(name, '')} [dim]({who})[/]"
        if name == "action.accepted":
            return "worker → callflow", "cyan", f"accepted [dim]({who})[/]"
        if name == "action.result":
            text = f"result [bold]{_result(payload)}[/] [dim]({who})[/]"
            return "worker → callflow", "cyan", text
        if name.startswith("PARK_"):
            slot = escape(str(payload.get("Parking-Slot")))
            return "worker → everyone", "magenta", f"{name} slot {slot} [dim]({who})[/]"
        if name == "dialog_update":
            lamp = escape(str(payload.get("From-User")))
            return "worker → phones", "red", f"lamp {lamp}: {payload.get('State')}"
        if line.exchange == "callevt" and name in EVENTS:
            other = payload.get("Other-Leg-Call-ID")
            whom = escape(self._person(other)) if other else ""
            return "switch → worker", "yellow", f"{name}: {who} {EVENTS[name]} {whom}".rstrip()
        return None

    def _person(self, call_id: object) -> str:
        if not isinstance(call_id, str):
            return "?"
        for device in self.switch.core.devices.values():
            if call_id in device.legs:
                return device.name
        return self.people.get(call_id, call_id)

    def _show_lamps(self) -> None:
        now = {slot: self.switch.lamp(f"{slot}@{REALM}") for slot in self.slots}
        if now != self._lamps and self._lamps:
            shown = "   ".join(f"{slot} {LAMPS[state]}" for slot, state in now.items())
            self.console.print(f"          [dim]phones' lamps:[/] {shown}")
        self._lamps = now

    def phones(self) -> None:
        """Display and lamps of every phone."""
        table = Table("phone", "display", *(f"lamp {slot}" for slot in self.slots), box=None)
        lamps = [LAMPS[self.switch.lamp(f"{slot}@{REALM}")] for slot in self.slots]
        for device in self.switch.core.devices.values():
            display = escape(device.screen) if device.screen else "[dim]idle[/]"
            table.add_row(f"{device.name} {device.number}", display, *lamps)
        self.console.print(Padding(table, (0, 0, 0, 9)))


def _mark(line: Line) -> str:
    """Why a message had no effect. A result for a call that hung up meanwhile is harmless."""
    if not line.dropped:
        return ""
    if line.dropped.startswith(LATE_RESULT):
        return " [dim](the call is gone already)[/]"
    return f" [bold red]dropped: {escape(line.dropped)}[/]"


def _result(payload: dict[str, object]) -> str:
    try:
        return escape(str(decode_result(payload.get("Result"))))
    except ResultError as error:
        return f"undecodable: {escape(str(error))}"
