"""The log as it is, applied at the moment each record gets its place: what nobody can argue with.

A *stay* is one parked call in one slot, from the record that put it there to the one that freed it.
It is read off the table by comparing it before and after each record, so it does not depend on the
changes that the workers are told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import orjson

from worker.errors import MalformedMessageError
from worker.parking.changes import (
    Released,
    RetrieveDecided,
    RetrieveOutcome,
    SessionClosed,
    SessionMoved,
    SessionOpened,
    Swapped,
    WorkerGone,
    WorkerJoined,
)
from worker.parking.model import ReleaseReason, SessionId, SlotEntry, WorkerId
from worker.parking.records import Alive, Barrier, Record
from worker.parking.slots import SlotTable
from worker.replica.codec import decode

Place = tuple[str, str]


@dataclass(slots=True, kw_only=True)
class Stay:
    """``reserved`` ones are first stages of attended transfers."""

    place: Place
    session: str
    calls: list[str]
    reserved: bool
    entry: SlotEntry
    since_ms: int
    until_ms: int | None = None
    reason: ReleaseReason | None = None
    """None: open, or handed over to the call that completes the transfer."""
    by: str = ""
    """The session that freed it."""
    free_to_retrieve_ms: int = 0
    """Since when nobody has been picking it up."""
    first_hold_ms: int | None = None
    ring_ended_ms: int | None = None
    told: list[tuple[int, str, str, str]] = field(default_factory=list)
    """Park events about it: when, by whom, which, call id."""

    @property
    def open(self) -> bool:
        return self.until_ms is None


class Truth:
    """One `SlotTable` per log that ever was; ``tell`` hears what each record meant."""

    def __init__(
        self, now_ms: Callable[[], int], tell: Callable[[str, str, set[str]], None]
    ) -> None:
        self._now_ms = now_ms
        self._tell = tell
        self.table = SlotTable(loads=orjson.loads)
        self.stays: list[Stay] = []
        self.current: dict[Place, Stay] = {}
        self.closed_by: dict[str, tuple[int, str]] = {}
        self.granted: dict[str, set[str]] = {}
        """Session → calls it was granted to pick up."""
        self.moved_ms: dict[str, list[int]] = {}
        self.opened: set[str] = set()
        self.swaps: dict[str, str] = {}
        self.digests: dict[tuple[int, int], str] = {}
        self.generation = 0

    def wiped(self) -> None:
        """The log is gone; what comes is another one."""
        self.table = SlotTable(loads=orjson.loads)
        self.generation += 1

    def owner(self, session: str) -> WorkerId | None:
        return self.table.owner(SessionId(session))

    def stay_of(self, session: str) -> Stay | None:
        """The open stay of a session."""
        entry = self.table.entry_of(SessionId(session))
        return None if entry is None else self.current.get((entry.account, entry.slot))

    def append(self, offset: int, body: bytes) -> None:
        try:
            record = decode(body)
        except MalformedMessageError as error:
            raise AssertionError(f"junk in the log: {error}") from error
        changes = self.table.apply(offset, record)
        if isinstance(record, Alive):
            return
        for change in changes:
            self._note(change, record)
        if not isinstance(record, Barrier):
            self._told(offset, record)
        if self.table.settled:
            released = {
                change.entry.session: change for change in changes if isinstance(change, Released)
            }
            self._compare(released)

    def digest_at(self, offset: int) -> str:
        return self.table.digest()

    def _note(self, change: object, record: Record) -> None:
        now_ms = self._now_ms()
        match change:
            case SessionOpened():
                self.opened.add(change.session)
            case SessionClosed():
                self.closed_by[change.session] = (now_ms, record.author)
            case SessionMoved():
                self.moved_ms.setdefault(change.session, []).append(now_ms)
                self._tell("log", f"{change.session} moves to {change.owner}", {change.session})
            case RetrieveDecided() if change.outcome is RetrieveOutcome.WON and change.entry:
                self.granted.setdefault(change.session, set()).add(change.entry.call_id)
            case Swapped():
                for calls in self.granted.values():
                    if change.before.call_id in calls:
                        calls.add(change.after.call_id)
            case WorkerGone():
                how = "is dead" if change.dead else "leaves"
                self._tell("log", f"{change.worker} {how}", set())
            case WorkerJoined():
                self._tell("log", f"{change.worker} joins", set())
            case _:
                pass

    def _told(self, offset: int, record: Record) -> None:
        ignored = self.table.ignored
        about, text = _described(record)
        result = "" if ignored is None else f" (ignored: {ignored.value})"
        self._tell("log", f"{offset} {record.author}: {text}{result}", about)

    def _compare(self, released: dict[SessionId, Released]) -> None:
        now_ms, table = self._now_ms(), self.table
        present = {
            (str(entry.account), str(entry.slot)): entry
            for account in table.accounts()
            for entry in table.entries(account)
        }
        for place, stay in list(self.current.items()):
            entry = present.get(place)
            if entry is not None and entry.session == stay.session:
                self._update(stay, entry, now_ms)
                continue
            del self.current[place]
            stay.until_ms = now_ms
            change = released.get(SessionId(stay.session))
            if change is not None:
                stay.reason, stay.by = change.reason, change.by
            how = stay.reason.value if stay.reason else "handed over"
            self._tell(
                "log",
                f"slot {place[1]} free of {stay.calls[-1]}: {how}",
                {stay.session, *stay.calls},
            )
        for place, entry in present.items():
            if place not in self.current:
                self._begin(place, entry, now_ms)

    def _update(self, stay: Stay, entry: SlotEntry, now_ms: int) -> None:
        if entry.call_id != stay.calls[-1]:
            stay.calls.append(entry.call_id)
        if entry.retriever is not None or stay.entry.retriever is not None:
            stay.free_to_retrieve_ms = now_ms
        stay.entry = entry
        stay.reserved = entry.reserved

    def _begin(self, place: Place, entry: SlotEntry, now_ms: int) -> None:
        stay = Stay(
            place=place,
            session=entry.session,
            calls=[entry.call_id],
            reserved=entry.reserved,
            entry=entry,
            since_ms=now_ms,
        )
        before = self._last_of(entry)
        if before is not None and entry.session == before.session:  # a wiped log knows it again
            stay.first_hold_ms = before.first_hold_ms
        self.current[place] = stay
        self.stays.append(stay)
        kind = "reserved for" if entry.reserved else "holds"
        self._tell("log", f"slot {place[1]} {kind} {entry.call_id}", {entry.session, entry.call_id})

    def _last_of(self, entry: SlotEntry) -> Stay | None:
        return next((stay for stay in reversed(self.stays) if stay.session == entry.session), None)


def _described(record: Record) -> tuple[set[str], str]:
    name = type(record).__name__
    about: set[str] = set()
    words = [name]
    for key in ("session", "holder", "by", "victim", "slot", "reason", "attempt", "state"):
        value = getattr(record, key, None)
        if value:
            words.append(f"{key}={str(value)[:160]}")
            if key in ("session", "holder", "by"):
                about.add(str(value))
    entry = getattr(record, "entry", None)
    if isinstance(entry, SlotEntry):
        words.append(f"{entry.call_id} into {entry.slot or 'any slot'} session={entry.session}")
        about |= {entry.session, entry.call_id}
    return about, " ".join(words)
