"""pamqp, hardened: no property of a message can raise, and Kazoo's timestamps are understood."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import UTC, datetime

import pamqp.decode
import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands
from pamqp.header import ContentHeader

from worker.broker.decoding import (
    EPOCH,
    MAX_DEPTH,
    decode_array,
    decode_table,
    decode_timestamp,
    harden_pamqp,
    text_values,
    timestamp_ms,
)


@pytest.fixture(autouse=True, scope="module")
def hardened() -> Iterator[None]:
    """The module's tests see a hardened pamqp; others get theirs back."""
    methods, fields = dict(pamqp.decode.METHODS), dict(pamqp.decode.TABLE_MAPPING)
    harden_pamqp()
    yield
    pamqp.decode.METHODS.update(methods)
    pamqp.decode.TABLE_MAPPING.update(fields)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (1, 1000),
        (2**32 - 1, 4_294_967_295_000),
        (2**32, 4_294_967_296),
        (10**14, 10**14),
        (10**14 + 1, 10**11),
        (1_700_000_000_123_456, 1_700_000_000_123),
        (6 * 10**16, 6 * 10**13),
        (63_962_611_259_575_464, 1_795_392_059_575),
        (62_167_219_200_000_000, None),
        (0, None),
        (2**63, None),
        (2**64 - 1, None),
    ],
)
def test_a_timestamp_is_read_by_its_size(raw: int, expected: int | None) -> None:
    assert timestamp_ms(raw) == expected


@given(st.integers(min_value=0, max_value=2**64 - 1))
def test_no_timestamp_raises(raw: int) -> None:
    used, moment = decode_timestamp(struct.pack(">Q", raw) + b"more")
    assert used == 8
    assert moment >= EPOCH
    milliseconds = timestamp_ms(raw)
    if milliseconds is not None:
        assert round(moment.timestamp() * 1000) == milliseconds


def header_frame(flags: int, properties: bytes) -> bytes:
    payload = struct.pack(">HHQH", 60, 0, 0, flags) + properties
    return struct.pack(">BHI", 2, 1, len(payload)) + payload + b"\xce"


def test_pamqp_reads_kazoo_s_timestamp_as_property_and_in_headers() -> None:
    raw = struct.pack(">Q", 63_962_611_259_575_464)
    table = b"\x01t" + b"T" + raw + b"\x01l" + b"A" + struct.pack(">I", 9) + b"T" + raw
    data = header_frame(1 << 13 | 1 << 6, struct.pack(">I", len(table)) + table + raw)
    _, _, frame = pamqp.frame.unmarshal(data)
    assert isinstance(frame, ContentHeader)
    moment = datetime(2026, 11, 22, 22, 40, 59, 575000, tzinfo=UTC)
    assert frame.properties.timestamp is not None
    assert abs(frame.properties.timestamp.timestamp() - 1_795_392_059.575) < 0.001
    headers = frame.properties.headers
    assert headers == {"t": frame.properties.timestamp, "l": [frame.properties.timestamp]}
    assert moment.tzinfo is frame.properties.timestamp.tzinfo


@given(st.binary(max_size=200))
def test_no_table_raises_and_its_length_is_kept(content: bytes) -> None:
    value = struct.pack(">I", len(content)) + content + b"rest"
    for decode in (decode_table, decode_array):
        used, _ = decode(value)
        assert used == 4 + len(content)


@given(st.binary(max_size=255), st.binary(max_size=255))
def test_no_short_string_of_a_delivery_raises(exchange: bytes, key: bytes) -> None:
    payload = struct.pack(">HH", 60, 60) + b"\x01c" + struct.pack(">QB", 7, 0)
    payload += bytes([len(exchange)]) + exchange + bytes([len(key)]) + key
    _, _, frame = pamqp.frame.unmarshal(struct.pack(">BHI", 1, 1, len(payload)) + payload + b"\xce")
    assert isinstance(frame, commands.Basic.Deliver)
    assert frame.delivery_tag == 7
    assert frame.routing_key == key.decode("utf-8", "replace")


def test_an_unknown_field_type_ends_its_table_only() -> None:
    inner = b"\x01a" + b"t\x01" + b"\x01b" + b"Z???" + b"\x01c" + b"t\x01"
    table = b"\x01n" + b"F" + struct.pack(">I", len(inner)) + inner + b"\x01z" + b"t\x00"
    _, fields = decode_table(struct.pack(">I", len(table)) + table)
    assert fields == {"n": {"a": True}, "z": False}


def test_nesting_is_read_to_a_limit() -> None:
    data = b""
    for _ in range(20_000):
        data = b"A" + struct.pack(">I", len(data)) + data
        if len(data) > 100_000:
            break
    _, items = decode_array(data[1:])
    depth = 0
    while isinstance(items, list) and items:
        items = items[0]  # type: ignore[assignment]
        depth += 1
    assert depth <= MAX_DEPTH + 1


def test_numbers_and_infinities_are_read() -> None:
    table = b"\x01d" + b"d" + struct.pack(">d", float("-inf")) + b"\x01D" + b"D\xff\xff\xff\xff\xff"
    _, fields = decode_table(struct.pack(">I", len(table)) + table)
    assert fields["d"] == float("-inf")
    assert "D" in fields


def test_hardening_twice_changes_nothing() -> None:
    before = dict(pamqp.decode.METHODS), dict(pamqp.decode.TABLE_MAPPING)
    harden_pamqp()
    assert (dict(pamqp.decode.METHODS), dict(pamqp.decode.TABLE_MAPPING)) == before


def test_byte_arrays_become_text_wherever_they_are() -> None:
    value = {"a": bytearray(b"<0.1.0>"), "b": [b"\xff", {"c": bytearray(b"x")}], "n": 1}
    assert text_values(value) == {"a": "<0.1.0>", "b": ["\ufffd", {"c": "x"}], "n": 1}
