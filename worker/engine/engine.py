"""The worker without its I/O: messages and log records in, operations out, one deadline.

Pure and deterministic: the same inputs at the same times give the same operations to the byte,
which is what replay and shadow mode rest on. The slot table belongs to the replica; the engine
reads it and is told of every change in log order (`applied`).
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import orjson

from worker.engine import wire
from worker.engine.calls import Calls, new_live
from worker.engine.config import NO_DEFAULTS, EngineConfig
from worker.engine.live import LiveSession
from worker.engine.neighbours import Neighbours
from worker.engine.ops import DeadLetter, Log, Op, Publish, Settle
from worker.engine.sysconf import SystemConfig
from worker.errors import InvalidNodeError, MalformedMessageError
from worker.kapi import (
    configuration,
    envelope,
    execute,
    keys,
    nodes,
    presence,
    registrar,
    schema,
    status,
    sysconf,
)
from worker.kapi.address import parse_address
from worker.kapi.events import parse_event
from worker.kapi.exchanges import Exchange
from worker.kapi.execute import Execute
from worker.parking import effects as do
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
from worker.parking.lamp import LampUpdate
from worker.parking.model import AccountId, CallId, SessionId, SlotEntry
from worker.parking.node import parse_node
from worker.parking.presence import LampBook
from worker.parking.session import Rules, Session, State
from worker.parking.slots import SlotTable

WAITED_MS = 2_000
"""An execute older than this lay in the queue: the switch is asked before it is acted on."""
AUDIT_MS = 5_000
PASSING_STATES = frozenset(
    {
        State.CLAIMING,
        State.CONFIRMING,
        State.RELEASING,
        State.RETRIEVING,
        State.PICKING_UP,
        State.HANDING_OVER,
        State.INTERCEPTED,
        State.LEAVING,
    }
)
TERMINATED_REPEATS_MS = (400,)
"""One repeat heals what Kamailio's unordered workers do to the first (blf.md, design §8)."""
ADVERTISE_MS = 5_000
ADVERTISE_SPREAD_MS = 10_000


class Engine:
    """One worker's decisions. Not thread-safe. Every method may add to `take_ops`."""

    def __init__(self, config: EngineConfig, table: SlotTable) -> None:
        self._config = config
        self._table = table
        self._ops: list[Op] = []
        self._lamps = LampBook(expires_s=config.lamp_expires_s, repeats_ms=TERMINATED_REPEATS_MS)
        self._calls = Calls(config, self._ops.append, self._light)
        self._system = SystemConfig(config.system, config.started_at_ms)
        self._neighbours = Neighbours()
        self._ids = 0
        self._audit_at_ms = config.started_at_ms + AUDIT_MS
        self._advertise_at_ms = config.started_at_ms

    # ---- out -----------------------------------------------------------------------------------

    def take_ops(self) -> list[Op]:
        """What is to be done, in order; the engine forgets it."""
        ops, self._ops[:] = list(self._ops), []
        return ops

    def next_deadline_ms(self) -> int | None:
        """When `tick` has something to do. Never None in practice: the audit always comes."""
        times = (
            self._calls.next_deadline_ms(),
            self._lamps.next_deadline_ms(),
            self._system.next_deadline_ms(),
            self._audit_at_ms,
            self._advertise_at_ms,
        )
        return min((at for at in times if at is not None), default=None)

    @property
    def sessions(self) -> int:
        """How many calls this worker looks after."""
        return len(self._calls.live)

    @property
    def unsettled(self) -> int:
        """How many sessions are between two lasting states: better not handed over just now."""
        return sum(
            live.session.state in PASSING_STATES for live in self._calls.live.values()
        )

    @property
    def waits_for_system_config(self) -> bool:
        """Kazoo's configuration was asked for and has not answered yet."""
        return self._system.waiting

    # ---- time ----------------------------------------------------------------------------------

    def tick(self, now_ms: int) -> None:
        """Do what is due."""
        self._calls.status.switch_nodes = self._neighbours.switch_nodes(now_ms)
        self._calls.due(now_ms)
        self._publish_lamps(self._lamps.due(now_ms))
        self._ask_system_config(now_ms)
        if self._audit_at_ms <= now_ms:
            self._audit_at_ms = now_ms + AUDIT_MS
            self._audit_lamps(now_ms)
        if self._advertise_at_ms <= now_ms:
            self._advertise(now_ms)

    def _new_id(self) -> str:
        self._ids += 1
        name = f"{self._config.worker}:{self._config.started_at_ms}:{self._ids}"
        return blake2b(name.encode(), digest_size=16).hexdigest()

    def _log(self, event: str, level: str = "info", **fields: object) -> None:
        self._ops.append(Log(event=event, level=level, fields=fields))

    # ---- executes ------------------------------------------------------------------------------

    def execute(
        self,
        body: bytes,
        *,
        tag: int,
        sent_at_ms: int | None,
        redelivered: bool,
        exchange: str,
        routing_key: str,
        now_ms: int,
    ) -> None:
        """A message from the work queue (contract §2.2). Every one is settled exactly once."""
        try:
            payload = envelope.decode(body, max_bytes=self._config.max_message_bytes)
            schema.validate("action.execute", payload)
            wanted = execute.parse_execute(payload)
        except MalformedMessageError as error:
            self._dead_letter(body, error, exchange, routing_key)
            self._ops.append(Settle(tag=tag))
            return
        if self._is_known(wanted.session):
            self._log("execute repeated", "info", session=wanted.session, call_id=wanted.call_id)
            self._ops.append(Settle(tag=tag))
            return
        live = self._admit(wanted, payload, tag)
        if live is None:
            self._calls.remember(wanted.session)
            self._ops.append(Settle(tag=tag))
            return
        age_ms = 0 if sent_at_ms is None else max(now_ms - sent_at_ms, 0)
        started = e.Started(
            waited=redelivered or age_ms > WAITED_MS, too_old=age_ms > self._config.patience_ms
        )
        self._calls.add(live)
        self._calls.tell(live.id, started, now_ms)

    def _is_known(self, session: SessionId) -> bool:
        return (
            session in self._calls.live
            or self._table.is_known(session)
            or self._calls.is_done(session)
        )

    def _admit(
        self, wanted: Execute, payload: dict[str, object], tag: int
    ) -> LiveSession | None:
        """A session for a good node and a call that can be commanded; else the call goes on."""
        try:
            node = parse_node(schema.validate_node(wanted.data))
        except InvalidNodeError as error:
            self._refuse(wanted, "node refused", pointer=error.pointer, reason=error.reason)
            return None
        if not parse_address(wanted.call.control_address).reachable:
            self._refuse(wanted, "call without a control queue")
            return None
        if not keys.watchable(wanted.call_id):
            self._refuse(wanted, "call id too long for a routing key")
            return None
        facts = orjson.dumps(execute.trim_execute(payload)).decode()
        session = Session(wanted.session, wanted.call, node, self._rules(wanted.call.account))
        return new_live(session, facts=facts, tag=tag)

    def _refuse(self, wanted: Execute, event: str, **fields: object) -> None:
        """Nothing is done for this call: *continue* (design §7)."""
        self._log(event, "warning", call_id=wanted.call_id, session=wanted.session, **fields)
        finish = do.Finish(verdict=do.Verdict.CONTINUE)
        self._ops += wire.result(
            finish, wanted.call, wanted.session, wanted.call_id, self._config.node
        )

    def _rules(self, account: AccountId) -> Rules:
        return Rules(
            compat=self._config.compat,
            account=self._config.accounts.get(account, NO_DEFAULTS),
            system=self._system.defaults,
            reconcile_ms=self._config.reconcile_ms,
        )

    def _dead_letter(
        self, body: bytes, error: MalformedMessageError, exchange: str, routing_key: str
    ) -> None:
        digest = blake2b(body, digest_size=8).hexdigest()
        self._log(
            "message refused",
            "warning",
            reason=error.reason,
            pointer=error.pointer,
            exchange=exchange,
            routing_key=routing_key[:255],
            bytes=len(body),
            hash=digest,
        )
        self._ops.append(
            DeadLetter(
                body=body,
                reason=error.reason,
                pointer=error.pointer,
                exchange=exchange,
                routing_key=routing_key,
            )
        )

    # ---- the other messages --------------------------------------------------------------------

    def message(self, body: bytes, *, exchange: str, routing_key: str, now_ms: int) -> None:
        """A message from any exchange but ``kapps``."""
        try:
            payload = envelope.decode(body, max_bytes=self._config.max_message_bytes)
            self._dispatch(payload, exchange, now_ms)
        except MalformedMessageError as error:
            self._dead_letter(body, error, exchange, routing_key)

    def _dispatch(self, payload: dict[str, object], exchange: str, now_ms: int) -> None:
        match exchange:
            case Exchange.CALLEVT:
                event = parse_event(payload)
                if event is not None:
                    self._calls.tell_about_call(event, now_ms)
            case Exchange.TARGETED | "":
                self._reply(payload, now_ms)
            case Exchange.PRESENCE:
                self._presence(payload, now_ms)
            case Exchange.NODES:
                notice = nodes.parse_advertisement(payload)
                if notice is not None and self._neighbours.heard(notice, now_ms):
                    self._lamps.kamailio_back(now_ms)
            case Exchange.CONFIGURATION:
                if configuration.parse_document_change(payload) is not None:
                    self._system.changed(now_ms)
            case _:
                raise MalformedMessageError(f"nothing of ours comes through {exchange!r}")

    def _reply(self, payload: dict[str, object], now_ms: int) -> None:
        match payload.get("Event-Name"):
            case "channel_status_resp":
                answer = status.parse_status_answer(payload)
                node = str(payload.get("Node", ""))
                self._calls.tell_answers(self._calls.status.answered(answer, node), now_ms)
            case "get_resp":
                self._system_config_answered(payload)
            case "reg_query_resp" | "reg_query_error":
                found = registrar.parse_registrar_answer(payload)
                if found is not None:
                    self._calls.tell_answers(self._calls.endpoints.answered(found), now_ms)
            case _:
                pass  # replies nobody asked for: probes of our inbox, late answers

    def _presence(self, payload: dict[str, object], now_ms: int) -> None:
        match payload.get("Event-Name"):
            case "probe":
                probe = presence.parse_probe(payload)
                if probe is not None:
                    self._publish_lamps(self._lamps.probe(probe.realm, probe.user, self._mine))
            case "reset":
                reset = presence.parse_reset(payload)
                if reset is not None:
                    self._lamps.reset(reset.realm, reset.user, now_ms)
            case _:
                pass

    def bound(self, call_id: CallId, now_ms: int) -> None:
        """The event queue is bound to the call."""
        self._calls.bound(call_id, now_ms)

    def returned(self, op: Publish, now_ms: int) -> None:
        """The broker could not route a mandatory message."""
        if op.exchange is Exchange.SYSCONF:
            self._system.unroutable()
            return
        self._log(
            "unroutable",
            "warning",
            exchange=op.exchange.value,
            routing_key=op.routing_key,
            session=op.session or "",
        )
        live = None if op.session is None else self._calls.live.get(op.session)
        if live is not None and op.app is not None:
            event = e.CommandReturned(call_id=live.session.call_id, app=op.app)
            self._calls.tell(live.id, event, now_ms)

    # ---- the slot log --------------------------------------------------------------------------

    def applied(self, changes: Iterable[Change], now_ms: int) -> None:
        """What a record changed, in log order."""
        for change in changes:
            self._apply(change, now_ms)

    def _apply(self, change: Change, now_ms: int) -> None:
        calls = self._calls
        match change:
            case SessionOpened():
                if change.owner == self._config.worker:
                    calls.opened(change.session)
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
                self._lamps.saw_occupied(change.after)
                if change.after.session in calls.live and not change.after.reserved:
                    self._light(change.after, now_ms)
            case SessionClosed():
                calls.drop(change.session)
            case SessionMoved():
                self._moved(change, now_ms)
            case WorkerGone():
                self._lamps.owner_gone(change.worker, now_ms, self._mine)
            case _:
                pass

    def _claim_decided(self, change: ClaimDecided, now_ms: int) -> None:
        previous, entry = change.previous, change.entry
        if change.outcome is ClaimOutcome.COMPLETED and previous is not None:
            if not previous.reserved and previous.session in self._calls.live:
                self._publish_lamps(self._lamps.darken(previous, now_ms))
            self._calls.tell(previous.session, e.ReservationCompleted(), now_ms)
        if entry is not None and not entry.reserved:
            self._lamps.saw_occupied(entry)
        self._calls.tell(change.session, change, now_ms)

    def _released(self, change: Released, now_ms: int) -> None:
        entry = change.entry
        if not entry.reserved:
            self._lamps.saw_free(entry, change.owner, now_ms)
            if entry.session in self._calls.live:
                self._publish_lamps(self._lamps.darken(entry, now_ms))
        told = [entry.session, change.by, entry.retriever]
        for session in dict.fromkeys(told):
            if session is not None:
                self._calls.tell(session, change, now_ms)
        self._calls.tell_waiters(entry.account, entry.slot, e.SlotFreed(), now_ms)

    def _moved(self, change: SessionMoved, now_ms: int) -> None:
        if change.owner == self._config.worker:
            self._adopt(change.session, now_ms)
        else:
            self._let_go(change.session)

    def _let_go(self, session: SessionId) -> None:
        """Another worker goes on with it: not a word more from here."""
        live = self._calls.drop(session)
        if live is not None:
            entry = self._table.entry_of(session)
            if entry is not None:
                self._lamps.forget(entry)
            self._log("session let go", session=session, call_id=live.session.call_id)

    def _adopt(self, session: SessionId, now_ms: int) -> None:
        """Go on with a session another worker had (design §5)."""
        row = self._table.session(session)
        if row is None or session in self._calls.live:
            return
        try:
            wanted = execute.parse_execute(orjson.loads(row.facts))
            node = parse_node(schema.validate_node(wanted.data))
        except (MalformedMessageError, orjson.JSONDecodeError) as error:
            self._log("session cannot be adopted", "error", session=session, reason=str(error))
            return
        fresh = Session(session, wanted.call, node, self._rules(row.account))
        saved = orjson.loads(row.state) if row.state else {}
        attempts = [decision.attempt for decision in row.decided]
        saved["attempt"] = max([saved.get("attempt", 0), row.forgotten_claim, *attempts])
        target = None if row.retrieves is None else self._table.entry(row.account, row.retrieves)
        resuming.restore(
            fresh, saved, holds=self._table.entry_of(session), retrieves=target
        )
        live = LiveSession(fresh, facts="", generation=row.generation, opened=True)
        self._calls.add(live)
        self._log("session adopted", session=session, call_id=fresh.call_id)
        self._calls.tell(session, e.Resumed(adopted=True), now_ms)

    # ---- the connection ------------------------------------------------------------------------

    def links_lost(self) -> None:
        """The connection is gone. Sessions stay; nothing is known until `resume`."""
        self._calls.links_lost()

    def let_go_of_others(self) -> None:
        """Drop every session that the table has given to another worker. To be called before
        anything else after a time in which this worker may have been replaced."""
        for session, live in list(self._calls.live.items()):
            if self._table.owner(session) != self._config.worker and (
                live.opened or self._table.is_known(session)
            ):
                self._let_go(session)

    def resume(self, now_ms: int) -> None:
        """Connected, caught up with the log and a member: compare with the table and go on.

        Sessions the table has given to others are dropped, those it gives us are adopted, and those
        we had ask the switch what they missed.
        """
        self.let_go_of_others()
        ours = set(self._table.sessions_of(self._config.worker))
        kept = list(self._calls.live)
        for account in self._table.accounts():
            for entry in self._table.entries(account):
                if not entry.reserved:
                    self._lamps.saw_occupied(entry)
        for session in kept:
            self._calls.tell(session, e.Resumed(adopted=False), now_ms)
        for session in sorted(ours - set(kept)):
            self._adopt(session, now_ms)
        self._lamps.kamailio_back(now_ms)
        self._advertise_at_ms = now_ms
        self._system.changed(now_ms)
        self.tick(now_ms)

    # ---- lamps ---------------------------------------------------------------------------------

    def _mine(self, place: str) -> bool:
        """Whether this worker answers for a lamp nobody owns: true in one live worker."""
        workers = list(self._table.workers) or [self._config.worker]
        return max(workers, key=lambda worker: _weight(worker, place)) == self._config.worker

    def _light(self, entry: SlotEntry, now_ms: int) -> None:
        self._publish_lamps(self._lamps.light(entry, now_ms))

    def _publish_lamps(self, updates: list[LampUpdate]) -> None:
        for update in updates:
            self._ops += wire.lamp(update, node=self._config.node, msg_id=self._new_id())

    def _audit_lamps(self, now_ms: int) -> None:
        wanted = [
            live.session.entry
            for live in self._calls.live.values()
            if live.session.entry is not None
            and live.session.announced
            and not live.session.entry.reserved
        ]
        for drift in self._lamps.audit(wanted, now_ms):
            self._log(
                "lamp drift", "warning", call_id=drift.lamp.call_id, kind=drift.kind.value
            )

    # ---- configuration and presence on the bus -------------------------------------------------

    def _ask_system_config(self, now_ms: int) -> None:
        for category, key in self._system.questions(now_ms):
            msg_id = self._new_id()
            self._system.asked(msg_id, key)
            payload = sysconf.sysconf_request(
                category,
                key,
                node=self._config.node,
                msg_id=msg_id,
                server_id=self._config.inbox,
            )
            self._ops.append(
                Publish(
                    exchange=Exchange.SYSCONF,
                    routing_key=keys.SYSCONF_GET,
                    payload=payload,
                    mandatory=True,
                )
            )

    def _system_config_answered(self, payload: dict[str, object]) -> None:
        answer = sysconf.parse_sysconf_answer(payload)
        if answer is None:
            return
        complaint = self._system.answered(answer)
        if complaint is not None:
            self._log("system configuration ignored", "warning", reason=complaint)
        self._calls.account_prompts = self._system.account_prompts
        for live in self._calls.live.values():
            live.session.rules = self._rules(live.session.call.account)

    def _advertise(self, now_ms: int) -> None:
        spread = int(self._new_id()[:8], 16) % ADVERTISE_SPREAD_MS
        interval_ms = ADVERTISE_MS + spread
        self._advertise_at_ms = now_ms + interval_ms
        payload = nodes.advertisement(
            node=self._config.node,
            msg_id=self._new_id(),
            version=self._config.version,
            expires_ms=interval_ms,
            started_at_ms=self._config.started_at_ms,
            zone=self._config.zone,
        )
        self._ops.append(
            Publish(exchange=Exchange.NODES, routing_key=keys.NODES, payload=payload)
        )


def _weight(worker: str, place: str) -> bytes:
    return blake2b(f"{worker} {place}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
