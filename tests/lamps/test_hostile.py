"""Nothing a caller can send blanks a lamp or brings Kamailio down (design §8, last row)."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.lamps.conftest import Stage
from tests.lamps.publisher import an_entry
from worker.kapi.presence import UnlightableError
from worker.parking.model import PresenceType

FUZZ = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
XML = ("<", ">", "&", '"', "'", "&amp;", "]]>", "<!--")
CONTROLS = ("\x00", "\r\n", "\t", "\x85", "\ufffe", "\ud800")
SCRIPTS = ("\u202e", "\u0627\u0644", "\U0001f9d1\u200d\U0001f692", "é", "x" * 300)
TRICKS = ("sip:", "@", ";tag=", '"Call-ID":"x"', "$ci", "$var(x)", "{s.md5}", "\\", "%00")
NASTY = st.sampled_from((*XML, *CONTROLS, *SCRIPTS, *TRICKS))
TEXTS = st.one_of(st.text(max_size=60), st.lists(NASTY, max_size=12).map("".join))
numbers = itertools.count(1)


def assert_readable(shown: str, name: str, number: str) -> None:
    """The phone shows the beginning of the name, or the number, and never nothing."""
    assert shown
    wanted = [UNPRINTABLE.sub("", text).strip() for text in (name, number)]
    assert any(text and text.startswith(shown.strip()) for text in wanted) or shown == "unknown"
    if wanted[0]:
        assert wanted[0].startswith(shown.strip())
        assert len(shown) >= min(len(wanted[0]), 40)


@FUZZ
@given(name=TEXTS, number=TEXTS, uri=TEXTS)
@example(name="\U0001f4a9" * 2_500, number="", uri="")
@example(name="A" * 10_000, number="1" * 10_000, uri="sip:" + "u" * 10_000)
@example(name="&" * 10_000, number="<" * 10_000, uri='"' * 10_000)
@example(name="", number="\x01", uri="<script>@")
@example(name='"Al" <sip:al@evil.example.com>', number="+1555", uri='"Al" <sip:al@evil>')
async def test_whatever_the_caller_is_called_the_lamp_is_right_and_the_name_readable(
    stage: Stage, name: str, number: str, uri: str
) -> None:
    call_id = f"call-{next(numbers)}"
    entry = an_entry(
        "*3101", stage.realm, call_id, caller_name=name, caller_number=number, caller_uri=uri
    )
    await stage.publisher.say(entry)
    lit = await stage.phone.wait_lit(stage.slot, call_id)
    (dialog,) = lit.dialogs
    assert_readable(dialog.remote_display, name, number)
    await stage.publisher.say(entry, PresenceType.TERMINATED, 10)
    await stage.phone.wait_dark(stage.slot)
    assert stage.kamailio.alive()


@FUZZ
@given(
    call_id=st.one_of(TEXTS, st.integers(1, 300).map("c".__mul__)),
    switch_uri=st.one_of(TEXTS, st.just("sip:" + "s" * 10_000)),
)
@example(call_id="&" * 25, switch_uri="")
@example(call_id="a b@c.d#e*f%g", switch_uri="sip:10.0.0.1:11000;transport=udp")
async def test_whatever_a_call_is_numbered_it_is_lit_or_refused_by_us(
    stage: Stage, call_id: str, switch_uri: str
) -> None:
    entry = an_entry("*3101", stage.realm, call_id, switch_uri=switch_uri)
    try:
        await stage.publisher.say(entry)
    except UnlightableError:
        return
    await stage.phone.wait_for(stage.slot, "early")
    await stage.publisher.say(entry, PresenceType.TERMINATED, 10)
    await stage.phone.wait_dark(stage.slot)
    assert stage.kamailio.alive()


@FUZZ
@given(user=TEXTS, host=TEXTS)
@example(user="*" * 255, host="a")
@example(user="*3101", host="a" * 200)
async def test_whatever_a_presentity_is_called_nobody_else_notices(
    stage: Stage, user: str, host: str
) -> None:
    one = next(numbers)
    for state in (PresenceType.EARLY, PresenceType.TERMINATED):
        try:
            await stage.publisher.say(an_entry(user, host, f"hostile-{one}"), state)
        except UnlightableError:
            break
    decent = an_entry("*3101", stage.realm, f"call-{one}")
    await stage.publisher.say(decent)
    await stage.phone.wait_lit(stage.slot, decent.call_id)
    await stage.publisher.say(decent, PresenceType.TERMINATED, 10)
    await stage.phone.wait_dark(stage.slot)
    assert stage.kamailio.alive()


@pytest.mark.parametrize("name", ["Müller & Söhne <GmbH>", "שלום", "\U0001f9d1\u200d\U0001f692 x"])
async def test_a_decent_name_arrives_whole(stage: Stage, name: str) -> None:
    await stage.publisher.say(an_entry("*3101", stage.realm, "call-1", caller_name=name))
    lit = await stage.phone.wait_lit(stage.slot, "call-1")
    assert lit.dialogs[0].remote_display == name
