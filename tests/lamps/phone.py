"""A SIP phone with busy lamps: subscribes to presentities and answers every NOTIFY."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.lamps import dialog_info
from tests.lamps.dialog_info import Notify

LOOPBACK = "127.0.0.1"
_COMPACT = {
    "i": "call-id",
    "f": "from",
    "t": "to",
    "v": "via",
    "m": "contact",
    "l": "content-length",
    "c": "content-type",
    "o": "event",
}
_RECEIVE_BUFFER_BYTES = 4 << 20
_FINAL = 200


class PhoneError(Exception):
    """The server did not answer, or the lamp did not become what was waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SipMessage:
    line: str
    headers: dict[str, str]
    body: str

    @property
    def code(self) -> int:
        """Status code of a response, 0 of a request."""
        return int(self.line.split()[1]) if self.line.startswith("SIP/2.0") else 0


def parse(data: bytes) -> SipMessage:
    """A datagram; header names in lower case and long form."""
    head, _, body = data.decode("utf-8", "replace").partition("\r\n\r\n")
    line, *rest = re.sub(r"\r\n[ \t]+", " ", head).split("\r\n")
    headers: dict[str, str] = {}
    for header in rest:
        name, _, value = header.partition(":")
        name = _COMPACT.get(name.strip().lower(), name.strip().lower())
        joined = name in headers and name in ("via", "record-route")
        headers[name] = f"{headers[name]}, {value.strip()}" if joined else value.strip()
    return SipMessage(line=line, headers=headers, body=body)


@dataclass(slots=True)
class Subscription:
    """One presentity that is watched."""

    presentity: str
    call_id: str = field(default_factory=lambda: f"{secrets.token_hex(8)}@rig-phone")
    from_tag: str = field(default_factory=lambda: secrets.token_hex(4))
    to_tag: str = ""
    remote_target: str = ""
    cseq: int = 0
    notifies: list[Notify] = field(default_factory=list)

    @property
    def last(self) -> Notify | None:
        """The NOTIFY with the highest CSeq, which need not be the latest to arrive."""
        return max(self.notifies, key=lambda one: one.cseq, default=None)


class Phone(asyncio.DatagramProtocol):
    """``async with Phone(sip_port) as phone: await phone.subscribe("*3101@acme.example.com")``.

    Presentities are ``user@realm``.
    """

    def __init__(self, sip_port: int, *, user: str = "2001", realm: str = "acme.example.com"):
        self._server = (LOOPBACK, sip_port)
        self._user, self._realm = user, realm
        self.subscriptions: dict[str, Subscription] = {}
        self._by_call: dict[str, Subscription] = {}
        self._pending: dict[str, asyncio.Future[SipMessage]] = {}
        self._changed = asyncio.Event()
        self.clashes = 0
        """NOTIFYs of one subscription that shared a CSeq, which is the server's fault."""

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(LOOPBACK, 0))
        self._transport = transport
        sock = self._transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        self._port = int(sock.getsockname()[1])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._transport.close()

    # ---- asking the server ----------------------------------------------------------------------

    async def subscribe(self, presentity: str, expires_s: int = 600) -> None:
        """SUBSCRIBE, or refresh; returns once accepted. Raises PhoneError."""
        sub = self.subscriptions.get(presentity)
        if sub is None:
            sub = self.subscriptions[presentity] = Subscription(presentity)
            self._by_call[sub.call_id] = sub
        sub.cseq += 1
        uri = f"sip:{presentity}"
        answer = await self._request(
            f"SUBSCRIBE {sub.remote_target or uri} SIP/2.0",
            f"From: <sip:{self._user}@{self._realm}>;tag={sub.from_tag}",
            f"To: <{uri}>" + (f";tag={sub.to_tag}" if sub.to_tag else ""),
            f"Call-ID: {sub.call_id}",
            f"CSeq: {sub.cseq} SUBSCRIBE",
            "Event: dialog",
            f"Accept: {dialog_info.CONTENT_TYPE}",
            f"Expires: {expires_s}",
        )
        if answer.code // 100 != _FINAL // 100:
            raise PhoneError(f"SUBSCRIBE {presentity}: {answer.line}")
        sub.to_tag = answer.headers["to"].partition("tag=")[2] or sub.to_tag
        if found := re.search(r"<([^>]*)>", answer.headers.get("contact", "")):
            sub.remote_target = found[1]

    async def subscribe_anew(self, presentity: str) -> None:
        """As a phone that was rebooted: a new subscription, nothing known."""
        self.forget(presentity)
        await self.subscribe(presentity)

    def forget(self, presentity: str) -> None:
        """Drop a subscription without telling the server."""
        sub = self.subscriptions.pop(presentity, None)
        if sub is not None:
            del self._by_call[sub.call_id]

    async def pick_up(self, presentity: str) -> str:
        """INVITE the slot: the switch Kazoo's fast pick-up would send the call to, or empty."""
        answer = await self._request(
            f"INVITE sip:{presentity} SIP/2.0",
            f"From: <sip:{self._user}@{self._realm}>;tag={secrets.token_hex(4)}",
            f"To: <sip:{presentity}>",
            f"Call-ID: {secrets.token_hex(8)}",
            "CSeq: 1 INVITE",
        )
        found = re.search(r"<([^>]*)>", answer.headers.get("contact", ""))
        return found[1] if found else ""

    async def _request(self, line: str, *headers: str) -> SipMessage:
        branch = f"z9hG4bK{secrets.token_hex(8)}"
        message = "\r\n".join(
            (
                line,
                f"Via: SIP/2.0/UDP {LOOPBACK}:{self._port};branch={branch};rport",
                "Max-Forwards: 70",
                *headers,
                f"Contact: <sip:{self._user}@{LOOPBACK}:{self._port}>",
                "Content-Length: 0",
                "",
                "",
            )
        ).encode()
        answer: asyncio.Future[SipMessage] = asyncio.get_running_loop().create_future()
        self._pending[branch] = answer
        try:
            for wait_s in (0.5, 1, 2, 4, 8):
                self._transport.sendto(message, self._server)
                with contextlib.suppress(TimeoutError):
                    return await asyncio.wait_for(asyncio.shield(answer), wait_s)
            raise PhoneError(f"{line}: no answer")
        finally:
            del self._pending[branch]

    # ---- hearing from the server ----------------------------------------------------------------

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        message = parse(data)
        if message.code:
            branch = re.search(r"branch=([^;,\s]+)", message.headers.get("via", ""))
            answer = self._pending.get(branch[1]) if branch else None
            if answer is not None and not answer.done() and message.code >= _FINAL:
                answer.set_result(message)
            return
        method = message.line.split()[0] if message.line.strip() else ""
        sub = self._by_call.get(message.headers.get("call-id", ""))
        if not method:
            return
        known = method == "NOTIFY" and sub is not None
        self._answer(message, "200 OK" if known else "481 No", addr)
        if known and sub is not None:
            self._notified(sub, message)

    def _answer(self, message: SipMessage, status: str, addr: tuple[str | object, int]) -> None:
        copied = [
            f"{name}: {message.headers[name.lower()]}"
            for name in ("Via", "Record-Route", "From", "To", "Call-ID", "CSeq")
            if name.lower() in message.headers
        ]
        lines = (f"SIP/2.0 {status}", *copied, "Content-Length: 0", "", "")
        self._transport.sendto("\r\n".join(lines).encode(), addr)

    def _notified(self, sub: Subscription, message: SipMessage) -> None:
        branch = re.search(r"branch=([^;,\s]+)", message.headers["via"])
        document = dialog_info.read(message.body, message.headers.get("content-type", ""))
        idle = message.headers.get("subscription-state", "").startswith("terminated")
        notify = Notify(
            presentity=sub.presentity,
            at_s=time.monotonic(),
            cseq=int(message.headers["cseq"].split()[0]),
            branch=branch[1] if branch else "",
            body=message.body,
            entity=document.entity,
            dialogs=document.dialogs,
            error="" if idle else document.error,
        )
        # A retransmitted NOTIFY is answered again, but is no news.
        for other in sub.notifies[-50:]:
            if other.cseq == notify.cseq and other.branch == notify.branch:
                return
            self.clashes += other.cseq == notify.cseq
        sub.notifies.append(notify)
        self._changed.set()
        self._changed = asyncio.Event()

    # ---- what it shows --------------------------------------------------------------------------

    def last(self, presentity: str) -> Notify | None:
        """The NOTIFY that counts."""
        sub = self.subscriptions.get(presentity)
        return sub.last if sub else None

    def lamp(self, presentity: str) -> str:
        """The lamp now, as `Notify.lamp`."""
        last = self.last(presentity)
        return last.lamp if last else "off"

    def lit(self, presentity: str) -> bool:
        """Whether the lamp is on."""
        last = self.last(presentity)
        return last is not None and last.lit

    def errors(self) -> list[str]:
        """Why some NOTIFYs could not be read."""
        return [
            f"{one.presentity}: {one.error}: {one.body}"
            for sub in self.subscriptions.values()
            for one in sub.notifies
            if one.error
        ]

    async def wait_for(
        self, presentity: str, state: str | Sequence[str], timeout_s: float = 5
    ) -> Notify:
        """Wait till the lamp shows ``state`` (one, or one of several). Raises PhoneError."""
        states = (state,) if isinstance(state, str) else tuple(state)
        deadline_s = time.monotonic() + timeout_s
        while True:
            changed = self._changed
            last = self.last(presentity)
            if last is not None and last.lamp in states:
                return last
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise PhoneError(f"{presentity}: the lamp is {self.lamp(presentity)}, not {state}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), left_s)

    async def wait_lit(self, presentity: str, call_id: str, timeout_s: float = 5) -> Notify:
        """Wait till the lamp is on for that call. Raises PhoneError."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            changed = self._changed
            last = self.last(presentity)
            if last is not None and last.lit:
                shown = [one for one in last.dialogs if one.state in ("early", "confirmed")]
                if any(one.parked_call_id == call_id for one in shown):
                    return last
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                shown_now = last.dialogs if last else ()
                raise PhoneError(f"{presentity}: not lit for {call_id} but {shown_now}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), left_s)

    async def wait_dark(self, presentity: str, timeout_s: float = 5) -> Notify:
        """Wait till the lamp is off. Raises PhoneError."""
        return await self.wait_for(presentity, ("terminated", "off"), timeout_s)

    async def settle(self, quiet_s: float, timeout_s: float = 10) -> None:
        """Wait till no NOTIFY has arrived for ``quiet_s``."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            try:
                await asyncio.wait_for(self._changed.wait(), quiet_s)
            except TimeoutError:
                return
        raise PhoneError(f"NOTIFYs kept coming for {timeout_s} s")
