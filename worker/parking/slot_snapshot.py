"""The whole slot table as plain values and back; what seeds tell; what digests cover. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar, cast

from worker.errors import MalformedMessageError
from worker.parking.model import SessionId, WorkerId
from worker.parking.records import Record
from worker.parking.slot_members import Members, Turn
from worker.parking.slot_rows import SessionRow, WorkerRow
from worker.parking.slot_store import ItemKey, SlotStore
from worker.parking.slot_wire import (
    Plain,
    record_from_plain,
    record_to_plain,
    session_from_plain,
    session_to_plain,
)

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TableState:
    """Everything a table consists of. Parts are the table's own, not copies."""

    offset: int = -1
    era: int = 0
    settled: bool = False
    birth: str = ""
    store: SlotStore = field(default_factory=SlotStore)
    members: Members = field(default_factory=Members)
    kept: list[Record] = field(default_factory=list)


def _session(state: TableState, row: SessionRow) -> dict[str, object]:
    return session_to_plain(row, state.store.held_by(row))


def write_state(state: TableState) -> dict[str, object]:
    """Order matters where the table's bounds drop the oldest: closed ids, gone workers, turns."""
    members = state.members
    return {
        "v": VERSION,
        "offset": state.offset,
        "era": state.era,
        "settled": state.settled,
        "birth": state.birth,
        "sessions": [_session(state, row) for row in state.store.sessions.values()],
        "closed": list(state.store.closed),
        "live": {worker: [row.beat, row.name] for worker, row in members.live.items()},
        "gone": dict(members.gone),
        "turns": {worker: [turn.epoch, turn.seq] for worker, turn in members.turns.items()},
        "kept": [record_to_plain(record) for record in state.kept],
    }


def write_seed(known: TableState, newer: TableState, most: int) -> list[dict[str, object]]:
    """The sessions and closed ids of ``known`` that ``newer`` lacks or has an older row of."""
    rows = [
        row
        for row in known.store.sessions.values()
        if row.session not in newer.store.closed and _is_news(row, newer)
    ]
    rows.sort(key=lambda row: row.holds is not None)  # what frees a slot goes first
    closed = [session for session in known.store.closed if session not in newer.store.closed]
    parts: list[dict[str, object]] = []
    for start in range(0, max(1, len(rows)), most):
        part = TableState(offset=known.offset, era=known.era)
        plain = write_state(part)
        plain["sessions"] = [_session(known, row) for row in rows[start : start + most]]
        plain["closed"] = closed if start == 0 else []
        parts.append(plain)
    return parts


def _is_news(row: SessionRow, newer: TableState) -> bool:
    there = newer.store.sessions.get(row.session)
    return there is None or row.rank > there.rank


def render_item(state: TableState, key: ItemKey) -> object | None:
    """The present content of one item of the state; None when there is no such item."""
    kind, name = key
    match kind:
        case "session":
            row = state.store.sessions.get(SessionId(name))
            return None if row is None else _session(state, row)
        case "closed":
            return True if name in state.store.closed else None
        case "live":
            member = state.members.live.get(WorkerId(name))
            return None if member is None else (member.beat, member.name)
        case "gone":
            return state.members.gone.get(WorkerId(name))
        case "turn":
            turn = state.members.turns.get(WorkerId(name))
            return None if turn is None else (turn.epoch, turn.seq)
        case _:
            kept = [record_to_plain(record) for record in state.kept]
            return (state.era, state.settled, state.birth, kept)


# ---- reading ------------------------------------------------------------------------------------

Value = TypeVar("Value")


def _get(plain: Plain, key: str, kind: type[Value]) -> Value:
    value = plain.get(key)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise MalformedMessageError(f"{kind.__name__} expected", f"/{key}")
    return value


def _map(plain: Plain, key: str, read: Callable[[object], Value]) -> dict[WorkerId, Value]:
    values = _get(plain, key, dict)
    try:
        return {WorkerId(worker): read(value) for worker, value in values.items()}
    except (TypeError, ValueError, IndexError, KeyError):
        raise MalformedMessageError("unexpected content", f"/{key}") from None


def _pair(value: object) -> tuple[object, object]:
    first, second = cast("list[object]", value)
    return first, second


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    return value


def _worker(value: object) -> WorkerRow:
    beat, name = _pair(value)
    return WorkerRow(beat=_number(beat), name=str(name))


def _turn(value: object) -> Turn:
    epoch, seq = _pair(value)
    return Turn(epoch=_number(epoch), seq=_number(seq))


def read_state(plain: object) -> TableState:
    """Raises MalformedMessageError. The result shares nothing with ``plain`` but texts."""
    if not isinstance(plain, Mapping) or plain.get("v") != VERSION:
        raise MalformedMessageError("not a snapshot of this version", "/v")
    store = SlotStore()
    for number, item in enumerate(_get(plain, "sessions", list)):
        at = f"/sessions/{number}"
        if not isinstance(item, dict):
            raise MalformedMessageError("object expected", at)
        seeded = session_from_plain(item, at)
        if seeded.row.session in store.sessions:
            raise MalformedMessageError("a session twice", at)
        store.add(seeded.row)
        if seeded.entry is not None:
            if store.entry(seeded.entry.account, seeded.entry.slot) is not None:
                raise MalformedMessageError("a slot twice", at)
            store.put(seeded.entry)
    for session in _get(plain, "closed", list):
        store.closed[SessionId(str(session))] = None
    members = Members()
    members.live = _map(plain, "live", _worker)
    members.gone = _map(plain, "gone", _number)
    members.turns = _map(plain, "turns", _turn)
    return TableState(
        offset=_get(plain, "offset", int),
        era=_get(plain, "era", int),
        settled=_get(plain, "settled", bool),
        birth=_get(plain, "birth", str),
        store=store,
        members=members,
        kept=[record_from_plain(item, "/kept") for item in _get(plain, "kept", list)],
    )
