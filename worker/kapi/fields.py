"""Reading fields out of decoded messages: the tolerant way and the strict way."""

from __future__ import annotations

from collections.abc import Mapping

from worker.errors import MalformedMessageError
from worker.kapi.envelope import type_name

Payload = Mapping[str, object]
"""A decoded message."""


def as_text(value: object) -> str:
    """What Kazoo makes of a value where it wants text: scalars are spelled, the rest is ``""``."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return str(int(value)) if value.is_integer() else repr(value)
        case _:
            return ""


def as_object(value: object) -> Mapping[str, object]:
    """``value`` when it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def text(payload: Payload, name: str, *, pointer: str = "") -> str:
    """A field that is text, or absent (``""``); null counts as absent.

    Raises MalformedMessageError, naming the place, when it is anything else. ``pointer`` is where
    ``payload`` itself stands in the message.
    """
    value = payload.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise MalformedMessageError(
            f"must be a string, is {type_name(value)}", child_pointer(pointer, name)
        )
    return value


def required_text(payload: Payload, name: str, *, pointer: str = "") -> str:
    """A field that must be there and must be text that is not empty."""
    value = text(payload, name, pointer=pointer)
    if not value:
        reason = "must not be empty" if payload.get(name) == "" else "is required"
        raise MalformedMessageError(reason, child_pointer(pointer, name))
    return value


def optional_object(payload: Payload, name: str, *, pointer: str = "") -> Payload:
    """A field that is an object, or absent (``{}``); null and ``[]`` count as absent.

    Erlang's JSON encoders may write an empty object as an empty array.
    """
    value = payload.get(name)
    if value is None or value == []:
        return {}
    if not isinstance(value, dict):
        raise MalformedMessageError(
            f"must be an object, is {type_name(value)}", child_pointer(pointer, name)
        )
    return value


def child_pointer(pointer: str, name: str) -> str:
    """JSON pointer (RFC 6901) of ``name`` inside ``pointer``."""
    return f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
