"""Records and snapshots as bytes and back; junk is refused."""

from __future__ import annotations

import zlib
from dataclasses import fields
from typing import Any

import orjson
import pytest

from worker.errors import MalformedMessageError
from worker.parking.model import (
    AccountId,
    CallId,
    PresenceType,
    ReleaseReason,
    SessionId,
    SlotEntry,
    SlotId,
    WorkerId,
)
from worker.parking.records import (
    Alive,
    Barrier,
    Checkpoint,
    Claim,
    Close,
    Dead,
    Join,
    Leave,
    Record,
    Release,
    Retrieve,
    Seed,
    Settled,
    Swap,
    Unretrieve,
)
from worker.parking.slot_wire import RECORD_TYPES
from worker.replica.codec import (
    Snapshot,
    decode,
    decode_snapshot,
    encode,
    encode_snapshot,
    mark_of,
)

W, S, T = WorkerId("w"), SessionId("s"), SessionId("t")
A, SLOT = AccountId("a"), SlotId("101")
FULL = SlotEntry(
    account=A,
    slot=SLOT,
    session=S,
    call_id=CallId("c"),
    reserved=True,
    retriever=T,
    switch_uri="sip:1.2.3.4",
    switch_node="fs1",
    from_tag="f",
    to_tag="t",
    presence_user="*3101",
    presence_realm="acme",
    presence_type=PresenceType.CONFIRMED,
    caller_name="Zoë 📞",
    caller_number="+1",
    caller_uri="u@r",
    endpoint_id="e",
    parker_device="d",
    hold_media="m",
    parked_number="2",
    parked_at_ms=1_800_000_000_000,
)
HEAD: dict[str, Any] = {"author": W, "at_ms": 5, "epoch": 3, "seq": 9}
RECORDS: list[Record] = [
    Claim(entry=FULL, **HEAD),
    Claim(
        entry=FULL,
        attempt=2,
        max_slot=105,
        replaces=(CallId("x"), CallId("y")),
        evict=T,
        facts='{"a":1}',
        **HEAD,
    ),
    Retrieve(session=S, account=A, slot=SLOT, attempt=2, facts="f", **HEAD),
    Unretrieve(session=S, account=A, slot=SLOT, **HEAD),
    Release(account=A, slot=SLOT, holder=S, by=T, reason=ReleaseReason.RETRIEVED, **HEAD),
    Swap(
        account=A,
        slot=SLOT,
        holder=S,
        old_call_id=CallId("o"),
        new_call_id=CallId("n"),
        **HEAD,
    ),
    Checkpoint(session=S, state="{}", **HEAD),
    Close(session=S, **HEAD),
    Join(name="n", **HEAD),
    Alive(beat=4, **HEAD),
    Leave(**HEAD),
    Dead(victim=W, beat=2, **HEAD),
    Barrier(nonce="n", **HEAD),
    Seed(state='{"v":1}', **HEAD),
    Settled(**HEAD),
    Record(**HEAD),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    assert decode(encode(record)) == record


def test_every_record_type_is_in_the_list_above() -> None:
    assert {type(record) for record in RECORDS} >= set(RECORD_TYPES.values())


def test_every_field_of_an_entry_survives() -> None:
    back = decode(encode(Claim(entry=FULL, **HEAD)))
    assert isinstance(back, Claim)
    for item in fields(SlotEntry):
        assert getattr(FULL, item.name) != item.default, f"{item.name} is not tested"
        assert getattr(back.entry, item.name) == getattr(FULL, item.name)


def test_defaults_are_not_written() -> None:
    body = encode(Alive(author=W, at_ms=5, beat=1))
    assert orjson.loads(body) == {"v": 1, "t": "alive", "author": "w", "at_ms": 5, "beat": 1}


def test_a_large_record_is_compressed() -> None:
    record = Seed(state="x" * 100_000, **HEAD)
    body = encode(record)
    assert len(body) < 2000
    assert decode(body) == record


@pytest.mark.parametrize(
    "body",
    [
        b'{"v":1,"t":"sparkle","author":"w","at_ms":5,"epoch":3,"seq":9,"x":[]}',
        b'{"v":2,"t":"claim","author":"w","at_ms":5,"epoch":3,"seq":9}',
    ],
)
def test_what_a_newer_worker_writes_takes_its_turn_and_nothing_else(body: bytes) -> None:
    assert decode(body) == Record(**HEAD)


def test_unknown_keys_are_ignored() -> None:
    assert decode(b'{"v":1,"t":"leave","author":"w","at_ms":5,"new":{}}') == Leave(
        author=W, at_ms=5
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"{}",
        b'{"v":1}',
        b'{"v":1,"t":3,"author":"w"}',
        b'{"v":1,"t":"alive","author":"w","at_ms":1}',
        b'{"v":1,"t":"alive","author":"w","at_ms":true,"beat":1}',
        b'{"v":1,"t":"alive","author":"w","at_ms":1.5,"beat":1}',
        b'{"v":1,"t":"alive","author":7,"at_ms":1,"beat":1}',
        b'{"v":1,"t":"claim","author":"w","at_ms":1,"entry":[]}',
        b'{"v":1,"t":"claim","author":"w","at_ms":1,"entry":{"account":"a"}}',
        b'{"v":1,"t":"release","author":"w","at_ms":1,"account":"a","slot":"1","holder":"h",'
        b'"by":"b","reason":"because"}',
        zlib.compress(b"[" * 100),
        zlib.compress(b'{"v":1}')[:-3],
        b"\x80\x81",
    ],
)
def test_junk_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        decode(body)


def test_text_that_is_no_unicode_cannot_be_written() -> None:
    with pytest.raises(MalformedMessageError):
        encode(Checkpoint(session=S, state="\ud800", **HEAD))


def test_a_snapshot_comes_back_as_it_was() -> None:
    for size in (1, 50_000):
        snapshot = Snapshot(at=7, mark=mark_of(b"body"), state={"x": "y" * size})
        assert decode_snapshot(encode_snapshot(snapshot)) == snapshot


@pytest.mark.parametrize("body", [b"{}", b"x", b'{"v":1,"at":"7","mark":"m"}', b'{"v":2}'])
def test_junk_is_no_snapshot(body: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        decode_snapshot(body)


def test_a_mark_tells_records_apart() -> None:
    assert mark_of(b"a") == mark_of(b"a")
    assert mark_of(b"a") != mark_of(b"b")
