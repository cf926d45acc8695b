"""Decoding that no message can break.

The stock decoder (pamqp) raises on what any peer may put into a message's properties: Kazoo's
timestamps (gregorian microseconds, contract §1.3), bad UTF-8 in a short string, a table nested
thousands deep. aiormq decodes on the connection's reader, so one such message ends the connection
and, being redelivered, every connection after it. `harden_pamqp` replaces the decoders in pamqp's
two look-up maps, which pamqp 3.3 and 4.x both use for everything they read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import pamqp.decode

SECONDS_MAX: Final = 0xFFFF_FFFF
GREGORIAN_US_ABOVE: Final = 6 * 10**16
UNIX_US_ABOVE: Final = 10**14
GREGORIAN_TO_UNIX_S: Final = 62_167_219_200
"""Seconds between the first day of year 0 and the Unix epoch, as Erlang counts them."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MAX_DEPTH: Final = 32
"""Tables and arrays nested deeper are read as None: nothing honest nests like that."""

_LAST_MS: Final = 253_402_300_799_999  # the end of the year 9999, the last that datetime knows
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")


def timestamp_ms(raw: int) -> int | None:
    """An AMQP timestamp of any origin as Unix milliseconds; None when it makes no sense.

    Up to 2^32-1 it is seconds (the AMQP rule), above 6e16 gregorian microseconds (Kazoo), above
    1e14 Unix microseconds, else Unix milliseconds. 0 counts as senseless.
    """
    if raw <= SECONDS_MAX:
        unix_ms = raw * 1000
    elif raw > GREGORIAN_US_ABOVE:
        unix_ms = raw // 1000 - GREGORIAN_TO_UNIX_S * 1000
    elif raw > UNIX_US_ABOVE:
        unix_ms = raw // 1000
    else:
        unix_ms = raw
    return unix_ms if 0 < unix_ms <= _LAST_MS else None


def decode_timestamp(value: bytes) -> tuple[int, datetime]:
    """pamqp's timestamp decoder: a range error gives the epoch, never an exception."""
    if len(value) < _U64.size:
        raise ValueError("timestamp is cut short")
    unix_ms = timestamp_ms(_U64.unpack_from(value)[0])
    return 8, EPOCH if unix_ms is None else EPOCH + timedelta(milliseconds=unix_ms)


def decode_short_str(value: bytes) -> tuple[int, str]:
    """A short string; bytes that are not UTF-8 become U+FFFD."""
    if not value:
        raise ValueError("short string is cut short")
    end = 1 + value[0]
    return end, value[1:end].decode("utf-8", "replace")


def decode_long_str(value: bytes | memoryview) -> tuple[int, str]:
    """A long string; bytes that are not UTF-8 become U+FFFD."""
    end = 4 + _length(value)
    return end, str(value[4:end], "utf-8", "replace")


def decode_table(value: bytes) -> tuple[int, dict[str, object]]:
    """A field table. What cannot be read ends the table early: its length is known anyway."""
    return _table(memoryview(value), 0)


def decode_array(value: bytes) -> tuple[int, list[object]]:
    """A field array; as `decode_table`."""
    return _array(memoryview(value), 0)


def harden_pamqp() -> None:
    """Put the tolerant decoders into pamqp. Idempotent, process-wide, before connecting."""
    methods: dict[str, Callable[..., object]] = pamqp.decode.METHODS  # type: ignore[assignment]
    methods["timestamp"] = decode_timestamp
    methods["shortstr"] = decode_short_str
    methods["longstr"] = decode_long_str
    methods["table"] = decode_table
    methods["array"] = decode_array
    by_type: dict[bytes, Callable[..., object]] = pamqp.decode.TABLE_MAPPING  # type: ignore[assignment]
    by_type[b"T"] = decode_timestamp
    by_type[b"S"] = decode_long_str
    by_type[b"F"] = decode_table
    by_type[b"A"] = decode_array


def text_values(value: object) -> object:
    """``value`` with every byte array in it as str (Kazoo sends strings as byte arrays)."""
    if isinstance(value, bytearray | bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, dict):
        return {key: text_values(item) for key, item in value.items()}
    if isinstance(value, list):
        return [text_values(item) for item in value]
    return value


def _length(value: bytes | memoryview) -> int:
    if len(value) < _U32.size:
        raise ValueError("length is cut short")
    length: int = _U32.unpack_from(value)[0]
    return length


def _table(value: memoryview, depth: int) -> tuple[int, dict[str, object]]:
    end = 4 + _length(value)
    fields: dict[str, object] = {}
    offset = 4
    try:
        while offset < min(end, len(value)):
            key_end = offset + 1 + value[offset]
            key = str(value[offset + 1 : key_end], "utf-8", "replace")
            used, fields[key] = _field(value[key_end:end], depth)
            offset = key_end + used
    except (ValueError, struct.error, ArithmeticError):
        pass  # an unknown or broken field: its end is unknown, the table's end is not
    return end, fields


def _array(value: memoryview, depth: int) -> tuple[int, list[object]]:
    end = 4 + _length(value)
    items: list[object] = []
    offset = 4
    try:
        while offset < min(end, len(value)):
            used, item = _field(value[offset:end], depth)
            items.append(item)
            offset += used
    except (ValueError, struct.error, ArithmeticError):
        pass
    return end, items


def _field(value: memoryview, depth: int) -> tuple[int, object]:
    """One typed value: bytes used, the type octet included, and the value."""
    kind = bytes(value[:1])
    if kind in (b"F", b"A"):
        if depth >= MAX_DEPTH:
            return 5 + _length(value[1:]), None
        used, nested = (_table if kind == b"F" else _array)(value[1:], depth + 1)
        return 1 + used, nested
    decoder = pamqp.decode.TABLE_MAPPING.get(kind)
    if decoder is None:
        raise ValueError(f"unknown field type {kind!r}")
    used, plain = decoder(value[1:])
    return 1 + used, plain
