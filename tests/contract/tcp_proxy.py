"""A TCP proxy in front of a broker that can be cut or frozen: link loss without touching others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from yarl import URL


@dataclass(eq=False)
class TcpProxy:
    """Forwards to one broker; see `proxy_to`."""

    target: URL
    url: str = ""
    thawed: asyncio.Event = field(default_factory=asyncio.Event)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def connections(self) -> int:
        return len(self._writers)

    def cut(self) -> None:
        """Reset every connection, without a word of AMQP."""
        for writer in list(self._writers):
            writer.transport.abort()

    def freeze(self) -> None:
        """Pass nothing on, as a frozen broker or a lost network would."""
        self.thawed.clear()

    def thaw(self) -> None:
        self.thawed.set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = await asyncio.open_connection(self.target.host, self.target.port or 5672)
        for source, sink in ((reader, upstream[1]), (upstream[0], writer)):
            self._writers.add(sink)
            task = asyncio.ensure_future(self._forward(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            while data := await source.read(65536):
                await self.thawed.wait()
                sink.write(data)
                await sink.drain()
        sink.close()
        self._writers.discard(sink)

    async def stop(self) -> None:
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def proxy_to(url: str) -> AsyncIterator[TcpProxy]:
    """A proxy in front of the broker of ``url``; its own URL is ``proxy.url``."""
    target = URL(url)
    proxy = TcpProxy(target)
    proxy.thaw()
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    proxy.url = str(target.with_host("127.0.0.1").with_port(port))
    try:
        yield proxy
    finally:
        server.close()
        await proxy.stop()
