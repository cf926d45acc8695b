"""Recordings of the platform's own module: one JSON file with ``messages`` and ``outcome``.

``messages`` in order, each with ``t_ms`` (since the start), ``exchange``, ``routing_key``,
``properties.headers`` and ``payload``; ``outcome`` per call: what the module told its flow, which
is not on the wire.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from worker.trace.lines import Message, NotATraceError, Trace

Plain = Mapping[str, object]

BASE_MS: Final = 1_800_000_000_000
"""Where such a recording's clock begins: only differences of times matter."""
LONGEST_MS: Final = 86_400_000
_BINARY: Final = re.compile(r'<<"(.*)">>', re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the module told the flow of a call: ``continue``, ``continue 908``, ``stop``, …"""

    at_ms: int
    call_id: str
    result: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One file. ``outcomes`` None: the recording does not tell."""

    name: str
    messages: tuple[Message, ...]
    outcomes: tuple[Outcome, ...] | None


def read_recording(path: Path) -> Recording:
    """Raises NotATraceError."""
    try:
        document = orjson.loads(path.read_bytes())
    except OSError as error:
        raise NotATraceError(f"{path}: cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise NotATraceError(f"{path}: not a recording: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("messages"), list):
        raise NotATraceError(f"{path}: not a recording (no messages)")
    messages = [_message(item, number) for number, item in enumerate(document["messages"], 1)]
    return Recording(
        name=str(document.get("name") or path.stem),
        messages=tuple(message for message in messages if message is not None),
        outcomes=_outcomes(document.get("outcome")),
    )


def _message(item: object, number: int) -> Message | None:
    if not isinstance(item, dict) or not isinstance(item.get("payload"), dict):
        return None
    properties = item.get("properties")
    headers = properties.get("headers") if isinstance(properties, dict) else {}
    at_ms = BASE_MS + _ms(item.get("t_ms"))
    return Message(
        at_ms=at_ms,
        exchange=str(item.get("exchange")),
        key=str(item.get("routing_key")),
        payload=item["payload"],
        headers=headers if isinstance(headers, dict) else {},
        sent_at_ms=at_ms,
        number=number,
    )


def _ms(value: object) -> int:
    return int(value) if isinstance(value, int | float) and 0 <= value <= LONGEST_MS else 0


def _outcomes(value: object) -> tuple[Outcome, ...] | None:
    """The first outcome of each call: what follows it is the flow's own end."""
    if not isinstance(value, list):
        return None
    found: dict[str, Outcome] = {}
    for item in value:
        if not isinstance(item, dict):
            continue
        arguments = item.get("args")
        words = [str(item.get("outcome"))]
        words += [_text(one) for one in arguments] if isinstance(arguments, list) else []
        call_id = str(item.get("call_id"))
        outcome = Outcome(
            at_ms=BASE_MS + _ms(item.get("t_ms")), call_id=call_id, result=" ".join(words)
        )
        found.setdefault(call_id, outcome)
    return tuple(found.values())


def _text(value: object) -> str:
    match = _BINARY.fullmatch(str(value))
    return match[1] if match else str(value)


def messages_of(trace: Trace) -> Iterator[Message]:
    """The messages of a trace of ``record --routes``, but for those whose time is nonsense."""
    first_ms: int | None = None
    for line in trace.lines:
        if isinstance(line, Message):
            first_ms = line.at_ms if first_ms is None else first_ms
            if first_ms <= line.at_ms <= first_ms + 31 * LONGEST_MS:
                yield line
