"""Shadow mode: what this worker would have done, beside what the platform's own module did.

Every call that is routed to a park node is given to the pure core as an execute; the switch's
events are fed to both. What the core would send is compared with what was sent, and never sent.

Some things are the speaker's own and no disagreement: node names, message ids, reply addresses.
The core also asks the switch about channels; nobody answers, so the answers are taken from the
platform's own questions, else from the events (a channel lives until it is destroyed).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from worker.engine.config import EngineConfig
from worker.engine.live import session_made_id
from worker.engine.ops import Append
from worker.kapi.exchanges import Exchange
from worker.kapi.fields import as_object, as_text
from worker.parking.model import Compat, WorkerId
from worker.trace.callflows import Callflows
from worker.trace.config_plain import config_from_plain
from worker.trace.differences import Difference, Kind
from worker.trace.effects import QUESTION, Effect, effect_of, recorded_effect
from worker.trace.explain import STATUS_DEAD, USURPED, Case, explain
from worker.trace.fleet import Fleet
from worker.trace.lines import Message
from worker.trace.matching import Matcher, difference
from worker.trace.recordings import Outcome
from worker.trace.routes import Routes
from worker.trace.shadow_calls import (
    SWITCH_NODE,
    ShadowCall,
    call_of,
    is_speakers,
    off_time,
    one_switch_node,
    outcome_effect,
    result_of,
    text_of,
    word,
)

Plain = Mapping[str, object]

AFTER_MS: Final = 15_000
"""How long time goes on after the last message: for what is said a little later."""
FIRST_MS: Final = 200
FIRST_IDS: Final = 4
"""A new session asks about its own call within so long and with one of so many first ids."""
SHADOW: Final = WorkerId("shadow")
NODE: Final = "kzpark@shadow"
INBOX: Final = "kzpark.inbox.shadow"
SAME_MOMENT_MS: Final = 1
MOST_CALLS: Final = 20_000
"""Calls remembered at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """One difference. ``row``: the row of docs/compatibility.md that explains it, else empty."""

    difference: Difference
    call_id: str
    row: str
    follows: bool = False
    """It follows from an earlier disagreement about the same call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowResult:
    """What came of it."""

    disagreements: tuple[Disagreement, ...]
    calls: int
    """Calls that reached a park node."""
    unknown: int
    """Calls that were routed to no known park flow."""
    agreed: int
    """Effects both sides have."""
    crashes: tuple[str, ...] = ()

    @property
    def unexplained(self) -> tuple[Disagreement, ...]:
        return tuple(one for one in self.disagreements if not one.row)


class Shadow:
    """One run. `run` for a whole recording; `learn`, `feed`, `settle` for a live stream."""

    def __init__(
        self, callflows: Callflows, settings: Plain, *, tells_outcomes: bool = False
    ) -> None:
        base = EngineConfig(worker=SHADOW, node=NODE, inbox=INBOX)
        self._config = config_from_plain(settings, base)
        self._routes = Routes(callflows)
        self._fleet = Fleet()
        self._matcher = Matcher()
        self._tells_outcomes = tells_outcomes
        self._calls: dict[str, ShadowCall] = {}
        self._sessions: dict[str, tuple[str, int]] = {}
        """The first ids a session makes up → its call and when it began."""
        self._retrieved: set[str] = set()
        """Slots that we would say were retrieved."""
        self._workers: set[str] = set()
        self._tag = self._parked = self._unknown = self._agreed = 0
        self._start_ms: int | None = None

    # ---- running --------------------------------------------------------------------------------

    def run(
        self, messages: Iterable[Message], outcomes: tuple[Outcome, ...] | None = None
    ) -> ShadowResult:
        """A whole recording. ``outcomes``: what each flow was told, when that is known."""
        listed = list(messages)
        self._tells_outcomes = outcomes is not None
        for message in listed:
            self.learn(message)
        for message in listed:
            self.feed(message)
        for outcome in outcomes or ():
            effect = outcome_effect(outcome.call_id, outcome.result, outcome.at_ms)
            self._told(effect)
        self.pass_time(self._fleet.now_ms + AFTER_MS)
        return self.result(self.settle())

    def learn(self, message: Message) -> None:
        """Look at a message before its time has come: answers of the switch, who parks."""
        event, call_id = message.text("Event-Name"), message.text("Call-ID")
        if event == "channel_status_resp":
            self._call(call_id).answers.append((message.at_ms, message.text("Status")))
        elif event == "CHANNEL_DESTROY":
            call = self._call(call_id)
            call.gone_ms = message.at_ms if call.gone_ms is None else call.gone_ms
        elif event == "route_resp":
            self._routes.nodes.add(message.text("Node"))
        elif event == "action.accepted":
            self._workers.add(message.text("Node"))

    def feed(self, message: Message) -> None:
        """The next message, in order."""
        self.pass_time(message.at_ms)
        self._message(message)
        self._hear()

    def pass_time(self, until_ms: int) -> None:
        """Let time pass up to there."""
        fleet = self._fleet
        if self._start_ms is None:
            self._start_ms = fleet.now_ms = until_ms
            fleet.start(replace(self._config, started_at_ms=until_ms), resumes=False)
            self._to_engine(one_switch_node(until_ms))
            self._hear()
        while (deadline_ms := fleet.next_deadline_ms()) is not None and deadline_ms <= until_ms:
            fleet.advance(deadline_ms)
            self._hear()
        fleet.advance(until_ms)

    def settle(self, before_ms: int | None = None) -> list[Disagreement]:
        """What differs in channels that have been silent since ``before_ms`` (None: in all)."""
        end_ms = self._fleet.now_ms + 1 if before_ms is None else before_ms
        done = self._matcher.finished(end_ms)
        self._agreed += len(done.pairs)
        found = sorted(self._differences(done), key=lambda one: one.at_ms)
        listed: list[Disagreement] = []
        for one in found:
            call_id = call_of(one)
            call = self._call(call_id)
            if call.stranger:
                continue
            row = explain(self._case(one, call))
            listed.append(
                Disagreement(difference=one, call_id=call_id, row=row, follows=call.disagreed)
            )
            call.disagreed = True
        return listed

    def result(self, disagreements: Iterable[Disagreement]) -> ShadowResult:
        """The summary of a run, with these disagreements."""
        crashes = [
            str(log.fields.get("error"))
            for _, _, log in self._fleet.logs
            if log.event == "session crashed"
        ]
        return ShadowResult(
            disagreements=tuple(disagreements),
            calls=self._parked,
            unknown=self._unknown,
            agreed=self._agreed,
            crashes=tuple(crashes),
        )

    def _call(self, call_id: str) -> ShadowCall:
        call = self._calls.get(call_id)
        if call is None:
            call = self._calls[call_id] = ShadowCall()
            while len(self._calls) > MOST_CALLS:
                del self._calls[next(iter(self._calls))]
        return call

    # ---- messages -------------------------------------------------------------------------------

    def _message(self, message: Message) -> None:
        if message.payload is None:
            return
        event, call_id = message.text("Event-Name"), message.text("Call-ID")
        if event in {"route_req", "route_resp", "route_win"}:
            execute = self._routes.saw(message)
            if execute is not None:
                self._execute(execute)
            elif event == "route_win":
                self._unknown += 1
            return
        if message.exchange == Exchange.KAPPS:
            self._call(call_id).remote = True
            self._execute(message)
            return
        effect = recorded_effect(message)
        if effect is not None:
            if message.text("Node") in self._routes.nodes | self._workers:
                self._expect(effect)
            return
        if message.exchange in {Exchange.CALLEVT, Exchange.PRESENCE, Exchange.CONFIGURATION}:
            self._note_event(self._call(call_id), event, message)
            self._to_engine(message)

    def _execute(self, message: Message) -> None:
        call_id, session = message.text("Call-ID"), message.text("Msg-ID")
        now_ms = self._fleet.now_ms
        call = self._call(call_id)
        call.parks = True
        record = as_object((message.payload or {}).get("Call"))
        variables = as_object(record.get("Custom-Channel-Vars"))
        call.fetch_id = as_text(variables.get("Fetch-ID") or record.get("Fetch-ID"))
        self._parked += 1
        self._tag += 1
        for number in range(1, FIRST_IDS + 1):
            self._sessions[session_made_id(session, 0, number)] = (call_id, now_ms)
        while len(self._sessions) > MOST_CALLS:
            del self._sessions[next(iter(self._sessions))]
        tag = self._tag
        self._fleet.feed(
            lambda engine: engine.execute(
                message.bytes,
                tag=tag,
                sent_at_ms=now_ms,
                redelivered=False,
                exchange=message.exchange,
                routing_key=message.key,
                now_ms=now_ms,
            )
        )

    def _expect(self, effect: Effect) -> None:
        """Something the platform (or a worker of ours) said."""
        call_id = text_of(effect.payload, "Call-ID")
        call = self._call(call_id)
        if effect.exchange == Exchange.TARGETED:
            if effect.name == "action.result":
                result = result_of(text_of(effect.payload, "Result"))
                self._told(outcome_effect(call_id, result, effect.at_ms))
            return
        if not call.parks or effect.name == QUESTION:
            return
        if effect.name == "hangup" and "Insert-At" not in effect.payload:
            # callflow's own: how a flow ends after *stop*, or after *continue* without a child.
            if not self._tells_outcomes and not call.remote:
                self._told(outcome_effect(call_id, "end", effect.at_ms))
            return
        target = text_of(effect.payload, "Target-Call-ID")
        if target and not self._call(target).parks:
            call.stranger = True
        self._told(effect)

    def _told(self, effect: Effect) -> None:
        self._call(text_of(effect.payload, "Call-ID")).told.append(effect)
        self._matcher.recorded(effect)

    def _note_event(self, call: ShadowCall, event: str, message: Message) -> None:
        call.happened.append(event)
        usurped = event == "usurp_control" and message.text("Fetch-ID") != call.fetch_id
        if usurped or event in {"CHANNEL_TRANSFEREE", "CHANNEL_PIVOT"}:
            call.happened.append(USURPED)

    def _to_engine(self, message: Message) -> None:
        known = self._matcher.ids.get(message.text("Application-Response"))
        if known:
            payload = {**(message.payload or {}), "Application-Response": known}
            message = replace(message, payload=payload)
        now_ms = self._fleet.now_ms
        self._fleet.feed(
            lambda engine: engine.message(
                message.bytes,
                exchange=message.exchange,
                routing_key=message.key,
                now_ms=now_ms,
            )
        )

    # ---- what we would say ----------------------------------------------------------------------

    def _hear(self) -> None:
        while said := self._fleet.take_said():
            for one in said:
                op = one.op
                if isinstance(op, Append):
                    continue
                effect = effect_of(
                    op.exchange.value,
                    op.routing_key,
                    dict(op.headers),
                    dict(op.payload),
                    one.at_ms,
                )
                if effect is not None:
                    self._would_say(replace(effect, reason=one.reason))

    def _would_say(self, effect: Effect) -> None:
        call_id = text_of(effect.payload, "Call-ID")
        if effect.name == QUESTION:
            self._answer(effect, call_id)
            return
        if effect.exchange == Exchange.TARGETED:
            if effect.name != "action.result":
                return
            result = result_of(text_of(effect.payload, "Result"))
            effect = self._comparable(call_id, result, effect.at_ms)
        elif effect.exchange in {Exchange.SYSCONF, Exchange.REGISTRAR, Exchange.NODES}:
            return
        if effect.name == "PARK_RETRIEVED":
            self._retrieved.add(text_of(effect.payload, "Parking-Slot"))
        self._call(call_id).would.append(effect)
        self._matcher.replayed(effect)

    def _comparable(self, call_id: str, result: str, at_ms: int) -> Effect:
        """A live platform shows only that a flow has ended, not with which word."""
        shown = self._tells_outcomes or self._call(call_id).remote
        effect = outcome_effect(call_id, result if shown else "end", at_ms)
        return effect if shown else replace(effect, strict=result == "stop")

    def _answer(self, effect: Effect, call_id: str) -> None:
        asker = self._sessions.get(text_of(effect.payload, "Msg-ID"))
        first = asker is not None and asker[0] == call_id and effect.at_ms - asker[1] <= FIRST_MS
        status = self._call(call_id).status(effect.at_ms, only_events=first)
        reply = {
            "Event-Category": "call_event",
            "Event-Name": "channel_status_resp",
            "App-Name": "ecallmgr",
            "App-Version": "4.0.0",
            "Node": SWITCH_NODE,
            "Msg-ID": effect.payload.get("Msg-ID"),
            "Call-ID": call_id,
            "Status": status,
        }
        self._to_engine(
            Message(at_ms=effect.at_ms, exchange=Exchange.TARGETED, key=INBOX, payload=reply)
        )

    # ---- the result -----------------------------------------------------------------------------

    def _case(self, one: Difference, call: ShadowCall) -> Case:
        at_ms = one.at_ms + (self._start_ms or 0)
        beside = (effect for effect in call.would if abs(effect.at_ms - at_ms) <= SAME_MOMENT_MS)
        happened = set(call.happened)
        if any(status == "terminated" for _, status in call.answers):
            happened.add(STATUS_DEAD)
        slot = text_of(one.recorded or one.replayed or {}, "Parking-Slot")
        return Case(
            one=one,
            strict=self._config.compat is Compat.STRICT,
            told=frozenset(map(word, call.told)),
            would=frozenset(map(word, call.would)),
            beside=frozenset(map(word, beside)),
            happened=frozenset(happened),
            retrieved=slot in self._retrieved,
        )

    def _differences(self, matcher: Matcher) -> Iterator[Difference]:
        start_ms = self._start_ms or 0
        for pair in matcher.compared():
            changes = tuple(c for c in pair.changes if not is_speakers(c))
            kind = Kind.CHANGED if changes else off_time(pair)
            if kind is not None:
                yield difference(
                    kind,
                    start_ms=start_ms,
                    recorded=pair.recorded,
                    replayed=pair.replayed,
                    fields=changes,
                )
        for effect in matcher.free_recorded():
            if effect.strict:
                yield difference(Kind.MISSING, start_ms=start_ms, recorded=effect)
        for effect in matcher.free_replayed():
            if effect.strict:
                yield difference(Kind.UNEXPECTED, start_ms=start_ms, replayed=effect)
        for left, right in matcher.out_of_order():
            yield difference(Kind.ORDER, start_ms=start_ms, recorded=left, replayed=right)
