"""From a consumed AMQP message to a `Delivery` in the consumer's callback."""

from __future__ import annotations

import logging

from pamqp import commands as spec
from pamqp.header import ContentHeader

from .decoding import EPOCH, text_values
from .port import Delivery, OnDelivery

log = logging.getLogger(__name__)


class Inbox:
    """Turns a consumer's messages into deliveries, held back until the caller knows its tag."""

    def __init__(self, queue: str, tag: str, on_delivery: OnDelivery) -> None:
        self._queue = queue
        self._tag = tag
        self._on_delivery = on_delivery
        self._held: list[Delivery] | None = []

    def open(self) -> None:
        """Hand over what was held, and from now on at once."""
        held, self._held = self._held, None
        for delivery in held or ():
            self._hand_over(delivery)

    def stop(self) -> None:
        """The consumer did not come to be."""
        self._held = []

    def take(self, method: spec.Basic.Deliver, header: ContentHeader, body: bytes) -> None:
        """One message, decoded."""
        properties = header.properties
        sent_at = properties.timestamp
        headers = properties.headers
        delivery = Delivery(
            queue=self._queue,
            exchange=method.exchange or "",
            routing_key=method.routing_key or "",
            body=body,
            consumer=self._tag,
            tag=method.delivery_tag or 0,
            redelivered=bool(method.redelivered),
            content_type=properties.content_type or "",
            sent_at_ms=None
            if sent_at is None or sent_at == EPOCH
            else round(sent_at.timestamp() * 1000),
            headers={key: text_values(value) for key, value in headers.items()} if headers else {},
        )
        if self._held is None:
            self._hand_over(delivery)
        else:
            self._held.append(delivery)

    def _hand_over(self, delivery: Delivery) -> None:
        try:
            self._on_delivery(delivery)
        except Exception:
            log.exception("the consumer of %s failed on a delivery", self._queue)
