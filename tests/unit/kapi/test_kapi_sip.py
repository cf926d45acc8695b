"""Referred-By and Referred-To as phones and switches really write them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.kapi.sip import Referrer, parse_referrer, parse_replaces, strip_scheme


@pytest.mark.parametrize(
    ("referred_to", "forms"),
    [
        (
            "<sip:3921@realm?Replaces=parkerleg@10.0.0.5;to-tag=abc;from-tag=def>",
            ("parkerleg@10.0.0.5",),
        ),
        ("sip:*3101@realm?Replaces=d4e5%4010.0.0.5", ("d4e5%4010.0.0.5", "d4e5@10.0.0.5")),
        ("<sips:*3101@realm?X=1&replaces=d4e5@h;to-tag=x>", ("d4e5@h",)),
        ("sip:1@r?REPLACES=a@h&Y=2", ("a@h",)),
        ("<sip:1@r?Replaces=a@h>", ("a@h",)),
        (
            "sip:1@r?Replaces=a%40h%3Bto-tag%3Dx%3Bfrom-tag%3Dy",
            ("a%40h", "a@h"),
        ),
        ("sip:1@r?Replaces=a%40h%3bto-tag%3Dx;from-tag=y", ("a%40h", "a@h")),
        ("sip:1@r?Replaces=a+b@h", ("a+b@h",)),
        ("sip:1@r?Replaces=a%2Bb%40h", ("a%2Bb%40h", "a+b@h")),
        ("sip:1@r?Replaces=a%2540h", ("a%2540h", "a%40h")),
        ("sip:1@r?Replaces= a@h ;to-tag=x", ("a@h",)),
        ("sip:1@r?Require=replaces&Replaces=a@h", ("a@h",)),
        ("sip:1@r?Replaces=;to-tag=x", ()),
        ("sip:1@r?Replaces=", ()),
        ("sip:replaces=x@r", ()),
        ("sip:1@r?Xreplaces=a@h", ()),
        ("sip:1@r", ()),
        ("", ()),
    ],
)
def test_replaces_names_the_call_in_every_form(referred_to: str, forms: tuple[str, ...]) -> None:
    assert parse_replaces(referred_to) == forms


@pytest.mark.parametrize(
    ("header", "user", "realm"),
    [
        ("<sip:user_b@realm>", "user_b", "realm"),
        ("sip:user_b@Realm.Example", "user_b", "Realm.Example"),
        ('"Bob" <sips:bob@realm;transport=tls>', "bob", "realm"),
        ('"Bob <the builder>" <sip:bob@realm>', "bob", "realm"),
        ('"Quote \\" <x>" <sip:bob@realm>', "bob", "realm"),
        ("Bob <sip:bob@realm:5080>;p=1", "bob", "realm"),
        ("<SIP:bob@realm>", "bob", "realm"),
        ("<sip:bob:secret@realm>", "bob", "realm"),
        ("<sip:bob;x=y@realm;z=@w>", "bob;x=y", "realm"),
        ("<sip:%2A3101@realm>", "*3101", "realm"),
        ("<sip:bob@[2001:db8::1]:5060>", "bob", "[2001:db8::1]"),
        ("<sip:bob@[2001:db8::1]>", "bob", "[2001:db8::1]"),
        ("<sip:bob@realm?Subject=a@b>", "bob", "realm"),
        ("sip:bob@realm>", "bob", "realm"),
        ("<sip:realm>", "", "realm"),
        ("tel:+15551234567", "+15551234567", ""),
        ("<tel:+15551234567;phone-context=x>", "+15551234567", ""),
        ("bob@realm", "bob", "realm"),
        ('"Bob <sip:bob@realm>', "bob", "realm"),
        ("", "", ""),
        ("nonsense", "", ""),
        ("<>", "", ""),
    ],
)
def test_referrer_is_read_from_any_address(header: str, user: str, realm: str) -> None:
    assert parse_referrer(header) == Referrer(user=user, realm=realm)


@given(st.text())
def test_no_text_breaks_the_parsers(text: str) -> None:
    assert isinstance(parse_referrer(text), Referrer)
    assert all(parse_replaces(text))
    assert len(parse_replaces(f"sip:a@b?Replaces={text}")) <= 2


def test_long_hostile_headers_are_read_in_linear_time() -> None:
    started = time.monotonic()
    for text in ('"' * 100_000, "<" * 100_000, '"\\' * 50_000, "?replaces" * 20_000, " " * 100_000):
        parse_referrer(text)
        parse_replaces(text)
    assert time.monotonic() - started < 2


def test_scheme_is_taken_off() -> None:
    assert strip_scheme("sip:a@b") == strip_scheme("SIPS:a@b") == strip_scheme("a@b") == "a@b"
