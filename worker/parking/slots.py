"""The slot table: a pure, deterministic function of the slot log's records in order.

Every replica applies the same records at the same offsets and so takes the same decisions; nothing
else decides who has a slot. The rules, and why they are safe: docs/replication.md. In short:

- A slot has at most one holder, a session holds at most one slot and retrieves at most one.
- (session, attempt) is decided once; asked again it gets its first answer, a closed session none.
- Only a session's owner speaks for it. Records of anybody else about it have no effect: that is
  what stops a worker that was frozen, replaced, and woke up.
- Workers join and leave by records; their sessions are dealt to the living by these records alone.
- A new log is unsettled: claims wait until the workers have told what they knew (Seed, Settled).
"""

from __future__ import annotations

from dataclasses import replace

from worker.errors import MalformedMessageError
from worker.parking.changes import (
    Change,
    Released,
    SessionMoved,
    SessionOpened,
    WorkerGone,
    WorkerJoined,
)
from worker.parking.model import ReleaseReason, SessionId, SlotEntry, WorkerId
from worker.parking.records import (
    Alive,
    Claim,
    Dead,
    Join,
    Leave,
    Record,
    Retrieve,
    Seed,
    Settled,
)
from worker.parking.slot_members import heir
from worker.parking.slot_rows import SeededSession, SessionRow
from worker.parking.slot_rules import REMEMBERED_CLOSED, SlotRules
from worker.parking.slot_snapshot import TableState, read_state
from worker.parking.slot_view import Ignored, ReadText, subject_of

__all__ = ["Ignored", "ReadText", "SlotTable", "subject_of"]


class SlotTable(SlotRules):
    """See the module. Not thread-safe. ``loads`` reads the JSON text of Seed records."""

    # ---- applying -------------------------------------------------------------------------------

    def apply(self, offset: int, record: Record) -> list[Change]:
        """Apply the record at ``offset`` and say what changed, in order. Never raises.

        Offsets must grow; one that was applied already has no effect."""
        self.ignored = None
        if offset <= self.offset:
            return self._ignore(Ignored.SEEN)
        self.offset = offset
        if not self._members.take_turn(record):
            return self._ignore(Ignored.STALE)
        if record.epoch:
            self._touch_worker(record.author, *self._members.trim_turns())
        if record.author in self._members.gone and not isinstance(record, Join):
            return self._ignore(Ignored.GONE)
        if not self.settled and self._waits(record):
            self._keep(record)
            return self._ignore(Ignored.KEPT)
        return self._decide(record)

    def _decide(self, record: Record) -> list[Change]:
        match record:
            case Join():
                return self._join(record)
            case Alive():
                return self._alive(record)
            case Leave():
                return self._depart(record.author, dead=False)
            case Dead():
                return self._dead(record)
            case Seed():
                return self._seed(record)
            case Settled():
                return self._settle(record)
            case _:
                return super()._decide(record)

    def _waits(self, record: Record) -> bool:
        """Unsettled: claims wait, and so does whatever is said about a session that waits."""
        return isinstance(record, Claim | Retrieve) or subject_of(record) in self._keeping

    # ---- workers --------------------------------------------------------------------------------

    def _join(self, record: Join) -> list[Change]:
        if record.author in self._members.live:
            return self._ignore(Ignored.DUPLICATE)
        self._members.join(record.author, record.name)
        self._touch_worker(record.author)
        return [WorkerJoined(worker=record.author), *self._deal(None)]

    def _alive(self, record: Alive) -> list[Change]:
        member = self._members.live.get(record.author)
        if member is None:
            return self._ignore(Ignored.UNKNOWN)
        if record.beat <= member.beat:
            return self._ignore(Ignored.DUPLICATE)
        member.beat = record.beat
        self._touch_worker(record.author)
        return []

    def _dead(self, record: Dead) -> list[Change]:
        victim = self._members.live.get(record.victim)
        if victim is None:
            return self._ignore(Ignored.UNKNOWN)
        if victim.beat > record.beat:
            return self._ignore(Ignored.VOID)
        return self._depart(record.victim, dead=True)

    def _depart(self, worker: WorkerId, *, dead: bool) -> list[Change]:
        if worker not in self._members.live:
            return self._ignore(Ignored.UNKNOWN)
        self._touch_worker(worker, *self._members.leave(worker))
        return [WorkerGone(worker=worker, dead=dead), *self._deal(worker)]

    def _deal(self, worker: WorkerId | None) -> list[Change]:
        """Give the sessions of a worker that is no member (or nobody's) to the living. While the
        log is not settled they wait: their owner may yet join, a newer row may yet be seeded."""
        changes: list[Change] = []
        if not self.settled:
            return changes
        for session in self._store.owned(worker):
            owner = heir(session, self._members.live)
            if owner == worker:
                continue
            row = self._store.sessions[session]
            self._store.give(row, owner)
            row.generation += 1
            self._mark(row)
            if owner is not None:
                changes.append(SessionMoved(session=session, owner=owner, previous=worker))
        return changes

    # ---- a new log ------------------------------------------------------------------------------

    def _settle(self, record: Settled) -> list[Change]:
        if self.settled:
            return self._ignore(Ignored.VOID)
        self.settled = True
        self.birth = f"{record.author}:{record.at_ms}:{self.offset}"
        self._store.digest.touch("table", "")
        changes = self._deal_absent()
        self._mend(list(self._store.sessions.values()))
        kept, self._kept, self._keeping = self._kept, [], set()
        for waiting in kept:
            if waiting.author not in self._members.gone:
                changes += self._decide(waiting)
        self.ignored = None
        return changes

    def _deal_absent(self) -> list[Change]:
        changes: list[Change] = []
        for owner in self._store.owners():
            if owner not in self._members.live:
                changes += self._deal(owner)
        return changes

    def _seed(self, record: Seed) -> list[Change]:
        try:
            seed = read_state(self._loads(record.state))
        except (MalformedMessageError, ValueError):
            return self._ignore(Ignored.VOID)
        self.era = max(self.era, seed.era + 1)
        self._store.digest.touch("table", "")
        self._merging = True
        changes = self._merge(seed, record.author)
        self._merging = False
        return changes + self._deal_absent() if self.settled else changes

    def _merge(self, seed: TableState, author: WorkerId) -> list[Change]:
        changes: list[Change] = []
        for session in seed.store.closed:
            row = self._store.sessions.get(session)
            changes += self._close(row, author) if row is not None else ()
            self._store.close(session, REMEMBERED_CLOSED)
        added: list[SessionRow] = []
        for row in seed.store.sessions.values():
            arrival = SeededSession(row=row, entry=seed.store.held_by(row))
            changes += self._adopt(arrival, author, added)
        if self.settled:
            self._mend(added)
        return changes

    def _adopt(
        self, arrival: SeededSession, author: WorkerId, added: list[SessionRow]
    ) -> list[Change]:
        """Take a seeded session unless it is over or ours is as new."""
        changes: list[Change] = []
        row, entry = arrival.row, arrival.entry
        mine = self._store.sessions.get(row.session)
        if row.session in self._store.closed or (mine is not None and mine.rank >= row.rank):
            return changes
        if mine is not None:
            if mine.retrieves != row.retrieves:
                changes += self._end_retrieval(mine)
            held = self._store.held_by(mine)
            if held is not None:
                self._store.remove(held)
                if entry is None or entry.slot != held.slot:
                    changes.append(self._lost(held, row, row.session, author))
            self._store.drop(mine)
        row.holds = None
        self._store.add(row)
        added.append(row)
        if row.owner is not None:
            changes.append(SessionOpened(session=row.session, owner=row.owner))
        if entry is None:
            return changes
        occupant = self._store.entry(entry.account, entry.slot)
        if occupant is not None and self._keeps_slot(occupant, row):
            return [*changes, self._lost(entry, row, occupant.session, author)]
        if occupant is not None:
            changes += self._free(occupant, ReleaseReason.EVICTED, row.session, author)
        self._store.put(entry)
        return changes

    def _keeps_slot(self, occupant: SlotEntry, arrived: SessionRow) -> bool:
        """Of two seeded holders the one whose row changed last is right: the other was released
        before, which its seed's author had not read yet. Once claims were decided here, the
        occupant stays."""
        holder = self._store.sessions[occupant.session]
        return self.settled or holder.rank[:2] >= arrived.rank[:2]

    def _lost(self, entry: SlotEntry, row: SessionRow, by: SessionId, author: WorkerId) -> Released:
        """A seeded session does not get its slot back: its owner must learn of it."""
        return Released(
            entry=entry, reason=ReleaseReason.EVICTED, by=by, author=author, owner=row.owner
        )

    def _mend(self, rows: list[SessionRow]) -> None:
        """After merging: no retriever that is not open, no retrieval that the slot knows not of."""
        for row in rows:
            held = self._store.held_by(row)
            if held is not None and held.retriever is not None:
                retriever = self._store.sessions.get(held.retriever)
                place = (held.account, held.slot)
                if retriever is None or (retriever.account, retriever.retrieves) != place:
                    self._store.put(replace(held, retriever=None))
            if row.retrieves is not None:
                entry = self._store.entry(row.account, row.retrieves)
                if entry is None or entry.retriever != row.session:
                    row.retrieves = None
                    self._store.digest.touch("session", row.session)
