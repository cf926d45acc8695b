"""What a NOTIFY says: ``application/dialog-info+xml`` as a phone reads it (RFC 4235)."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field

CONTENT_TYPE = "application/dialog-info+xml"
IDLE_ID = "615293b33c62dec073e05d9421e9f48b"
"""presence_dialoginfo sends a made-up dialog with this id when it has nothing to show."""
_NS = "{urn:ietf:params:xml:ns:dialog-info}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialog:
    """One ``<dialog>``."""

    state: str
    call_id: str
    direction: str
    local_tag: str
    remote_tag: str
    remote_display: str
    remote_identity: str
    remote_target: str
    idle: bool

    @property
    def parked_call_id(self) -> str:
        """The Call-ID without the cookie of Kazoo's fast pick-up."""
        return re.sub(r"^kfp\+[^@]*@", "", self.call_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify:
    """One NOTIFY, as it arrived. ``error``: why a phone could not read it."""

    presentity: str
    at_s: float
    cseq: int
    branch: str
    body: str
    entity: str = ""
    dialogs: tuple[Dialog, ...] = ()
    error: str = ""

    @property
    def lamp(self) -> str:
        """``off``, ``early``, ``confirmed`` or ``terminated``; the middle two are lit.

        ``off`` is what a phone shows that knows of no dialog; ``terminated`` is as dark, but says
        that a dialog was there and has ended.
        """
        states = {dialog.state for dialog in self.dialogs if not dialog.idle}
        return next((one for one in ("confirmed", "early", "terminated") if one in states), "off")

    @property
    def lit(self) -> bool:
        return self.lamp in ("early", "confirmed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A parsed body."""

    entity: str = ""
    dialogs: tuple[Dialog, ...] = field(default=())
    error: str = ""


def read(body: str, content_type: str) -> Document:
    """What a phone makes of a NOTIFY's body."""
    if not body.strip():
        return Document(error="empty body")
    try:
        root = ET.fromstring(body)
    except ET.ParseError as error:
        return Document(error=f"not XML: {error}")
    if content_type != CONTENT_TYPE or root.tag != f"{_NS}dialog-info":
        return Document(error=f"unexpected {root.tag} in {content_type}")
    dialogs = tuple(_dialog(node) for node in root.iter(f"{_NS}dialog"))
    return Document(entity=root.get("entity", ""), dialogs=dialogs)


def _dialog(node: ET.Element) -> Dialog:
    def text(path: str) -> str:
        return (node.findtext(_path(path)) or "").strip()

    def attribute(path: str, name: str) -> str:
        found = node.find(_path(path))
        return "" if found is None else found.get(name, "")

    return Dialog(
        state=text("state"),
        call_id=node.get("call-id", ""),
        direction=node.get("direction", ""),
        local_tag=node.get("local-tag", ""),
        remote_tag=node.get("remote-tag", ""),
        remote_display=attribute("remote/identity", "display"),
        remote_identity=text("remote/identity"),
        remote_target=attribute("remote/target", "uri"),
        idle=node.get("id") == IDLE_ID,
    )


def _path(path: str) -> str:
    return "/".join(_NS + part for part in path.split("/"))
