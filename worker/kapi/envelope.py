"""The JSON envelope: bytes to object, and the header fields every message has (contract §1.6)."""

from __future__ import annotations

from typing import Final

import orjson

from worker.errors import MalformedMessageError

CONTENT_TYPE: Final = "application/json"
"""Anything else, or nothing, crashes the receiving Kazoo listener (contract §1.3)."""
MAX_BYTES: Final = 256 * 1024
"""Bodies above this are refused undecoded."""
MAX_DEPTH: Final = 64
"""Deepest nesting of objects and arrays that is accepted; the encoder's own limit is 254."""
CALLFLOW_APP: Final = "callflow"
"""App-Name of commands, results and park events, as the reference sends them."""
APP_VERSION: Final = "4.0.0"
GREGORIAN_OFFSET_S: Final = 62_167_219_200
"""Seconds from year 0 to 1970: Kazoo's clock counts from year 0."""

_REASON_CHARS: Final = 160


def decode(body: bytes, *, max_bytes: int = MAX_BYTES) -> dict[str, object]:
    """The object in ``body``.

    Raises MalformedMessageError when it is too large, no JSON (bad UTF-8, NaN and infinity
    included), nested too deeply, or no object.
    """
    if len(body) > max_bytes:
        raise MalformedMessageError(f"too large: {len(body)} bytes, at most {max_bytes}")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedMessageError(f"not JSON: {_short(error)}") from error
    if not isinstance(value, dict):
        raise MalformedMessageError(f"not an object but {type_name(value)}")
    # Fewer brackets than the limit cannot nest deeper than it: the walk is for odd messages only.
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _deeper(value, MAX_DEPTH):
        raise MalformedMessageError(f"too deep: more than {MAX_DEPTH} levels")
    return value


def encode(payload: object) -> bytes:
    """JSON bytes of a payload, keys in the order they were set."""
    return orjson.dumps(payload)


def headers(
    category: str,
    name: str,
    *,
    node: str,
    msg_id: str,
    app_name: str = CALLFLOW_APP,
    app_version: str = APP_VERSION,
    server_id: str = "",
) -> dict[str, object]:
    """The fields every message of ours starts with; ``server_id`` only when there is one."""
    fields: dict[str, object] = {
        "Event-Category": category,
        "Event-Name": name,
        "App-Name": app_name,
        "App-Version": app_version,
        "Node": node,
        "Msg-ID": msg_id,
    }
    if server_id:
        fields["Server-ID"] = server_id
    return fields


def type_name(value: object) -> str:
    """JSON's word for the type of ``value``, with its article."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list() | tuple():
            return "an array"
        case dict():
            return "an object"
        case _:
            return type(value).__name__


def _deeper(value: object, levels: int) -> bool:
    """Whether containers nest deeper than ``levels``; level by level, so the stack stays flat."""
    layer = [value]
    for _ in range(levels):
        layer = [child for parent in layer for child in _children(parent)]
    return bool(layer)


def _children(value: object) -> list[object]:
    """Objects and arrays directly inside ``value``."""
    if isinstance(value, dict):
        return [item for item in value.values() if isinstance(item, dict | list)]
    if isinstance(value, list):
        return [item for item in value if isinstance(item, dict | list)]
    return []


def _short(error: Exception) -> str:
    text = str(error)
    return text if len(text) <= _REASON_CHARS else f"{text[:_REASON_CHARS]}…"
