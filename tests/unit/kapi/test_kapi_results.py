"""Result terms, byte for byte (contract §2.5), and the replies that carry them."""

from __future__ import annotations

import base64

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.errors import MalformedMessageError
from worker.kapi.results import (
    ResultTerm,
    accepted_payload,
    decode_result,
    result_payload,
    result_term,
)
from worker.parking.effects import Finish, Verdict
from worker.parking.model import CallId, SessionId

SESSION = SessionId("8f0c")
ALICE = CallId("alice-1@10.0.0.7")


@pytest.mark.parametrize(
    ("finish", "term"),
    [
        (Finish(verdict=Verdict.CONTINUE), "g2QACGNvbnRpbnVl"),
        (Finish(verdict=Verdict.CONTINUE, child="_"), "g2gCZAAIY29udGludWVtAAAAAV8="),
        (Finish(verdict=Verdict.CONTINUE, child="101"), "g2gCZAAIY29udGludWVtAAAAAzEwMQ=="),
        (
            Finish(verdict=Verdict.CONTINUE, child="MAX_SLOT_EXCEEDED"),
            "g2gCZAAIY29udGludWVtAAAAEU1BWF9TTE9UX0VYQ0VFREVE",
        ),
        (
            Finish(verdict=Verdict.CONTINUE, child="REMOTE_UNAVAILABLE"),
            "g2gCZAAIY29udGludWVtAAAAElJFTU9URV9VTkFWQUlMQUJMRQ==",
        ),
        (Finish(verdict=Verdict.STOP), "g2QABHN0b3A="),
        (Finish(verdict=Verdict.TRANSFER), "g2QACHRyYW5zZmVy"),
    ],
)
def test_term_is_the_one_kazoo_writes(finish: Finish, term: str) -> None:
    assert result_term(finish) == term
    assert decode_result(term) == ResultTerm(atom=finish.verdict.value, argument=finish.child)


def test_only_continue_takes_a_child() -> None:
    assert result_term(Finish(verdict=Verdict.STOP, child="x")) == "g2QABHN0b3A="


@given(st.text())
def test_any_child_key_survives(child: str) -> None:
    decoded = decode_result(result_term(Finish(verdict=Verdict.CONTINUE, child=child)))
    assert decoded == ResultTerm(atom="continue", argument=child)


@pytest.mark.parametrize(
    ("text", "atom", "argument"),
    [
        ("g3cIdHJhbnNmZXI=", "transfer", None),
        ("g3YACHRyYW5zZmVy", "transfer", None),
        ("g3MIdHJhbnNmZXI=", "transfer", None),
        ("g3cIdHJhbnNmZXI=\n", "transfer", None),
        ("g1AAAAAKeJwr5ygpSswrTkstAgAUXAPl", "transfer", None),
        ("g2gCdwhjb250aW51ZW0AAAADOTIx", "continue", "921"),
        ("g2kAAAACdwhjb250aW51ZW0AAAADOTIx", "continue", "921"),
        ("g2gCZAAEc3RvcG0AAAAJVVNFUl9CVVNZ", "stop", "USER_BUSY"),
        ("g2gCZAAEc3RvcGQACXVuZGVmaW5lZA==", "stop", None),
        ("g2QABXVzdXJw", "usurp", None),
        ("g2QACWhhcmRfc3RvcA==", "hard_stop", None),
        ("g2QAAm9r", "continue", None),
        ("g20AAAAIY29udGludWU=", "continue", None),
        ("g2gCZAAFZXJyb3JkAAd0aW1lb3V0", "continue", None),
        ("g2gCZAAIdHJhbnNmZXJtAAAAAXg=", "continue", None),
        (
            "g2gCZAASY29udGludWVfd2l0aF9mbG93aAFsAAAAA2gCbQAAAAZtb2R1bGVtAAAABmhhbmd1cGgCbQAAAARk"
            "YXRhaAFqaAJtAAAACGNoaWxkcmVuaAFqag==",
            "continue_with_flow",
            None,
        ),
    ],
)
def test_foreign_spellings_are_read_as_kazoo_reads_them(
    text: str, atom: str, argument: str | None
) -> None:
    assert decode_result(text) == ResultTerm(atom=atom, argument=argument)


@pytest.mark.parametrize("text", ["", "g3cIdHJhbnNmZXI", "aGVsbG8=", "ü", "g2QACA=="])
def test_what_crashes_kazoos_action_is_malformed(text: str) -> None:
    with pytest.raises(MalformedMessageError) as caught:
        decode_result(text)
    assert caught.value.pointer == "/Result"


@example(b"P\x00\x00\x00\x01")  # compressed, cut short
@given(st.binary(max_size=40))
def test_any_term_decodes_or_is_malformed(raw: bytes) -> None:
    try:
        outcome = decode_result(base64.b64encode(b"\x83" + raw).decode()).atom
    except MalformedMessageError as error:
        outcome = error.reason
    assert outcome


def test_replies_repeat_the_action_and_name_the_call() -> None:
    accepted = accepted_payload(session=SESSION, call_id=ALICE, node="kzpark@w1")
    assert accepted == {
        "Event-Category": "callflow",
        "Event-Name": "action.accepted",
        "App-Name": "callflow",
        "App-Version": "4.0.0",
        "Node": "kzpark@w1",
        "Msg-ID": SESSION,
        "Call-ID": ALICE,
    }
    stop = Finish(verdict=Verdict.STOP)
    result = result_payload(stop, session=SESSION, call_id=ALICE, node="kzpark@w1")
    assert result == accepted | {"Event-Name": "action.result", "Result": "g2QABHN0b3A="}
