"""How claims, retrievals, releases and the rest of a session's records are decided. Pure."""

from __future__ import annotations

from dataclasses import replace

from worker.parking.changes import (
    Change,
    ClaimDecided,
    ClaimOutcome,
    Released,
    ReleaseRefused,
    RetrieveDecided,
    RetrieveEnded,
    RetrieveOutcome,
    SessionClosed,
    SessionOpened,
    Swapped,
)
from worker.parking.model import (
    AccountId,
    ReleaseReason,
    SessionId,
    SlotEntry,
    SlotId,
    SlotLamp,
    WorkerId,
)
from worker.parking.records import (
    Checkpoint,
    Claim,
    Close,
    Record,
    Release,
    Retrieve,
    Swap,
    Unretrieve,
)
from worker.parking.slot_rows import (
    TOOK_FIRST,
    TOOK_LATE,
    Decision,
    SessionRow,
    exceeds,
)
from worker.parking.slot_view import Ignored, SlotView

REMEMBERED_CLOSED = 8192
"""Closed sessions whose id is remembered; a claim of one of them has no effect."""


class SlotRules(SlotView):
    """The rules about sessions and slots. `SlotTable` (slots.py) is what is used."""

    def _decide(self, record: Record) -> list[Change]:
        match record:
            case Claim():
                return self._claim(record)
            case Retrieve():
                return self._retrieve(record)
            case Unretrieve():
                return self._unretrieve(record)
            case Release():
                return self._release(record)
            case Swap():
                return self._swap(record)
            case Checkpoint():
                return self._checkpoint(record)
            case Close():
                return self._close_by(record)
            case _:
                return []

    def _ignore(self, why: Ignored) -> list[Change]:
        self.ignored = why
        return []

    def _mark(self, row: SessionRow) -> None:
        """The row changes by the record being applied. What merging a seed does on the side makes
        a row no newer: its true successor may be in a later seed."""
        if not self._merging:
            row.era, row.position = self.era, self.offset
        self._store.digest.touch("session", row.session)

    def _spoken_for(self, session: SessionId, author: WorkerId) -> SessionRow | None:
        """The open session's row when the author owns it; else None, and the record is ignored."""
        row = self._store.sessions.get(session)
        if row is None:
            closed = session in self._store.closed
            self.ignored = Ignored.CLOSED if closed else Ignored.UNKNOWN
        elif row.owner != author:
            self.ignored = Ignored.FENCED
        else:
            return row
        return None

    # ---- claims ---------------------------------------------------------------------------------

    def _begin(
        self, record: Claim | Retrieve, session: SessionId, account: AccountId, kind: type[Decision]
    ) -> tuple[SessionRow | None, list[Change]]:
        """The row to decide for (opened if need be), or None with the answer if any."""
        changes: list[Change] = []
        row = self._store.sessions.get(session)
        if row is None:
            if session in self._store.closed:
                return None, self._ignore(Ignored.CLOSED)
            row = SessionRow(
                session=session, account=account, owner=record.author, opened=self.offset
            )
            self._store.add(row)
            changes.append(SessionOpened(session=session, owner=record.author))
        elif row.owner != record.author or row.account != account:
            return None, self._ignore(Ignored.FENCED)
        else:
            known = row.decision(kind, record.attempt)
            if known is not None or row.is_forgotten(kind, record.attempt):
                self.ignored = Ignored.DUPLICATE
                return None, [known] if known is not None else []
        if record.facts:
            row.facts = record.facts
        self._mark(row)
        return row, changes

    def _claim(self, record: Claim) -> list[Change]:
        wanted = record.entry
        row, changes = self._begin(record, wanted.session, wanted.account, ClaimDecided)
        if row is None:
            return changes
        if record.evict is not None:
            changes += self._evict(record, record.evict)
        outcome, entry, previous = self._place(record, row)
        if outcome is ClaimOutcome.COMPLETED and previous is not None and entry is not None:
            changes += self._hand_over(previous, entry)
        elif outcome is ClaimOutcome.WON and entry is not None:
            self._store.put(entry)
        decision = ClaimDecided(
            session=row.session,
            attempt=record.attempt,
            outcome=outcome,
            entry=entry,
            previous=previous,
        )
        if entry is not None:
            row.freed = row.freed_by = ""
        row.remember(decision)
        return [*changes, decision]

    def _evict(self, record: Claim, holder: SessionId) -> list[Change]:
        there = self._store.entry(record.entry.account, record.entry.slot)
        if there is None or there.session != holder or holder == record.entry.session:
            return []
        if record.evict_call not in (None, there.call_id):
            return []
        return self._free(there, ReleaseReason.EVICTED, record.entry.session, record.author)

    def _place(
        self, record: Claim, row: SessionRow
    ) -> tuple[ClaimOutcome, SlotEntry | None, SlotEntry | None]:
        """Decide a claim without changing anything: outcome, entry to store, entry in the way."""
        wanted = record.entry
        held = self._store.held_by(row)
        if held is not None:
            return ClaimOutcome.WON, held, None
        for call_id in record.replaces:
            reserved = self._store.of_call(wanted.account, call_id)
            if reserved is not None:
                return ClaimOutcome.COMPLETED, complete(reserved, wanted), reserved
        slot = wanted.slot or self._store.lowest(wanted.account)
        if exceeds(slot, record.max_slot):
            return ClaimOutcome.EXCEEDED, None, None
        occupant = self._store.entry(wanted.account, slot)
        if occupant is not None:
            return ClaimOutcome.OCCUPIED, None, occupant
        return ClaimOutcome.WON, _settled_entry(wanted, slot, record.lamps), None

    def _hand_over(self, previous: SlotEntry, entry: SlotEntry) -> list[Change]:
        """The slot goes from one session to another without being free in between."""
        changes: list[Change] = []
        former = self._store.sessions.get(previous.session)
        if former is not None:
            former.freed, former.freed_by = ReleaseReason.RETRIEVED.value, entry.session
            self._mark(former)
        if previous.retriever is not None:
            retriever = self._store.sessions.get(previous.retriever)
            if retriever is not None:
                retriever.retrieves = None
                self._mark(retriever)
            changes.append(RetrieveEnded(entry=entry, session=previous.retriever))
        self._store.put(entry)
        return changes

    # ---- retrievals -----------------------------------------------------------------------------

    def _retrieve(self, record: Retrieve) -> list[Change]:
        row, changes = self._begin(record, record.session, record.account, RetrieveDecided)
        if row is None:
            return changes
        entry = self._store.entry(record.account, record.slot)
        if entry is None:
            outcome = RetrieveOutcome.EMPTY
        elif entry.reserved:
            outcome = RetrieveOutcome.PENDING
        elif entry.retriever not in (None, row.session):
            outcome = RetrieveOutcome.BUSY
        else:
            outcome = RetrieveOutcome.WON
            if row.retrieves not in (None, record.slot):
                changes += self._end_retrieval(row)
            entry = replace(entry, retriever=row.session)
            row.retrieves = record.slot
            self._store.put(entry)
            self._mark_holder(entry)
        decision = RetrieveDecided(
            session=row.session, attempt=record.attempt, outcome=outcome, entry=entry
        )
        row.remember(decision)
        return [*changes, decision]

    def _mark_holder(self, entry: SlotEntry) -> None:
        self._mark(self._store.sessions[entry.session])

    def _unretrieve(self, record: Unretrieve) -> list[Change]:
        row = self._spoken_for(record.session, record.author)
        if row is None:
            return []
        if row.retrieves != record.slot or row.account != record.account:
            return self._ignore(Ignored.UNKNOWN)
        return self._end_retrieval(row)

    def _end_retrieval(self, row: SessionRow) -> list[Change]:
        if row.retrieves is None:
            return []
        entry = self._store.entry(row.account, row.retrieves)
        row.retrieves = None
        self._mark(row)
        if entry is None or entry.retriever != row.session:
            return []
        entry = replace(entry, retriever=None)
        self._store.put(entry)
        self._mark_holder(entry)
        return [RetrieveEnded(entry=entry, session=row.session)]

    # ---- releases and the rest of a session's life ----------------------------------------------

    def _release(self, record: Release) -> list[Change]:
        by = self._spoken_for(record.by, record.author)
        if by is None:
            return []
        entry = self._store.entry(record.account, record.slot)
        late = entry is None or entry.session != record.holder
        if record.reason is ReleaseReason.RETRIEVED and not by.took:
            by.took = TOOK_LATE if late else TOOK_FIRST
            self._mark(by)
        if entry is None or late:
            return [ReleaseRefused(holder=record.holder, by=record.by, reason=record.reason)]
        return self._free(entry, record.reason, record.by, record.author)

    def _free(
        self, entry: SlotEntry, reason: ReleaseReason, by: SessionId, author: WorkerId
    ) -> list[Change]:
        changes: list[Change] = []
        holder = self._store.sessions[entry.session]
        self._store.remove(entry)
        holder.freed, holder.freed_by = reason.value, by
        self._mark(holder)
        if entry.retriever is not None and entry.retriever in self._store.sessions:
            retriever = self._store.sessions[entry.retriever]
            retriever.retrieves = None
            self._mark(retriever)
        changes.append(
            Released(entry=entry, reason=reason, by=by, author=author, owner=holder.owner)
        )
        return changes + self._end_retrieval(holder)

    def _swap(self, record: Swap) -> list[Change]:
        row = self._spoken_for(record.holder, record.author)
        if row is None:
            return []
        before = self._store.held_by(row)
        if (
            before is None
            or (before.account, before.slot) != (record.account, record.slot)
            or before.call_id != record.old_call_id
        ):
            return self._ignore(Ignored.UNKNOWN)
        after = replace(before, call_id=record.new_call_id)
        self._store.put(after)
        self._mark(row)
        return [Swapped(before=before, after=after)]

    def _checkpoint(self, record: Checkpoint) -> list[Change]:
        row = self._spoken_for(record.session, record.author)
        if row is not None:
            row.state = record.state
            self._mark(row)
        return []

    def _close_by(self, record: Close) -> list[Change]:
        row = self._spoken_for(record.session, record.author)
        return [] if row is None else self._close(row, record.author)

    def _close(self, row: SessionRow, author: WorkerId) -> list[Change]:
        changes = self._end_retrieval(row)
        entry = self._store.held_by(row)
        if entry is not None:
            changes += self._free(entry, ReleaseReason.WITHDRAWN, row.session, author)
        self._store.drop(row)
        self._store.close(row.session, REMEMBERED_CLOSED)
        return [*changes, SessionClosed(session=row.session)]


def _settled_entry(wanted: SlotEntry, slot: SlotId, lamps: tuple[SlotLamp, ...] = ()) -> SlotEntry:
    """The entry as stored: its slot decided, and with it the lamp."""
    user, kind = wanted.presence_user.replace("{slot}", slot), wanted.presence_type
    for lamp in lamps:
        if lamp.slot == slot:
            user, kind = lamp.user, lamp.presence_type
    return replace(wanted, slot=slot, presence_user=user, presence_type=kind, retriever=None)


def complete(reserved: SlotEntry, arrived: SlotEntry) -> SlotEntry:
    """A reservation taken over by the call it was made for (contract §7.5).

    Place and lamp stay, with the device to ring; call, tags and caller are the new one's."""
    entry = _settled_entry(arrived, reserved.slot)
    kept_lamp = bool(reserved.presence_user)
    return replace(
        entry,
        reserved=False,
        presence_user=reserved.presence_user or entry.presence_user,
        presence_realm=reserved.presence_realm or entry.presence_realm,
        presence_type=reserved.presence_type if kept_lamp else entry.presence_type,
        endpoint_id=reserved.endpoint_id or arrived.endpoint_id,
        parker_device=reserved.parker_device,
        hold_media=reserved.hold_media or arrived.hold_media,
    )
