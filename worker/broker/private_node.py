"""A RabbitMQ of one's own: a throw-away node on loopback, in a folder of its own.

For the demo and the tests. It touches no RabbitMQ that already runs: own name, ports, cookie,
data and ``epmd``. Synchronous; call it from a thread when an event loop is running.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from worker.errors import BrokerUnreachableError

_SERVERS = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "/usr/local/sbin/rabbitmq-server")
"""Debian's ``/usr/sbin/rabbitmq-server`` insists on the user rabbitmq; the script below it does
not."""
_PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
_STOP_PATIENCE_S = 20
_EPMD_LOOKS = 100


def server_script() -> str | None:
    """Path of the RabbitMQ start script, None when RabbitMQ is not installed."""
    for path in _SERVERS:
        if os.access(path, os.X_OK):
            return path
    return shutil.which("rabbitmq-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def free_port() -> int:
    """A TCP port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int, host: str = "127.0.0.1", timeout_s: float = 2.0) -> bool:
    """Whether something that speaks AMQP 0-9-1 listens there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout_s) as peer:
        peer.sendall(_PROTOCOL_HEADER)
        return peer.recv(1) == b"\x01"  # a method frame: connection.start
    return False


class PrivateNode:
    """One node. ``folder`` holds everything and survives `stop`, so a restart finds its data.

    Nodes that shall form a cluster share ``cookie``, ``epmd_port`` and ``peers``; see
    `PrivateCluster`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "",
        cookie: str = "",
        port: int = 0,
        epmd_port: int = 0,
        peers: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.name = name or f"kzpark-{secrets.token_hex(4)}@localhost"
        self.cookie = cookie or secrets.token_hex(10).upper()
        self.port = port or free_port()
        self.epmd_port = epmd_port or free_port()
        self.peers = tuple(peers)
        self._dist_port = free_port()
        self._node: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2F"

    @property
    def pid(self) -> int | None:
        """Leader of the node's process group, None while it does not run."""
        return self._node.pid if self._node and self._node.poll() is None else None

    def start(self, *, patience_s: float = 90.0) -> None:
        """Start it and wait until it speaks AMQP.

        Raises BrokerUnreachableError, with the end of its log, when it does not in time.
        """
        script = server_script()
        if script is None:
            raise BrokerUnreachableError("rabbitmq-server is not installed")
        self._prepare()
        self.start_epmd()
        with (self.folder / "console.log").open("ab") as console:
            self._node = subprocess.Popen(
                [script],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        deadline = time.monotonic() + patience_s
        while not answers(self.port):
            if self._node.poll() is not None or time.monotonic() > deadline:
                tail = self._log_tail()
                self.kill()
                raise BrokerUnreachableError(f"the private RabbitMQ did not start: {tail}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End it in an orderly way; its data stay in the folder."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._signal(signal.SIGKILL)

    def wipe(self) -> None:
        """Forget all data, as stock Kazoo packages do at every start. It must not be running."""
        shutil.rmtree(self.folder / "data", ignore_errors=True)

    def close(self) -> None:
        """End it and its ``epmd``. The folder is left to the caller."""
        self.stop()
        if self._epmd is not None:
            self._epmd.terminate()
            self._epmd.wait()
            self._epmd = None

    def ctl(self, *words: str, timeout_s: float = 60.0) -> str:
        """Run ``rabbitmqctl`` against it; its output. Raises CalledProcessError when that fails."""
        script = str(Path(server_script() or _SERVERS[0]).with_name("rabbitmqctl"))
        done = subprocess.run(
            [script, "-n", self.name, *words],
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=timeout_s,
        )
        return done.stdout.decode("utf-8", "replace")

    def _signal(self, number: int) -> None:
        if self._node is None:
            return
        group = self._node.pid
        deadline = time.monotonic() + _STOP_PATIENCE_S
        with contextlib.suppress(ProcessLookupError):  # raised once nobody of the group is left
            os.killpg(group, number)
            while time.monotonic() < deadline:
                self._node.poll()
                os.killpg(group, 0)
                time.sleep(0.05)
            os.killpg(group, signal.SIGKILL)
        self._node.wait()
        self._node = None

    def _prepare(self) -> None:
        (self.folder / "log").mkdir(parents=True, exist_ok=True)
        (self.folder / "env").write_text("")
        (self.folder / "plugins").write_text("[].\n")
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            "log.file.level = warning\n"
            "disk_free_limit.absolute = 10MB\n" + self._cluster_settings()
        )
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(self.cookie)
            cookie.chmod(0o400)

    def _cluster_settings(self) -> str:
        if not self.peers:
            return ""
        nodes = (
            f"cluster_formation.classic_config.nodes.{number} = {peer}\n"
            for number, peer in enumerate(self.peers, 1)
        )
        return "cluster_formation.peer_discovery_backend = classic_config\n" + "".join(nodes)

    def _environment(self) -> dict[str, str]:
        folder = self.folder
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RABBITMQ_", "ERL_"))
        }
        return kept | {
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_FLAGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2",
            "RABBITMQ_CONF_ENV_FILE": str(folder / "env"),
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
        }

    def start_epmd(self) -> None:
        """Own ``epmd``, so that none stays behind; nodes of one cluster use the first one's."""
        if self._epmd is not None and self._epmd.poll() is None:
            return
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.epmd_port), 1).close()
            return
        program = shutil.which("epmd")
        if program is None:
            return  # the VM brings its own
        self._epmd = subprocess.Popen(
            [program, "-port", str(self.epmd_port), "-address", "127.0.0.1"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # A VM that does not find it would start one for good.
        for _ in range(_EPMD_LOOKS):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.epmd_port), 1).close()
                return
            time.sleep(0.05)

    def _log_tail(self) -> str:
        texts = [self.folder / "console.log", *sorted((self.folder / "log").glob("*.log"))]
        lines = [
            line.strip()
            for path in texts
            if path.exists()
            for line in path.read_text("utf-8", "replace").splitlines()
            if line.strip()
        ]
        return " | ".join(lines[-5:])[:800] or "it wrote nothing"


class PrivateCluster:
    """Nodes that find each other at their first start; ``folder`` holds a folder for each."""

    def __init__(self, folder: Path, size: int = 3) -> None:
        label, cookie, epmd_port = secrets.token_hex(4), secrets.token_hex(10).upper(), free_port()
        names = [f"kzpark-{label}-{number}@localhost" for number in range(1, size + 1)]
        self.nodes = [
            PrivateNode(folder / name, name=name, cookie=cookie, epmd_port=epmd_port, peers=names)
            for name in names
        ]

    @property
    def url(self) -> str:
        """All nodes, as ``KZPARK_AMQP_URL`` takes them."""
        return ",".join(node.url for node in self.nodes)

    def start(self, *, patience_s: float = 120.0) -> None:
        """Start them side by side: a cluster that was stopped waits for all its members.

        Raises BrokerUnreachableError when they do not start or do not form one cluster.
        """
        self.nodes[0].start_epmd()
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(lambda node: node.start(patience_s=patience_s), self.nodes))
        deadline = time.monotonic() + patience_s
        while not all(node.name in self._running() for node in self.nodes):
            if time.monotonic() > deadline:
                raise BrokerUnreachableError("the private nodes did not form a cluster")
            time.sleep(0.2)

    def close(self) -> None:
        """End all of them. The folder is left to the caller."""
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(PrivateNode.stop, self.nodes))
        for node in self.nodes:
            node.close()

    def _running(self) -> str:
        return self.nodes[0].ctl("eval", "rabbit_nodes:all_running().")


@contextlib.contextmanager
def private_node(*, patience_s: float = 90.0) -> Iterator[PrivateNode]:
    """A node in a temporary folder; both are gone afterwards. Raises BrokerUnreachableError."""
    with tempfile.TemporaryDirectory(
        prefix="kzpark-rabbitmq-", ignore_cleanup_errors=True
    ) as folder:
        node = PrivateNode(Path(folder))
        try:
            node.start(patience_s=patience_s)
            yield node
        finally:
            node.close()
