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
from worker.engine.bus import Bus
from worker.engine.calls import Calls, new_live
from worker.engine.config import NO_DEFAULTS, EngineConfig
from worker.engine.lamps import Lamps
from worker.engine.ledger import Ledger
from worker.engine.live import LiveSession
from worker.engine.ops import DeadLetter, Log, Op, Publish, Settle
from worker.errors import InvalidNodeError, MalformedMessageError
from worker.kapi import (
    configuration,
    envelope,
    execute,
    keys,
    presence,
    registrar,
    schema,
    status,
)
from worker.kapi.address import parse_address
from worker.kapi.events import parse_event
from worker.kapi.exchanges import Exchange
from worker.kapi.execute import Execute
from worker.parking import effects as do
from worker.parking import events as e
from worker.parking.changes import Change
from worker.parking.model import AccountId, CallId, SessionId, SlotEntry
from worker.parking.node import parse_node
from worker.parking.session import Rules, Session, State
from worker.parking.slots import SlotTable

WAITED_MS = 2_000
"""An execute older than this lay in the queue: the switch is asked before it is acted on."""
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


class Engine:
    """One worker's decisions. Not thread-safe. Every method may add to `take_ops`."""

    def __init__(self, config: EngineConfig, table: SlotTable) -> None:
        self._config = config
        self._table = table
        self._ops: list[Op] = []
        self._ids = 0
        self._lamps = Lamps(config, table, self._ops.append, self._new_id)
        self._bus = Bus(config, self._ops.append, self._new_id)
        self._calls = Calls(config, self._ops.append, self._lamps.light)
        self._ledger = Ledger(
            config, table, calls=self._calls, lamps=self._lamps, rules=self._rules
        )

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
            self._bus.next_deadline_ms(),
            self._ledger.next_deadline_ms(),
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
        return self._bus.system.waiting

    # ---- time ----------------------------------------------------------------------------------

    def tick(self, now_ms: int) -> None:
        """Do what is due."""
        self._calls.status.switch_nodes = self._bus.switch_nodes(now_ms)
        self._calls.due(now_ms)
        self._ledger.take_up(now_ms)
        self._lamps.due(now_ms, self._lit_entries)
        self._bus.due(now_ms)

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
            self._repeated(wanted, tag)
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

    def _repeated(self, wanted: Execute, tag: int) -> None:
        """Ignored; but until the log has the session, the broker keeps the execute for us."""
        self._log("execute repeated", session=wanted.session, call_id=wanted.call_id)
        live = self._calls.live.get(wanted.session)
        if live is not None and not live.opened and live.tag is None:
            live.tag = tag
        else:
            self._ops.append(Settle(tag=tag))

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
            system=self._bus.system.defaults,
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
                if self._bus.heard(payload, now_ms):
                    self._lamps.kamailio_back(now_ms)
            case Exchange.CONFIGURATION:
                if configuration.parse_document_change(payload) is not None:
                    self._bus.system.changed(now_ms)
            case _:
                raise MalformedMessageError(f"nothing of ours comes through {exchange!r}")

    def _reply(self, payload: dict[str, object], now_ms: int) -> None:
        match payload.get("Event-Name"):
            case "channel_status_resp":
                answer = status.parse_status_answer(payload)
                node = str(payload.get("Node", ""))
                self._calls.tell_answers(self._calls.status.answered(answer, node), now_ms)
            case "get_resp":
                self._bus.configuration_answered(payload)
                self._calls.account_prompts = self._bus.system.account_prompts
                for live in self._calls.live.values():
                    live.session.rules = self._rules(live.session.call.account)
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
                    self._lamps.probe(probe)
            case "reset":
                reset = presence.parse_reset(payload)
                if reset is not None:
                    self._lamps.reset(reset, now_ms)
            case _:
                pass

    def bound(self, call_id: CallId, now_ms: int) -> None:
        """The event queue is bound to the call."""
        self._calls.bound(call_id, now_ms)

    def returned(self, op: Publish, now_ms: int) -> None:
        """The broker could not route a mandatory message."""
        if op.exchange is Exchange.SYSCONF:
            self._bus.system.unroutable()
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
        self._ledger.applied(changes, now_ms)

    def let_go_of_others(self) -> None:
        """Drop every session that the table has given to another worker. To be called before
        anything else after a time in which this worker may have been replaced."""
        self._ledger.let_go_of_others()

    # ---- the connection ------------------------------------------------------------------------

    def links_lost(self) -> None:
        """The connection is gone. Sessions stay; nothing is known until `resume`."""
        self._calls.links_lost()

    def resume(self, now_ms: int) -> None:
        """Connected, caught up with the log and a member: compare with the table and go on.

        Sessions the table has given to others are dropped, those it gives us are adopted, and those
        we had ask the switch what they missed.
        """
        self._ledger.resume(now_ms)
        self._lamps.kamailio_back(now_ms)
        self._bus.say_all_again(now_ms)
        self.tick(now_ms)

    def _lit_entries(self) -> list[SlotEntry]:
        """The slots of our parkees: what the lamps should show."""
        sessions = (live.session for live in self._calls.live.values())
        return [
            session.entry
            for session in sessions
            if session.entry is not None and session.announced and not session.entry.reserved
        ]
