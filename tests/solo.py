"""A whole worker under a virtual clock, with a hand on every input: for tests of behaviour.

`World` feeds executes and switch events to a `Solo` engine and collects what it would publish, in
short words that a test can read: ``hold``, ``PARK_PARKED``, ``lamp early``, ``result transfer``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from worker.engine.config import EngineConfig
from worker.engine.ops import Log, Op, Publish
from worker.engine.solo import Solo
from worker.kapi.results import decode_result
from worker.parking.model import WorkerId

START_MS = 1_800_000_000_000
ACCOUNT = "009afc511c97b2ae693c6cc4920988e8"
REALM = "acme.example.com"


def make_config(**changes: Any) -> EngineConfig:
    values: dict[str, Any] = {
        "worker": WorkerId("w1"),
        "node": "kzpark@test",
        "inbox": "kzpark.inbox.w1",
        "started_at_ms": START_MS,
        **changes,
    }
    return EngineConfig(**values)


def make_execute(
    call_id: str,
    *,
    data: object = None,
    referred_to: str = "",
    referred_by: str = "",
    capture: str = "",
    children: tuple[str, ...] = ("_",),
    restricted: str = "",
    request: str = "*3101",
    msg_id: str = "",
    ccvs: dict[str, object] | None = None,
    call: dict[str, object] | None = None,
) -> dict[str, Any]:
    """An action.execute as Kazoo sends it (contract §2.2)."""
    store: dict[str, object] = {"action-exit-keys": list(children), "cf_last_action": "park"}
    if capture:
        store["cf_capture_group"] = capture
    if restricted:
        store["Restricted-Endpoint-ID"] = restricted
    variables: dict[str, object] = {
        "Account-ID": ACCOUNT,
        "Account-Realm": REALM,
        "Fetch-ID": f"fetch-{call_id}",
    }
    if referred_to:
        variables["Referred-To"] = referred_to
    if referred_by:
        variables["Referred-By"] = referred_by
    variables |= ccvs or {}
    record: dict[str, object] = {
        "Account-ID": ACCOUNT,
        "Call-ID": call_id,
        "Call-Direction": "inbound",
        "Caller-ID-Name": f"Name {call_id}",
        "Caller-ID-Number": "+15550001001",
        "Callee-ID-Name": "",
        "Callee-ID-Number": request,
        "Control-Queue": f"pid://<0.9.0>/ctl-{call_id}",
        "Controller-Queue": "pid://<0.4.0>/callflow",
        "Custom-Channel-Vars": variables,
        "Fetch-ID": f"fetch-{call_id}",
        "From": f"user_{call_id}@{REALM}",
        "From-Realm": REALM,
        "From-Tag": f"ft-{call_id}",
        "Key-Value-Store": store,
        "Language": "en-us",
        "Request": f"{request}@{REALM}",
        "Request-User": request,
        "Request-Realm": REALM,
        "Switch-URI": "sip:10.0.0.1:11000",
        "Switch-Nodename": "freeswitch@fs1",
        **(call or {}),
    }
    return {
        "Event-Category": "callflow",
        "Event-Name": "action.execute",
        "App-Name": "callflow",
        "App-Version": "4.0.0",
        "Node": "kazoo_apps@k1",
        "Msg-ID": msg_id or f"exec-{call_id}",
        "Server-ID": "pid://<0.4.0>/callflow",
        "Call-ID": call_id,
        "Call": record,
        "Data": {} if data is None else data,
    }


BLIND: dict[str, Any] = {
    "referred_to": f"<sip:*3101@{REALM}>",
    "referred_by": f"<sip:parker@{REALM}>",
}


def attended(replaces: str) -> dict[str, Any]:
    """Keyword arguments for the execute that completes an attended transfer."""
    return {
        "referred_to": f"<sip:*3101@{REALM}?Replaces={replaces};to-tag=a;from-tag=b>",
        "referred_by": f"<sip:parker@{REALM}>",
    }


@dataclass
class World:
    """One worker, its switch played by the test."""

    config: EngineConfig = field(default_factory=make_config)
    answers: dict[str, str] = field(default_factory=dict)
    """Channel id → status answered to queries; ``active`` unless said otherwise, "" silence."""

    def __post_init__(self) -> None:
        self.now_ms = self.config.started_at_ms
        self.solo = Solo(self.config)
        self.said: list[tuple[int, str, str]] = []
        """(ms since start, call id, word)."""
        self.published: list[Publish] = []
        self.logs: list[Log] = []
        self._tag = 0
        self._settle(self.solo.run(self.now_ms))

    # ---- in --------------------------------------------------------------------------------

    def execute(
        self, call_id: str, *, redelivered: bool = False, age_ms: int = 0, **how: Any
    ) -> None:
        self.deliver(json.dumps(make_execute(call_id, **how)).encode(), redelivered, age_ms)

    def deliver(self, body: bytes, redelivered: bool = False, age_ms: int = 0) -> None:
        self._tag += 1
        self.solo.engine.execute(
            body,
            tag=self._tag,
            sent_at_ms=self.now_ms - age_ms,
            redelivered=redelivered,
            exchange="kapps",
            routing_key="callflow.action.park",
            now_ms=self.now_ms,
        )
        self._settle(self.solo.run(self.now_ms))

    def event(self, name: str, call_id: str, category: str = "call_event", **fields: Any) -> None:
        payload = {
            "Event-Category": category,
            "Event-Name": name,
            "App-Name": "freeswitch",
            "App-Version": "1.0",
            "Msg-ID": "1",
            "Call-ID": call_id,
            **{key.replace("_", "-"): value for key, value in fields.items()},
        }
        self.message(payload, "callevt")

    def message(self, payload: object, exchange: str) -> None:
        self.solo.engine.message(
            json.dumps(payload).encode(), exchange=exchange, routing_key="k", now_ms=self.now_ms
        )
        self._settle(self.solo.run(self.now_ms))

    def completed(self, app: str, call_id: str, **fields: Any) -> None:
        self.event("CHANNEL_EXECUTE_COMPLETE", call_id, Application_Name=app, **fields)

    def failed(self, app: str, call_id: str, **fields: Any) -> None:
        fields |= {"Request": {"Application-Name": app}, "Error_Message": "no"}
        self.event("dialplan", call_id, "error", **fields)

    def destroy(self, call_id: str) -> None:
        self.answers[call_id] = "terminated"
        self.event("CHANNEL_DESTROY", call_id, Hangup_Cause="NORMAL_CLEARING")

    def usurp(self, call_id: str, fetch_id: str = "other") -> None:
        self.event("usurp_control", call_id, Fetch_ID=fetch_id)

    def bridge(self, call_id: str, other: str) -> None:
        self.event("CHANNEL_BRIDGE", call_id, Other_Leg_Call_ID=other)

    def wait(self, ms: int) -> None:
        """Let time pass."""
        until_ms = self.now_ms + ms
        engine = self.solo.engine
        while (deadline_ms := engine.next_deadline_ms()) is not None and deadline_ms <= until_ms:
            if deadline_ms < self.now_ms:
                raise AssertionError(f"deadline {deadline_ms} is before {self.now_ms}")
            self.now_ms = deadline_ms
            engine.tick(deadline_ms)
            self._settle(self.solo.run(deadline_ms))
        self.now_ms = until_ms

    # ---- out -------------------------------------------------------------------------------

    def _settle(self, ops: list[Op]) -> None:
        for op in ops:
            if isinstance(op, Log):
                self.logs.append(op)
            elif isinstance(op, Publish):
                self._hear(op)

    def _hear(self, op: Publish) -> None:
        self.published.append(op)
        payload = op.payload
        name, call_id = payload["Event-Name"], str(payload.get("Call-ID", ""))
        word = ""
        if name == "command":
            word = str(payload["Application-Name"])
        elif name == "dialog_update":
            word = f"lamp {payload['State']}"
        elif name == "action.accepted":
            word = "accepted"
        elif name == "action.result":
            term = decode_result(str(payload["Result"]))
            word = f"result {term.atom}" + (f" {term.argument}" if term.argument else "")
        elif str(name).startswith("PARK_"):
            word = str(name)
        elif name == "channel_status_req":
            self._answer_status(payload)
        if word:
            self.said.append((self.now_ms - self.config.started_at_ms, call_id, word))

    def _answer_status(self, payload: Any) -> None:
        answer = self.answers.get(payload["Call-ID"], "active")
        if not answer:
            return
        status, _, other = answer.partition(" ")
        reply = {
            "Event-Category": "call_event",
            "Event-Name": "channel_status_resp",
            "App-Name": "ecallmgr",
            "App-Version": "4.0.0",
            "Node": "ecallmgr@e1",
            "Msg-ID": payload["Msg-ID"],
            "Call-ID": payload["Call-ID"],
            "Status": status,
        }
        if other:
            reply["Other-Leg-Call-ID"] = other
        self.message(reply, "targeted")

    def words(self, call_id: str) -> list[str]:
        """What was said about one call, in order."""
        return [word for _, about, word in self.said if about == call_id]

    def heard(self) -> list[str]:
        """Everything said since the last call of this, as ``call: word``; forgets it."""
        heard = [f"{call_id}: {word}" for _, call_id, word in self.said]
        self.said.clear()
        return heard

    def results(self, call_id: str) -> list[str]:
        return [w.removeprefix("result ") for w in self.words(call_id) if w.startswith("result ")]

    @property
    def slots(self) -> dict[str, str]:
        """Slot → call id, of every account."""
        table = self.solo.table
        return {
            str(entry.slot): str(entry.call_id)
            for account in table.accounts()
            for entry in table.entries(account)
        }

    @property
    def crashes(self) -> list[Log]:
        return [log for log in self.logs if log.event == "session crashed"]
