"""Callflow documents for shadow mode: which number leads to which park node.

A flow's node data is not on the wire when the platform's own module parks, so it is taken from the
documents: exports of Crossbar, one flow, a list of flows, or ``{"data": [...]}`` around either.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from worker.errors import UsageError

Plain = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkFlow:
    """A flow whose root node is a park node. ``account`` empty: of any account."""

    id: str
    numbers: tuple[str, ...]
    patterns: tuple[re.Pattern[str], ...]
    data: Plain
    children: tuple[str, ...]
    account: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A dialled number's flow and what its pattern captured."""

    flow: ParkFlow
    capture: str = ""


@dataclass(slots=True)
class Callflows:
    """All known flows, and the devices behind SIP users (for who parked a call)."""

    flows: list[ParkFlow] = field(default_factory=list)
    devices: dict[str, str] = field(default_factory=dict)

    def find(self, account: str, number: str) -> Match | None:
        """The flow a number leads to: one that lists it, else one whose pattern matches."""
        mine = [flow for flow in self.flows if flow.account in ("", account)]
        for flow in mine:
            if number in flow.numbers:
                return Match(flow=flow)
        for flow in mine:
            for pattern in flow.patterns:
                found = pattern.search(number)
                if found:
                    captured = found.group(1) if found.re.groups else ""
                    return Match(flow=flow, capture=captured or "")
        return None


def read_callflows(paths: Iterable[Path]) -> Callflows:
    """Every park flow in these files and folders. Raises UsageError for what cannot be read."""
    found = Callflows()
    for path in paths:
        files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
        for file in files:
            try:
                document = orjson.loads(file.read_bytes())
            except (OSError, orjson.JSONDecodeError) as error:
                raise UsageError(f"{file}: cannot be read as JSON: {error}") from error
            add_document(found, document)
    return found


def add_document(found: Callflows, document: object) -> None:
    """Take the flows, and a ``devices`` object (SIP user → device id), out of one document."""
    for one in _documents(document):
        devices = one.get("devices")
        if isinstance(devices, dict):
            found.devices |= {str(user): str(device) for user, device in devices.items()}
        flow = _park_flow(one)
        if flow is not None:
            found.flows.append(flow)


def _documents(value: object) -> Iterator[Plain]:
    if isinstance(value, list):
        for item in value:
            yield from _documents(item)
    elif isinstance(value, dict):
        yield value
        if "flow" not in value:
            for key in ("data", "callflows", "doc"):
                yield from _documents(value.get(key))


def _park_flow(document: Plain) -> ParkFlow | None:
    node = document.get("flow")
    if not isinstance(node, dict) or node.get("module") != "park":
        return None
    data, children = node.get("data"), node.get("children")
    account = document.get("pvt_account_id") or document.get("account_id") or ""
    return ParkFlow(
        id=str(document.get("id") or document.get("_id") or ""),
        name=str(document.get("name") or ""),
        numbers=_texts(document.get("numbers")),
        patterns=tuple(_patterns(document.get("patterns"))),
        data=data if isinstance(data, dict) else {},
        children=tuple(children) if isinstance(children, dict) else (),
        account=str(account),
    )


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


def _patterns(value: object) -> Iterator[re.Pattern[str]]:
    for text in _texts(value):
        try:
            yield re.compile(text, re.ASCII)
        except re.error:
            continue  # PCRE knows more than Python; such a flow is found by its numbers only
