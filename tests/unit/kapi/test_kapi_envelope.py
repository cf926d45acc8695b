"""Bodies to objects, and what is refused (contract §1.6)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import MalformedMessageError
from worker.kapi import envelope
from worker.kapi.fields import as_text, optional_object, required_text, text

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_an_object_survives_the_trip(payload: dict[str, object]) -> None:
    assert envelope.decode(envelope.encode(payload)) == payload


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"hello", "not JSON"),
        (b'{"a":', "not JSON"),
        (b'{"a": NaN}', "not JSON"),
        (b'{"a": 1e999}', "not JSON"),
        (b'{"a": "\xff"}', "not JSON"),
        (b'{"a": "\\ud800"}', "not JSON"),
        (b"\x1f\x8b\x08\x00", "not JSON"),
        (b"[" * 5000 + b"]" * 5000, "not JSON"),
        (b"[1]", "not an object but an array"),
        (b"7", "not an object but a number"),
        (b'"x"', "not an object but a string"),
        (b"true", "not an object but a boolean"),
        (b"null", "not an object but null"),
        (b'{"a": "' + b"x" * envelope.MAX_BYTES + b'"}', "too large"),
        (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "too deep"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "too deep"),
    ],
)
def test_a_bad_body_is_refused_with_its_reason(body: bytes, reason: str) -> None:
    with pytest.raises(MalformedMessageError) as caught:
        envelope.decode(body)
    assert caught.value.reason.startswith(reason)
    assert len(str(caught.value)) < 300


def test_depth_counts_levels_not_brackets() -> None:
    wide = b'{"a": [' + b",".join([b"[]"] * 500) + b"]}"
    assert len(envelope.decode(wide)) == 1
    deepest = b'{"a":' * 63 + b"[1]" + b"}" * 63
    assert envelope.decode(deepest)


def test_the_size_limit_is_the_callers_choice() -> None:
    assert envelope.decode(b'{"a":1}', max_bytes=7) == {"a": 1}
    with pytest.raises(MalformedMessageError):
        envelope.decode(b'{"a":12}', max_bytes=7)


@given(st.binary(max_size=300))
def test_any_bytes_decode_or_are_malformed(body: bytes) -> None:
    try:
        outcome: object = envelope.decode(body)
    except MalformedMessageError as error:
        outcome = error.reason
    assert isinstance(outcome, dict) or outcome


def test_headers_name_the_speaker() -> None:
    assert envelope.headers("call", "command", node="kzpark@w1", msg_id="m-1") == {
        "Event-Category": "call",
        "Event-Name": "command",
        "App-Name": "callflow",
        "App-Version": "4.0.0",
        "Node": "kzpark@w1",
        "Msg-ID": "m-1",
    }
    named = envelope.headers("c", "n", node="n", msg_id="m", server_id="q", app_name="park")
    assert named["Server-ID"] == "q"
    assert named["App-Name"] == "park"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("x", "x"),
        (101, "101"),
        (101.0, "101"),
        (1.5, "1.5"),
        (True, "true"),
        (False, "false"),
        (None, ""),
        ([], ""),
        ({"a": 1}, ""),
        (float("inf"), "inf"),
    ],
)
def test_tolerant_text_spells_scalars(value: object, expected: str) -> None:
    assert as_text(value) == expected


def test_strict_text_accepts_text_and_absence_only() -> None:
    assert text({"a": "x"}, "a") == "x"
    assert text({"a": None}, "a") == ""
    assert text({}, "a") == ""
    with pytest.raises(MalformedMessageError, match=r"^/in/a~1b: must be a string, is a number"):
        text({"a/b": 1}, "a/b", pointer="/in")


def test_required_text_tells_absent_from_empty() -> None:
    with pytest.raises(MalformedMessageError, match=r"^/a: is required"):
        required_text({}, "a")
    with pytest.raises(MalformedMessageError, match=r"^/a: must not be empty"):
        required_text({"a": ""}, "a")


def test_an_empty_array_is_erlangs_empty_object() -> None:
    assert optional_object({"a": []}, "a") == {}
    with pytest.raises(MalformedMessageError, match=r"^/a: must be an object, is an array"):
        optional_object({"a": [1]}, "a")
