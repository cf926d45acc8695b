"""The real Kamailio, in a folder of its own, on loopback, behaving as Kazoo's does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.parse
from pathlib import Path
from types import TracebackType
from typing import Self

import aio_pika
import aio_pika.exceptions

HERE = Path(__file__).resolve().parent
TABLES = Path("/usr/share/kamailio/dbtext/kamailio")
LOOPBACK = "127.0.0.1"
START_PATIENCE_S = 30
STOP_PATIENCE_S = 5
AS_KAZOO = ("ONLY_WATCHED", "SWEEP", "FAST_PICKUP", "ADVERTISE")


class RigError(Exception):
    """Kamailio is not installed or did not start; the text holds its log."""


def kamailio_binary() -> str | None:
    """Path of Kamailio, None when it is not installed."""
    return shutil.which("kamailio", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOOPBACK, 0))
        return int(sock.getsockname()[1])


def _live_members(group: int) -> list[int]:
    """The processes of a process group that are no zombies."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == group and fields[0] != "Z":
                    found.append(int(entry))
    return found


class Kamailio:
    """``async with Kamailio(amqp_url) as kamailio: ...``

    As it stands it deals updates out to 16 workers in turn, as Kazoo's does: two updates of one
    call can overtake each other. Its expired rows vanish within ``sweep_s``.
    """

    def __init__(
        self,
        amqp_url: str,
        *,
        workers: int = 16,
        consistent: bool = False,
        sweep_s: int = 1,
        advertise_s: int = 1,
        flags: tuple[str, ...] = AS_KAZOO,
        debug: int = 1,
    ) -> None:
        if urllib.parse.urlsplit(amqp_url).hostname not in (LOOPBACK, "localhost", "::1"):
            raise RigError(f"the rig talks to loopback only, not {amqp_url}")
        self._amqp_url = amqp_url
        self.sip_port = _free_udp_port()
        self.hostname = f"rig-{secrets.token_hex(4)}"
        self._options = {
            "SIP_PORT": str(self.sip_port),
            # librabbitmq reads amqp://host/ as the vhost "", not as "/"
            "AMQP_URL": amqp_url.removesuffix("/"),
            "HOSTNAME": self.hostname,
            "DB_MODULE": "db_text",
            "WORKERS": str(workers),
            "CONSISTENT": str(int(consistent)),
            "SWEEP_S": str(sweep_s),
            "ADVERTISE_S": str(advertise_s),
            "DEBUG": str(debug),
            "FLAGS": "\n".join(f"#!define WITH_{flag}" for flag in flags),
        }
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self._folder = Path(tempfile.mkdtemp(prefix="kzpark-lamps-", dir=base))
        try:
            await self.start()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def start(self, *, forget: bool = True) -> None:
        """Start it; with ``forget`` it knows no subscription and no lamp."""
        binary = kamailio_binary()
        if binary is None:
            raise RigError("kamailio is not installed: run tests/lamps/packages.sh")
        self._write(forget)
        self._process = self._spawn(binary)
        await self._wait_ready(time.monotonic() + START_PATIENCE_S)

    def _spawn(self, binary: str) -> subprocess.Popen[bytes]:
        with (self._folder / "kamailio.log").open("ab") as log:
            return subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "TERM"),  # it ends when we do, even killed
                    *(binary, "-DD", "-E", "-m", "64", "-M", "16"),
                    *("-f", self._folder / "kamailio.cfg", "-w", self._folder),
                    *("-Y", self._folder, "-P", self._folder / "kamailio.pid"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that its children can be told apart
            )

    def _write(self, forget: bool) -> None:
        tables = self._folder / "db"
        if forget:
            shutil.rmtree(tables, ignore_errors=True)
            tables.mkdir()
            for name in ("version", "presentity", "active_watchers", "watchers"):
                shutil.copy(TABLES / name, tables / name)
        values = {**self._options, "DB_URL": f"text://{tables}"}
        template = (HERE / "kamailio.cfg").read_text()
        # the comment that explains the placeholders stays as it is
        lines = [
            line if line.startswith("# ") else re.sub(r"@([A-Z_]+)@", lambda m: values[m[1]], line)
            for line in template.splitlines()
        ]
        config = self._folder / "kamailio.cfg"
        config.touch(mode=0o600)
        config.write_text("\n".join(lines) + "\n")

    async def _wait_ready(self, deadline_s: float) -> None:
        """SIP answers, and both AMQP queues have their consumers."""
        while not await self._answers_sip():
            self._check(deadline_s)
        for queue in (f"presence-dialog-{self.hostname}", f"presence-api-{self.hostname}"):
            while not await self._is_consumed(queue):
                self._check(deadline_s)
                await asyncio.sleep(0.05)

    def _check(self, deadline_s: float) -> None:
        if not self.alive():
            raise RigError(f"kamailio did not start:\n{self.log()}")
        if time.monotonic() > deadline_s:
            raise RigError(f"kamailio is not ready:\n{self.log()}")

    async def _answers_sip(self) -> bool:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((LOOPBACK, 0))
            sock.setblocking(False)
            via = f"{LOOPBACK}:{sock.getsockname()[1]};branch=z9hG4bK{secrets.token_hex(8)}"
            lines = (
                f"OPTIONS sip:{LOOPBACK}:{self.sip_port} SIP/2.0",
                f"Via: SIP/2.0/UDP {via}",
                "Max-Forwards: 70",
                f"From: <sip:rig@{LOOPBACK}>;tag=1",
                f"To: <sip:{LOOPBACK}>",
                f"Call-ID: {secrets.token_hex(8)}",
                "CSeq: 1 OPTIONS",
                "Content-Length: 0",
                "",
                "",
            )
            try:
                await loop.sock_sendto(sock, "\r\n".join(lines).encode(), (LOOPBACK, self.sip_port))
                answer = await asyncio.wait_for(loop.sock_recv(sock, 4096), 0.2)
            except (OSError, TimeoutError):
                await asyncio.sleep(0.05)
                return False
            return answer.startswith(b"SIP/2.0 200")

    async def _is_consumed(self, queue: str) -> bool:
        connection = await aio_pika.connect(self._amqp_url)
        async with connection:
            channel = await connection.channel()
            try:
                found = await channel.declare_queue(queue, passive=True)
            except aio_pika.exceptions.ChannelNotFoundEntity:
                return False
            return bool(found.declaration_result.consumer_count)

    def log(self) -> str:
        """What it has logged."""
        with contextlib.suppress(OSError):
            return (self._folder / "kamailio.log").read_text(errors="replace")
        return ""

    def alive(self) -> bool:
        """Whether it runs; a crash of any of its processes takes all of them down."""
        return self._process is not None and self._process.poll() is None

    async def stop(self, *, kill: bool = False) -> None:
        """End it, with SIGTERM or at once."""
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(_end, process, kill)


def _end(process: subprocess.Popen[bytes], kill: bool) -> None:
    group = process.pid
    if process.poll() is None and not kill:
        process.send_signal(signal.SIGTERM)
        deadline_s = time.monotonic() + STOP_PATIENCE_S
        while time.monotonic() < deadline_s and (process.poll() is None or _live_members(group)):
            time.sleep(0.02)
    for pid in _live_members(group):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(10)
