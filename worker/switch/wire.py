"""Kazoo's wire words as the far side of the broker speaks them.

Deliberately not shared with `worker.kapi`: a mistake made there must not be undone by the same
mistake here. Pure.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import erlang

GREGORIAN_EPOCH_S = 62_167_219_200
"""Seconds from year 0 to 1970 (contract §1.3)."""
JSON_TYPE = "application/json"

PAIR = 2

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~")
_PID = re.compile(r"<\d+\.\d+\.\d+>\Z")

Payload = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """One message the switch consumed. ``queue`` says which part of Kazoo consumed it."""

    queue: str
    exchange: str
    routing_key: str
    body: bytes
    content_type: str = JSON_TYPE
    headers: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One message the switch publishes; its AMQP timestamp is the shell's affair."""

    exchange: str
    routing_key: str
    payload: Payload
    headers: Mapping[str, object] = field(default_factory=dict)
    mandatory: bool = False


class DroppedError(Exception):
    """The message has no effect, as with the real platform; ``crash``: a listener died of it."""

    def __init__(self, reason: str, *, crash: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.crash = crash


class ResultError(Exception):
    """The Result of an action.result cannot be decoded (contract §2.5: crashes the action)."""


def encode(segment: str) -> str:
    """One routing-key segment (contract §1.4)."""
    if segment in {"*", "#"}:
        return segment
    return "".join(
        chr(byte) if byte in _PLAIN else "+" if byte == ord(" ") else f"%{byte:02X}"
        for byte in segment.encode()
    )


def address(pid: str, queue: str) -> str:
    """A ``pid://`` address (contract §1.5)."""
    return f"pid://{pid}/{queue}"


def split_address(text: str) -> tuple[str, dict[str, object]]:
    """Queue name and AMQP headers of a Server-ID (contract §1.5)."""
    if not text.startswith("pid://"):
        return text, {}
    pid, _, queue = text.removeprefix("pid://").rpartition("/")
    return queue, {"Deliver-To-PID": pid}


def recipient(message: Incoming) -> str:
    """The pid a message is for. Raises DroppedError as Kazoo's listeners drop (contract §1.5)."""
    pid = message.headers.get("Deliver-To-PID")
    if isinstance(pid, bytes | bytearray):
        pid = pid.decode(errors="replace")
    if not pid:
        raise DroppedError("no Deliver-To-PID header")
    if not isinstance(pid, str) or not _PID.match(pid):
        raise DroppedError(f"unparsable Deliver-To-PID {pid!r}", crash=True)
    return pid


def parse(message: Incoming) -> Payload:
    """The JSON object of a message. Raises DroppedError (contract §1.3)."""
    if message.content_type != JSON_TYPE:
        raise DroppedError(f"content type {message.content_type!r}", crash=True)
    try:
        payload = json.loads(message.body)
    except ValueError:
        raise DroppedError("not JSON", crash=True) from None
    if not isinstance(payload, dict):
        raise DroppedError("not a JSON object", crash=True)
    missing = [name for name in ENVELOPE if not payload.get(name)]
    if missing:
        raise DroppedError(f"missing {', '.join(missing)}")
    texts = (*ENVELOPE, "Server-ID")
    wrong = [name for name in texts if not isinstance(payload.get(name, ""), str)]
    if wrong:
        raise DroppedError(f"not text: {', '.join(wrong)}")
    return payload


ENVELOPE = ("App-Name", "App-Version", "Event-Category", "Event-Name", "Msg-ID")
"""Required of every message (contract §1.6)."""


def text(payload: Mapping[str, object], name: str) -> str:
    """A text field, ``""`` when absent or of another type."""
    value = payload.get(name)
    return value if isinstance(value, str) else ""


def table(payload: Mapping[str, object], name: str) -> Payload:
    """An object field, empty when absent or of another type."""
    value = payload.get(name)
    return value if isinstance(value, dict) else {}


def gregorian_s(now_ms: int) -> int:
    """Unix milliseconds as Kazoo's gregorian seconds."""
    return now_ms // 1000 + GREGORIAN_EPOCH_S


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowResult:
    """The decoded term of an action.result. ``argument``: child key or hangup cause."""

    verdict: str
    argument: str | None = None

    def __str__(self) -> str:
        return self.verdict if self.argument is None else f"{{{self.verdict}, {self.argument}}}"


def decode_result(encoded: object) -> FlowResult:
    """Read a Result (contract §2.5). Unknown terms act as *continue*. Raises ResultError."""
    if not isinstance(encoded, str):
        raise ResultError("no Result")
    try:
        term = erlang.binary_to_term(base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError, erlang.ParseException) as error:
        raise ResultError(f"undecodable Result: {error}") from None
    if isinstance(term, tuple) and len(term) == PAIR:
        verdict, argument = _name(term[0]), _name(term[1])
        if verdict in {"continue", "stop"} and argument:
            return FlowResult(verdict=verdict, argument=argument)
        if verdict == "continue_with_flow":
            return FlowResult(verdict=verdict)
    verdict = _name(term)
    known = {"continue", "stop", "transfer", "usurp", "hard_stop"}
    return FlowResult(verdict=verdict if verdict in known else "continue")


def _name(term: object) -> str:
    value = getattr(term, "value", term)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else ""
