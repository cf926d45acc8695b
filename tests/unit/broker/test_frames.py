"""The packed frames are the ones pamqp would write, and what AMQP forbids is refused."""

from __future__ import annotations

import struct

import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from worker.broker.decoding import harden_pamqp
from worker.broker.frames import ack_frame, publish_frames, requeue_frame

FRAME_MAX = 4096
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def unpack(data: bytes) -> list[object]:
    frames: list[object] = []
    while data:
        used, channel, frame = pamqp.frame.unmarshal(data)
        assert channel == 9
        frames.append(frame)
        data = data[used:]
    return frames


@given(
    exchange=NAMES,
    key=NAMES,
    body=st.binary(max_size=3 * FRAME_MAX),
    mandatory=st.booleans(),
    persistent=st.booleans(),
    content_type=NAMES,
    message_id=NAMES,
    headers=st.none()
    | st.dictionaries(NAMES, NAMES | st.booleans() | st.integers(-(2**40), 2**40), max_size=4),
    timestamp=st.none() | st.just(63_962_611_259_575_464),
)
def test_a_publish_reads_back_as_written(
    *,
    exchange: str,
    key: str,
    body: bytes,
    mandatory: bool,
    persistent: bool,
    content_type: str,
    message_id: str,
    headers: dict[str, object] | None,
    timestamp: int | None,
) -> None:
    harden_pamqp()
    data = publish_frames(
        9,
        FRAME_MAX,
        exchange,
        key,
        body,
        headers=headers,
        mandatory=mandatory,
        persistent=persistent,
        content_type=content_type,
        message_id=message_id,
        timestamp=timestamp,
    )
    method, header, *parts = unpack(data)
    assert isinstance(method, commands.Basic.Publish)
    assert (method.exchange, method.routing_key, method.mandatory) == (exchange, key, mandatory)
    assert not method.immediate
    assert isinstance(header, ContentHeader)
    properties = header.properties
    assert header.body_size == len(body)
    assert (properties.content_type or "") == content_type
    assert (properties.message_id or "") == message_id
    assert (properties.delivery_mode == 2) is persistent
    assert (properties.headers or {}) == (headers or {})
    assert (properties.timestamp is None) is (timestamp is None)
    assert b"".join(part.value for part in parts if isinstance(part, ContentBody)) == body
    assert all(isinstance(part, ContentBody) and len(part.value) <= FRAME_MAX - 8 for part in parts)


def test_a_frame_limit_of_zero_means_one_body_frame() -> None:
    data = publish_frames(
        9,
        0,
        "",
        "q",
        b"x" * 1_000_000,
        headers=None,
        mandatory=False,
        persistent=False,
        content_type="",
        message_id="",
        timestamp=None,
    )
    assert len(unpack(data)) == 3


@pytest.mark.parametrize(
    ("key", "headers"),
    [
        ("k" * 256, None),
        ("ä" * 128, None),
        ("k", {"h" * 256: "x"}),
        ("k", {"h": object()}),
        ("k", {"h": 2**70}),
        ("\ud800", None),
    ],
)
def test_what_amqp_cannot_carry_is_a_value_error(
    key: str, headers: dict[str, object] | None
) -> None:
    with pytest.raises(ValueError, match=r".+"):
        publish_frames(
            9,
            FRAME_MAX,
            "",
            key,
            b"",
            headers=headers,
            mandatory=False,
            persistent=False,
            content_type="",
            message_id="",
            timestamp=None,
        )


def test_acknowledgements_read_back() -> None:
    single, multiple, back = unpack(
        ack_frame(9, 7, False) + ack_frame(9, 2**40, True) + requeue_frame(9, 3)
    )
    assert isinstance(single, commands.Basic.Ack)
    assert (single.delivery_tag, single.multiple) == (7, False)
    assert isinstance(multiple, commands.Basic.Ack)
    assert (multiple.delivery_tag, multiple.multiple) == (2**40, True)
    assert isinstance(back, commands.Basic.Reject)
    assert (back.delivery_tag, back.requeue) == (3, True)


def test_the_layout_is_the_protocol_s() -> None:
    assert ack_frame(1, 1, False) == struct.pack(">BHIHHQB", 1, 1, 13, 60, 80, 1, 0) + b"\xce"


@pytest.mark.parametrize(("length", "fits"), [(FRAME_MAX - 200, True), (FRAME_MAX, False)])
def test_headers_that_no_frame_holds_are_refused(length: int, fits: bool) -> None:
    def publish(frame_max: int) -> bytes:
        return publish_frames(
            9,
            frame_max,
            "targeted",
            "q",
            b"{}",
            headers={"Deliver-To-PID": "x" * length},
            mandatory=True,
            persistent=False,
            content_type="application/json",
            message_id="m",
            timestamp=None,
        )

    assert publish(0)
    if fits:
        assert len(unpack(publish(FRAME_MAX))) == 3
    else:
        with pytest.raises(ValueError, match="bytes of properties"):
            publish(FRAME_MAX)
