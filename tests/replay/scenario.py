"""Scenarios: what a file says, how it is played, and what must hold in every one of them.

A file tells one behaviour (``schemas/scenario.json``): steps, and after each step what is heard of
the worker. A step that says nothing expects silence.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from tests.replay.stage import Heard, Stage, config_of
from tests.solo import ACCOUNT, REALM
from worker.kapi import schema
from worker.parking.model import Compat

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "fixtures"
SCHEMA = json.loads((ROOT / "schemas" / "scenario.json").read_text())
_VALIDATOR = Draft202012Validator(SCHEMA)

EPILOGUE_MS = 180_000
"""Longer than anything a call that has ended may leave behind."""
EXPECTATIONS = (
    "expect",
    "fields",
    "order",
    "asks",
    "asks_not",
    "log",
    "dead_letters",
    "expect_slots",
    "expect_entry",
)

Step = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """One file under one compatibility mode."""

    name: str
    """``scenarios/<file>`` or ``quirks/<file>``, without ``.json``."""
    compat: Compat
    steps: tuple[Step, ...]
    config: Mapping[str, Any]
    xfail: str

    @property
    def id(self) -> str:
        return f"{self.name}-{self.compat.value}"


def files() -> list[Path]:
    return sorted([*FIXTURES.glob("scenarios/*.json"), *FIXTURES.glob("quirks/*.json")])


def name_of(path: Path) -> str:
    return path.relative_to(FIXTURES).with_suffix("").as_posix()


def load(path: Path) -> dict[str, Any]:
    """Read and check a file. Raises ValueError with every complaint."""
    told: dict[str, Any] = json.loads(path.read_text())
    errors = sorted(_VALIDATOR.iter_errors(told), key=lambda error: list(error.absolute_path))
    if errors:
        lines = [f"{path.name}: {error.json_path}: {error.message}" for error in errors]
        raise ValueError("\n".join(lines))
    return told


def plays(path: Path) -> list[Play]:
    told = json.loads(path.read_text())
    steps = told.get("steps", {})
    both = steps.get("both")
    return [
        Play(
            name=name_of(path),
            compat=compat,
            steps=tuple(_fill(both or steps[compat.value])),
            config=told.get("config", {}),
            xfail=told.get("xfail", ""),
        )
        for compat in Compat
        if both or compat.value in steps
    ]


def _fill(value: Any) -> Any:
    """Put account and realm where a file says ``{account}`` and ``{realm}``."""
    text = json.dumps(value).replace("{account}", ACCOUNT).replace("{realm}", REALM)
    return json.loads(text)


# ---- playing ------------------------------------------------------------------------------------


class Mismatch(AssertionError):
    """The worker did something else; the text tells the whole story."""


class Player:
    """Plays the steps of one scenario and keeps its story."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.stage = Stage(config_of(play.compat, play.config))
        self.story: list[str] = []
        self.complaints: list[str] = []
        self._heard = self._logs = self._dead = 0

    def run(self) -> None:
        """Raises Mismatch at the first step that differs, or when an invariant is broken."""
        for number, step in enumerate(self.play.steps, 1):
            self._tell(number, step)
            self._do(step)
            self._check(step)
            if self.complaints:
                raise Mismatch(self._report(number))
        self._epilogue()
        self.complaints += invariants(self.stage)
        if self.complaints:
            raise Mismatch(self._report(None))

    # ---- the story -----------------------------------------------------------------------------

    def _tell(self, number: int | None, step: Step) -> None:
        skip = set(EXPECTATIONS)
        what = {key: value for key, value in step.items() if key not in skip}
        label = "end" if number is None else f"{number:3}"
        told = json.dumps(what, ensure_ascii=False) if what else "(nothing happens)"
        self.story.append(f"{label} {self._clock()} ▶ {told}")

    def _clock(self, at_ms: int | None = None) -> str:
        ms = self.stage.since_start_ms if at_ms is None else at_ms
        return f"{ms / 1000:9.3f}s"

    def _news(self) -> list[Heard]:
        news = self.stage.heard_all[self._heard :]
        self._heard = len(self.stage.heard_all)
        self.story += [f"    {self._clock(one.at_ms)}     {one.text}" for one in news]
        return news

    def _report(self, number: int | None) -> str:
        where = "at the end" if number is None else f"at step {number}"
        lines = [f"{self.play.id} differs {where}", *[f"  {text}" for text in self.complaints]]
        logs = [
            f"    {log.level} {log.event} {json.dumps(log.fields, default=str)}"
            for log in self.stage.logs
            if log.level != "debug"
        ]
        return "\n".join([*lines, "the story:", *self.story, "its log:", *logs])

    # ---- doing ---------------------------------------------------------------------------------

    def _do(self, step: Step) -> None:  # noqa: PLR0912 - one case per verb
        stage = self.stage
        call, fields = step.get("call", ""), dict(step.get("with", {}))
        more: dict[str, Any]
        match step:
            case {"execute": call_id}:
                stage.arrive(call_id, _options(step, "execute"))
            case {"deliver": body}:
                text = body if isinstance(body, str) else json.dumps(body)
                stage.deliver(text.encode())
            case {"message": payload, "exchange": exchange}:
                stage.message(payload, exchange)
            case {"event": name}:
                stage.say(name, call, **fields)
            case {"completed": app}:
                fields |= {"Application-Name": app}
                if "response" in step:
                    fields |= {"Application-Response": step["response"]}
                stage.say("CHANNEL_EXECUTE_COMPLETE", call, **fields)
            case {"failed": app}:
                fields |= {"Request": {"Application-Name": app}, "Error-Message": "no"}
                if step.get("down"):
                    fields["Channel-Call-State"] = "DOWN"
                stage.say("dialplan", call, "error", **fields)
            case {"destroy": call_id}:
                stage.answers[call_id] = "terminated"
                stage.say("CHANNEL_DESTROY", call_id, **({"Hangup-Cause": "NORMAL"} | fields))
            case {"bridge": call_id, "other": other}:
                stage.say("CHANNEL_BRIDGE", call_id, **{"Other-Leg-Call-ID": other})
            case {"unbridge": call_id}:
                stage.say("CHANNEL_UNBRIDGE", call_id)
            case {"intercepted": call_id, "by": by}:
                stage.say("CHANNEL_INTERCEPTED", call_id, **{"Intercepted-By": by})
            case {"picked_up": call_id, "by": by}:
                stage.picked_up(call_id, by)
            case {"usurp": call_id}:
                fetch = _fetch(step, call_id, "other")
                stage.say("usurp_control", call_id, **{"Fetch-ID": fetch, "Reason": "redirect"})
            case {"transferee": call_id}:
                more = {"Custom-Channel-Vars": {"Fetch-ID": _fetch(step, call_id, "own")}}
                stage.say("CHANNEL_TRANSFEREE", call_id, **more)
            case {"replaced": call_id, "by": by}:
                more = {"Replaced-By": by}
                more |= {"Custom-Channel-Vars": {"Fetch-ID": _fetch(step, call_id, "own")}}
                stage.say("CHANNEL_REPLACED", call_id, **more)
                stage._meet(by)
            case {"pivot": call_id}:
                more = {"Application-Data": {"module": "hangup", "data": {}}}
                stage.say("CHANNEL_PIVOT", call_id, **more)
            case {"disconnected": call_id}:
                stage.say("CHANNEL_DISCONNECTED", call_id)
            case {"returned": word}:
                stage.give_back(call, word)
            case {"answers": answers}:
                stage.answers |= answers
            case {"registrar": devices}:
                stage.devices |= devices
            case {"sysconf": values}:
                stage.answer_config(values)
            case {"changed": document}:
                stage.document_changed(document)
            case {"probe": user}:
                stage.probe(user, step.get("realm", REALM))
            case {"reset": user}:
                stage.reset(user, step.get("realm", REALM))
            case {"advertise": apps, "node": node}:
                stage.advertise(node, apps)
            case {"slot_log": state}:
                stage.log_goes_away() if state == "away" else stage.log_comes_back()
            case {"restart": down_ms}:
                stage.restart(down_ms)
            case {"wait": ms}:
                stage.wait(ms)
            case _:
                raise ValueError(f"no verb in {step}")

    def _epilogue(self) -> None:
        """Everybody hangs up, time passes."""
        self._tell(None, {"destroy": self.stage.calls, "wait": EPILOGUE_MS})
        self.stage.devices.clear()
        for call_id in self.stage.calls:
            self.stage.destroy(call_id)
        self.stage.wait(EPILOGUE_MS)
        self._news()

    # ---- checking ------------------------------------------------------------------------------

    def _check(self, step: Step) -> None:
        news = self._news()
        self.complaints += compare(step.get("expect", []), news)
        self.complaints += compare_fields(step.get("fields", {}), news)
        self.complaints += compare_order(step.get("order", []), news)
        self.complaints += self._compare_asks(step)
        self.complaints += self._compare_logs(step)
        dead, self._dead = self.stage.dead_letters[self._dead :], len(self.stage.dead_letters)
        pointers = [letter.pointer for letter in dead]
        if pointers != step.get("dead_letters", []):
            self.complaints.append(f"dead letters: {pointers}")
        if "expect_slots" in step and self.stage.table() != step["expect_slots"]:
            self.complaints.append(f"slots: {self.stage.table()}, not {step['expect_slots']}")
        self.complaints += self._compare_entries(step.get("expect_entry", {}))

    def _compare_asks(self, step: Step) -> list[str]:
        asked, self.stage.asked = set(self.stage.asked), []
        missing, needless = set(step.get("asks", [])) - asked, asked & set(step.get("asks_not", []))
        return [
            *(f"not asked about {one}" for one in sorted(missing)),
            *(f"asked about {one}" for one in sorted(needless)),
        ]

    def _compare_logs(self, step: Step) -> list[str]:
        news, self._logs = self.stage.logs[self._logs :], len(self.stage.logs)
        lines = [{"event": log.event, "level": log.level, **log.fields} for log in news]
        return [
            f"no log line has {wanted}"
            for wanted in step.get("log", [])
            if not any(wanted.items() <= line.items() for line in lines)
        ]

    def _compare_entries(self, wanted: Mapping[str, Any]) -> list[str]:
        entries = {str(entry.slot): entry for entry in self.stage.entries()}
        return [
            f"slot {slot}: {name} is {getattr(entries.get(slot), name, None)!r}, not {value!r}"
            for slot, fields in wanted.items()
            for name, value in fields.items()
            if getattr(entries.get(slot), name, None) != value
        ]


def _options(step: Step, verb: str) -> dict[str, Any]:
    skip = {verb, "why", *EXPECTATIONS}
    return {key: value for key, value in step.items() if key not in skip}


def _fetch(step: Step, call_id: str, default: str) -> str:
    fetch = str(step.get("fetch", default))
    return f"fetch-{call_id}" if fetch == "own" else fetch


def compare(wanted: Iterable[str], news: list[Heard]) -> list[str]:
    """Nothing missing, nothing more, and the right order within each stream."""
    wanted = list(wanted)
    missing = Counter(wanted) - Counter(one.text for one in news)
    extra = Counter(one.text for one in news) - Counter(wanted)
    complaints = [f"missing: {text}" for text in missing.elements()]
    complaints += [f"not expected: {text}" for text in extra.elements()]
    if complaints:
        return complaints
    streams_of: dict[str, set[str]] = {}
    for one in news:
        streams_of.setdefault(one.text, set()).add(one.stream)
    for stream in dict.fromkeys(one.stream for one in news):
        # A word that was heard of two lamps at once has no order to speak of.
        told = [text for text in wanted if streams_of[text] == {stream}]
        heard = [one.text for one in news if streams_of[one.text] == {stream}]
        if told != heard:
            complaints.append(f"order of {stream}: {heard}, not {told}")
    return complaints


def compare_order(wanted: list[str], news: list[Heard]) -> list[str]:
    """These were heard in this order, whatever their exchange."""
    heard = [one.text for one in news if one.text in wanted]
    return [] if heard == wanted else [f"order: {heard}, not {wanted}"]


def compare_fields(wanted: Mapping[str, Mapping[str, Any]], news: list[Heard]) -> list[str]:
    """Fields of every message with this word; ``null``: must be absent."""
    complaints = []
    for text, fields in wanted.items():
        messages = [one for one in news if one.text == text]
        if not messages:
            complaints.append(f"no {text!r} to look at")
        complaints += [
            f"{text}: {path} is {found!r}, not {value!r}"
            for one in messages
            for path, value in fields.items()
            if (found := _look(one, path)) != value
        ]
    return complaints


def _look(heard: Heard, path: str) -> Any:
    match path:
        case "@exchange":
            return heard.op.exchange.value
        case "@key":
            return heard.op.routing_key
        case "@mandatory":
            return heard.op.mandatory
        case "@headers":
            return dict(heard.op.headers)
        case "@at_ms":
            return heard.at_ms
    place: Any = heard.op.payload
    for name in path.split("/"):
        if isinstance(place, list):
            place = place[int(name)] if int(name) < len(place) else None
        else:
            place = place.get(name) if isinstance(place, Mapping) else None
    return place


# ---- what holds in every scenario ---------------------------------------------------------------


def invariants(stage: Stage) -> list[str]:
    """What must hold once everybody has hung up, whatever the scenario was about."""
    complaints = [f"crashed: {dict(log.fields)}" for log in stage.crashes]
    if stage.table():
        complaints.append(f"slots left over: {stage.table()}")
    if stage.solo.engine.sessions:
        complaints.append(f"{stage.solo.engine.sessions} sessions left over")
    if sorted(stage.settled) != sorted(stage.delivered):
        complaints.append(f"settled {stage.settled} of {stage.delivered}")
    return [
        *complaints,
        *_about_schemas(stage),
        *_about_replies(stage),
        *_about_lamps(stage),
        *_about_park_events(stage),
    ]


def _schema_name(payload: Mapping[str, Any]) -> str:
    names = {
        "action.accepted": "action.accepted",
        "action.result": "action.result",
        "dialog_update": "presence.dialog_update",
        "channel_status_req": "status.request",
        "reg_query": "registrar.query",
        "get_req": "sysconf.request",
        "advertise": "nodes.advertise",
    }
    name = str(payload["Event-Name"])
    if name == "command":
        return f"command.{payload['Application-Name']}"
    return "event.park" if name.startswith("PARK_") else names[name]


def _about_schemas(stage: Stage) -> Iterator[str]:
    for op in stage.published:
        name = _schema_name(op.payload)
        error = schema.first_error(name, json.loads(json.dumps(dict(op.payload))))
        if error is not None:
            yield f"{name}: {error[1]} {error[0]}"
        if "null" in json.dumps(dict(op.payload)).split('"')[::2]:
            yield f"{name}: null on the wire"


def _about_replies(stage: Stage) -> Iterator[str]:
    """Accepted first, one result, and not a word to the call after it (contract §2.8)."""
    accepted: set[str] = set()
    results: Counter[str] = Counter()
    for one in stage.heard_all:
        name, session = one.op.payload["Event-Name"], str(one.op.session)
        asked = session in stage.executes and session == one.op.payload["Msg-ID"]
        if name in {"action.accepted", "action.result"} and not asked:
            yield f"{one.text} answers nobody: {session}"
        if name == "action.accepted":
            accepted.add(session)
        elif name == "action.result":
            results[session] += 1
        elif name == "command":
            if session in results:
                yield f"{one.text} after the result"
            if session not in accepted:
                yield f"{one.text} before accepted"
    yield from (f"{count} results for {session}" for session, count in results.items() if count > 1)


def _about_lamps(stage: Stage) -> Iterator[str]:
    """Every lamp is put out with the very key it was lit with (contract §5.3)."""
    states: dict[tuple[str, ...], str] = {}
    for one in stage.heard_all:
        payload = one.op.payload
        if payload["Event-Name"] != "dialog_update":
            continue
        parts = ("Presence-ID", "Call-ID", "Switch-URI", "App-Name")
        key = tuple(str(payload.get(part, "")) for part in parts)
        free = str(payload["Call-ID"]).startswith("free-")
        if payload["State"] == "terminated" and key not in states and not free:
            yield f"{one.text} was never lit so: {key}"
        states[key] = str(payload["State"])
    yield from (f"lamp left lit: {key}" for key, state in states.items() if state != "terminated")


def _about_park_events(stage: Stage) -> Iterator[str]:
    """A parked call is retrieved or abandoned at most once (contract §6)."""
    words = Counter(one.word for one in stage.heard_all if one.word.startswith("PARK_"))
    for slot in {word.split()[1] for word in words}:
        parked = words[f"PARK_PARKED {slot}"]
        ended = words[f"PARK_RETRIEVED {slot}"] + words[f"PARK_ABANDONED {slot}"]
        if ended > parked:
            yield f"slot {slot}: parked {parked} times, ended {ended} times"
