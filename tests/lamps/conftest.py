"""Fixtures of the lamp tests: a broker, a Kamailio of one's own and a phone."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from secrets import token_hex

import pytest

from tests.lamps.phone import Phone
from tests.lamps.publisher import Publisher
from tests.lamps.rig import Kamailio, kamailio_binary
from tests.rabbit import fresh_vhost


@pytest.fixture(autouse=True, scope="session")
def _kamailio_is_installed() -> None:
    """Without Kamailio the tests are skipped, but in CI they fail."""
    if kamailio_binary() is None:
        reason = "no Kamailio: run tests/lamps/packages.sh"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def vhost_url(amqp_url: str) -> Iterator[str]:
    """A virtual host for all lamp tests."""
    with fresh_vhost(amqp_url) as url:
        yield url


@pytest.fixture
def realm() -> str:
    """A realm no other test uses: the broker is shared."""
    return f"r{token_hex(4)}.example.com"


@pytest.fixture
async def kamailio(vhost_url: str) -> AsyncIterator[Kamailio]:
    """Kamailio as Kazoo configures it."""
    async with Kamailio(vhost_url) as running:
        yield running


@pytest.fixture
async def phone(kamailio: Kamailio) -> AsyncIterator[Phone]:
    async with Phone(kamailio.sip_port) as running:
        yield running
        assert running.errors() == []


@pytest.fixture
async def publisher(vhost_url: str) -> AsyncIterator[Publisher]:
    async with Publisher(vhost_url) as running:
        yield running


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """All a test of the rig needs. ``slot`` is the presentity the phone watches."""

    kamailio: Kamailio
    phone: Phone
    publisher: Publisher
    realm: str
    slot: str


@pytest.fixture
async def stage(kamailio: Kamailio, phone: Phone, publisher: Publisher, realm: str) -> Stage:
    """A phone that watches ``*3101`` of a realm of its own."""
    slot = f"*3101@{realm}"
    await phone.subscribe(slot)
    return Stage(kamailio=kamailio, phone=phone, publisher=publisher, realm=realm, slot=slot)
