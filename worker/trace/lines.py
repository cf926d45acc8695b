"""The lines of a trace: one JSON object per line (docs/trace.md, schemas/trace.json).

Readers skip kinds of lines and fields they do not know, so that a trace stays readable when a later
version writes more. A file whose first line is no head is not a trace: NotATraceError (exit 2).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from worker.errors import MalformedMessageError, UsageError
from worker.parking.records import Record
from worker.parking.slot_wire import record_from_plain, record_to_plain

if TYPE_CHECKING:
    from worker.broker.port import Delivery

FORMAT: Final = "kzpark-trace"
VERSION: Final = 1
JSON_TYPE: Final = "application/json"

Plain = dict[str, object]


class NotATraceError(UsageError):
    """The file is no trace, or a part of it that cannot be read without the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The first line. ``source``: who wrote the trace (``record``, ``journal`` or ``update``)."""

    started_at_ms: int
    source: str = "record"
    kzpark: str = ""
    """Version of the program that wrote it."""
    redacted: bool = False
    filters: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    """What a worker's decisions depend on, by the names of `settings.TRACED`."""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message. ``payload`` is its JSON object; a body that is none is in ``body``."""

    at_ms: int
    """The writer's clock, Unix milliseconds."""
    exchange: str
    key: str
    payload: Mapping[str, object] | None = None
    body: bytes = b""
    headers: Mapping[str, object] = field(default_factory=dict)
    sent_at_ms: int | None = None
    """The AMQP timestamp, if there was one that made sense."""
    content_type: str = JSON_TYPE
    number: int = 0
    """Line number in its file; information only."""

    def text(self, name: str) -> str:
        """A field of the payload that is text, else ``""``."""
        value = None if self.payload is None else self.payload.get(name)
        return value if isinstance(value, str) else ""

    @property
    def bytes(self) -> bytes:
        """The body as it can be fed to an engine."""
        return self.body if self.payload is None else dump(self.payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tapped:
    """From here on messages with this key are seen, unless they are for filters to leave out."""

    at_ms: int
    exchange: str
    key: str
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    """A record of the slot log, as it was read back from it."""

    at_ms: int
    offset: int
    record: Record
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TableLine:
    """The slot table when recording began: everything before is in it, nothing after."""

    at_ms: int
    state: Mapping[str, object]
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The writer's last line, with why it ended."""

    at_ms: int
    reason: str
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalLine:
    """A line of a worker's own journal: an input of its engine, an operation, or its state."""

    kind: str
    fields: Mapping[str, object]
    number: int = 0


Line = Message | Tapped | LogRecord | TableLine | Ended | JournalLine
JOURNAL_KINDS: Final = frozenset({"in", "op", "apply", "state"})


def dump(value: object) -> bytes:
    """One JSON text. Text that is no Unicode (lone surrogates) is written as escapes."""
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        return json.dumps(value, separators=(",", ":"), default=str).encode("ascii")


# ---- writing ------------------------------------------------------------------------------------


def head_bytes(head: Head) -> bytes:
    """The head as a line."""
    plain: Plain = {
        "kind": "head",
        "format": FORMAT,
        "version": VERSION,
        "started_at_ms": head.started_at_ms,
        "source": head.source,
        "kzpark": head.kzpark,
        "redacted": head.redacted,
        "filters": dict(head.filters),
        "settings": dict(head.settings),
    }
    if head.note:
        plain["note"] = head.note
    return dump(plain) + b"\n"


def line_bytes(line: Line, n: int | None = None) -> bytes:
    """Any other line. ``n``: its place after the head, so that a lost line is noticed."""
    plain = _plain(line)
    return dump(plain if n is None else {"n": n, **plain}) + b"\n"


def _plain(line: Line) -> Plain:
    match line:
        case Message():
            return _message_plain(line)
        case Tapped():
            key = {"exchange": line.exchange, "key": line.key}
            return {"kind": "tapped", "at_ms": line.at_ms, **key}
        case LogRecord():
            return {
                "kind": "record",
                "at_ms": line.at_ms,
                "offset": line.offset,
                "record": record_to_plain(line.record),
            }
        case TableLine():
            return {"kind": "table", "at_ms": line.at_ms, "state": dict(line.state)}
        case Ended():
            return {"kind": "end", "at_ms": line.at_ms, "reason": line.reason}
        case JournalLine():
            return {"kind": line.kind, **line.fields}


def _message_plain(line: Message) -> Plain:
    plain: Plain = {
        "kind": "message",
        "at_ms": line.at_ms,
        "exchange": line.exchange,
        "key": line.key,
    }
    if line.sent_at_ms is not None:
        plain["sent_at_ms"] = line.sent_at_ms
    if line.content_type != JSON_TYPE:
        plain["content_type"] = line.content_type
    if line.headers:
        plain["headers"] = dict(line.headers)
    if line.payload is None:
        plain["body_base64"] = base64.b64encode(line.body).decode("ascii")
    else:
        plain["payload"] = line.payload
    return plain


def message_of(delivery: Delivery, at_ms: int) -> Message:
    """What was delivered, as a line."""
    payload = as_object(delivery.body)
    return Message(
        at_ms=at_ms,
        exchange=delivery.exchange,
        key=delivery.routing_key,
        payload=payload,
        body=b"" if payload is not None else delivery.body,
        headers=_headers(delivery.headers),
        sent_at_ms=delivery.sent_at_ms,
        content_type=delivery.content_type,
    )


def _headers(headers: Mapping[str, object]) -> dict[str, object]:
    simple = (str, int, float, bool)
    return {name: v if isinstance(v, simple) else str(v) for name, v in headers.items()}


def as_object(body: bytes) -> Plain | None:
    """The JSON object in ``body``; None when it is none."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


# ---- reading ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A whole trace. ``skipped``: lines of a kind or shape that was not understood."""

    head: Head
    lines: tuple[Line, ...]
    skipped: int = 0
    places: tuple[tuple[int, int, int], ...] = ()
    """(n, at_ms, line number) of every line that has an ``n``."""
    path: Path | None = None

    @property
    def is_journal(self) -> bool:
        return self.head.source == "journal"


def read_trace(path: Path) -> Trace:
    """The trace in a file. Raises NotATraceError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise NotATraceError(f"{path}: cannot be read: {error.strerror or error}") from error
    return parse_trace(content.splitlines(), name=str(path), path=path)


def parse_trace(rows: Iterable[bytes], *, name: str = "trace", path: Path | None = None) -> Trace:
    """The trace in these lines. Raises NotATraceError with ``name`` and the line's number."""
    numbered = _objects(rows, name)
    first = next(numbered, None)
    if first is None or first[1].get("kind") != "head" or first[1].get("format") != FORMAT:
        raise NotATraceError(f"{name}: not a kzpark trace (its first line is no head)")
    head = _head(first[1], name)
    lines: list[Line] = []
    skipped = 0
    places: list[tuple[int, int, int]] = []
    for number, plain in numbered:
        if _is_whole(plain.get("n")):
            places.append((_whole(plain, "n"), _whole(plain, "at_ms"), number))
        line = _line(plain, number)
        if line is None:
            skipped += 1
        else:
            lines.append(line)
    return Trace(
        head=head, lines=tuple(lines), skipped=skipped, places=tuple(places), path=path
    )


def _objects(rows: Iterable[bytes], name: str) -> Iterator[tuple[int, Plain]]:
    """Numbered JSON objects. A broken last line is what a killed writer leaves: it is left out."""
    broken = 0
    for number, row in enumerate(rows, 1):
        if not row.strip():
            continue
        if broken:
            raise NotATraceError(f"{name}:{broken}: not a kzpark trace: no JSON object")
        plain = as_object(row)
        if plain is None:
            broken = number
            continue
        yield number, plain
    if broken == 1:
        raise NotATraceError(f"{name}: not a kzpark trace")


def _head(plain: Plain, name: str) -> Head:
    version = plain.get("version")
    if not _is_whole(version):
        raise NotATraceError(f"{name}: not a kzpark trace (its head has no version)")
    return Head(
        started_at_ms=_whole(plain, "started_at_ms"),
        source=_text(plain, "source") or "record",
        kzpark=_text(plain, "kzpark"),
        redacted=plain.get("redacted") is True,
        filters=_object(plain, "filters"),
        settings=_object(plain, "settings"),
        note=_text(plain, "note"),
    )


def _line(plain: Plain, number: int) -> Line | None:
    kind = plain.get("kind")
    at_ms = _whole(plain, "at_ms")
    match kind:
        case "message":
            return _message(plain, at_ms, number)
        case "tapped":
            exchange, key = _text(plain, "exchange"), _text(plain, "key")
            return Tapped(at_ms=at_ms, exchange=exchange, key=key, number=number)
        case "record":
            return _record(plain, at_ms, number)
        case "table":
            return TableLine(at_ms=at_ms, state=_object(plain, "state"), number=number)
        case "end":
            return Ended(at_ms=at_ms, reason=_text(plain, "reason"), number=number)
        case str() if kind in JOURNAL_KINDS:
            fields = {name: value for name, value in plain.items() if name != "kind"}
            return JournalLine(kind=kind, fields=fields, number=number)
        case _:
            return None


def _message(plain: Plain, at_ms: int, number: int) -> Message | None:
    payload = plain.get("payload")
    body = b""
    if not isinstance(payload, dict):
        payload = None
        try:
            body = base64.b64decode(_text(plain, "body_base64"), validate=True)
        except ValueError:
            return None
    sent = plain.get("sent_at_ms")
    return Message(
        at_ms=at_ms,
        exchange=_text(plain, "exchange"),
        key=_text(plain, "key"),
        payload=payload,
        body=body,
        headers=_object(plain, "headers"),
        sent_at_ms=sent if isinstance(sent, int) and not isinstance(sent, bool) else None,
        content_type=_text(plain, "content_type") or JSON_TYPE,
        number=number,
    )


def _record(plain: Plain, at_ms: int, number: int) -> LogRecord | None:
    try:
        record = record_from_plain(_object(plain, "record"))
    except MalformedMessageError:
        return None
    return LogRecord(at_ms=at_ms, offset=_whole(plain, "offset"), record=record, number=number)


def _text(plain: Plain, name: str) -> str:
    value = plain.get(name)
    return value if isinstance(value, str) else ""


def _whole(plain: Plain, name: str) -> int:
    value = plain.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _object(plain: Plain, name: str) -> Plain:
    value = plain.get(name)
    return value if isinstance(value, dict) else {}
