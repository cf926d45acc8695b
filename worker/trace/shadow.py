"""Shadow mode: what this worker would have done, beside what the platform's own module did.

Every call that is routed to a park node is given to the pure core as an execute; the switch's
events are fed to both. What the core would send is compared with what was sent, and never sent.

Some things are the speaker's own and no disagreement: node names, message ids, reply addresses.
The core also asks the switch about channels; nobody answers, so the answers are taken from the
platform's own questions, else from the events (a channel lives until it is destroyed).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from worker.engine.config import EngineConfig
from worker.engine.live import session_made_id
from worker.errors import MalformedMessageError
from worker.kapi.exchanges import Exchange
from worker.kapi.fields import as_object, as_text
from worker.kapi.results import decode_result
from worker.parking.model import Compat, WorkerId
from worker.trace.callflows import Callflows
from worker.trace.config_plain import config_from_plain
from worker.trace.differences import Difference, FieldChange, Kind
from worker.trace.effects import QUESTION, Effect, effect_of, recorded_effect
from worker.trace.explain import STATUS_DEAD, USURPED, Case, explain
from worker.trace.fleet import Fleet
from worker.trace.lines import Message
from worker.trace.matching import Matcher, Pair, difference
from worker.trace.recordings import Outcome
from worker.trace.routes import UNKNOWN_DEVICE, Routes

Plain = Mapping[str, object]

TOLERANCE_MS: Final = 1_000
"""The platform's timers and this one's are not started by the same message."""
AFTER_MS: Final = 15_000
"""How long time goes on after the last message: for what is said a little later."""
LOOK_AHEAD_MS: Final = 2_500
"""An answer of the switch to the platform serves our question if it comes within so long."""
FIRST_MS: Final = 200
FIRST_IDS: Final = 4
"""A new session asks about its own call within so long and with one of so many first ids."""
SHADOW: Final = WorkerId("shadow")
NODE: Final = "kzpark@shadow"
INBOX: Final = "kzpark.inbox.shadow"
SWITCH_NODE: Final = "ecallmgr@shadow"
SAME_MOMENT_MS: Final = 20
RESULTS: Final = "flow"
"""Stands for the exchange of what the flow is told: of the platform's module it is not on any."""
_SPEAKERS: Final = frozenset(
    {"/Node", "/Msg-ID", "/Server-ID", "/App-Version", "/System-Log-ID", "/App-Name"}
)


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


class _Sides:
    """Both sides by call."""

    def __init__(self, told: list[Effect], would: list[Effect]) -> None:
        self.told = _by_call(told)
        self.would = _by_call(would)
        self.retrieved = {
            _text(effect.payload, "Parking-Slot")
            for effect in would
            if effect.name == "PARK_RETRIEVED"
        }


def _by_call(effects: list[Effect]) -> dict[str, list[Effect]]:
    found: dict[str, list[Effect]] = {}
    for effect in effects:
        found.setdefault(_text(effect.payload, "Call-ID"), []).append(effect)
    return found


@dataclass(slots=True)
class _Switch:
    """What is known of channels without asking."""

    answers: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    gone: dict[str, int] = field(default_factory=dict)

    def status(self, call_id: str, at_ms: int, *, only_events: bool) -> str:
        """``only_events``: a question the platform does not ask, so nobody answered it."""
        for answered_ms, status in () if only_events else self.answers.get(call_id, ()):
            if 0 <= answered_ms - at_ms <= LOOK_AHEAD_MS:
                return status
        gone_ms = self.gone.get(call_id)
        return "terminated" if gone_ms is not None and gone_ms <= at_ms else "active"


class Shadow:
    """One run over messages in order."""

    def __init__(self, callflows: Callflows, settings: Plain) -> None:
        base = EngineConfig(worker=SHADOW, node=NODE, inbox=INBOX)
        self._config = config_from_plain(settings, base)
        self._routes = Routes(callflows)
        self._fleet = Fleet()
        self._matcher = Matcher()
        self._switch = _Switch()
        self._tag = 0
        self._calls: dict[str, str] = {}
        """Action id → call id of every call that parks."""
        self._watched: set[str] = set()
        self._remote: set[str] = set()
        self._unknown: set[str] = set()
        self._workers: set[str] = set()
        self._happened: dict[str, list[str]] = {}
        self._fetch: dict[str, str] = {}
        """Call id → the Fetch-ID under which its flow runs."""
        self._asker: dict[str, tuple[str, int]] = {}
        """Msg-ID of a question the call itself may ask first → (call id, when it began)."""
        self._start_ms = 0
        self._tells_outcomes = False

    def run(
        self, messages: Iterable[Message], outcomes: tuple[Outcome, ...] | None = None
    ) -> ShadowResult:
        """Feed everything. ``outcomes``: what each flow was told, when that is known."""
        listed = list(messages)
        self._tells_outcomes = outcomes is not None
        self._learn(listed)
        self._start_ms = listed[0].at_ms if listed else 0
        fleet = self._fleet
        fleet.now_ms = self._start_ms
        fleet.start(replace(self._config, started_at_ms=self._start_ms), resumes=False)
        self._feed(_one_switch_node(self._start_ms))
        for message in listed:
            fleet.advance(message.at_ms)
            self._hear()
            self._message(message)
            self._hear()
        for outcome in outcomes or ():
            self._matcher.recorded(_outcome_effect(outcome.call_id, outcome.result, outcome.at_ms))
        self._finish((listed[-1].at_ms if listed else 0) + AFTER_MS)
        return self._result()

    def _finish(self, until_ms: int) -> None:
        while (deadline_ms := self._fleet.next_deadline_ms()) is not None:
            if deadline_ms > until_ms:
                break
            self._fleet.advance(deadline_ms)
            self._hear()

    def _learn(self, messages: list[Message]) -> None:
        """The switch's answers and deaths, for questions only we ask; who parks."""
        for message in messages:
            event, call_id = message.text("Event-Name"), message.text("Call-ID")
            if event == "channel_status_resp":
                answer = (message.at_ms, message.text("Status"))
                self._switch.answers.setdefault(call_id, []).append(answer)
            elif event == "CHANNEL_DESTROY":
                self._switch.gone.setdefault(call_id, message.at_ms)
            elif event == "route_resp":
                self._routes.nodes.add(message.text("Node"))
            elif event == "action.accepted":
                self._workers.add(message.text("Node"))

    # ---- messages -------------------------------------------------------------------------------

    def _message(self, message: Message) -> None:
        if message.payload is None:
            return
        event = message.text("Event-Name")
        if event in {"route_req", "route_resp", "route_win"}:
            execute = self._routes.saw(message)
            if execute is not None:
                self._execute(execute)
            elif event == "route_win":
                self._unknown.add(message.text("Call-ID"))
            return
        if message.exchange == Exchange.KAPPS:
            self._remote.add(message.text("Call-ID"))
            self._execute(message)
            return
        effect = recorded_effect(message)
        if effect is not None:
            if message.text("Node") in self._routes.nodes | self._workers:
                self._expect(effect)
            return
        if message.exchange in {Exchange.CALLEVT, Exchange.PRESENCE, Exchange.CONFIGURATION}:
            self._note_event(message.text("Call-ID"), event, message)
            self._feed(message)

    def _note_event(self, call_id: str, event: str, message: Message) -> None:
        happened = self._happened.setdefault(call_id, [])
        happened.append(event)
        usurped = event == "usurp_control" and message.text("Fetch-ID") != self._fetch.get(call_id)
        if usurped or event in {"CHANNEL_TRANSFEREE", "CHANNEL_PIVOT"}:
            happened.append(USURPED)

    def _execute(self, message: Message) -> None:
        call_id = message.text("Call-ID")
        self._calls[message.text("Msg-ID")] = call_id
        self._watched.add(call_id)
        call = as_object((message.payload or {}).get("Call"))
        variables = as_object(call.get("Custom-Channel-Vars"))
        self._fetch[call_id] = as_text(variables.get("Fetch-ID") or call.get("Fetch-ID"))
        self._tag += 1
        tag, now_ms = self._tag, self._fleet.now_ms
        session = message.text("Msg-ID")
        for number in range(1, FIRST_IDS + 1):
            self._asker[session_made_id(session, 0, number)] = (call_id, now_ms)
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
        call_id = _text(effect.payload, "Call-ID")
        if effect.exchange == Exchange.TARGETED:
            if effect.name == "action.result":
                result = _result_of(_text(effect.payload, "Result"))
                self._matcher.recorded(_outcome_effect(call_id, result, effect.at_ms))
            return
        if call_id not in self._watched or effect.name == QUESTION:
            return
        if effect.name == "hangup" and "Insert-At" not in effect.payload:
            # callflow's own: how a flow ends after *stop*, or after *continue* without a child.
            if not self._tells_outcomes and call_id not in self._remote:
                self._matcher.recorded(_outcome_effect(call_id, "end", effect.at_ms))
            return
        self._matcher.recorded(effect)

    def _feed(self, message: Message) -> None:
        quoted = message.text("Application-Response")
        known = self._matcher.ids.get(quoted)
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
                if hasattr(one.op, "record"):
                    continue
                op = one.op
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
        call_id = _text(effect.payload, "Call-ID")
        if effect.name == QUESTION:
            self._answer(effect, call_id)
        elif effect.exchange == Exchange.TARGETED:
            if effect.name == "action.result":
                result = _result_of(_text(effect.payload, "Result"))
                self._matcher.replayed(self._comparable(call_id, result, effect.at_ms))
        elif effect.exchange not in {Exchange.SYSCONF, Exchange.REGISTRAR, Exchange.NODES}:
            self._matcher.replayed(effect)

    def _comparable(self, call_id: str, result: str, at_ms: int) -> Effect:
        """A live platform shows only that a flow has ended, not with which word."""
        shown = self._tells_outcomes or call_id in self._remote
        effect = _outcome_effect(call_id, result if shown else "end", at_ms)
        told = result == "transfer" or result.startswith("continue")
        return effect if shown else replace(effect, strict=not told)

    def _answer(self, effect: Effect, call_id: str) -> None:
        asker = self._asker.get(_text(effect.payload, "Msg-ID"))
        first = asker is not None and asker[0] == call_id and effect.at_ms - asker[1] <= FIRST_MS
        status = self._switch.status(call_id, effect.at_ms, only_events=first)
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
        self._feed(
            Message(at_ms=effect.at_ms, exchange=Exchange.TARGETED, key=INBOX, payload=reply)
        )

    # ---- the result -----------------------------------------------------------------------------

    def _result(self) -> ShadowResult:
        found = sorted(self._differences(), key=lambda one: one.at_ms)
        sides = _Sides(*self._matcher.sides())
        seen: set[str] = set()
        listed: list[Disagreement] = []
        for one in found:
            call_id = _call_of(one)
            row = explain(self._case(one, call_id, sides))
            follows = call_id in seen
            listed.append(Disagreement(difference=one, call_id=call_id, row=row, follows=follows))
            seen.add(call_id)
        crashes = [
            str(log.fields.get("error"))
            for _, _, log in self._fleet.logs
            if log.event == "session crashed"
        ]
        return ShadowResult(
            disagreements=tuple(listed),
            calls=len(self._calls),
            unknown=len(self._unknown - self._watched),
            agreed=len(self._matcher.pairs),
            crashes=tuple(crashes),
        )

    def _case(self, one: Difference, call_id: str, sides: _Sides) -> Case:
        would = sides.would.get(call_id, [])
        at_ms = one.at_ms + self._start_ms
        beside = (effect for effect in would if abs(effect.at_ms - at_ms) <= SAME_MOMENT_MS)
        happened = set(self._happened.get(call_id, ()))
        if any(status == "terminated" for _, status in self._switch.answers.get(call_id, ())):
            happened.add(STATUS_DEAD)
        slot = _text(one.recorded or one.replayed or {}, "Parking-Slot")
        return Case(
            one=one,
            strict=self._config.compat is Compat.STRICT,
            told=frozenset(map(_word, sides.told.get(call_id, ()))),
            would=frozenset(map(_word, would)),
            beside=frozenset(map(_word, beside)),
            happened=frozenset(happened),
            retrieved=slot in sides.retrieved,
        )

    def _differences(self) -> Iterator[Difference]:
        matcher, start_ms = self._matcher, self._start_ms
        for pair in matcher.compared():
            changes = tuple(c for c in pair.changes if not _is_speakers(c))
            kind = Kind.CHANGED if changes else _off_time(pair)
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


def _word(effect: Effect) -> str:
    """A short name for a rule: ``hold``, ``PARK_PARKED``, ``lamp lit``, ``result stop``."""
    if effect.exchange == Exchange.PRESENCE:
        return "lamp terminated" if effect.name.startswith("terminated ") else "lamp lit"
    if effect.exchange == RESULTS:
        return f"result {_text(effect.payload, 'Result')}"
    return effect.name


def _one_switch_node(at_ms: int) -> Message:
    """All the switch is one node to us: its one answer is everybody's."""
    payload = {
        "Event-Category": "nodes",
        "Event-Name": "advertise",
        "App-Name": "ecallmgr",
        "App-Version": "4.0.0",
        "Node": SWITCH_NODE,
        "Msg-ID": "shadow",
        "Expires": 10 * 365 * 86_400_000,
        "WhApps": {"ecallmgr": {}},
    }
    return Message(at_ms=at_ms, exchange=Exchange.NODES, key="", payload=payload)


def _off_time(pair: Pair) -> Kind | None:
    delay_ms = pair.recorded.at_ms - pair.replayed.at_ms
    if delay_ms > TOLERANCE_MS:
        return Kind.LATE
    return Kind.EARLY if delay_ms < -TOLERANCE_MS else None


def _is_speakers(change: FieldChange) -> bool:
    if change.pointer in _SPEAKERS or change.pointer.endswith(("/Node", "/Msg-ID", "/Server-ID")):
        return True
    return isinstance(change.replayed, str) and change.replayed.startswith(UNKNOWN_DEVICE)


def _outcome_effect(call_id: str, result: str, at_ms: int) -> Effect:
    return Effect(
        at_ms=at_ms,
        exchange=RESULTS,
        key="",
        payload={"Call-ID": call_id, "Result": result},
        channel=f"flow of {call_id}",
        name="result",
        subject=f"result {result} for {call_id}",
    )


def _result_of(text: str) -> str:
    try:
        term = decode_result(text)
    except MalformedMessageError:
        return "undecodable"
    return term.atom if term.argument is None else f"{term.atom} {term.argument}"


def _call_of(one: Difference) -> str:
    return _text(one.recorded or one.replayed or {}, "Call-ID")


def _text(payload: Plain, name: str) -> str:
    value = payload.get(name)
    return value if isinstance(value, str) else ""
