"""The slot table's state, what can be asked of it, and its snapshots. Pure; changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import Enum

from worker.parking.model import AccountId, SessionId, SlotEntry, SlotId, WorkerId
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
from worker.parking.slot_members import Members
from worker.parking.slot_rows import SessionRow, WorkerRow
from worker.parking.slot_snapshot import (
    TableState,
    read_state,
    render_item,
    write_seed,
    write_state,
)
from worker.parking.slot_store import ItemKey, SlotStore

ReadText = Callable[[str], object]
"""Turns the JSON text of a Seed into plain values; raises ValueError for junk."""


class Ignored(Enum):
    """Why the record applied last had no effect (information; see `SlotTable.ignored`)."""

    SEEN = "seen"
    """An offset at or before the table's."""
    STALE = "stale"
    """Not its author's turn: a duplicate, a hole before it, or an earlier connection."""
    GONE = "gone"
    """The author has left or was declared dead, and has not joined again."""
    FENCED = "fenced"
    """The author does not own the session it speaks for."""
    CLOSED = "closed"
    """The session is over."""
    UNKNOWN = "unknown"
    """No such session, entry or worker."""
    DUPLICATE = "duplicate"
    """Already decided or already so; a claim gets its first answer again."""
    VOID = "void"
    """Overtaken: the victim lives, the log is settled, or the seed is junk."""
    KEPT = "kept"
    """The log is not settled: decided later."""


class SlotView:
    """The state. `SlotTable` (slots.py) is what is used."""

    def __init__(self, *, loads: ReadText) -> None:
        self._loads = loads
        self.reset()

    def reset(self) -> None:
        """Become the table of an empty log."""
        self.offset = -1
        """Offset of the record applied last."""
        self.settled = False
        self.era = 0
        """Counts the logs this state has lived through."""
        self.birth = ""
        """Names this log: who settled it, when and where; empty before."""
        self.ignored: Ignored | None = None
        """Why the last record had no effect; None when it had or could have had one."""
        self._store = SlotStore()
        self._members = Members()
        self._kept: list[Record] = []
        self._keeping: set[SessionId] = set()
        self._merging = False

    # ---- questions ------------------------------------------------------------------------------

    def entry(self, account: AccountId, slot: SlotId) -> SlotEntry | None:
        return self._store.entry(account, slot)

    def entries(self, account: AccountId) -> list[SlotEntry]:
        """The account's occupied slots, sorted by slot text."""
        slots = self._store.accounts.get(account)
        return [slots.entries[slot] for slot in sorted(slots.entries)] if slots else []

    def accounts(self) -> list[AccountId]:
        """Accounts with at least one occupied slot, sorted."""
        return sorted(self._store.accounts)

    def entry_of(self, session: SessionId) -> SlotEntry | None:
        """The slot the session holds."""
        row = self._store.sessions.get(session)
        return None if row is None else self._store.held_by(row)

    def session(self, session: SessionId) -> SessionRow | None:
        """The open session's row; read only."""
        return self._store.sessions.get(session)

    def sessions_of(self, worker: WorkerId | None) -> list[SessionId]:
        """The worker's open sessions, sorted; None: those without an owner."""
        return self._store.owned(worker)

    def owner(self, session: SessionId) -> WorkerId | None:
        row = self._store.sessions.get(session)
        return None if row is None else row.owner

    def is_known(self, session: SessionId) -> bool:
        """Open, over, or waiting for the log to settle: not to be started once more."""
        return (
            session in self._store.sessions
            or session in self._store.closed
            or session in self._keeping
        )

    def is_closed(self, session: SessionId) -> bool:
        return session in self._store.closed

    @property
    def workers(self) -> Mapping[WorkerId, WorkerRow]:
        """The live members; read only."""
        return self._members.live

    @property
    def gone(self) -> Mapping[WorkerId, int]:
        """Workers that left or were declared dead, with their last beat; read only."""
        return self._members.gone

    @property
    def session_count(self) -> int:
        return len(self._store.sessions)

    @property
    def closed_count(self) -> int:
        return len(self._store.closed)

    def epoch(self, author: WorkerId) -> int:
        """The author's newest epoch, 0 when none was seen."""
        turn = self._members.turns.get(author)
        return 0 if turn is None else turn.epoch

    # ---- the whole state ------------------------------------------------------------------------

    def digest(self) -> str:
        """Hex digest of the whole state but the offset: same state, same digest."""
        return self._store.digest.value(self._items, lambda key: render_item(self._state(), key))

    def snapshot(self) -> dict[str, object]:
        """The whole state as plain values, for `restore`."""
        return write_state(self._state())

    def restore(self, plain: object) -> None:
        """Become the state of a snapshot. On MalformedMessageError it is unchanged."""
        state = read_state(plain)
        self.reset()
        self.offset, self.era = state.offset, state.era
        self.settled, self.birth = state.settled, state.birth
        self._members = state.members
        self._store = state.store
        for record in state.kept:
            self._keep(record)

    def seed_for(self, newer: SlotView, most: int = 100) -> list[dict[str, object]]:
        """What this state knows and ``newer`` does not, as states of Seed records with at most
        ``most`` sessions each; at least one (perhaps empty)."""
        return write_seed(self._state(), newer._state(), most)

    def _state(self) -> TableState:
        return TableState(
            offset=self.offset,
            era=self.era,
            settled=self.settled,
            birth=self.birth,
            store=self._store,
            members=self._members,
            kept=self._kept,
        )

    def _items(self) -> Iterator[ItemKey]:
        yield ("table", "")
        yield from (("session", session) for session in self._store.sessions)
        yield from (("closed", session) for session in self._store.closed)
        for kind, workers in (
            ("live", self._members.live),
            ("gone", self._members.gone),
            ("turn", self._members.turns),
        ):
            yield from ((kind, worker) for worker in workers)

    def _touch_worker(self, *workers: WorkerId) -> None:
        for worker in workers:
            for kind in ("live", "gone", "turn"):
                self._store.digest.touch(kind, worker)

    def _keep(self, record: Record) -> None:
        self._kept.append(record)
        subject = subject_of(record)
        if subject is not None:
            self._keeping.add(subject)
        self._store.digest.touch("table", "")


def subject_of(record: Record) -> SessionId | None:
    """The session that speaks in the record, None for records about workers and the log."""
    match record:
        case Claim():
            return record.entry.session
        case Retrieve() | Unretrieve() | Checkpoint() | Close():
            return record.session
        case Release():
            return record.by
        case Swap():
            return record.holder
        case _:
            return None
