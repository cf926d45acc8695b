"""Publishes what no decent client can send: property bytes chosen by the test."""

from __future__ import annotations

import socket
import struct
from urllib.parse import unquote

from yarl import URL

FLAG_CONTENT_TYPE = 1 << 15
FLAG_HEADERS = 1 << 13
FLAG_MESSAGE_ID = 1 << 7
FLAG_TIMESTAMP = 1 << 6


def short(text: bytes) -> bytes:
    return struct.pack(">B", len(text)) + text


def long(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


class RawPublisher:
    """One connection, one channel; ``with`` closes it."""

    def __init__(self, url: str) -> None:
        target = URL(url)
        self._socket = socket.create_connection((target.host or "", target.port or 5672), 10)
        self._socket.sendall(b"AMQP\x00\x00\x09\x01")
        self._answer()
        login = f"\0{target.user or 'guest'}\0{target.password or 'guest'}".encode()
        self._method(0, 10, 11, long(b"") + short(b"PLAIN") + long(login) + short(b"en_US"))
        tune = self._answer()
        self._method(0, 10, 31, tune[4:10] + struct.pack(">H", 0))
        vhost = unquote(target.raw_path[1:]) or "/"
        self._method(0, 10, 40, short(vhost.encode()) + short(b"") + b"\0")
        self._answer()
        self._method(1, 20, 10, short(b""))
        self._answer()

    def __enter__(self) -> RawPublisher:
        return self

    def __exit__(self, *_: object) -> None:
        self._method(0, 10, 50, struct.pack(">H", 200) + short(b"") + struct.pack(">HH", 0, 0))
        self._answer()
        self._socket.close()

    def publish(
        self,
        exchange: str,
        routing_key: bytes,
        body: bytes,
        flags: int = 0,
        properties: bytes = b"",
    ) -> None:
        names = short(exchange.encode()) + short(routing_key)
        self._method(1, 60, 40, struct.pack(">H", 0) + names + b"\0")
        header = struct.pack(">HHQH", 60, 0, len(body), flags) + properties
        self._frame(2, 1, header)
        if body:
            self._frame(3, 1, body)

    def _method(self, channel: int, class_id: int, method_id: int, arguments: bytes) -> None:
        self._frame(1, channel, struct.pack(">HH", class_id, method_id) + arguments)

    def _frame(self, kind: int, channel: int, payload: bytes) -> None:
        self._socket.sendall(struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce")

    def _answer(self) -> bytes:
        _, _, size = struct.unpack(">BHI", self._exactly(7))
        payload = self._exactly(size + 1)
        return payload[:-1]

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self._socket.recv(count - len(data))
            if not more:
                raise ConnectionError("the broker closed the raw connection")
            data += more
        return data
