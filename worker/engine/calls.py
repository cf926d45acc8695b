"""The sessions of this worker: what they want becomes operations, what happens reaches them.

Pure. A crash inside one call's code ends that call's session with *continue* and touches no other
(design §7).
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable

import orjson

from worker.engine import wire
from worker.engine.config import EngineConfig
from worker.engine.inquiries import Answer, EndpointInquiries, StatusInquiries
from worker.engine.live import LiveSession
from worker.engine.ops import Append, Bind, Log, Op, Settle, Unbind
from worker.kapi import keys
from worker.parking import effects as do
from worker.parking import events as e
from worker.parking import machine, records
from worker.parking.model import AccountId, CallId, SessionId, SlotEntry, SlotId
from worker.parking.session import Session

PATIENT_MAX = 100
"""So many questions nobody waits for are put to the switch at once."""
DONE_IDS = 8_192
"""How many sessions that never reached the log are remembered, against a second delivery."""

Light = Callable[[SlotEntry, int], None]


class Calls:
    """Live sessions, who listens to which call, and who waits for which slot."""

    def __init__(self, config: EngineConfig, emit: Callable[[Op], None], light: Light) -> None:
        self._config = config
        self.emit = emit
        self._light = light
        self.live: dict[SessionId, LiveSession] = {}
        self.status = StatusInquiries()
        self.endpoints = EndpointInquiries()
        self.account_prompts = True
        self._watchers: dict[CallId, set[SessionId]] = {}
        self._bound: set[CallId] = set()
        self._waiters: defaultdict[tuple[AccountId, SlotId], set[SessionId]] = defaultdict(set)
        self._done: OrderedDict[SessionId, None] = OrderedDict()
        self._agenda: list[tuple[int, SessionId]] = []
        self._inbox: deque[tuple[SessionId, e.Event | e.ChannelEvent]] = deque()
        self._busy = False
        self._patient: dict[SessionId, do.AskLiveness] = {}
        """Questions that wait their turn: at most one a session, or a silent switch would let them
        grow without end."""

    # ---- in ------------------------------------------------------------------------------------

    def tell(self, session: SessionId, event: e.Event | e.ChannelEvent, now_ms: int) -> None:
        """Feed one session, then whatever that made known to others, in order."""
        self._inbox.append((session, event))
        if self._busy:
            return
        self._busy = True
        try:
            while self._inbox:
                self._tell_one(*self._inbox.popleft(), now_ms)
        finally:
            self._busy = False

    def tell_about_call(self, event: e.ChannelEvent, now_ms: int) -> bool:
        """Feed everybody who follows the event's call; False when nobody does."""
        watchers = self._watchers.get(event.call_id, ())
        for session in sorted(watchers):
            self.tell(session, event, now_ms)
        return bool(watchers)

    def tell_waiters(
        self, account: AccountId, slot: SlotId, event: e.Event, now_ms: int
    ) -> None:
        for session in sorted(self._waiters.pop((account, slot), ())):
            self.tell(session, event, now_ms)

    def tell_answers(self, answers: list[Answer], now_ms: int) -> None:
        for session, event in answers:
            self.tell(session, event, now_ms)
        if answers:
            self._ask_waiting(now_ms)

    def bound(self, call_id: CallId, now_ms: int) -> None:
        """The binding is in place."""
        if call_id in self._watchers:
            self._bound.add(call_id)
            self.tell_about_call(e.CallWatched(call_id=call_id), now_ms)

    def due(self, now_ms: int) -> None:
        """Everything whose time has come."""
        self.tell_answers(self.status.due(now_ms) + self.endpoints.due(now_ms), now_ms)
        while self._agenda and self._agenda[0][0] <= now_ms:
            at_ms, session = heapq.heappop(self._agenda)
            live = self.live.get(session)
            if live is not None and live.deadline_ms == at_ms:
                live.deadline_ms = None
                self.tell(session, e.DeadlinePassed(), now_ms)

    def next_deadline_ms(self) -> int | None:
        while self._agenda:
            at_ms, session = self._agenda[0]
            live = self.live.get(session)
            if live is not None and live.deadline_ms == at_ms:
                break
            heapq.heappop(self._agenda)
        times = [self.status.next_deadline_ms(), self.endpoints.next_deadline_ms()]
        times += [self._agenda[0][0]] if self._agenda else []
        return min((at for at in times if at is not None), default=None)

    # ---- sessions ------------------------------------------------------------------------------

    def add(self, live: LiveSession) -> None:
        self.live[live.id] = live

    def is_done(self, session: SessionId) -> bool:
        """Whether a session ended here without ever reaching the log."""
        return session in self._done

    def remember(self, session: SessionId) -> None:
        self._done[session] = None
        while len(self._done) > DONE_IDS:
            self._done.popitem(last=False)

    def drop(self, session: SessionId) -> LiveSession | None:
        """Forget a session without a word: it is over, or another worker's now."""
        live = self.live.pop(session, None)
        if live is None:
            return None
        for call_id in [c for c in self._followed(live) if session in self._watchers.get(c, ())]:
            self._unwatch(session, call_id)
        self.status.forget(session)
        self.endpoints.forget(session)
        self._patient.pop(session, None)
        self._stop_waiting(live)
        return live

    def _stop_waiting(self, live: LiveSession) -> None:
        slot = live.session.slot
        if slot is None:
            return
        place = live.session.call.account, slot
        waiters = self._waiters.get(place)
        if waiters is not None:
            waiters.discard(live.id)
            if not waiters:
                del self._waiters[place]

    @staticmethod
    def _followed(live: LiveSession) -> list[CallId]:
        # In this order in every process: a set's would depend on the hash seed.
        return list(dict.fromkeys((live.session.call_id, live.session.call.call_id)))

    def opened(self, session: SessionId) -> None:
        """The log has the session: its execute may be acknowledged."""
        live = self.live.get(session)
        if live is not None:
            live.opened = True
            self.settle(live)

    def links_lost(self) -> None:
        """The connection is gone: bindings, questions and delivery tags with it."""
        self._bound.clear()
        self._watchers.clear()
        self.status.forget_all()
        self._patient.clear()
        self.endpoints.forget_all()
        for live in self.live.values():
            live.tag = None

    # ---- one step ------------------------------------------------------------------------------

    def _tell_one(self, session: SessionId, event: e.Event | e.ChannelEvent, now_ms: int) -> None:
        live = self.live.get(session)
        if live is None:
            return
        try:
            for effect in machine.receive(live.session, event, now_ms):
                self._carry_out(live, effect, now_ms)
        except Exception as error:  # one call's crash must not reach another's
            self._crashed(live, event, error)
        self._rearm(live)

    def _rearm(self, live: LiveSession) -> None:
        if live.id not in self.live:
            return
        deadline_ms = live.session.next_deadline_ms()
        if deadline_ms is not None and deadline_ms != live.deadline_ms:
            heapq.heappush(self._agenda, (deadline_ms, live.id))
        live.deadline_ms = deadline_ms

    def _crashed(self, live: LiveSession, event: object, error: Exception) -> None:
        session = live.session
        fields = {
            "call_id": session.call_id,
            "session": session.id,
            "state": session.state.value,
            "on": type(event).__name__,
            "error": f"{type(error).__name__}: {error}",
        }
        self.emit(Log(event="session crashed", level="error", fields=fields))
        if not session.finished and not session.control_lost:
            session.finished = True
            self._finish(live, do.Finish(verdict=do.Verdict.CONTINUE))
        self._end(live)

    def _carry_out(self, live: LiveSession, effect: do.Effect, now_ms: int) -> None:  # noqa: PLR0912
        session, config = live.session, self._config
        match effect:
            case do.Accept():
                self._emit_all(
                    wire.accepted(session.call, session.id, session.call_id, config.node)
                )
            case do.Finish():
                self._finish(live, effect)
            case do.End():
                self._end(live)
            case do.Watch():
                self._watch(session.id, effect.call_id)
            case do.Unwatch():
                self._unwatch(session.id, effect.call_id)
            case do.AskLiveness():
                self._ask_liveness(live, effect, now_ms)
            case do.AskEndpoint():
                self._ask_endpoint(live, effect, now_ms)
            case do.LightLamp():
                self._light(effect.entry, now_ms)
            case do.Announce():
                self._emit_all(
                    wire.announcement(effect, session, node=config.node, msg_id=live.new_id())
                )
                self._log_step(live, effect.event.value)
            case do.AwaitSlot():
                self._waiters[session.call.account, effect.slot].add(session.id)
            case do.Note():
                fields = {"call_id": session.call_id, "session": session.id, **dict(effect.fields)}
                self.emit(Log(event=effect.text, level="warning", fields=fields))
            case (
                do.ClaimSlot()
                | do.RetrieveSlot()
                | do.GiveUpRetrieval()
                | do.ReleaseSlot()
                | do.SwapCall()
                | do.Save()
            ):
                self._append(live, effect, now_ms)
            case _:
                self._emit_all(
                    wire.commands(
                        effect,
                        session,
                        node=config.node,
                        new_id=live.new_id,
                        account_prompts=self.account_prompts,
                    )
                )

    def _emit_all(self, ops: list[Op]) -> None:
        for op in ops:
            self.emit(op)

    def _log_step(self, live: LiveSession, step: str) -> None:
        session = live.session
        fields = {
            "call_id": session.call_id,
            "account": session.call.account,
            "slot": session.slot or "",
            "session": session.id,
            "step": step,
        }
        self.emit(Log(event="parking", fields=fields))

    def _finish(self, live: LiveSession, finish: do.Finish) -> None:
        session = live.session
        self._emit_all(
            wire.result(finish, session.call, session.id, session.call_id, self._config.node)
        )
        told = finish.verdict.value if finish.child is None else f"continue {finish.child}"
        self._log_step(live, f"result {told}")

    def _end(self, live: LiveSession) -> None:
        session = live.session
        if live.opened or not live.facts:
            record = records.Close(author=self._config.worker, at_ms=0, session=session.id)
            self.emit(Append(record=record))
        else:
            self.remember(session.id)
        self.settle(live)
        self.drop(session.id)

    def settle(self, live: LiveSession) -> None:
        """Acknowledge its execute, if that has not been done."""
        if live.tag is not None:
            self.emit(Settle(tag=live.tag))
            live.tag = None

    # ---- listening and asking ------------------------------------------------------------------

    def _watch(self, session: SessionId, call_id: CallId) -> None:
        watchers = self._watchers.setdefault(call_id, set())
        watchers.add(session)
        if call_id in self._bound:
            self._inbox.append((session, e.CallWatched(call_id=call_id)))
        elif keys.watchable(call_id):
            self.emit(Bind(call_id=call_id))

    def _unwatch(self, session: SessionId, call_id: CallId) -> None:
        watchers = self._watchers.get(call_id)
        if watchers is None:
            return
        watchers.discard(session)
        if not watchers:
            del self._watchers[call_id]
            self._bound.discard(call_id)
            self.emit(Unbind(call_id=call_id))

    def _ask_liveness(self, live: LiveSession, effect: do.AskLiveness, now_ms: int) -> None:
        if effect.patient and len(self.status) >= PATIENT_MAX:
            self._patient[live.id] = effect
        else:
            self._ask_now(live, effect, now_ms)

    def _ask_waiting(self, now_ms: int) -> None:
        """Questions nobody waits for, a few at a time."""
        while self._patient and len(self.status) < PATIENT_MAX:
            session = next(iter(self._patient))
            self._ask_now(self.live[session], self._patient.pop(session), now_ms)

    def _ask_now(self, live: LiveSession, effect: do.AskLiveness, now_ms: int) -> None:
        config, msg_id = self._config, live.new_id()
        self.status.ask(msg_id, live.id, effect.call_id, now_ms, quick=effect.quick)
        if keys.watchable(effect.call_id):
            self.emit(
                wire.status_question(
                    effect.call_id, node=config.node, msg_id=msg_id, inbox=config.inbox
                )
            )

    def _ask_endpoint(self, live: LiveSession, effect: do.AskEndpoint, now_ms: int) -> None:
        """Whom the registrar cannot be asked about is not found when the time is over. The user
        ``*`` would be everybody (contract §9.4), and any device of the realm would ring."""
        config, msg_id = self._config, live.new_id()
        self.endpoints.ask(msg_id, live.id, live.session.call.account, now_ms)
        if effect.user != "*" and keys.fits(keys.registrar_query(effect.realm, effect.user)):
            self.emit(
                wire.endpoint_question(effect, node=config.node, msg_id=msg_id, inbox=config.inbox)
            )

    # ---- the log -------------------------------------------------------------------------------

    def _append(self, live: LiveSession, effect: do.Effect, now_ms: int) -> None:
        session = live.session
        common = {"author": self._config.worker, "at_ms": now_ms}
        account = session.call.account
        record: records.Record
        match effect:
            case do.ClaimSlot():
                record = records.Claim(
                    **common,  # type: ignore[arg-type]
                    entry=effect.entry,
                    attempt=effect.attempt,
                    max_slot=effect.max_slot,
                    replaces=effect.replaces,
                    evict=effect.evict,
                    evict_call=effect.evict_call,
                    lamps=effect.lamps,
                    facts=self._take_facts(live),
                )
            case do.RetrieveSlot():
                record = records.Retrieve(
                    **common,  # type: ignore[arg-type]
                    session=session.id,
                    account=account,
                    slot=effect.slot,
                    attempt=effect.attempt,
                    facts=self._take_facts(live),
                )
            case do.GiveUpRetrieval():
                record = records.Unretrieve(
                    **common,  # type: ignore[arg-type]
                    session=session.id,
                    account=account,
                    slot=effect.slot,
                )
            case do.ReleaseSlot():
                record = records.Release(
                    **common,  # type: ignore[arg-type]
                    account=account,
                    slot=effect.slot,
                    holder=effect.holder,
                    by=session.id,
                    reason=effect.reason,
                )
            case do.SwapCall():
                record = records.Swap(
                    **common,  # type: ignore[arg-type]
                    account=account,
                    slot=effect.slot,
                    holder=session.id,
                    old_call_id=effect.old_call_id,
                    new_call_id=effect.new_call_id,
                )
            case _:
                state = orjson.dumps(session.checkpoint()).decode()
                record = records.Checkpoint(**common, session=session.id, state=state)  # type: ignore[arg-type]
        self.emit(Append(record=record))

    @staticmethod
    def _take_facts(live: LiveSession) -> str:
        """The facts go with the session's first record only."""
        facts, live.facts = live.facts, ""
        return facts


def new_live(session: Session, *, facts: str, tag: int | None) -> LiveSession:
    """A session that begins here."""
    live = LiveSession(session, facts=facts, generation=0, opened=False)
    live.tag = tag
    return live
