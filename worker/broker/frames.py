"""AMQP 0-9-1 frames for the hot path, written straight into bytes.

pamqp's general encoder walks each method attribute by attribute; publishing and acknowledging are
the two things the worker does thousands of times a second, so they are packed here. Everything
else (declares, binds, opening channels) goes through pamqp.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

import pamqp.encode

FRAME_OVERHEAD: Final = 8
"""Type, channel and size before a frame's payload, the end octet after it."""

SHORT_STR_MAX: Final = 255

_METHOD, _HEADER, _BODY, _END = 1, 2, 3, b"\xce"
_BASIC, _PUBLISH, _ACK, _REJECT = 60, 40, 80, 90
_FLAG_CONTENT_TYPE, _FLAG_HEADERS, _FLAG_DELIVERY_MODE = 1 << 15, 1 << 13, 1 << 12
_FLAG_MESSAGE_ID, _FLAG_TIMESTAMP = 1 << 7, 1 << 6
_PERSISTENT = b"\x02"
_CONTENT_BYTES = 14
"""Class, weight, body size and flags in a content header."""

_frame = struct.Struct(">BHI").pack
_publish = struct.Struct(">BHIHHH").pack
_content = struct.Struct(">BHIHHQH").pack
_ack = struct.Struct(">BHIHHQBB").pack
_u32 = struct.Struct(">I").pack
_u64 = struct.Struct(">Q").pack


def publish_frames(
    channel: int,
    frame_max: int,
    exchange: str,
    routing_key: str,
    body: bytes,
    *,
    headers: Mapping[str, object] | None,
    mandatory: bool,
    persistent: bool,
    content_type: str,
    message_id: str,
    timestamp: int | None,
) -> bytes:
    """A whole basic.publish: method, properties, body. ``frame_max`` 0 means no limit.

    Raises ValueError when a name is over 255 bytes, a header value has no AMQP type, or the headers
    do not fit into a frame (the broker would end the connection).
    """
    exchange_str, key_str = _short_str(exchange), _short_str(routing_key)
    flags, properties = 0, b""
    if content_type:
        flags |= _FLAG_CONTENT_TYPE
        properties = _short_str(content_type)
    if headers:
        flags |= _FLAG_HEADERS
        properties += _table(headers)
    if persistent:
        flags |= _FLAG_DELIVERY_MODE
        properties += _PERSISTENT
    if message_id:
        flags |= _FLAG_MESSAGE_ID
        properties += _short_str(message_id)
    if timestamp is not None:
        flags |= _FLAG_TIMESTAMP
        properties += _u64(timestamp)
    if frame_max and FRAME_OVERHEAD + _CONTENT_BYTES + len(properties) > frame_max:
        raise ValueError(f"{len(properties)} bytes of properties where a frame has {frame_max}")
    pieces = [
        _publish(_METHOD, channel, 7 + len(exchange_str) + len(key_str), _BASIC, _PUBLISH, 0),
        exchange_str,
        key_str,
        b"\x01\xce" if mandatory else b"\x00\xce",
        _content(_HEADER, channel, _CONTENT_BYTES + len(properties), _BASIC, 0, len(body), flags),
        properties,
        _END,
    ]
    chunk = frame_max - FRAME_OVERHEAD if frame_max else len(body)
    if 0 < len(body) <= chunk:
        pieces += (_frame(_BODY, channel, len(body)), body, _END)
    else:
        for start in range(0, len(body), chunk or 1):
            part = body[start : start + chunk]
            pieces += (_frame(_BODY, channel, len(part)), part, _END)
    return b"".join(pieces)


def ack_frame(channel: int, tag: int, multiple: bool) -> bytes:
    """basic.ack of ``tag``, or of everything up to it."""
    return _ack(_METHOD, channel, 13, _BASIC, _ACK, tag, multiple, 0xCE)


def requeue_frame(channel: int, tag: int) -> bytes:
    """basic.reject of ``tag`` with requeue."""
    return _ack(_METHOD, channel, 13, _BASIC, _REJECT, tag, True, 0xCE)


def _short_str(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    if len(data) > SHORT_STR_MAX:
        raise ValueError(f"{len(data)} bytes where AMQP allows {SHORT_STR_MAX}")
    return bytes((len(data),)) + data


def _table(headers: Mapping[str, object]) -> bytes:
    pieces: list[bytes] = []
    for key, value in headers.items():
        pieces.append(_short_str(key))
        if type(value) is str:
            data = value.encode("utf-8", "surrogateescape")
            pieces += (b"S", _u32(len(data)), data)
        else:
            pieces.append(_typed(value))
    table = b"".join(pieces)
    return _u32(len(table)) + table


def _typed(value: object) -> bytes:
    try:
        encoded: bytes = pamqp.encode.encode_table_value(value)  # type: ignore[arg-type]
    except (TypeError, OverflowError, struct.error) as error:
        raise ValueError(f"no AMQP type for a header of type {type(value).__name__}") from error
    return encoded
