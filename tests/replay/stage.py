"""A `World` with every hand a scenario needs, and with words that say more.

The words of `tests.solo`, and beside them: ``prompt park-no_caller``, ``say 101``, ``bridge phone``
(the endpoint), ``call_pickup a``, ``set Callee-ID-Name``, ``PARK_PARKED 101``,
``lamp early *3101``. The call of a lamp that shows no call is ``free``.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.solo import ACCOUNT, REALM, START_MS, World, make_config, make_execute
from worker.engine.engine import Engine
from worker.engine.ops import DeadLetter, Op, Publish, Settle
from worker.engine.solo import Solo
from worker.kapi.exchanges import Exchange
from worker.parking.model import AccountId, Compat, PresenceType, SlotEntry, WorkerId
from worker.parking.node import Defaults
from worker.parking.records import Dead, Join, Record

PARKER = f"<sip:parker@{REALM}>"
SUCCESSOR = WorkerId("w2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One thing the worker said."""

    at_ms: int
    call: str
    word: str
    op: Publish

    @property
    def text(self) -> str:
        return f"{self.call}: {self.word}"

    @property
    def stream(self) -> str:
        """What is strictly ordered: the commands to one call, the replies about one call, the park
        events of one call, the lamp of one presentity. Between these the contract promises nothing
        (§15: the reference's own order varies)."""
        if self.op.exchange is Exchange.PRESENCE:
            return f"presence {self.op.payload['Presence-ID']}"
        return f"{self.op.exchange.value} {self.call}"


def config_of(compat: Compat, wanted: Mapping[str, Any]) -> Any:
    """An `EngineConfig` from a scenario's ``config``."""
    changes = dict(wanted)
    if "system" in changes:
        changes["system"] = _defaults(changes["system"])
    if "account" in changes:
        changes["accounts"] = {AccountId(ACCOUNT): _defaults(changes.pop("account"))}
    return make_config(compat=compat, **changes)


def _defaults(values: Mapping[str, Any]) -> Defaults:
    said = dict(values)
    if "presence_type" in said:
        said["presence_type"] = PresenceType(said["presence_type"])
    return Defaults(**said)


@dataclass
class Stage(World):
    """One worker, its switch, registrar, configuration and lamps played by a scenario."""

    devices: dict[str, str] = field(default_factory=dict)
    """SIP user → device id the registrar tells; ``""``: not registered. Absent: silence."""
    heard_all: list[Heard] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    """Whom the worker asked about: call ids, ``user@realm``, configuration keys."""
    dead_letters: list[DeadLetter] = field(default_factory=list)
    settled: list[int] = field(default_factory=list)
    delivered: list[int] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    """Every call that took part."""
    executes: dict[str, str] = field(default_factory=dict)
    """Msg-ID → call id of the executes."""
    _config_questions: list[Mapping[str, Any]] = field(default_factory=list)
    _answers: deque[dict[str, Any]] = field(default_factory=deque)
    _unread: list[tuple[Record, int]] = field(default_factory=list)

    # ---- out -----------------------------------------------------------------------------------

    def _settle(self, ops: list[Op]) -> None:
        """Hear everything before anything is answered: answers come later, as on a broker."""
        for op in ops:
            if isinstance(op, DeadLetter):
                self.dead_letters.append(op)
            elif isinstance(op, Settle):
                self.settled.append(op.tag)
        super()._settle(ops)
        while self._answers:
            self.message(self._answers.popleft(), "targeted")

    def _hear(self, op: Publish) -> None:
        before = len(self.said)
        name = op.payload["Event-Name"]
        if name == "channel_status_req":
            self.asked.append(str(op.payload["Call-ID"]))
        elif name == "reg_query":
            self.asked.append(f"{op.payload['Username']}@{op.payload['Realm']}")
        elif name == "get_req":
            self.asked.append(f"{op.payload['Category']} {op.payload['Key']}")
            self._config_questions.append(op.payload)
        super()._hear(op)
        if name == "reg_query":
            self._answer_registrar(op.payload)
        elif name != "channel_status_req" and len(self.said) > before:
            at_ms, call, word = self.said[-1]
            call = "free" if call.startswith("free-") else call
            self.heard_all.append(Heard(at_ms=at_ms, call=call, word=_say_more(word, op), op=op))

    def _answer_status(self, payload: Any) -> None:
        """Every ecallmgr node of the answer says its piece: ``terminated+active b``."""
        call_id = payload["Call-ID"]
        for number, answer in enumerate(self.answers.get(call_id, "active").split("+")):
            status, _, other = answer.partition(" ")
            if status:
                reply = {
                    **_envelope("call_event", "channel_status_resp", f"ecallmgr@e{number}"),
                    "Msg-ID": payload["Msg-ID"],
                    "Call-ID": call_id,
                    "Status": status,
                }
                self._answers.append(reply | ({"Other-Leg-Call-ID": other} if other else {}))

    def _answer_registrar(self, payload: Any) -> None:
        device = self.devices.get(payload["Username"])
        if device is None:
            return
        name = "reg_query_resp" if device else "reg_query_error"
        registration = {"Authorizing-ID": device, "Authorizing-Type": "device"}
        reply = {**_envelope("directory", name), "Msg-ID": payload["Msg-ID"]}
        self._answers.append(reply | ({"Fields": [registration]} if device else {}))

    # ---- in ------------------------------------------------------------------------------------

    def arrive(self, call_id: str, how: Mapping[str, Any]) -> None:
        """An execute, told in a scenario's words."""
        told = {**how}
        number = told.pop("number", "*3101")
        if told.pop("blind", False):
            told |= {"referred_to": f"<sip:{number}@{REALM}>"}
            told.setdefault("referred_by", PARKER)
        if replaces := told.pop("replaces", ""):
            header = f"<sip:{number}@{REALM}?Replaces={replaces};to-tag=a;from-tag=b>"
            told |= {"referred_to": header}
            told.setdefault("referred_by", PARKER)
        if "device" in told:
            told["restricted"] = told.pop("device")
        if "changes" in told:
            told["call"] = told.pop("changes")
        self._meet(call_id)
        msg_id = str(told.get("msg_id", f"exec-{call_id}"))
        self.executes.setdefault(msg_id, call_id)
        without = told.pop("without", [])
        told["children"] = tuple(told.get("children", ["_"]))
        sending = {name: told.pop(name) for name in ("redelivered", "age_ms") if name in told}
        message = make_execute(call_id, request=number, **told)
        for pointer in without:
            _remove(message, pointer)
        self.deliver(json.dumps(message).encode(), **sending)

    def deliver(self, body: bytes, redelivered: bool = False, age_ms: int = 0) -> None:
        self.delivered.append(self._tag + 1)
        super().deliver(body, redelivered, age_ms)

    def say(self, name: str, call_id: str, category: str = "call_event", **fields: Any) -> None:
        """An event of the switch; field names as they are on the wire."""
        self._meet(call_id)
        self.event(name, call_id, category, **fields)

    def picked_up(self, call_id: str, by: str) -> None:
        """What the switch says of a successful intercept (contract §4.9)."""
        self.say("CHANNEL_INTERCEPTED", call_id, **{"Intercepted-By": by})
        self.say("CHANNEL_EXECUTE_COMPLETE", call_id, **{"Application-Name": "hold"})
        self.say("CHANNEL_BRIDGE", by, **{"Other-Leg-Call-ID": call_id})
        self.say("CHANNEL_BRIDGE", call_id, **{"Other-Leg-Call-ID": by})

    def give_back(self, call_id: str, word: str) -> None:
        """The broker cannot route the last such command: its queue is gone."""
        op = next(
            heard.op
            for heard in reversed(self.heard_all)
            if heard.call == call_id and heard.word.split()[0] == word
        )
        self.solo.engine.returned(op, self.now_ms)
        self._settle(self.solo.run(self.now_ms))

    def answer_config(self, values: Mapping[str, Any]) -> None:
        """Kazoo's sysconf answers what was asked; what is not in ``values`` is undefined."""
        self.wait(0)
        questions, self._config_questions = self._config_questions, []
        for question in questions:
            reply = {
                **_envelope("sysconf", "get_resp", "kazoo_apps@k1"),
                "Msg-ID": question["Msg-ID"],
                "Category": question["Category"],
                "Key": question["Key"],
                "Value": values.get(question["Key"], "undefined"),
            }
            self.message(reply, "targeted")

    def document_changed(self, document: str) -> None:
        notice = _envelope("configuration", "doc_edited", "kazoo_apps@k1")
        notice |= {"ID": document, "Database": "system_config", "Type": "system_config"}
        self.message(notice, "configuration")

    def probe(self, user: str, realm: str = REALM) -> None:
        asked = _envelope("presence", "probe", "kamailio@p1")
        asked |= {"Event-Package": "dialog", "Username": user, "Realm": realm}
        self.message(asked, "presence")

    def reset(self, user: str, realm: str = REALM) -> None:
        asked = _envelope("presence", "reset", "kamailio@p1")
        self.message(asked | {"Username": user, "Realm": realm}, "presence")

    def advertise(self, node: str, apps: Mapping[str, int]) -> None:
        notice = _envelope("nodes", "advertise", node)
        notice |= {"Expires": 15_000, "WhApps": {app: {"Startup": at} for app, at in apps.items()}}
        self.message(notice, "nodes")

    def log_goes_away(self) -> None:
        """What is appended reaches the broker, but nobody reads it."""
        unread: list[tuple[Record, int]] = []
        self._unread = unread
        self.solo._append = lambda record, now_ms: unread.append((record, now_ms))  # type: ignore[method-assign]

    def log_comes_back(self) -> None:
        del self.solo._append
        unread, self._unread = self._unread, []
        for record, _ in unread:
            self.solo._append(record, self.now_ms)
        self._settle(self.solo.run(self.now_ms))

    def restart(self, down_ms: int) -> None:
        """The worker is killed; ``down_ms`` later another has read the log and is on duty."""
        old = self.solo
        self.now_ms += down_ms
        config = make_config(worker=SUCCESSOR, compat=self.config.compat, **_kept(self))
        successor = Solo.__new__(Solo)
        successor.table, successor.records, successor._offset = old.table, old.records, old._offset
        successor.ops = []
        successor.engine = Engine(config, old.table)
        self.solo = successor
        at_ms, victim = self.now_ms, self.config.worker
        beat = old.table.workers[victim].beat
        successor._append(Join(author=SUCCESSOR, at_ms=at_ms), at_ms)
        successor.engine.resume(at_ms)
        successor._append(Dead(author=SUCCESSOR, at_ms=at_ms, victim=victim, beat=beat), at_ms)
        self.delivered = [tag for tag in self.delivered if tag in self.settled]
        self._settle(successor.run(at_ms))
        successor.engine.tick(at_ms)  # what fell due while nobody was there
        self._settle(successor.run(at_ms))

    def _meet(self, call_id: str) -> None:
        if call_id not in self.calls:
            self.calls.append(call_id)

    # ---- what stands in the table --------------------------------------------------------------

    def entries(self) -> Iterable[SlotEntry]:
        table = self.solo.table
        return [entry for account in table.accounts() for entry in table.entries(account)]

    def table(self) -> dict[str, str]:
        """Slot → call id; ``(reserved)`` behind it for the first stage of an attended park."""
        return {
            str(entry.slot): f"{entry.call_id} (reserved)" if entry.reserved else entry.call_id
            for entry in self.entries()
        }

    @property
    def since_start_ms(self) -> int:
        return self.now_ms - START_MS


def _kept(stage: Stage) -> dict[str, Any]:
    names = ("system", "accounts", "lamp_expires_s", "reconcile_ms", "patience_ms")
    return {name: getattr(stage.config, name) for name in names} | {
        "started_at_ms": stage.now_ms,
        "inbox": "kzpark.inbox.w2",
    }


def _envelope(category: str, name: str, node: str = "ecallmgr@e1") -> dict[str, Any]:
    return {
        "Event-Category": category,
        "Event-Name": name,
        "App-Name": node.partition("@")[0],
        "App-Version": "4.0.0",
        "Node": node,
        "Msg-ID": "m",
    }


def _say_more(word: str, op: Publish) -> str:
    payload: Any = op.payload
    match word:
        case "queue":
            played = payload["Commands"][-1]["Media-Name"]
            return f"prompt {played.split('/')[3]}"
        case "say":
            return f"say {payload['Say-Text']}"
        case "bridge":
            names = [one.get("Endpoint-ID", "?") for one in payload["Endpoints"]]
            return f"bridge {' '.join(names)}"
        case "call_pickup":
            return f"call_pickup {payload['Target-Call-ID']}"
        case "set":
            return f"set {' '.join(payload['Custom-Channel-Vars'])}"
    if word.startswith("PARK_"):
        return f"{word} {payload['Parking-Slot']}"
    if word.startswith("lamp "):
        return f"{word} {payload['From-User']}"
    return word


def _remove(message: dict[str, Any], pointer: str) -> None:
    *way, last = pointer.strip("/").split("/")
    place: Any = message
    for name in way:
        place = place[name]
    del place[last]
