"""Which broker the demo plays on: the one named, else a local, else a private one, else none."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.broker.memory import MemoryBroker
from worker.broker.port import Link
from worker.broker.private_node import PrivateNode, answers, server_script
from worker.broker.rabbit import open_link
from worker.errors import BrokerError, BrokerUnreachableError
from worker.options import redact_url


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """A broker that can be opened by name, as often as wanted."""

    open_link: Callable[[str], Awaitable[Link]]
    """Takes the connection's name."""
    description: str
    """Which one it is, in words, without a password."""


@contextlib.asynccontextmanager
async def chosen_broker(urls: Sequence[str], *, given: bool) -> AsyncIterator[Broker]:
    """The broker to play on; what was started for it ends with the context.

    ``given``: the user named ``urls``, so nothing else will do. Else ``urls`` is the default, on
    localhost; if that is no use, a private RabbitMQ where rabbitmq-server is installed, else one in
    memory. Raises BrokerUnreachableError or BrokerTooOldError for a broker that was named.
    """
    named = ",".join(urls)
    shown = ", ".join(redact_url(url) for url in urls)
    if given:
        await _try(named)
        yield _rabbit(named, f"{shown} (KZPARK_AMQP_URL)")
        return
    reason = await _why_not(named)
    if not reason:
        yield _rabbit(named, f"RabbitMQ on localhost:5672 ({shown})")
    elif server_script() is None:
        memory = MemoryBroker()
        yield Broker(
            open_link=lambda name: memory.open_link(name=name),
            description=f"in memory ({reason}, and rabbitmq-server is not installed)",
        )
    else:
        async with _private() as node:
            yield _rabbit(node.url, f"a private RabbitMQ started for this ({reason})")


def _rabbit(url: str, description: str) -> Broker:
    return Broker(open_link=lambda name: open_link(url, name=name), description=description)


async def _try(url: str) -> None:
    link = await open_link(url, name="kzpark broker check")
    await link.close()


async def _why_not(url: str) -> str:
    """Why the default broker cannot be used, "" when it can."""
    if not await asyncio.to_thread(answers, 5672):
        return "nothing answers on localhost:5672"
    try:
        await _try(url)
    except BrokerError as error:
        return str(error)
    return ""


@contextlib.asynccontextmanager
async def _private() -> AsyncIterator[PrivateNode]:
    with tempfile.TemporaryDirectory(
        prefix="kzpark-rabbitmq-", ignore_cleanup_errors=True
    ) as folder:
        node = PrivateNode(Path(folder))
        starting = asyncio.ensure_future(asyncio.to_thread(node.start))
        try:
            await asyncio.shield(starting)
            yield node
        finally:
            with contextlib.suppress(BrokerUnreachableError):
                await starting  # interrupted meanwhile: it must be there to be ended
            await asyncio.to_thread(node.close)
