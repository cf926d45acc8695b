"""A zone of real worker processes behind one black-box peer that survives its broker.

Whose word is whose is seen on the wire alone: every worker has a node name of its own (``w1@test``
and so on), and everything it publishes carries it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pika
import pika.exceptions

from tests.acceptance.calls import PeerCall, account_of
from tests.acceptance.peer import Peer
from tests.acceptance.worker_process import WorkerProcess

RECONNECT_S = 0.1
LONG_MS = 600_000
QUEUES = ("work", "dead", "log", "snap")


class SteadyPeer(Peer):
    """A `Peer` that connects again, declaring its topology anew, as Kazoo does.

    What it says while the broker is away is lost, as with Kazoo.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.up = threading.Event()
        self.outages = 0

    @classmethod
    @contextlib.contextmanager
    def connected(cls, url: str) -> Iterator[SteadyPeer]:
        """``url`` may be a list of hosts, separated by commas."""
        peer = cls(url)
        peer._connect(patience_s=10)
        peer._thread.start()
        try:
            yield peer
        finally:
            peer._stopping = True
            peer._thread.join(5)
            with contextlib.suppress(pika.exceptions.AMQPError):
                peer._connection.close()

    def _connect(self, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while True:
            for url in self.url.split(","):
                with contextlib.suppress(pika.exceptions.AMQPError, OSError):
                    parameters = pika.URLParameters(url)
                    parameters.heartbeat = 0
                    parameters.socket_timeout = parameters.stack_timeout = 3
                    self._connection = pika.BlockingConnection(parameters)
                    self._channel = self._connection.channel()
                    self._topology()
                    self.up.set()
                    return
            if self._stopping or time.monotonic() > deadline:
                raise ConnectionError(f"the peer cannot reach {self.url}")
            time.sleep(RECONNECT_S)

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._connection.process_data_events(time_limit=0.05)
            except (pika.exceptions.AMQPError, OSError, ValueError):  # pika's own half-closed loop
                self.up.clear()
                self.outages += 1
                with contextlib.suppress(ConnectionError):
                    self._connect(patience_s=120)

    def publish(self, *args: Any, **keywords: Any) -> None:
        with contextlib.suppress(pika.exceptions.AMQPError, OSError):
            super().publish(*args, **keywords)

    def drop(self) -> None:
        """Lose this connection and come back."""
        self.up.clear()
        self._connection.add_callback_threadsafe(self._connection.close)

    def said_by(self, node: str, since: float) -> list[str]:
        """What that worker published after ``since`` (time.monotonic()), but for its own affairs:
        advertisements, configuration."""
        with self._arrived:
            return [
                f"+{one.at - since:.3f} {one}"
                for one in self.seen
                if one.payload.get("Node") == node and one.at > since and one.exchange != "sysconf"
            ]


class Zone:
    """Workers that share one slot table. ``settings`` hold for all of them."""

    def __init__(self, url: str, peer: SteadyPeer, settings: Mapping[str, str]) -> None:
        self.url = url
        self.peer = peer
        self.prefix = f"t{secrets.token_hex(4)}"
        self.settings = dict(settings)
        self.workers: dict[str, WorkerProcess] = {}
        self.past: list[WorkerProcess] = []

    # ---- workers

    def start(self, *names: str, **settings: str) -> None:
        """Start workers side by side and wait until each consumes. A name may be used again."""
        started = []
        for name in names:
            old = self.workers.pop(name, None)
            if old is not None:
                self.past.append(old)
            worker = WorkerProcess(
                self.url,
                prefix=self.prefix,
                settings={"KZPARK_NODE": self.node(name), **self.settings, **settings},
            )
            self.workers[name] = worker
            thread = threading.Thread(target=_start_quietly, args=(worker,))
            thread.start()
            started.append((name, thread))
        for name, thread in started:
            thread.join()
            if not self.workers[name].events("ready"):
                last = "\n".join(self.workers[name].lines[-20:])
                raise AssertionError(f"{name} is not ready; it said:\n{last}")

    @staticmethod
    def node(name: str) -> str:
        return f"{name}@test"

    def kill(self, name: str) -> float:
        """kill -9; when that was (time.monotonic())."""
        at = time.monotonic()
        self.workers[name].stop(signal.SIGKILL)
        return at

    def freeze(self, name: str) -> float:
        os.kill(self.workers[name].pid, signal.SIGSTOP)
        return time.monotonic()

    def thaw(self, name: str) -> float:
        at = time.monotonic()
        os.kill(self.workers[name].pid, signal.SIGCONT)
        return at

    def stop(self, name: str) -> tuple[int, float]:
        """SIGTERM; its exit code and how long it took."""
        began = time.monotonic()
        code = self.workers[name].stop()
        return code, time.monotonic() - began

    def running(self) -> list[str]:
        return [name for name, worker in self.workers.items() if worker.running]

    def close(self) -> None:
        """End all; those that still run must end with 0."""
        codes = {}
        for name, worker in self.workers.items():
            if worker.running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGCONT)
                codes[name] = worker.stop()
        self._delete_queues()
        assert not any(codes.values()), f"exit codes: {codes}"

    def _delete_queues(self) -> None:
        """Otherwise the next zone's executes would pile up in this one's work queue."""
        with (
            contextlib.suppress(pika.exceptions.AMQPError, OSError),
            self._connection() as connection,
        ):
            channel = connection.channel()
            for name in QUEUES:
                channel.queue_delete(f"{self.prefix}.{name}")

    def _connection(self) -> pika.BlockingConnection:
        return pika.BlockingConnection(pika.URLParameters(self.url.split(",")[0]))

    def dead_letters(self) -> list[tuple[dict[str, str], bytes]]:
        """Headers and body of every message in the dead-letter queue, which is emptied."""
        found: list[tuple[dict[str, str], bytes]] = []
        with self._connection() as connection:
            channel = connection.channel()
            while True:
                method, properties, body = channel.basic_get(f"{self.prefix}.dead", auto_ack=True)
                if method is None:
                    return found
                headers = {
                    name: value.decode() if isinstance(value, bytes) else str(value)
                    for name, value in (properties.headers or {}).items()
                }
                found.append((headers, body))

    def rss_kb(self, name: str) -> int:
        """Resident memory of a worker."""
        text = Path(f"/proc/{self.workers[name].pid}/status").read_text()
        line = next(line for line in text.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1])

    def logged(self, event: str) -> list[dict[str, object]]:
        """The log lines with that event, of every worker there was."""
        return [
            line for worker in [*self.past, *self.workers.values()] for line in worker.events(event)
        ]

    def crashes(self) -> list[dict[str, object]]:
        """Log lines that no fault of the world explains."""
        return self.logged("session crashed") + self.logged("session cannot be adopted")

    # ---- who looks after a call

    def owner(self, call: PeerCall) -> str:
        """The worker that spoke last for a call: by its commands, results and lamp."""
        spoken = [one for _, one in call.log if one.payload.get("Node", "").endswith("@test")]
        assert spoken, f"nobody spoke for {call.story()}"
        return str(spoken[-1].payload["Node"]).partition("@")[0]

    def wait_adopted(self, call: PeerCall, former: str, timeout_s: float) -> str:
        """Until another worker says that it goes on with the call; its name."""

        def heirs() -> list[str]:
            return [
                name
                for name, worker in self.workers.items()
                if name != former
                and any(
                    line.get("call_id") == call.call_id for line in worker.events("session adopted")
                )
            ]

        eventually(lambda: bool(heirs()), timeout_s, f"{call.call_id} adopted from {former}")
        return heirs()[-1]


def _start_quietly(worker: WorkerProcess) -> None:
    """`Zone.start` tells of a worker that is not ready."""
    with contextlib.suppress(AssertionError):
        worker.start()


class Scene:
    """An account of its own in a zone, and the calls of it."""

    def __init__(self, peer: Peer, name: str) -> None:
        self.peer = peer
        self.name = f"{name}-{secrets.token_hex(2)}"
        self.account = account_of(self.name)
        self.realm = f"{self.name}.example.com"

    def make(self, name: str, number: str, **fields: Any) -> PeerCall:
        fields.setdefault("account", self.account)
        fields.setdefault("realm", self.realm)
        return PeerCall(name=f"{name}-{self.name}", number=number, **fields)

    def park(
        self, slot: str, name: str = "p", *, ring_ms: int = LONG_MS, **fields: Any
    ) -> PeerCall:
        """A blind transfer into ``slot`` reaches its node now."""
        data = {"action": "park", "slot": slot, "default_ringback_timeout": ring_ms}
        fields = {"data": data, "capture_group": slot, **fields}
        call = self.make(name, f"3{slot}", blind=True, **fields)
        self.peer.execute(call)
        return call

    def parked(self, slot: str, name: str = "p", **fields: Any) -> PeerCall:
        """The same, up to hold and lamp."""
        call = self.park(slot, name, **fields)
        await_parked(call)
        return call

    def valet(self, name: str, *, ring_ms: int = LONG_MS, **fields: Any) -> PeerCall:
        """A blind transfer to the lowest free slot."""
        data = {"action": "park", "default_ringback_timeout": ring_ms}
        call = self.make(name, "*4", blind=True, **{"data": data, **fields})
        self.peer.execute(call)
        return call

    def retrieve(self, slot: str, name: str = "r", **fields: Any) -> PeerCall:
        """Somebody dials to pick the slot's call up."""
        data = {"action": "retrieve", "slot": slot}
        call = self.make(name, f"5{slot}", user="1002", **{"data": data, **fields})
        self.peer.execute(call)
        return call

    def presence_id(self, user: str) -> str:
        return f"{user}@{self.realm}"


def await_parked(call: PeerCall, timeout_s: float = 5.0) -> None:
    call.wait("PARK_PARKED", timeout_s)
    call.wait("hold", timeout_s)
    call.wait("early", timeout_s)


def assert_retrieved(parkee: PeerCall, retriever: PeerCall, timeout_s: float = 5.0) -> None:
    """The retriever got this parkee, once, and the lamp went off."""
    pickup = retriever.wait("call_pickup", timeout_s)
    assert pickup["Target-Call-ID"] == parkee.call_id, retriever.story()
    retriever.wait("PARK_RETRIEVED", timeout_s)
    retriever.wait("result", timeout_s)
    parkee.wait("terminated", timeout_s)
    assert len(retriever.results) == 1, retriever.story()
    assert len(parkee.results) <= 1, parkee.story()
    assert parkee.lamp() == "terminated", parkee.story()


def ring_lateness_s(call: PeerCall, ring_ms: int, *, round_: int = 1) -> float:
    """How much later than due the ``round_``-th ringback went out; the hold began with the first
    hold command."""
    held = next(one.at for name, one in call.log if name == "hold")
    rung = [one.at for name, one in call.log if name == "bridge"][round_ - 1]
    return rung - held - ring_ms / 1000


def eventually(fact: Callable[[], bool], timeout_s: float, what: str) -> None:
    """For facts that no message announces."""
    deadline = time.monotonic() + timeout_s
    while not fact():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.02)


def slot_of(call: PeerCall) -> str:
    """Where it is parked, by its PARK_PARKED."""
    return str(call.wait("PARK_PARKED")["Parking-Slot"])
