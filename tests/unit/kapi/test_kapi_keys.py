"""Routing keys, addresses and exchanges (contract §1.1, §1.4, §1.5)."""

from __future__ import annotations

from urllib.parse import unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.kapi import keys
from worker.kapi.address import Address, parse_address
from worker.kapi.exchanges import EXCHANGE_TYPES, Exchange
from worker.parking.effects import ParkEvent


@pytest.mark.parametrize(
    ("segment", "encoded"),
    [
        ("", ""),
        ("*", "*"),
        ("#", "#"),
        ("account.example.com", "account%2Eexample%2Ecom"),
        ("*3101", "%2A3101"),
        ("2b3f@10.1.2.3", "2b3f%4010%2E1%2E2%2E3"),
        ("sip:x@y", "sip%3Ax%40y"),
        ("a b+c", "a+b%2Bc"),
        ("üser", "%C3%BCser"),
        ("*#", "%2A%23"),
        ("A-Z_a~z09", "A-Z_a~z09"),
        ("100%", "100%25"),
        ("²", "%C2%B2"),
        ("\x00\n", "%00%0A"),
    ],
)
def test_segment_is_spelled_as_kazoo_does(segment: str, encoded: str) -> None:
    assert keys.encode(segment) == encoded


@given(st.text().filter(lambda text: text not in {"*", "#"}))
def test_encoded_segment_is_one_plain_word_that_decodes_back(segment: str) -> None:
    encoded = keys.encode(segment)
    assert encoded.isascii()
    assert not set(encoded) & set(".*#/@ ")
    assert unquote_plus(encoded) == segment


def test_keys_of_the_contract() -> None:
    call_id = "a1b2c3@10.0.0.7"
    encoded = "a1b2c3%4010%2E0%2E0%2E7"
    assert keys.WORK == "callflow.action.park"
    assert keys.call_events(call_id) == f"call.*.{encoded}"
    assert keys.call_event("CHANNEL_DESTROY", call_id) == f"call.CHANNEL_DESTROY.{encoded}"
    assert keys.status_request(call_id) == f"call.status_req.{encoded}"
    assert keys.park_event(ParkEvent.PARKED, call_id) == f"call.PARK_PARKED.{encoded}"
    assert (
        keys.dialog("acme.sip.example.com", call_id)
        == f"dialog.acme%2Esip%2Eexample%2Ecom.{encoded}"
    )
    assert keys.registrar_query("a.b", "u@x") == "registration.query.a%2Eb.u%40x"


def test_a_key_of_255_bytes_fits_and_one_more_does_not() -> None:
    assert keys.fits("ü" * 127 + "x")
    assert not keys.fits("ü" * 128)


@pytest.mark.parametrize("call_id", ["", "*", "#", "x" * 226, "@" * 80])
def test_calls_that_cannot_be_watched(call_id: str) -> None:
    assert not keys.watchable(call_id)


@pytest.mark.parametrize("call_id", ["a@b", "**", "x" * 225])
def test_calls_that_can_be_watched(call_id: str) -> None:
    assert keys.watchable(call_id)
    assert keys.fits(keys.call_events(call_id))
    assert keys.fits(keys.call_event("CHANNEL_EXECUTE_COMPLETE", call_id))


@pytest.mark.parametrize(
    ("text", "queue", "pid"),
    [
        ("kzpark-w1", "kzpark-w1", None),
        ("", "", None),
        ("pid://<0.4711.0>/callflow@k1-9f3a", "callflow@k1-9f3a", "<0.4711.0>"),
        ("pid://<0.1.0>/a/b", "b", "<0.1.0>/a"),
        ("pid://<0.1.0>", "pid://<0.1.0>", None),
        ("pid:///queue", "queue", ""),
        ("consumer://<0.1.0>/q", "consumer://<0.1.0>/q", None),
    ],
)
def test_address_splits_at_its_last_slash(text: str, queue: str, pid: str | None) -> None:
    assert parse_address(text) == Address(queue=queue, pid=pid)


def test_only_a_process_address_has_a_header() -> None:
    assert parse_address("pid://<0.4711.0>/q").headers == {"Deliver-To-PID": "<0.4711.0>"}
    assert parse_address("q").headers == {}


def test_an_empty_or_over_long_queue_is_out_of_reach() -> None:
    assert parse_address("q").reachable
    assert not parse_address("").reachable
    assert not parse_address("pid://<0.1.0>/").reachable
    assert not parse_address("q" * 256).reachable
    assert not parse_address(f"pid://{'<' * 256}/q").reachable


def test_every_exchange_has_its_type() -> None:
    assert set(EXCHANGE_TYPES) == set(Exchange)
    assert EXCHANGE_TYPES[Exchange.KAPPS] == "topic"
    assert EXCHANGE_TYPES[Exchange.TARGETED] == EXCHANGE_TYPES[Exchange.CALLCTL] == "direct"
    assert EXCHANGE_TYPES[Exchange.NODES] == "fanout"
