"""Replay of a worker's own journal: the same inputs must give the same operations to the byte."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Final, cast

import orjson

from worker.engine.config import EngineConfig
from worker.engine.engine import Engine
from worker.errors import MalformedMessageError
from worker.parking.model import CallId, WorkerId
from worker.parking.slot_wire import record_from_plain
from worker.parking.slots import SlotTable
from worker.trace.checkpoint import CheckpointError, load_engine
from worker.trace.config_plain import config_from_plain
from worker.trace.differences import Difference, FieldChange, Kind, field_changes
from worker.trace.lines import JournalLine, NotATraceError, Trace, dump
from worker.trace.plain_ops import change_from_plain, op_to_plain, publish_from_plain

Plain = Mapping[str, object]

SHOWN_AROUND: Final = 200
"""Operations compared at once when two long runs differ: keeps the diff fast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """One operation and the input it came of."""

    plain: Plain
    text: bytes
    at_ms: int
    line: int
    cause: str


@dataclass(slots=True)
class JournalReplay:
    """What came of it. ``skipped_inputs``: inputs this version does not know."""

    recorded: list[_Done] = field(default_factory=list)
    replayed: list[_Done] = field(default_factory=list)
    inputs: int = 0
    skipped_inputs: int = 0
    first_ms: int = 0
    last_ms: int = 0
    differences: list[Difference] = field(default_factory=list)


def replay_journal(trace: Trace) -> JournalReplay:
    """Feed a journal's inputs to an engine. Raises NotATraceError when its state is of no use."""
    run = JournalReplay()
    engine, table, rest = _restored(trace)
    at_ms, cause = trace.head.started_at_ms, "start"
    run.first_ms = at_ms
    for line in rest:
        at_ms = _whole(line.fields, "at_ms") or at_ms
        cause = str(line.fields.get("call") or cause)
        try:
            _step(run, engine, table, line, at_ms=at_ms, cause=cause)
        except (MalformedMessageError, TypeError, ValueError, AttributeError, KeyError) as error:
            where = f"{trace.path}:{line.number}"
            raise NotATraceError(f"{where}: not a line of a journal: {error}") from error
    run.last_ms = at_ms
    run.differences = list(_compare(run))
    return run


def _step(
    run: JournalReplay,
    engine: Engine,
    table: SlotTable,
    line: JournalLine,
    *,
    at_ms: int,
    cause: str,
) -> None:
    match line.kind:
        case "apply":
            _apply(table, line)
        case "in":
            run.inputs += 1
            if not _feed(engine, line, at_ms):
                run.skipped_inputs += 1
            plains = [op_to_plain(op) for op in engine.take_ops()]
            run.replayed += [_done(plain, at_ms, line.number, cause) for plain in plains]
        case "op":
            run.recorded.append(_done(line.fields, at_ms, line.number, cause))


def _done(plain: Plain, at_ms: int, line: int, cause: str) -> _Done:
    # Through JSON and back, so that both sides are plain values.
    text = dump(plain)
    return _Done(plain=orjson.loads(text), text=text, at_ms=at_ms, line=line, cause=cause)


def _restored(trace: Trace) -> tuple[Engine, SlotTable, Iterator[JournalLine]]:
    lines = iter([line for line in trace.lines if isinstance(line, JournalLine)])
    first = next(lines, None)
    base = EngineConfig(worker=WorkerId("w"), node="kzpark@replay", inbox="inbox")
    config = config_from_plain(trace.head.settings, base)
    table = SlotTable(loads=orjson.loads)
    if first is None or first.kind != "state":
        raise NotATraceError(f"{trace.path}: the journal does not begin with a state")
    state = first.fields.get("engine_base64")
    if not isinstance(state, str):
        raise NotATraceError(f"{trace.path}: no state was written: {first.fields.get('error')}")
    try:
        table.restore(first.fields.get("table"))
        engine = load_engine(base64.b64decode(state), config, table)
    except (MalformedMessageError, CheckpointError, ValueError) as error:
        version = trace.head.kzpark
        raise NotATraceError(f"{trace.path}: written by kzpark {version}: {error}") from error
    return engine, table, lines


def _apply(table: SlotTable, line: JournalLine) -> None:
    try:
        if "restore" in line.fields:
            table.restore(line.fields["restore"])
        elif "reset" in line.fields:
            table.reset()
        else:
            record = record_from_plain(cast("Plain", line.fields.get("record") or {}))
            table.apply(_whole(line.fields, "offset"), record)
    except MalformedMessageError:
        pass  # what the worker could not read had no effect there either


def _feed(engine: Engine, line: JournalLine, now_ms: int) -> bool:
    fields = line.fields
    match fields.get("call"):
        case "tick":
            engine.tick(now_ms)
        case "execute":
            sent = fields.get("sent_at_ms")
            engine.execute(
                _body(fields),
                tag=_whole(fields, "tag"),
                sent_at_ms=sent if isinstance(sent, int) else None,
                redelivered=fields.get("redelivered") is True,
                exchange=str(fields.get("exchange")),
                routing_key=str(fields.get("key")),
                now_ms=now_ms,
            )
        case "message":
            engine.message(
                _body(fields),
                exchange=str(fields.get("exchange")),
                routing_key=str(fields.get("key")),
                now_ms=now_ms,
            )
        case "bound":
            engine.bound(CallId(str(fields.get("call_id"))), now_ms)
        case "returned":
            engine.returned(publish_from_plain(cast("Plain", fields.get("op") or {})), now_ms)
        case "applied":
            changes = cast("list[Plain]", fields.get("changes") or [])
            engine.applied([change_from_plain(change) for change in changes], now_ms)
        case "let_go_of_others":
            engine.let_go_of_others()
        case "links_lost":
            engine.links_lost()
        case "resume":
            engine.resume(now_ms)
        case _:
            return False
    return True


def _body(fields: Plain) -> bytes:
    text = fields.get("body")
    if isinstance(text, str):
        return text.encode("utf-8")
    return base64.b64decode(str(fields.get("body_base64") or ""))


def _whole(fields: Plain, name: str) -> int:
    value = fields.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


# ---- comparing ----------------------------------------------------------------------------------


def _compare(run: JournalReplay) -> Iterator[Difference]:
    """Both sequences must be the same; a killed worker may not have written its last ones."""
    recorded, replayed = run.recorded, run.replayed
    start = 0
    while (
        start < min(len(recorded), len(replayed)) and recorded[start].text == replayed[start].text
    ):
        start += 1
    if start == len(recorded):
        # Replay goes on where the journal was cut off: only what came of earlier inputs is missing.
        for done in replayed[start:]:
            if recorded and done.line < recorded[-1].line:
                yield _unpaired(Kind.UNEXPECTED, done, run)
        return
    left = recorded[start : start + SHOWN_AROUND]
    right = replayed[start : start + SHOWN_AROUND]
    matcher = SequenceMatcher(None, [d.text for d in left], [d.text for d in right], autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            continue
        yield from _block(left[i1:i2], right[j1:j2], run)


def _block(left: list[_Done], right: list[_Done], run: JournalReplay) -> Iterator[Difference]:
    """One stretch that differs: pair what is of one name, tell the rest."""
    rest = list(right)
    for done in left:
        twin = next((other for other in rest if _name(other.plain) == _name(done.plain)), None)
        if twin is None:
            yield _unpaired(Kind.MISSING, done, run)
            continue
        rest.remove(twin)
        changes = tuple(field_changes(done.plain, twin.plain))
        yield Difference(
            kind=Kind.CHANGED,
            subject=f"{_name(done.plain)} after {done.cause}",
            at_ms=done.at_ms - run.first_ms,
            line=done.line,
            recorded=done.plain,
            replayed=twin.plain,
            fields=changes or (FieldChange(pointer="", recorded="order", replayed="order"),),
        )
    for done in rest:
        yield _unpaired(Kind.UNEXPECTED, done, run)


def _unpaired(kind: Kind, done: _Done, run: JournalReplay) -> Difference:
    return Difference(
        kind=kind,
        subject=f"{_name(done.plain)} after {done.cause}",
        at_ms=done.at_ms - run.first_ms,
        line=done.line,
        recorded=done.plain if kind is Kind.MISSING else None,
        replayed=done.plain if kind is Kind.UNEXPECTED else None,
    )


def _name(plain: Plain) -> str:
    """``publish hold``, ``append claim``, ``log ready``."""
    kind = str(plain.get("op"))
    match kind:
        case "publish":
            payload = _object(plain.get("payload"))
            name = payload.get("Application-Name") or payload.get("Event-Name")
            return f"{kind} {name}"
        case "append":
            return f"{kind} {_object(plain.get('record')).get('t')}"
        case "log":
            return f"{kind} {plain.get('event')!r}"
        case _:
            return kind


def _object(value: object) -> Plain:
    return value if isinstance(value, Mapping) else {}
