"""Where the broker is: the URL list of KZPARK_AMQP_URL, and what a failed connection means."""

from __future__ import annotations

import re
import socket
import ssl
from typing import Final

import aio_pika
from aio_pika.abc import AbstractConnection
from aiormq.abc import AbstractConnection as WireConnection
from aiormq.exceptions import (
    AMQPError,
    AuthenticationError,
    IncompatibleProtocolError,
    InvalidFrameError,
    ProbableAuthenticationError,
    ProtocolSyntaxError,
)
from pamqp.exceptions import PAMQPException
from yarl import URL

from ..errors import BrokerTooOldError, BrokerUnreachableError, UsageError

HEARTBEAT_S: Final = 5
OLDEST_VERSION: Final = (3, 9)
"""The first RabbitMQ with streams."""

_NEXT_URL: Final = re.compile(r",\s*(?=amqps?://)")
_DEFAULT_PORTS: Final = {"amqp": 5672, "amqps": 5671}
_next_index: dict[str, int] = {}
"""Where the next attempt for a URL list begins: behind the host that was connected last."""


def parse_urls(text: str) -> list[URL]:
    """The hosts of a comma-separated list of amqp(s) URLs. Raises UsageError, without secrets."""
    return [_parse_url(part.strip()) for part in _NEXT_URL.split(text.strip())]


def in_turn(text: str) -> list[tuple[int, URL]]:
    """The hosts of the list with their positions, beginning behind the one connected last."""
    urls = list(enumerate(parse_urls(text)))
    start = _next_index.get(text, 0) % len(urls)
    return urls[start:] + urls[:start]


def connected(text: str, index: int) -> None:
    """Remember that host ``index`` of the list answered: after its loss the next one is tried."""
    _next_index[text] = index + 1


def where(url: URL) -> str:
    """Host, port and virtual host for a message to the user; never the password."""
    return f"{url.host}:{url.port or _DEFAULT_PORTS[url.scheme]} vhost {vhost(url)!r}"


def vhost(url: URL) -> str:
    """The virtual host a URL names, "/" when it names none."""
    return url.path[1:].replace("%2F", "/").replace("%2f", "/") or "/"


async def connect(url: URL, *, name: str, timeout_s: float) -> AbstractConnection:
    """A plain aio-pika connection. Raises BrokerUnreachableError with one clear line."""
    query = {"heartbeat": str(HEARTBEAT_S), **url.query}
    try:
        return await aio_pika.connect(
            url.with_query(query),
            timeout=timeout_s,
            client_properties={"connection_name": name},
        )
    except (AMQPError, PAMQPException, OSError, EOFError, ValueError) as error:
        raise BrokerUnreachableError(f"{where(url)}: {_reason(url, error)}") from error


def wire_of(connection: AbstractConnection) -> WireConnection:
    """The aiormq connection under an aio-pika one."""
    transport = connection.transport
    if transport is None:
        raise BrokerUnreachableError("the connection was closed while it was being opened")
    return transport.connection


def server_version(connection: WireConnection) -> tuple[int, ...]:
    """The broker's version. Raises BrokerTooOldError for a RabbitMQ without streams."""
    properties = connection.server_properties or {}
    product, version = (_text(properties.get(key)) for key in ("product", "version"))
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if product in ("", "RabbitMQ") and numbers and numbers < OLDEST_VERSION:
        raise BrokerTooOldError(
            f"RabbitMQ {version} has no streams: {'.'.join(map(str, OLDEST_VERSION))} or newer is"
            " needed"
        )
    return numbers


def _parse_url(text: str) -> URL:
    try:
        url = URL(text)
        known = url.scheme in _DEFAULT_PORTS and bool(url.host)
    except ValueError:
        known = False
    if not known:
        # The text may hold a password: it is not repeated.
        raise UsageError("not an AMQP URL: want amqp://user:password@host:port/vhost")
    return url


def _text(value: object) -> str:
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "replace")
    return str(value or "")


def _reason(url: URL, error: BaseException) -> str:
    cause = _root(error)
    text = " ".join(str(part) for part in getattr(error, "args", ()))
    if isinstance(error, ProbableAuthenticationError):
        reason = f"user {url.user or 'guest'!r} refused: bad credentials or not allowed from here"
    elif isinstance(error, AuthenticationError):
        reason = "no authentication mechanism in common"
    elif "Connection.OpenOk" in text:
        # aiormq keeps the broker's words for itself here; only these two can be meant.
        user = url.user or "guest"
        reason = f"the virtual host does not exist, or user {user!r} may not use it"
    elif isinstance(cause, socket.gaierror):
        reason = "the host name is not known"
    elif isinstance(cause, ConnectionRefusedError) or "Connect call failed" in text:
        reason = "connection refused, nothing listens there"
    elif isinstance(error, TimeoutError):
        reason = "no answer in time"
    elif isinstance(cause, ssl.SSLError):
        reason = f"TLS failed: {cause.reason or cause}"
    elif isinstance(
        error, IncompatibleProtocolError | InvalidFrameError | ProtocolSyntaxError | EOFError
    ):
        reason = "what listens there does not speak AMQP 0-9-1"
    elif "unexpectedly closed" in text or isinstance(cause, ConnectionResetError):
        reason = "closed during the handshake: is that an AMQP port?"
    else:
        reason = text.splitlines()[0][:200] if text else type(error).__name__
    return reason


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
