"""Records, entries and table rows as plain values (str, int, bool, None, list, dict) and back.

Pure: the JSON text itself is made elsewhere (`replica/codec.py`). Fields with their default value
are left out. Reading raises MalformedMessageError with the place; unknown keys are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from typing import TypeVar, cast

from worker.errors import MalformedMessageError
from worker.parking import records
from worker.parking.changes import (
    ClaimDecided,
    ClaimOutcome,
    RetrieveDecided,
    RetrieveOutcome,
)
from worker.parking.model import (
    PresenceType,
    ReleaseReason,
    SessionId,
    SlotEntry,
    SlotId,
    SlotLamp,
)
from worker.parking.records import Record
from worker.parking.slot_rows import Decision, SeededSession, SessionRow

Plain = Mapping[str, object]

RECORD_TYPES: dict[str, type[Record]] = {
    "claim": records.Claim,
    "retrieve": records.Retrieve,
    "unretrieve": records.Unretrieve,
    "release": records.Release,
    "swap": records.Swap,
    "checkpoint": records.Checkpoint,
    "close": records.Close,
    "join": records.Join,
    "alive": records.Alive,
    "leave": records.Leave,
    "dead": records.Dead,
    "barrier": records.Barrier,
    "seed": records.Seed,
    "settled": records.Settled,
}
_TYPE_NAMES = {kind: name for name, kind in RECORD_TYPES.items()}


def _text(value: object, at: str) -> str:
    if not isinstance(value, str):
        raise MalformedMessageError("text expected", at)
    return value


def _whole(value: object, at: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise MalformedMessageError("whole number expected", at)
    return value


def _flag(value: object, at: str) -> bool:
    if not isinstance(value, bool):
        raise MalformedMessageError("true or false expected", at)
    return value


def _texts(value: object, at: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise MalformedMessageError("list expected", at)
    return tuple(_text(item, f"{at}/{number}") for number, item in enumerate(value))


def _lamps(value: object, at: str) -> tuple[SlotLamp, ...]:
    if not isinstance(value, list):
        raise MalformedMessageError("list expected", at)
    return tuple(_lamp(_texts(item, at), at) for item in value)


def _lamp(texts: tuple[str, ...], at: str) -> SlotLamp:
    try:
        slot, user, kind = texts
        return SlotLamp(slot=SlotId(slot), user=user, presence_type=PresenceType(kind))
    except ValueError as error:
        raise MalformedMessageError("slot, user and presence type expected", at) from error


def _choice(kind: Callable[[str], object]) -> Callable[[object, str], object]:
    def read(value: object, at: str) -> object:
        try:
            return kind(_text(value, at))
        except ValueError:
            raise MalformedMessageError("unknown word", at) from None

    return read


def _optional(reader: Callable[[object, str], object]) -> Callable[[object, str], object]:
    return lambda value, at: None if value is None else reader(value, at)


def _object(value: object, at: str) -> Plain:
    if not isinstance(value, dict):
        raise MalformedMessageError("object expected", at)
    return cast("Plain", value)


# Keyed by field name: a name means the same in every record.
_READERS: dict[str, Callable[[object, str], object]] = {
    "at_ms": _whole,
    "epoch": _whole,
    "seq": _whole,
    "attempt": _whole,
    "beat": _whole,
    "parked_at_ms": _whole,
    "reserved": _flag,
    "max_slot": _optional(_whole),
    "retriever": _optional(_text),
    "evict": _optional(_text),
    "replaces": _texts,
    "evict_call": _optional(_text),
    "lamps": _lamps,
    "presence_type": _choice(PresenceType),
    "reason": _choice(ReleaseReason),
    "entry": lambda value, at: entry_from_plain(_object(value, at), at),
}


def _plain_value(value: object) -> object:
    if isinstance(value, SlotEntry):
        return entry_to_plain(value)
    if isinstance(value, tuple):
        return [_plain_value(item) for item in value]
    if isinstance(value, SlotLamp):
        return [value.slot, value.user, value.presence_type.value]
    if isinstance(value, PresenceType | ReleaseReason):
        return value.value
    return value


def _write(message: object, spec: tuple[Field[object], ...]) -> dict[str, object]:
    plain: dict[str, object] = {}
    for item in spec:
        value = getattr(message, item.name)
        if item.default is MISSING or value != item.default:
            plain[item.name] = _plain_value(value)
    return plain


Message = TypeVar("Message")


def _read(
    kind: Callable[..., Message], spec: tuple[Field[object], ...], plain: Plain, at: str
) -> Message:
    values: dict[str, object] = {}
    for item in spec:
        if item.name in plain:
            reader = _READERS.get(item.name, _text)
            values[item.name] = reader(plain[item.name], f"{at}/{item.name}")
        elif item.default is MISSING:
            raise MalformedMessageError("missing", f"{at}/{item.name}")
    return kind(**values)


_ENTRY_FIELDS = fields(SlotEntry)
_RECORD_KINDS: tuple[type[Record], ...] = (Record, *RECORD_TYPES.values())
_RECORD_FIELDS = {kind: fields(kind) for kind in _RECORD_KINDS}


def entry_to_plain(entry: SlotEntry) -> dict[str, object]:
    return _write(entry, _ENTRY_FIELDS)


def entry_from_plain(plain: Plain, at: str = "") -> SlotEntry:
    return _read(SlotEntry, _ENTRY_FIELDS, plain, at)


def record_to_plain(record: Record) -> dict[str, object]:
    """``t`` names the type. A bare `Record` is written as type ``nothing``."""
    kind = type(record)
    return {"t": _TYPE_NAMES.get(kind, "nothing"), **_write(record, _RECORD_FIELDS[kind])}


def record_from_plain(plain: Plain, at: str = "") -> Record:
    """A type this version does not know becomes a bare `Record`: it changes nothing, but takes
    its author's turn, so a newer worker's other records still count."""
    kind = RECORD_TYPES.get(_text(plain.get("t"), f"{at}/t"), Record)
    return _read(kind, _RECORD_FIELDS[kind], plain, at)


# ---- rows of the table --------------------------------------------------------------------------


def session_to_plain(row: SessionRow, entry: SlotEntry | None) -> dict[str, object]:
    plain: dict[str, object] = {
        "session": row.session,
        "account": row.account,
        "owner": row.owner,
        "opened": row.opened,
        "rank": list(row.rank),
        "facts": row.facts,
        "state": row.state,
        "decided": [_decision_to_plain(decision, entry) for decision in row.decided],
    }
    if entry is not None:
        plain["entry"] = entry_to_plain(entry)
    if row.freed:
        plain["freed"], plain["freed_by"] = row.freed, row.freed_by
    if row.took:
        plain["took"] = row.took
    if row.retrieves is not None:
        plain["retrieves"] = row.retrieves
    if row.forgotten_claim or row.forgotten_retrieve:
        plain["forgotten"] = [row.forgotten_claim, row.forgotten_retrieve]
    return plain


def session_from_plain(plain: Plain, at: str = "") -> SeededSession:
    entry = None
    if plain.get("entry") is not None:
        entry = entry_from_plain(_object(plain["entry"], f"{at}/entry"), f"{at}/entry")
    era, position, generation = _numbers(plain.get("rank"), 3, f"{at}/rank")
    claims, retrieves = _numbers(plain.get("forgotten", [0, 0]), 2, f"{at}/forgotten")
    decided = plain.get("decided")
    if not isinstance(decided, list):
        raise MalformedMessageError("list expected", f"{at}/decided")
    row = _read(_Head, _HEAD_FIELDS, plain, at)
    row.generation, row.era, row.position = generation, era, position
    row.forgotten_claim, row.forgotten_retrieve = claims, retrieves
    row.decided = [
        _decision_from_plain(_object(item, f"{at}/decided"), entry, f"{at}/decided")
        for item in decided
    ]
    if entry is not None:
        if entry.session != row.session or entry.account != row.account:
            raise MalformedMessageError("an entry of another session", f"{at}/entry")
        row.holds = entry.slot
    return SeededSession(row=row, entry=entry)


_Head = SessionRow
_HEAD_FIELDS = tuple(
    item
    for item in fields(SessionRow)
    if item.name
    in {
        *("session", "account", "owner", "opened", "facts", "state"),
        *("freed", "freed_by", "retrieves", "took"),
    }
)
_READERS |= {"owner": _optional(_text), "opened": _whole, "retrieves": _optional(_text)}


def _numbers(value: object, count: int, at: str) -> list[int]:
    if not isinstance(value, list) or len(value) != count:
        raise MalformedMessageError(f"{count} numbers expected", at)
    return [_whole(item, at) for item in value]


def _decision_to_plain(decision: Decision, entry: SlotEntry | None) -> dict[str, object]:
    """``entry`` is the one the session holds now: not repeated when the decision names it too."""
    plain: dict[str, object] = {"attempt": decision.attempt, "outcome": decision.outcome.value}
    plain["t"] = "claim" if isinstance(decision, ClaimDecided) else "retrieve"
    if decision.entry is not None:
        same = decision.entry == entry
        plain["entry"] = True if same else entry_to_plain(decision.entry)
    if isinstance(decision, ClaimDecided) and decision.previous is not None:
        plain["previous"] = entry_to_plain(decision.previous)
    plain["session"] = decision.session
    return plain


def _decision_from_plain(plain: Plain, held: SlotEntry | None, at: str) -> Decision:
    session = SessionId(_text(plain.get("session"), f"{at}/session"))
    attempt = _whole(plain.get("attempt"), f"{at}/attempt")
    entry = held if plain.get("entry") is True else _entry_or_none(plain, "entry", at)
    if plain.get("t") == "claim":
        return ClaimDecided(
            session=session,
            attempt=attempt,
            outcome=cast("ClaimOutcome", _choice(ClaimOutcome)(plain.get("outcome"), at)),
            entry=entry,
            previous=_entry_or_none(plain, "previous", at),
        )
    return RetrieveDecided(
        session=session,
        attempt=attempt,
        outcome=cast("RetrieveOutcome", _choice(RetrieveOutcome)(plain.get("outcome"), at)),
        entry=entry,
    )


def _entry_or_none(plain: Plain, key: str, at: str) -> SlotEntry | None:
    value = plain.get(key)
    return None if value is None else entry_from_plain(_object(value, f"{at}/{key}"), f"{at}/{key}")
