"""Odd, huge and missing values for any message, and a whole worker to be fed with them.

`Rig` is an engine alone with its log. Its questions to the switch, the registrar and sysconf are
answered, spoiled like everything else; what it wants done is checked as it comes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from tests.solo import ACCOUNT, REALM, START_MS, make_config
from worker.broker.frames import publish_frames
from worker.engine.ops import Append, Bind, DeadLetter, Log, Op, Publish, Settle
from worker.engine.solo import Solo
from worker.kapi import keys, schema
from worker.kapi.envelope import encode
from worker.ops.logs import MAX_TEXT
from worker.replica import codec

Message = dict[str, Any]
Spoil = tuple[int, object]
"""Which place of a message, counted through it, gets which value."""

FRAME_MAX = 131_072
CALLS = ("a", "b", "c")
DAY_MS = 86_400_000

REMOVED = object()
TEXTS = (
    "",
    " ",
    "*",
    "#",
    "*.#",
    "{slot}",
    "0",
    "-1",
    "00101",
    "9" * 20,
    "9" * 5_000,
    "٣",
    "é" * 200,
    "x" * 129,
    "x" * 256,
    "x" * 70_000,
    "a b",
    "a/b~c",
    "a@b@c",
    "a\x00b\r\n\x1b[31m",
    '<&">',
    "<" * 3_000,
    "%",
    "%00%zz%41",
    "%" * 3_000,
    "\u202e\u200b\ufffe\uffff",
    "😀" * 100,
    "pid://",
    "pid://<0.1.0>/",
    "pid:///q",
    "pid://<0.1.0>/" + "q" * 300,
    "pid://" + "<" * 140_000 + "/q",
    "sip:*3101@" + "r" * 300,
    "<sip:*@*>",
    '"' + "\\" * 3_000 + "<sip:",
    "<sip:*3101@x?Replaces=a%40b%3Bto-tag=1>",
    "?Replaces=" + " " * 3_000 + "a",
    "SUCCESS",
    "undefined",
    "HANGUP",
    "DOWN",
    "active",
    "own",
    *CALLS,
)
VALUES: tuple[object, ...] = (
    None,
    True,
    False,
    0,
    -1,
    101,
    2**31,
    2**53,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
    0.5,
    -0.0,
    1e16,
    1.7e308,
    -1.7e308,
    [],
    {},
    [[]],
    [None],
    ["_", 101, None, "a" * 300],
    [{}],
    {"": ""},
    {"a": None, "b": {"c": [1, 2]}},
    {"Startup": 1e300},
    [[[[[[[[[[]]]]]]]]]],
    *TEXTS,
)
PLAIN: tuple[object, ...] = (
    None,
    True,
    0,
    -1,
    2**63 - 1,
    1.7e308,
    [],
    {},
    [[]],
    [None, "a"],
    {"": {"": None}},
    "",
    "*",
    "9" * 5_000,
    "x" * 256,
    "x" * 70_000,
    "a\x00<b>\r\n",
    "pid://" + "<" * 140_000 + "/q",
    REMOVED,
)


def places(value: object) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) inside a message."""
    keyed: Any = ()
    if isinstance(value, dict):
        keyed = value.items()
    elif isinstance(value, list):
        keyed = enumerate(value)
    for key, child in list(keyed):
        yield value, key
        yield from places(child)


def spoiled(message: Mapping[str, Any], how: Sequence[Spoil]) -> Message:
    """A copy with some places changed; a number above the places adds an unknown key."""
    copied: Message = copy.deepcopy(dict(message))
    for number, value in how:
        spots = list(places(copied))
        if not spots:
            break
        container, key = spots[number % len(spots)]
        if value is REMOVED:
            del container[key]
        else:
            container[key] = copy.deepcopy(value)
    return copied


def single_spoils(message: Message) -> Iterator[list[Spoil]]:
    """Each place of a message with each of the plain values."""
    for number, _ in enumerate(places(message)):
        for value in PLAIN:
            yield [(number, value)]


# ---- messages -----------------------------------------------------------------------------------


def event(name: str, call_id: str, category: str = "call_event", **fields: Any) -> Message:
    return {
        "Event-Category": category,
        "Event-Name": name,
        "App-Name": "freeswitch",
        "Msg-ID": "1",
        "Call-ID": call_id,
        "Custom-Channel-Vars": {"Fetch-ID": f"fetch-{call_id}"},
        **{key.replace("_", "-"): value for key, value in fields.items()},
    }


EVENTS: tuple[tuple[str, Message], ...] = (
    ("CHANNEL_DESTROY", {"Hangup_Cause": "NORMAL_CLEARING", "Disposition": "SUCCESS"}),
    ("CHANNEL_DISCONNECTED", {}),
    ("CHANNEL_CONNECTED", {}),
    ("CHANNEL_ANSWER", {}),
    ("CHANNEL_BRIDGE", {"Other_Leg_Call_ID": "b", "Bridge_B_Unique_ID": "b"}),
    ("CHANNEL_UNBRIDGE", {"Other_Leg_Call_ID": "b"}),
    ("CHANNEL_INTERCEPTED", {"Intercepted_By": "b"}),
    ("CHANNEL_REPLACED", {"Replaced_By": "a2"}),
    ("CHANNEL_DIRECT", {"Connecting_Leg_B_UUID": "a3"}),
    ("CHANNEL_TRANSFEREE", {}),
    ("CHANNEL_PIVOT", {"Application_Data": "{}"}),
    ("usurp_control", {"Fetch_ID": "other", "Reason": "redirect"}),
)
ALL_EVENTS = (
    *(event(name, "a", **fields) for name, fields in EVENTS),
    event("CHANNEL_EXECUTE_COMPLETE", "a", Application_Name="hold", Channel_State="EXECUTE"),
    event("dialplan", "a", "error", Request={"Application-Name": "hold"}),
)
AROUND: tuple[tuple[str, Message], ...] = (
    (
        "presence",
        {
            "Event-Category": "presence",
            "Event-Name": "probe",
            "Event-Package": "dialog",
            "Username": "*3101",
            "Realm": REALM,
        },
    ),
    (
        "presence",
        {
            "Event-Category": "presence",
            "Event-Name": "reset",
            "Username": "*3101",
            "Realm": REALM,
        },
    ),
    (
        "nodes",
        {
            "Event-Category": "nodes",
            "Event-Name": "advertise",
            "App-Name": "kamailio",
            "Node": "kamailio@p1",
            "Expires": 10_000,
            "WhApps": {"kamailio": {"Startup": 1_795_393_096}},
        },
    ),
    (
        "nodes",
        {
            "Event-Category": "nodes",
            "Event-Name": "advertise",
            "App-Name": "ecallmgr",
            "Node": "ecallmgr@e1",
            "Expires": "10000",
            "WhApps": {"ecallmgr": {"Startup": 63_962_611_259}},
        },
    ),
    (
        "configuration",
        {
            "Event-Category": "configuration",
            "Event-Name": "doc_edited",
            "ID": "callflow.park",
            "Database": "system_config",
            "Type": "config",
        },
    ),
)


# ---- the worker, its switch and its registrar ---------------------------------------------------


class Rig:
    """An engine alone with its log. Its questions get answers, spoiled like everything else."""

    def __init__(self, spoils: Sequence[Spoil] = ()) -> None:
        self.now_ms = START_MS
        self.solo = Solo(make_config())
        self.tags = 0
        self.ids: set[str] = set(CALLS)
        """Every call id that was ever heard of."""
        self.status = "active"
        self.spoils = spoils
        self.published: list[Publish] = []
        self.unsettled: dict[int, Message] = {}
        """What the broker would deliver again after an outage, by delivery tag."""
        self._asked: list[Message] = []
        self.run()

    def run(self) -> None:
        self._take(self.solo.run(self.now_ms))
        while self._asked:
            for reply in self._replies(self._asked.pop(0)):
                self._message(spoiled(reply, self.spoils), "targeted")

    def play(self, kind: str, what: Any) -> None:
        match kind:
            case "execute":
                self._execute(*what)
            case "message":
                exchange, message = what
                self._message(message, exchange)
            case "answers":
                self.status, self.spoils = what
            case "wait":
                self.wait(what)
            case "returned" if self.published:
                op = self.published[what % len(self.published)]
                self.solo.engine.returned(op, self.now_ms)
            case "outage":
                self._outage()
        self.run()

    def wait(self, ms: int) -> None:
        until_ms = self.now_ms + ms
        while (at_ms := self.solo.engine.next_deadline_ms()) is not None and at_ms <= until_ms:
            assert at_ms >= self.now_ms
            self.now_ms = at_ms
            self.solo.engine.tick(at_ms)
            self.run()
        self.now_ms = until_ms

    def finish(self) -> None:
        """Every call ends, and a year passes."""
        self.status, self.spoils = "terminated", ()
        for call_id in sorted(self.ids):
            self._message(event("CHANNEL_DESTROY", call_id), "callevt")
            self.run()
        for _ in range(40):
            self.wait(20)
            self.now_ms += 10 * DAY_MS
            self.solo.engine.tick(self.now_ms)
            self.run()

    def _outage(self) -> None:
        again, self.unsettled = list(self.unsettled.values()), {}
        self.solo.engine.links_lost()
        self.solo.engine.resume(self.now_ms)
        self.run()
        for message in again:
            self._execute(message, True, 0)

    def _execute(self, message: Message, redelivered: bool, age_ms: int | None) -> None:
        self.ids.update(text for text in (message.get("Call-ID"),) if isinstance(text, str))
        self.tags += 1
        self.unsettled[self.tags] = message
        self.solo.engine.execute(
            orjson.dumps(message),
            tag=self.tags,
            sent_at_ms=None if age_ms is None else self.now_ms - age_ms,
            redelivered=redelivered,
            exchange="kapps",
            routing_key=keys.WORK,
            now_ms=self.now_ms,
        )

    def _message(self, message: Message, exchange: str) -> None:
        for name in ("Replaced-By", "Connecting-Leg-B-UUID"):
            text = message.get(name)
            if isinstance(text, str):
                self.ids.add(text)
        self.solo.engine.message(
            orjson.dumps(message), exchange=exchange, routing_key="key", now_ms=self.now_ms
        )
        self._take(self.solo.run(self.now_ms))

    def _replies(self, asked: Message) -> list[Message]:
        same = {"Msg-ID": asked["Msg-ID"], "App-Name": "ecallmgr", "Node": "ecallmgr@e1"}
        match asked["Event-Name"]:
            case "channel_status_req" if self.status:
                said = {"Call-ID": asked["Call-ID"], "Status": self.status}
                other = {"Other-Leg-Call-ID": "b"}
                head = {"Event-Category": "call_event", "Event-Name": "channel_status_resp"}
                return [same | head | said | other]
            case "reg_query":
                found = {
                    "Authorizing-ID": "device-3",
                    "Authorizing-Type": "device",
                    "Account-ID": ACCOUNT,
                    "Account-Realm": REALM,
                }
                head = {"Event-Category": "directory", "Event-Name": "reg_query_resp"}
                return [same | head | {"Fields": [found]}]
            case "get_req":
                head = {"Event-Category": "sysconf", "Event-Name": "get_resp"}
                about = {"Category": asked["Category"], "Key": asked["Key"], "Value": "5000"}
                return [same | head | about]
            case _:
                return []

    def _take(self, ops: list[Op]) -> None:
        for op in ops:
            match op:
                case Publish():
                    self.published.append(op)
                    self._asked.append(dict(op.payload))
                    check_publish(op)
                case Append():
                    assert codec.decode(codec.encode(op.record)) == op.record
                case Bind():
                    assert keys.watchable(op.call_id)
                case Settle():
                    del self.unsettled[op.tag]
                case Log():
                    assert op.event not in {"session crashed", "session cannot be adopted"}, op
                    assert len(op.event) < MAX_TEXT
                case DeadLetter():
                    assert op.reason
                case _:
                    pass


SCHEMAS = {
    "action.accepted": "action.accepted",
    "action.result": "action.result",
    "dialog_update": "presence.dialog_update",
    "channel_status_req": "status.request",
    "reg_query": "registrar.query",
    "get_req": "sysconf.request",
    "advertise": "nodes.advertise",
    "PARK_PARKED": "event.park",
    "PARK_RETRIEVED": "event.park",
    "PARK_ABANDONED": "event.park",
}


def check_publish(op: Publish) -> None:
    """It obeys its schema and the broker can take it."""
    name = str(op.payload["Event-Name"])
    known = f"command.{op.payload['Application-Name']}" if name == "command" else SCHEMAS[name]
    assert schema.first_error(known, op.payload) is None, op.payload
    publish_frames(
        1,
        FRAME_MAX,
        op.exchange.value,
        op.routing_key,
        encode(op.payload),
        headers=op.headers,
        mandatory=op.mandatory,
        persistent=False,
        content_type="application/json",
        message_id="0" * 24,
        timestamp=None,
    )
