"""What the slot log says, brought to the sessions and lamps of this worker.

The table has decided before the ledger hears of it; here every decision finds whom it concerns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import orjson

from worker.engine import wire
from worker.engine.calls import Calls
from worker.engine.config import EngineConfig
from worker.engine.lamps import Lamps
from worker.engine.live import LiveSession
from worker.engine.ops import Append, Log
from worker.errors import MalformedMessageError
from worker.kapi import execute, schema
from worker.kapi.execute import Execute
from worker.parking import events as e
from worker.parking import resuming
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
    SessionMoved,
    SessionOpened,
    Swapped,
    WorkerGone,
)
from worker.parking.effects import Finish, Verdict
from worker.parking.model import AccountId, CallId, ReleaseReason, SessionId, SlotEntry, WorkerId
from worker.parking.node import parse_node
from worker.parking.records import Close
from worker.parking.session import Rules, Session, State
from worker.parking.slot_rows import TOOK_LATE, SessionRow
from worker.parking.slots import SlotTable

TAKE_UP_AT_ONCE = 100
TAKE_UP_EACH_MS = 50


class Ledger:
    """Log changes in, events for sessions and lamps out."""

    def __init__(
        self,
        config: EngineConfig,
        table: SlotTable,
        *,
        calls: Calls,
        lamps: Lamps,
        rules: Callable[[AccountId], Rules],
    ) -> None:
        self._config = config
        self._table = table
        self._calls = calls
        self._lamps = lamps
        self._rules = rules
        self._waiting: deque[tuple[SessionId, bool]] = deque()
        """Sessions to go on with, and whether another worker had them."""
        self._next_ms = 0

    def applied(self, changes: Iterable[Change], now_ms: int) -> None:
        for change in changes:
            self._apply(change, now_ms)
        self.take_up(now_ms)

    def next_deadline_ms(self) -> int | None:
        return self._next_ms if self._waiting else None

    def take_up(self, now_ms: int) -> None:
        """Go on with those that wait, not too many at once: ten thousand calls of a dead worker
        must neither keep us from our own heartbeat nor drown the switch in questions."""
        if now_ms < self._next_ms:
            return
        for _ in range(min(len(self._waiting), TAKE_UP_AT_ONCE)):
            session, adopted = self._waiting.popleft()
            if adopted:
                self._adopt(session, now_ms)
            else:
                self._calls.tell(session, e.Resumed(adopted=False), now_ms)
        if self._waiting:
            self._next_ms = now_ms + TAKE_UP_EACH_MS

    def let_go_of_others(self) -> None:
        for session, live in list(self._calls.live.items()):
            if self._table.owner(session) != self._config.worker and (
                live.opened or self._table.is_known(session)
            ):
                self._let_go(session)

    def resume(self, now_ms: int) -> None:
        """Drop what is others', adopt what is ours, let the rest ask what it missed."""
        self.let_go_of_others()
        ours = set(self._table.sessions_of(self._config.worker))
        kept = list(self._calls.live)
        self._lamps.saw_table(
            entry
            for account in self._table.accounts()
            for entry in self._table.entries(account)
            if not entry.reserved
        )
        live = self._calls.live
        kept.sort(key=lambda session: live[session].session.state is State.HOLDING)
        self._waiting.clear()
        self._waiting.extend((session, False) for session in kept)
        self._waiting.extend((session, True) for session in sorted(ours - set(kept)))
        self._next_ms = now_ms
        self.take_up(now_ms)

    def _log(self, event: str, level: str = "info", **fields: object) -> None:
        self._calls.emit(Log(event=event, level=level, fields=fields))

    def _apply(self, change: Change, now_ms: int) -> None:  # noqa: PLR0912 - one per change
        calls = self._calls
        match change:
            case SessionOpened():
                if change.owner == self._config.worker:
                    calls.opened(change.session)
                elif self._table.owner(change.session) != self._config.worker:
                    # A copy of the execute went to another worker, who was first.
                    self._let_go(change.session)
            case ClaimDecided():
                self._claim_decided(change, now_ms)
            case RetrieveDecided():
                calls.tell(change.session, change, now_ms)
                if change.outcome is RetrieveOutcome.WON and change.entry is not None:
                    begun = e.RetrievalBegun(retriever=change.session)
                    calls.tell(change.entry.session, begun, now_ms)
            case RetrieveEnded():
                ended = e.RetrievalEnded(retriever=change.session)
                calls.tell(change.entry.session, ended, now_ms)
                calls.tell_waiters(change.entry.account, change.entry.slot, ended, now_ms)
            case Released():
                self._released(change, now_ms)
            case ReleaseRefused():
                calls.tell(change.by, change, now_ms)
            case Swapped():
                self._swapped(change, now_ms)
            case SessionClosed():
                calls.drop(change.session)
            case SessionMoved():
                self._moved(change, now_ms)
            case WorkerGone():
                self._lamps.owner_gone(change.worker, now_ms)
            case _:
                pass

    def _claim_decided(self, change: ClaimDecided, now_ms: int) -> None:
        previous, entry = change.previous, change.entry
        if change.outcome is ClaimOutcome.COMPLETED and previous is not None:
            if not previous.reserved and (entry is None or previous.call_id != entry.call_id):
                self._darken(previous, now_ms)
            self._calls.tell(previous.session, e.ReservationCompleted(), now_ms)
        if entry is not None and not entry.reserved:
            self._lamps.saw_occupied(entry)
        self._calls.tell(change.session, change, now_ms)

    def _released(self, change: Released, now_ms: int) -> None:
        entry = change.entry
        if not entry.reserved:
            self._lamps.saw_free(change, now_ms)
            self._darken(entry, now_ms)
        told = [entry.session, change.by, entry.retriever]
        for session in dict.fromkeys(told):
            if session is not None:
                self._calls.tell(session, change, now_ms)
        self._calls.tell_waiters(entry.account, entry.slot, e.SlotFreed(), now_ms)

    def _darken(self, entry: SlotEntry, now_ms: int) -> None:
        """The lamp of a session of ours goes out, if it was ever lit: by itself, or by the session
        it took the slot over from."""
        live = self._calls.live.get(entry.session)
        if live is not None and (live.session.announced or live.session.inherits_lamp):
            self._lamps.darken(live.session.entry or entry, now_ms)

    def _swapped(self, change: Swapped, now_ms: int) -> None:
        """Another call id: the old dialog ends, the new one is lit (contract §3.4)."""
        if change.after.retriever is not None:
            self._calls.tell(change.after.retriever, change, now_ms)
        self._lamps.saw_occupied(change.after)
        live = self._calls.live.get(change.after.session)
        if live is not None and live.session.announced and not change.after.reserved:
            self._lamps.light(live.session.entry or change.after, now_ms)

    def _moved(self, change: SessionMoved, now_ms: int) -> None:
        if change.owner == self._config.worker:
            self._waiting.append((change.session, True))
        else:
            self._let_go(change.session)

    def _let_go(self, session: SessionId) -> None:
        """Another worker goes on with it: not a word more from here."""
        live = self._calls.drop(session)
        if live is not None:
            self._calls.settle(live)
            # The table may have gone on: freed since, by the other worker.
            entry = self._table.entry_of(session) or live.session.entry
            if entry is not None:
                self._lamps.forget(entry)
            self._log("session let go", session=session, call_id=live.session.call_id)

    def _adopt(self, session: SessionId, now_ms: int) -> None:
        """Go on with a session another worker had (design §5)."""
        row = self._table.session(session)
        if row is None or row.owner != self._config.worker or session in self._calls.live:
            return  # what we are told lags behind the table: it may have moved on
        saved = _saved(row)
        wanted = None
        try:
            wanted = execute.parse_execute(orjson.loads(row.facts))
            node = parse_node(schema.validate_node(wanted.data))
        except (MalformedMessageError, orjson.JSONDecodeError) as error:
            self._log("session cannot be adopted", "error", session=session, reason=str(error))
            if wanted is not None and not (saved.get("finished") or saved.get("control_lost")):
                self._send_on(wanted, saved)
            # Nobody could ever serve it: at least its slot must not stay taken.
            close = Close(author=self._config.worker, at_ms=now_ms, session=session)
            self._calls.emit(Append(record=close))
            return
        fresh = Session(session, wanted.call, node, self._rules(row.account))
        target = None if row.retrieves is None else self._table.entry(row.account, row.retrieves)
        resuming.restore(
            fresh,
            saved,
            holds=self._table.entry_of(session),
            retrieves=target,
            freed=_freed(row),
            took=_took(row),
        )
        live = LiveSession(fresh, facts="", generation=row.generation, opened=True)
        self._calls.add(live)
        self._log("session adopted", session=session, call_id=fresh.call_id)
        if fresh.freed is not None and fresh.state is State.RELEASING:
            # Its last owner died before it could say so.
            self._lamps.darken(replace(fresh.freed.entry, call_id=fresh.call_id), now_ms)
        self._calls.tell(session, e.Resumed(adopted=True), now_ms)


    def _send_on(self, wanted: Execute, saved: Mapping[str, object]) -> None:
        """A call whose node this version does not understand: *continue*, as for any such node."""
        call_id = CallId(str(saved.get("call_id", wanted.call_id)))
        finish = Finish(verdict=Verdict.CONTINUE)
        for op in wire.result(finish, wanted.call, wanted.session, call_id, self._config.node):
            self._calls.emit(op)


def _saved(row: SessionRow) -> dict[str, object]:
    """The session's checkpoint; without one (or with one this version cannot read) the table alone
    tells where it was."""
    try:
        state = orjson.loads(row.state) if row.state else {}
    except orjson.JSONDecodeError:
        state = {}
    saved: dict[str, object] = state if isinstance(state, dict) else {}
    attempt = saved.get("attempt")
    attempts = [decision.attempt for decision in row.decided]
    known = attempt if isinstance(attempt, int) else 0
    return saved | {"attempt": max([known, row.forgotten_claim, *attempts])}


def _freed(row: SessionRow) -> Released | None:
    """How the slot the session held became free, told again to its successor."""
    held = [d.entry for d in row.decided if isinstance(d, ClaimDecided) and d.entry is not None]
    if not row.freed or not held:
        return None
    return Released(
        entry=held[-1],
        reason=ReleaseReason(row.freed),
        by=SessionId(row.freed_by),
        author=WorkerId(""),
        owner=row.owner,
    )


def _took(row: SessionRow) -> Released | ReleaseRefused | None:
    """What the log answered to the retriever that was bridged, told again to its successor."""
    won = [
        decision.entry
        for decision in row.decided
        if isinstance(decision, RetrieveDecided) and decision.outcome is RetrieveOutcome.WON
    ]
    if not row.took or not won or won[-1] is None:
        return None
    entry, reason = won[-1], ReleaseReason.RETRIEVED
    if row.took == TOOK_LATE:
        return ReleaseRefused(holder=entry.session, by=row.session, reason=reason)
    return Released(entry=entry, reason=reason, by=row.session, author=WorkerId(""), owner=None)
