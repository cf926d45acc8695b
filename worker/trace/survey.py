"""A first look over a whole trace: which workers there were, what they were set to, who took what.

Replay needs to know all that before it feeds the first input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import orjson

from worker import __version__
from worker.engine.config import EngineConfig
from worker.engine.live import session_made_id
from worker.kapi.exchanges import Exchange
from worker.kapi.nodes import SETTINGS
from worker.parking.model import SessionId, WorkerId
from worker.parking.records import Claim, Dead, Join, Record, Retrieve
from worker.parking.slot_view import subject_of
from worker.trace.config_plain import config_from_plain, merged
from worker.trace.lines import LogRecord, Message, TableLine, Tapped, Trace

Plain = Mapping[str, object]

INBOX: Final = ".inbox."
"""A worker's inbox is ``<prefix>.inbox.<worker id>`` (run/topology.py)."""
IDS_TRIED: Final = 64
STAND_IN: Final = WorkerId("replay")
STAND_IN_NODE: Final = "kzpark@replay"


@dataclass(slots=True)
class WorkerSeen:
    """One worker. ``joined``: its start is in the trace, nothing was known before."""

    worker: WorkerId
    node: str = ""
    inbox: str = ""
    joined: bool = False
    settings: dict[str, object] = field(default_factory=dict)


@dataclass(slots=True)
class Survey:
    """What the trace as a whole tells."""

    workers: dict[WorkerId, WorkerSeen] = field(default_factory=dict)
    took: dict[SessionId, WorkerId] = field(default_factory=dict)
    """Who took an execute."""
    executes: set[SessionId] = field(default_factory=set)
    calls: set[str] = field(default_factory=set)
    """Calls of those executes."""
    tapped: dict[tuple[str, str], int] = field(default_factory=dict)
    """(exchange, key) of direct exchanges → since when they are seen."""
    old_calls: set[str] = field(default_factory=set)
    """Calls that were looked after before the trace began."""
    old_sessions: set[str] = field(default_factory=set)
    records: list[Record] = field(default_factory=list)
    last_words: dict[WorkerId, int] = field(default_factory=dict)
    """Workers that were declared dead → when they were last heard of before that."""
    has_log: bool = False
    has_our_ids: bool = False
    """The ids in it are those that workers of this version make up."""

    @property
    def nodes(self) -> dict[str, WorkerId]:
        return {seen.node: seen.worker for seen in self.workers.values() if seen.node}

    @property
    def inboxes(self) -> dict[str, WorkerId]:
        return {seen.inbox: seen.worker for seen in self.workers.values() if seen.inbox}

    def config(
        self, worker: WorkerId, head: Plain, overrides: Plain, started_at_ms: int
    ) -> EngineConfig:
        """What the worker was set to, as far as the trace tells."""
        seen = self.workers[worker]
        inbox = seen.inbox or f"kzpark{INBOX}{worker}"
        base = EngineConfig(worker=worker, node=seen.node or STAND_IN_NODE, inbox=inbox)
        names = {"worker": worker, "node": base.node, "inbox": inbox}
        said = merged(head, seen.settings, overrides)
        return config_from_plain({**said, **names, "started_at_ms": started_at_ms}, base)


def survey(trace: Trace) -> Survey:
    """Read the whole trace once."""
    found = Survey()
    accepted: dict[SessionId, str] = {}
    servers: dict[str, str] = {}
    adverts: dict[str, dict[str, object]] = {}
    for line in trace.lines:
        match line:
            case TableLine():
                _table(found, line.state)
            case LogRecord():
                found.has_log = True
                found.records.append(line.record)
                _record(found, line.record)
            case Message() if line.payload is not None:
                _message(found, line, accepted, servers, adverts)
            case Tapped():
                found.tapped.setdefault((line.exchange, line.key), line.at_ms)
            case _:
                pass
    _join_up(found, accepted, servers, adverts)
    found.has_our_ids = _has_our_ids(trace, found.executes)
    _last_words(found, trace)
    return found


def _last_words(found: Survey, trace: Trace) -> None:
    """When each worker that was killed said its last: it did nothing after that."""
    heard: dict[WorkerId, int] = {}
    nodes = found.nodes
    for line in trace.lines:
        if isinstance(line, Message) and line.text("Node") in nodes:
            heard[nodes[line.text("Node")]] = line.at_ms
        elif isinstance(line, LogRecord):
            heard[line.record.author] = line.at_ms
            if isinstance(line.record, Dead) and line.record.victim in heard:
                found.last_words.setdefault(line.record.victim, heard[line.record.victim])


def _has_our_ids(trace: Trace, executes: set[SessionId]) -> bool:
    """Whether commands and questions quote ids that our sessions make up (these follow from the
    execute's), and no worker in the trace says that it is of another version. Half of them would
    do: nobody else's ids ever fit."""
    ours = {
        session_made_id(session, 0, number)
        for session in executes
        for number in range(1, IDS_TRIED + 1)
    }
    same = total = 0
    for line in trace.lines:
        if not isinstance(line, Message):
            continue
        if line.exchange == Exchange.CALLCTL or INBOX in line.text("Server-ID"):
            total += line.exchange in {Exchange.CALLCTL, Exchange.CALLEVT}
            same += line.text("Msg-ID") in ours
        elif SETTINGS in (line.payload or {}) and line.text("App-Version") != __version__:
            return False
    return same > 0 and 2 * same >= total


def _table(found: Survey, state: Plain) -> None:
    live = state.get("live")
    for worker, row in (live if isinstance(live, dict) else {}).items():
        seen = found.workers.setdefault(WorkerId(worker), WorkerSeen(WorkerId(worker)))
        if isinstance(row, list) and row and isinstance(row[-1], str):
            seen.node = row[-1]
    sessions = state.get("sessions")
    for row in sessions if isinstance(sessions, list) else []:
        if isinstance(row, dict):
            found.old_sessions.add(str(row.get("session")))
            found.old_calls |= calls_of(row)
    found.has_log = True


def calls_of(row: Plain) -> set[str]:
    """Every call id a session row knows of."""
    calls: set[str] = set()
    for name in ("facts", "state"):
        text = row.get(name)
        try:
            value = orjson.loads(text) if isinstance(text, str) and text else {}
        except orjson.JSONDecodeError:
            continue
        if isinstance(value, dict):
            calls |= {str(value[key]) for key in ("Call-ID", "call_id") if key in value}
    entry = row.get("entry")
    if isinstance(entry, dict):
        calls.add(str(entry.get("call_id")))
    return calls


def _record(found: Survey, record: Record) -> None:
    if isinstance(record, Join):
        seen = found.workers.setdefault(record.author, WorkerSeen(record.author))
        seen.joined = seen.joined or not seen.node
        seen.node = record.name or seen.node
    session = subject_of(record)
    if session is not None and isinstance(record, Claim | Retrieve):
        found.took.setdefault(session, record.author)


def _message(
    found: Survey,
    line: Message,
    accepted: dict[SessionId, str],
    servers: dict[str, str],
    adverts: dict[str, dict[str, object]],
) -> None:
    node, server = line.text("Node"), line.text("Server-ID")
    if line.exchange == Exchange.KAPPS:
        found.executes.add(SessionId(line.text("Msg-ID")))
        found.calls.add(line.text("Call-ID"))
    elif line.exchange == Exchange.TARGETED and line.text("Event-Name").startswith("action."):
        accepted.setdefault(SessionId(line.text("Msg-ID")), node)
    elif line.exchange == Exchange.NODES and line.payload is not None:
        settings = line.payload.get(SETTINGS)
        if isinstance(settings, dict):
            adverts.setdefault(node, settings)
    elif INBOX in server and node:
        servers.setdefault(node, server)


def _join_up(
    found: Survey,
    accepted: dict[SessionId, str],
    servers: dict[str, str],
    adverts: dict[str, dict[str, object]],
) -> None:
    """Put together what is known of each worker from its records, inbox and node name."""
    nodes = found.nodes
    for node, inbox in servers.items():
        worker = nodes.get(node) or WorkerId(inbox.rpartition(INBOX)[2])
        seen = found.workers.setdefault(worker, WorkerSeen(worker))
        seen.node, seen.inbox = seen.node or node, inbox
    for number, node in enumerate(dict.fromkeys(accepted.values())):
        if node and node not in found.nodes:
            worker = STAND_IN if number == 0 else WorkerId(f"{STAND_IN}{number}")
            found.workers[worker] = WorkerSeen(worker, node)
    if not found.workers:
        found.workers[STAND_IN] = WorkerSeen(STAND_IN, STAND_IN_NODE)
    for node, settings in adverts.items():
        worker_of = found.nodes.get(node)
        if worker_of is not None:
            found.workers[worker_of].settings = settings
    for session, node in accepted.items():
        taker = found.nodes.get(node)
        if taker is not None:
            found.took.setdefault(session, taker)
    for worker in set(found.took.values()) - found.workers.keys():
        found.workers[worker] = WorkerSeen(worker)
