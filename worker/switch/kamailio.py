"""Phones' lamps the way Kamailio's presence lights them (contract §5.3, blf findings). Pure.

One row per presentity and dialog; a lamp shows the highest ranking row. An update that Kamailio
would drop, garble or die of does just that here.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from worker.switch.wire import Outgoing, Payload, text
from worker.switch.world import World

RANK = {"early": 0, "confirmed": 1, "terminated": 2}
MAX_DIALOGS = 20
TAG_BYTES = 86
XML_BYTES = 7_500
CALL_ID_BYTES = 1_000
PASTED = ("To-User", "To", "To-URI", "From", "From-User", "Call-ID", "From-Tag", "To-Tag")
"""Fields that are pasted into XML without escaping."""
_BREAKS_XML = re.compile(r"[<\"\x00-\x08\x0b\x0c\x0e-\x1f]|&(?!(amp|lt|gt|quot|apos|#\d+);)")


@dataclass(slots=True, kw_only=True)
class Row:
    """One dialog of a presentity."""

    state: str
    display: str
    switch_uri: str
    expires_at_ms: int | None
    garbled: bool = False


@dataclass(slots=True)
class Lamp:
    """What watchers of one presentity see. ``off``, ``early``, ``confirmed`` or ``blank``.

    ``blank``: the phone got a NOTIFY with an empty body."""

    shown: str = "off"
    display: str = ""
    rows: dict[str, Row] = field(default_factory=dict)
    history: list[tuple[int, str]] = field(default_factory=list)
    """(when, what it changed to)."""


class Kamailio:
    """Consumes dialog updates, sends probes, shows lamps."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.lamps: dict[str, Lamp] = {}
        self.watched: set[str] = set()
        self.faults: list[str] = []
        """What a real Kamailio would have refused or died of."""
        self.alive = True

    def shown(self, presentity: str) -> str:
        lamp = self.lamps.get(presentity)
        return lamp.shown if lamp is not None else "off"

    def watch(self, presentity: str) -> None:
        """A phone subscribes: without a stored row a probe goes out (contract §5.5)."""
        self.watched.add(presentity)
        lamp = self.lamps.setdefault(presentity, Lamp())
        self._sweep(lamp)
        if lamp.rows:
            self._notify(presentity, lamp)
            return
        user, _, realm = presentity.partition("@")
        payload: Payload = {
            "Event-Category": "presence",
            "Event-Name": "probe",
            "Event-Package": "dialog",
            "Username": user,
            "Realm": realm,
            "Call-ID": self.world.new_id("subscribe"),
            "Msg-ID": self.world.new_hex(),
            "App-Name": "kamailio",
            "App-Version": "5.6.3",
            "Node": f"kamailio@{self.world.name}",
        }
        self.world.publish(
            Outgoing(exchange="presence", routing_key="probes.dialog", payload=payload)
        )

    def restart(self) -> None:
        """All rows are gone; the phones subscribe again and cause probes."""
        self.alive = True
        for lamp in self.lamps.values():
            lamp.rows.clear()
            lamp.shown = "off"
        for presentity in sorted(self.watched):
            self.watch(presentity)

    def server_lost(self, switch_uri: str) -> None:
        """Rows published for a media server go when it goes (contract §5.3)."""
        for presentity, lamp in self.lamps.items():
            gone = [key for key, row in lamp.rows.items() if row.switch_uri == switch_uri]
            for key in gone:
                del lamp.rows[key]
            if gone:
                self._notify(presentity, lamp)

    def update(self, payload: Payload) -> None:
        """One dialog update."""
        if not self.alive or text(payload, "Event-Name") != "dialog_update":
            return
        if self._fatal(payload):
            self.alive = False
            return
        refused = self._refused(payload)
        if refused:
            self.faults.append(refused)
            return
        presentity = f"{text(payload, 'From-User')}@{text(payload, 'From-Realm')}"
        lamp = self.lamps.setdefault(presentity, Lamp())
        if not (self.world.plan.watch_all_lamps or presentity in self.watched):
            return
        self._sweep(lamp)
        key = _row_key(payload)
        state = text(payload, "State")
        if state == "terminated" and key not in lamp.rows:
            return
        live = sum(row.state != "terminated" for row in lamp.rows.values())
        if state != "terminated" and key not in lamp.rows and live >= MAX_DIALOGS:
            self.faults.append(f"{presentity}: more than {MAX_DIALOGS} dialogs")
            return
        expires = payload.get("Expires")
        lamp.rows[key] = Row(
            state=state,
            display=text(payload, "To-User"),
            switch_uri=text(payload, "Switch-URI"),
            expires_at_ms=self.world.now_ms + int(expires) * 1000
            if isinstance(expires, int) and expires
            else None,
            garbled=any(_BREAKS_XML.search(text(payload, name)) for name in PASTED),
        )
        self._notify(presentity, lamp)

    def _refused(self, payload: Payload) -> str:
        for name in ("From", "From-User", "From-Realm", "To", "State", "Call-ID"):
            if not text(payload, name):
                return f"dialog update without {name}"
        uri = f"sip:{text(payload, 'From-User')}@{text(payload, 'From-Realm')}"
        if text(payload, "From") != uri:
            return f"From {text(payload, 'From')!r} matches no subscription"
        if text(payload, "State") not in RANK:
            return f"unknown state {text(payload, 'State')!r}"
        if not payload.get("Expires"):
            return "dialog update without Expires would never go away"
        return ""

    def _fatal(self, payload: Payload) -> bool:
        sizes = {name: len(text(payload, name).encode()) for name in PASTED}
        pasted = sum(sizes.values()) + sizes["Call-ID"]
        if (
            max(sizes["From-Tag"], sizes["To-Tag"]) > TAG_BYTES
            or pasted > XML_BYTES
            or sizes["Call-ID"] > CALL_ID_BYTES
        ):
            self.faults.append("Kamailio died of an over-long field")
            return True
        return False

    def _sweep(self, lamp: Lamp) -> None:
        """Expired rows go without a NOTIFY: a phone that shows one goes on showing it."""
        now_ms = self.world.now_ms
        for key in [
            key
            for key, row in lamp.rows.items()
            if row.expires_at_ms is not None and row.expires_at_ms <= now_ms
        ]:
            del lamp.rows[key]

    def _notify(self, presentity: str, lamp: Lamp) -> None:
        rows = sorted(lamp.rows.values(), key=lambda row: RANK[row.state])
        top = rows[0] if rows else None
        shown, display = "off", ""
        if any(row.garbled for row in rows):
            shown = "blank"
            self.faults.append(f"{presentity}: NOTIFY with an empty body")
        elif top is not None and top.state != "terminated":
            shown, display = top.state, top.display
        lamp.display = display
        if shown != lamp.shown:
            lamp.shown = shown
            lamp.history.append((self.world.now_ms, shown))
            self.world.note(presentity, shown, {"Display": display})


def _row_key(payload: Payload) -> str:
    """The etag under fast pickup: App-Name, Switch-URI and Call-ID all count (contract §5.3)."""
    option = "1" if text(payload, "App-Name") == "park" else "2"
    uri = text(payload, "Switch-URI").partition(";")[0]
    digest = hashlib.md5(uri.encode(), usedforsecurity=False).hexdigest()
    return f"kfp+3{option}{digest}@{text(payload, 'Call-ID')}"
