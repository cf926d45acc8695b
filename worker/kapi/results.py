"""``action.accepted`` and ``action.result`` (contract §2.5).

Both go to ``targeted`` at the execute's reply address.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Final

import erlang

from worker.errors import MalformedMessageError
from worker.kapi import envelope
from worker.parking.effects import Finish, Verdict
from worker.parking.model import CallId, SessionId

_ATOM_EXT: Final = b"\x64"
_CONTINUE: Final = "continue"
_KNOWN_ATOMS: Final = frozenset({_CONTINUE, "stop", "transfer", "usurp", "hard_stop"})
_KNOWN_PAIRS: Final = frozenset({_CONTINUE, "stop", "continue_with_flow"})


def accepted_payload(*, session: SessionId, call_id: CallId, node: str) -> dict[str, object]:
    """The worker has taken the action; ``call_id`` is the call's id now."""
    return _reply("action.accepted", session, call_id, node)


def result_payload(
    finish: Finish, *, session: SessionId, call_id: CallId, node: str
) -> dict[str, object]:
    """The one result of the action; a wrong ``call_id`` makes Kazoo ignore it."""
    return _reply("action.result", session, call_id, node) | {"Result": result_term(finish)}


def result_term(finish: Finish) -> str:
    """The Result field: base64 of the Erlang term; ``child`` counts only with *continue*."""
    verdict = _Atom(finish.verdict.value)
    if finish.verdict is Verdict.CONTINUE and finish.child is not None:
        child = erlang.OtpErlangBinary(finish.child.encode("utf-8", "replace"))
        term = erlang.term_to_binary((verdict, child))
    else:
        term = erlang.term_to_binary(verdict)
    return base64.b64encode(term).decode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultTerm:
    """A decoded Result: the atom and what came with it (a child key or a hangup cause)."""

    atom: str
    argument: str | None = None


def decode_result(text: str) -> ResultTerm:
    """Read a Result as Kazoo does: any other decodable term means *continue*.

    Raises MalformedMessageError when it is no base64 (padding is needed) or no Erlang term.
    """
    try:
        raw = base64.b64decode("".join(text.split()).encode("ascii"), validate=True)
        term = erlang.binary_to_term(raw)
    except Exception as error:  # the library lets zlib, struct and type errors of bad bytes through
        raise MalformedMessageError(f"not an Erlang term: {error}", "/Result") from error
    match term:
        case erlang.OtpErlangAtom() if _name(term) in _KNOWN_ATOMS:
            return ResultTerm(atom=_name(term))
        case (erlang.OtpErlangAtom() as atom, argument) if _name(atom) in _KNOWN_PAIRS:
            return ResultTerm(atom=_name(atom), argument=_argument(argument))
        case _:
            return ResultTerm(atom=_CONTINUE)


class _Atom(erlang.OtpErlangAtom):  # type: ignore[misc]
    """An atom written as ATOM_EXT, as Kazoo itself writes it (the library would choose 119)."""

    def binary(self) -> bytes:
        name = self.value.encode("latin-1")
        return _ATOM_EXT + len(name).to_bytes(2, "big") + bytes(name)


def _name(atom: erlang.OtpErlangAtom) -> str:
    value = atom.value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _argument(value: object) -> str | None:
    if isinstance(value, erlang.OtpErlangBinary):
        value = value.value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None


def _reply(name: str, session: SessionId, call_id: CallId, node: str) -> dict[str, object]:
    return envelope.headers("callflow", name, node=node, msg_id=session) | {"Call-ID": call_id}
