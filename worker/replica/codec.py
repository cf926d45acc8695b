"""Records and snapshots as bytes: JSON, compressed when large. The one place that knows JSON here.

A record is ``{"v":1,"t":"claim",…}``; the fields are `worker.parking.slot_wire`'s. A body that does
not begin with ``{`` is zlib-compressed JSON.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from hashlib import blake2b
from typing import cast

import orjson

from worker.errors import MalformedMessageError
from worker.parking.records import Record
from worker.parking.slot_wire import RECORD_TYPES, record_from_plain, record_to_plain

VERSION = 1
COMPRESS_FROM_BYTES = 16 * 1024
MOST_BYTES = 256 * 2**20
"""What a compressed body may unpack to."""
MARK_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The table's state (for `SlotTable.restore`) after the log record at offset ``at``.

    ``mark`` is `mark_of` that record's body: proof that the log is still the one it was taken of.
    """

    at: int
    mark: str
    state: object


def mark_of(body: bytes) -> str:
    """A short digest that tells one log record from another."""
    return blake2b(body, digest_size=MARK_BYTES).hexdigest()


def encode(record: Record) -> bytes:
    """The record's body. Raises MalformedMessageError for text that is no Unicode."""
    return _pack({"v": VERSION, **record_to_plain(record)})


def decode(body: bytes) -> Record:
    """The record. Raises MalformedMessageError.

    A type or version that is not known becomes a bare `Record` as long as its author can be read:
    it changes nothing, but takes its author's turn."""
    plain = _unpack(body)
    if plain.get("v") != VERSION or plain.get("t") not in RECORD_TYPES:
        plain = {**plain, "t": "nothing"}
    return record_from_plain(plain)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The snapshot's body. May take a while; may run in a thread."""
    return _pack({"v": VERSION, "at": snapshot.at, "mark": snapshot.mark, "state": snapshot.state})


def decode_snapshot(body: bytes) -> Snapshot:
    """Raises MalformedMessageError. The state itself is checked by `SlotTable.restore`."""
    plain = _unpack(body)
    at, mark = plain.get("at"), plain.get("mark")
    if plain.get("v") != VERSION or not isinstance(at, int) or not isinstance(mark, str):
        raise MalformedMessageError("not a snapshot of this version")
    return Snapshot(at=at, mark=mark, state=plain.get("state"))


def _pack(plain: dict[str, object]) -> bytes:
    try:
        body = orjson.dumps(plain)
    except TypeError as error:  # orjson.JSONEncodeError
        raise MalformedMessageError(f"cannot be written: {error}") from error
    return body if len(body) < COMPRESS_FROM_BYTES else zlib.compress(body, 1)


def _unpack(body: bytes) -> dict[str, object]:
    try:
        if not body.startswith(b"{"):
            unpacker = zlib.decompressobj()
            body = unpacker.decompress(body, MOST_BYTES)
            if not unpacker.eof:
                raise MalformedMessageError("too large or cut off")
        plain = orjson.loads(body)
    except (zlib.error, orjson.JSONDecodeError) as error:
        raise MalformedMessageError(f"not readable: {error}") from error
    if not isinstance(plain, dict):
        raise MalformedMessageError("not an object")
    return cast("dict[str, object]", plain)
