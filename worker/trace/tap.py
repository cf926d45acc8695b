"""What a recorder listens to and what of it belongs in the trace. Pure: messages in, lines out.

Topic exchanges are bound from the start. Direct exchanges (``callctl``, ``targeted``) have no
wildcard: their queue names are learned from what passes, and a `Tapped` line says since when each
is seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from worker.kapi import keys
from worker.kapi.address import parse_address
from worker.kapi.exchanges import Exchange
from worker.kapi.fields import as_object, as_text
from worker.kapi.presence import LAMP_APP
from worker.trace.lines import Message
from worker.trace.survey import INBOX

Plain = Mapping[str, object]
Binding = tuple[str, str]
"""(exchange, routing key)."""

CALLMGR: Final = "callmgr"
EXECUTES: Final = "callflow.action.*"
PARK_MODULE: Final = "park"
DEMO_MODULE: Final = "park_demo_"
MOST_KEYS: Final = 5_000
"""Queues of direct exchanges that are tapped at most."""
MOST_CALLS: Final = 200_000

_TOPICS: Final[tuple[Binding, ...]] = (
    (Exchange.KAPPS, EXECUTES),
    (Exchange.PRESENCE, "dialog.*.*"),
    (Exchange.PRESENCE, keys.PROBES),
    (Exchange.PRESENCE, keys.PRESENCE_RESETS),
    (Exchange.SYSCONF, keys.SYSCONF_GET),
    (Exchange.REGISTRAR, "registration.query.*.*"),
    (Exchange.CONFIGURATION, keys.PARKING_CONFIG_CHANGES),
    (Exchange.CONFIGURATION, keys.MEDIA_CONFIG_CHANGES),
    (Exchange.NODES, keys.NODES),
)
_ROUTES: Final[tuple[Binding, ...]] = ((CALLMGR, "route.req.audio.*"),)
_NEW_IDS: Final = ("Replaced-By", "Connecting-Leg-B-UUID")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What to keep. Empty: everything about parking."""

    accounts: frozenset[str] = frozenset()
    call_ids: frozenset[str] = frozenset()
    routes: bool = False
    """Also how calls are routed and what the platform's own callflow says (for `shadow`)."""

    @property
    def is_open(self) -> bool:
        return not self.accounts and not self.call_ids

    def plain(self) -> dict[str, object]:
        return {
            "accounts": sorted(self.accounts),
            "call_ids": sorted(self.call_ids),
            "routes": self.routes,
        }


@dataclass(slots=True)
class Tap:
    """Give it every message; ask it what to bind next."""

    filters: Filters = field(default_factory=Filters)
    calls: dict[str, None] = field(default_factory=dict)
    """Calls that are followed, oldest first."""
    realms: set[str] = field(default_factory=set)
    accounts: set[str] = field(default_factory=set)
    """With filters: accounts of which something is kept."""
    _asked: set[str] = field(default_factory=set)
    _wanted: list[Binding] = field(default_factory=list)
    _bound: set[Binding] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.accounts |= self.filters.accounts

    def bindings(self) -> list[Binding]:
        """What to bind before the first message."""
        events = [(str(Exchange.CALLEVT), "call.#")]
        if self.filters.call_ids and not self.filters.accounts:
            events = [
                (str(Exchange.CALLEVT), keys.call_events(call_id))
                for call_id in sorted(self.filters.call_ids)
            ]
        routes = _ROUTES if self.filters.routes else ()
        return [*((str(exchange), key) for exchange, key in (*_TOPICS, *routes)), *events]

    def wanted(self) -> list[Binding]:
        """Direct keys learned since the last call; each is named once."""
        wanted, self._wanted = self._wanted, []
        return wanted

    def follow(self, call_ids: Iterable[str]) -> None:
        """Keep what is said about these calls."""
        for call_id in call_ids:
            if call_id:
                self.calls[call_id] = None
        while len(self.calls) > MOST_CALLS:
            del self.calls[next(iter(self.calls))]

    def learn(self, exchange: str, address: object) -> None:
        """There is a queue behind ``address`` on a direct exchange."""
        queue = parse_address(as_text(address)).queue
        binding = (str(exchange), queue)
        if not queue or not keys.fits(queue) or binding in self._bound:
            return
        if len(self._bound) < MOST_KEYS:
            self._bound.add(binding)
            self._wanted.append(binding)

    # ---- messages -------------------------------------------------------------------------------

    def keeps(self, message: Message) -> bool:
        """Whether the message belongs in the trace. Learns from it what to bind and follow."""
        payload = message.payload
        if payload is None:
            return self.filters.is_open and message.exchange in {Exchange.KAPPS, Exchange.CALLEVT}
        server = message.text("Server-ID")
        if INBOX in server:
            self.learn(Exchange.TARGETED, server)
        match message.exchange:
            case Exchange.KAPPS:
                return self._execute(message, payload)
            case Exchange.CALLCTL:
                return message.text("Call-ID") in self.calls
            case Exchange.TARGETED:
                return self._targeted(message, payload)
            case Exchange.CALLEVT:
                return self._event(message)
            case Exchange.PRESENCE:
                return self._presence(message)
            case Exchange.SYSCONF | Exchange.REGISTRAR:
                self._asked.add(message.text("Msg-ID"))
                return INBOX in server
            case Exchange.NODES | Exchange.CONFIGURATION:
                return True
            case "callmgr":
                return self._route(message, payload)
            case _:
                return False

    def _execute(self, message: Message, payload: Plain) -> bool:
        module = message.key.rpartition(".")[2]
        if module != PARK_MODULE and not module.startswith(DEMO_MODULE):
            return False
        call = as_object(payload.get("Call"))
        if not self._wants(message.text("Call-ID"), as_text(call.get("Account-ID"))):
            return False
        self._follow_call(message.text("Call-ID"), call)
        self.accounts.add(as_text(call.get("Account-ID")))
        self.learn(Exchange.CALLCTL, call.get("Control-Queue"))
        self.learn(Exchange.TARGETED, payload.get("Server-ID"))
        self.learn(Exchange.TARGETED, call.get("Controller-Queue"))
        return True

    def wants_account(self, account: str) -> bool:
        """Whether records about this account (empty: about no account) belong in the trace."""
        return self.filters.is_open or account == "" or account in self.accounts

    def _wants(self, call_id: str, account: str) -> bool:
        filters = self.filters
        return filters.is_open or call_id in filters.call_ids or account in filters.accounts

    def _follow_call(self, call_id: str, call: Plain) -> None:
        self.follow([call_id])
        channel_vars = as_object(call.get("Custom-Channel-Vars"))
        for source, name in (
            (channel_vars, "Account-Realm"),
            (channel_vars, "Realm"),
            (call, "From-Realm"),
            (call, "Request-Realm"),
        ):
            realm = as_text(source.get(name))
            if realm:
                self.realms.add(realm.lower())

    def _targeted(self, message: Message, payload: Plain) -> bool:
        event = message.text("Event-Name")
        if event == "route_resp":
            self.learn(Exchange.TARGETED, payload.get("Server-ID"))
        if event == "route_win":
            self.learn(Exchange.CALLCTL, payload.get("Control-Queue"))
        if event in {"route_resp", "route_win"}:
            return self.filters.routes and message.text("Call-ID") in self.calls
        if event.startswith("action."):
            return message.text("Call-ID") in self.calls
        if self.filters.routes and event == "channel_status_resp":
            return message.text("Call-ID") in self.calls
        if INBOX not in message.key:
            return False
        return self.filters.is_open or message.text("Msg-ID") in self._asked

    def _event(self, message: Message) -> bool:
        call_id = message.text("Call-ID")
        if call_id not in self.calls and call_id not in self.filters.call_ids:
            return False
        if message.text("Event-Name") == "channel_status_req":
            self._asked.add(message.text("Msg-ID"))
            if self.filters.routes:
                self.learn(Exchange.TARGETED, message.text("Server-ID"))
        self.follow(message.text(name) for name in _NEW_IDS)
        return True

    def _presence(self, message: Message) -> bool:
        if message.text("Event-Name") == "dialog_update":
            if message.text("App-Name") != LAMP_APP:
                return False
            realm = message.text("From-Realm")
            known = message.text("Call-ID") in self.calls
            return self.filters.is_open or known or realm.lower() in self.realms
        return self.filters.is_open or message.text("Realm").lower() in self.realms

    def _route(self, message: Message, payload: Plain) -> bool:
        channel_vars = as_object(payload.get("Custom-Channel-Vars"))
        call_id = message.text("Call-ID")
        if not self._wants(call_id, as_text(channel_vars.get("Account-ID"))):
            return False
        self._follow_call(call_id, payload)
        self.learn(Exchange.TARGETED, payload.get("Server-ID"))
        return True
