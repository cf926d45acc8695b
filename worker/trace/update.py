"""``replay --update``: the recording again, holding what replay says now."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from worker import __version__
from worker.kapi.exchanges import Exchange
from worker.parking.model import SessionId
from worker.parking.slot_view import subject_of
from worker.parking.slot_wire import record_from_plain
from worker.trace.config_plain import merged
from worker.trace.effects import SLOT_LOG, Effect, recorded_effect
from worker.trace.journal_replay import JournalReplay
from worker.trace.lines import (
    Ended,
    Head,
    JournalLine,
    Line,
    LogRecord,
    Message,
    Trace,
    as_object,
    head_bytes,
    line_bytes,
)
from worker.trace.replay import ReplayResult
from worker.trace.survey import survey

Plain = Mapping[str, object]


def update_trace(path: Path, trace: Trace, result: ReplayResult, overrides: Plain) -> None:
    """Rewrite the file: inputs as they were (quoting replay's ids), effects as replay says them.

    An effect that both sides have keeps its place and time."""
    settings = merged(trace.head.settings, overrides)
    head: Head = replace(trace.head, settings=settings, kzpark=__version__, source="update")
    found = survey(trace)
    nodes = set(found.nodes)
    twins = {recorded.line: replayed for recorded, replayed in result.pairs}
    kept: list[Line] = []
    for line in trace.lines:
        if not _is_said(line, nodes, found.executes):
            kept.append(_translated(line, result.ids) if isinstance(line, Message) else line)
        elif line.number in twins:
            kept.append(_line_of(twins[line.number], getattr(line, "at_ms", 0)))
    paired = {id(effect) for effect in twins.values()}
    news = [_line_of(e, e.at_ms) for e in result.said if id(e) not in paired]
    body = [head_bytes(head)]
    body += [line_bytes(line, n) for n, line in enumerate(_merged(kept, news), 1)]
    _replace(path, b"".join(body))


def _is_said(line: Line, nodes: set[str], executes: set[SessionId]) -> bool:
    """Whether a worker said it: replay will."""
    if isinstance(line, LogRecord):
        return subject_of(line.record) in executes
    if not isinstance(line, Message) or line.exchange == Exchange.KAPPS:
        return False
    return recorded_effect(line) is not None and line.text("Node") in nodes


def _merged(kept: list[Line], news: list[Line]) -> Iterator[Line]:
    """By time; what is new at the same millisecond comes after."""
    waiting = deque(sorted(news, key=lambda line: getattr(line, "at_ms", 0)))
    for line in kept:
        at_ms = getattr(line, "at_ms", 0)
        while waiting and (isinstance(line, Ended) or getattr(waiting[0], "at_ms", 0) < at_ms):
            yield waiting.popleft()
        yield line
    yield from waiting


def _translated(line: Message, ids: Mapping[str, str]) -> Message:
    quoted = {
        name: ids[line.text(name)]
        for name in ("Msg-ID", "Application-Response")
        if line.exchange != Exchange.KAPPS and line.text(name) in ids
    }
    return replace(line, payload={**(line.payload or {}), **quoted}) if quoted else line


def _line_of(effect: Effect, at_ms: int) -> Line:
    if effect.exchange == SLOT_LOG:
        return LogRecord(at_ms=at_ms, offset=0, record=record_from_plain(effect.payload))
    return Message(
        at_ms=at_ms,
        exchange=effect.exchange,
        key=effect.key,
        headers=effect.headers,
        payload=effect.payload,
    )


def update_journal(path: Path, run: JournalReplay) -> None:
    """Rewrite a journal's operations with those replay made."""
    rows = path.read_bytes().splitlines()
    kept: list[bytes] = []
    replayed = iter(run.replayed)
    done = next(replayed, None)
    for number, row in enumerate(rows, 1):
        plain = as_object(row)
        if plain is None or plain.get("kind") == "op":
            continue
        kept.append(row + b"\n")
        while done is not None and done.line <= number:
            kept.append(line_bytes(JournalLine(kind="op", fields=done.plain)))
            done = next(replayed, None)
    _replace(path, b"".join(kept))


def _replace(path: Path, content: bytes) -> None:
    new = path.with_name(f".{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    new.chmod(path.stat().st_mode & 0o777)
    new.replace(path)
