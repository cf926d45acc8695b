"""Publisher confirms: which publish a broker's answer belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from .channel import forget


class Confirms:
    """The publishes the broker has not answered yet, by their sequence number."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._open: dict[int, asyncio.Future[bool]] = {}
        self._by_message_id: dict[str, int] = {}
        self._message_ids: dict[int, str] = {}
        self._last = 0
        self._first_open = 1

    def __len__(self) -> int:
        return len(self._open)

    def add(self, message_id: str = "") -> asyncio.Future[bool]:
        """The next publish on the channel; a ``message_id`` makes a return recognizable."""
        future: asyncio.Future[bool] = self._loop.create_future()
        self._last += 1
        self._open[self._last] = future
        if message_id:
            self._by_message_id[message_id] = self._last
            self._message_ids[self._last] = message_id
        return future

    def settle(self, tag: int, multiple: bool, ok: bool) -> None:
        """basic.ack or basic.nack: ``tag``, or everything up to it."""
        tags: Iterable[int] = (tag,)
        if multiple:
            last = tag or self._last  # 0 means all that is outstanding
            tags = range(self._first_open, last + 1)
            self._first_open = max(self._first_open, last + 1)
        elif tag == self._first_open:
            self._first_open += 1
        for each in tags:
            self._resolve(each, ok)

    def returned(self, message_id: str) -> None:
        """basic.return. The broker sends its ack for the same message afterwards."""
        tag = self._by_message_id.get(message_id)
        if tag is not None:
            self._resolve(tag, False)

    @property
    def pending(self) -> list[asyncio.Future[bool]]:
        """What has no answer yet, in the order of the publishes."""
        return list(self._open.values())

    def fail(self, error: Exception) -> None:
        """The link is gone: nobody will ever know about the rest."""
        futures = list(self._open.values())
        self._open.clear()
        self._by_message_id.clear()
        self._message_ids.clear()
        for future in futures:
            if not future.done():
                future.set_exception(error)
                forget(future)

    def _resolve(self, tag: int, result: bool) -> None:
        message_id = self._message_ids.pop(tag, None)
        if message_id is not None:
            del self._by_message_id[message_id]
        future = self._open.pop(tag, None)
        if future is not None and not future.done():
            future.set_result(result)
