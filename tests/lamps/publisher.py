"""Publishes dialog updates by hand: the rig's own tests need no worker."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

import aio_pika
import orjson

from worker.kapi.presence import dialog_update
from worker.parking.lamp import Lamp
from worker.parking.model import AccountId, CallId, PresenceType, SessionId, SlotEntry, SlotId

NODE = "kzpark@rig.example.com"


def an_entry(user: str, realm: str, call_id: str, **fields: Any) -> SlotEntry:
    """A parked call whose lamp is ``user@realm``."""
    values: dict[str, Any] = {
        "switch_uri": "sip:10.26.0.11:11000",
        "caller_name": "Alice",
        "caller_number": "15551234567",
        "caller_uri": f"alice@{realm}",
    }
    return SlotEntry(
        account=AccountId("account"),
        slot=SlotId("101"),
        session=SessionId(f"session-{call_id}"),
        call_id=CallId(call_id),
        presence_user=user,
        presence_realm=realm,
        **(values | fields),
    )


class Publisher:
    """A peer on the broker that says what it is told to say, and hears ``presence``."""

    def __init__(self, amqp_url: str) -> None:
        self._amqp_url = amqp_url
        self.heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._count = 0

    async def __aenter__(self) -> Self:
        self._connection = await aio_pika.connect(self._amqp_url)
        self._channel = await self._connection.channel(publisher_confirms=False)
        self._exchange = await self._channel.declare_exchange(
            "presence", aio_pika.ExchangeType.TOPIC, durable=False
        )
        queue = await self._channel.declare_queue(exclusive=True)
        await queue.bind(self._exchange, "probes.#")
        await queue.consume(self._on_message, no_ack=True)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._connection.close()

    async def _on_message(self, message: aio_pika.abc.AbstractIncomingMessage) -> None:
        self.heard.put_nowait(orjson.loads(message.body))

    async def say(
        self, entry: SlotEntry, state: PresenceType = PresenceType.EARLY, expires_s: int = 600
    ) -> None:
        """Publish the lamp of ``entry``."""
        self._count += 1
        lamp, msg_id = Lamp.of(entry), f"msg-{self._count}"
        update = dialog_update(lamp, state, expires_s=expires_s, node=NODE, msg_id=msg_id)
        await self.publish(update.key, update.payload)

    async def publish(self, key: str, payload: dict[str, object]) -> None:
        """Publish anything to ``presence``."""
        body = orjson.dumps(payload)
        message = aio_pika.Message(body, content_type="application/json")
        await self._exchange.publish(message, key, mandatory=False)
