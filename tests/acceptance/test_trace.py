"""Recordings of live brokers: they replay, and the broker never knows."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pika
import pika.exceptions
import pytest

from tests.acceptance.calls import TRANSFER
from tests.acceptance.peer import Peer
from tests.acceptance.scenarios import SCENARIOS, Stage
from tests.acceptance.worker_process import ROOT, WorkerProcess
from tests.rabbit import fresh_vhost
from worker.trace.differences import Difference
from worker.trace.journal_replay import replay_journal
from worker.trace.lines import Message, TableLine, Tapped, parse_trace, read_trace
from worker.trace.replay import replay

READY_S = 20.0
VALET_CLEANUP_MS = 400
PLAYED = (
    "01-blind-park-then-retrieve",
    "02-auto-parks-when-empty",
    "05a-occupied-ringback-answered",
    "05b-occupied-ringback-failed",
    "06-parked-caller-hangs-up",
    "07-ringback-answered",
    "08-ringback-unanswered-child",
    "10-attended-transfer",
    "12-max-slot-exceeded",
    "13b-auto-slot-number",
    "15-direct-dial-occupied",
    "16-presence-probe",
    "23-usurp-while-parked",
)


@pytest.fixture
def own_url(amqp_url: str) -> Iterator[str]:
    """A virtual host without the module's worker."""
    with fresh_vhost(amqp_url) as url:
        yield url


@pytest.fixture
def own_peer(own_url: str) -> Iterator[Peer]:
    with Peer.connected(own_url) as peer:
        yield peer


@dataclass
class Recorder:
    """A running ``kzpark record`` (or another command that listens)."""

    process: subprocess.Popen[bytes]
    said: list[str] = field(default_factory=list)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Signal it and wait for its end."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=15)
        self.said.append((out or b"").decode() + (err or b"").decode())
        return self.process.returncode


@contextmanager
def listening(url: str, *words: str, prefix: str = "kzpark", ready: str) -> Iterator[Recorder]:
    """A command that says ``ready`` on stderr when it hears everything."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KZPARK_")}
    environment |= {"KZPARK_AMQP_URL": url, "KZPARK_PREFIX": prefix, "COLUMNS": "200"}
    process = subprocess.Popen(
        [sys.executable, "-m", "worker", *words],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        deadline = time.monotonic() + READY_S
        line = b""
        while ready.encode() not in line:
            assert time.monotonic() < deadline
            line = process.stderr.readline()
            assert line, "it ended"
        yield Recorder(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def recording(url: str, path: Path, *words: str, prefix: str) -> Any:
    return listening(
        url, "record", "--out", str(path), *words, prefix=prefix, ready="kzpark: recording"
    )


def say(differences: Sequence[Difference]) -> str:
    return "\n".join(str(one) for one in differences)


def assert_equal(path: Path) -> None:
    result = replay(read_trace(path))
    assert say(result.differences) == ""
    assert result.effects > 0
    assert result.crashes == ()


def test_what_a_live_worker_did_replays(
    own_peer: Peer, own_url: str, tmp_path: Path
) -> None:
    """The recorder is there first: it sees the worker start and read its configuration."""
    trace, journal = tmp_path / "trace.jsonl", tmp_path / "journal.jsonl"
    own_peer.sysconf["valet_reservation_cleanup_time_ms"] = VALET_CLEANUP_MS
    with recording(own_url, trace, prefix="own") as recorder:
        worker = WorkerProcess(own_url, prefix="own", settings={"KZPARK_TRACE": str(journal)})
        worker.start()
        for name in PLAYED:
            SCENARIOS[name](Stage(own_peer, f"t{name.partition('-')[0]}"))
        own_peer.quiet(0.7, lambda: True, "the last lamp is repeated")
        assert recorder.stop() == 0
    assert worker.stop() == 0
    assert own_peer.problems == []
    assert_equal(trace)
    run = replay_journal(read_trace(journal))
    assert say(run.differences) == ""
    assert len(run.recorded) > 300
    lines = read_trace(trace).lines
    assert any(isinstance(line, Tapped) and line.exchange == "callctl" for line in lines)
    assert_mutations_are_named(trace)


def assert_mutations_are_named(trace: Path) -> None:
    """One event dropped, two in other order, one field changed: each is told by its name."""
    rows = trace.read_bytes().splitlines()
    plain = [json.loads(row) for row in rows]

    def index(wanted: Callable[[dict[str, Any]], bool], nth: int = 2) -> int:
        found = [n for n, row in enumerate(plain) if wanted(row.get("payload") or {})]
        return found[nth]

    def found(changed: list[bytes]) -> str:
        return say(replay(parse_trace(changed)).differences)

    parked = index(lambda payload: payload.get("Event-Name") == "PARK_PARKED")
    assert "PARK_PARKED" in found([*rows[:parked], *rows[parked + 1 :]])
    destroyed = index(lambda payload: payload.get("Event-Name") == "CHANNEL_DESTROY", 1)
    dropped = found([*rows[:destroyed], *rows[destroyed + 1 :]])
    assert f"line n={plain[destroyed]['n']} is gone" in dropped
    swapped = [*rows[:parked], rows[parked + 1], rows[parked], *rows[parked + 2 :]]
    assert f"line n={plain[parked]['n']} of the trace stands after" in found(swapped)
    changed = {**plain[parked], "payload": {**plain[parked]["payload"], "Parking-Slot": "0"}}
    rows[parked] = json.dumps(changed).encode()
    text = found(rows)
    assert "PARK_PARKED" in text
    assert "/Parking-Slot" in text


def test_a_redacted_recording_of_a_live_worker_replays(
    live_peer: Peer, worker: WorkerProcess, vhost_url: str, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.jsonl"
    with recording(vhost_url, trace, "--redact", prefix=worker.prefix) as recorder:
        for name in ("07-ringback-answered", "10-attended-transfer", "13b-auto-slot-number"):
            SCENARIOS[name](Stage(live_peer, f"r{name.partition('-')[0]}"))
        live_peer.quiet(0.7, lambda: True, "the last lamp is repeated")
        assert recorder.stop(signal.SIGTERM) == 0
    assert_equal(trace)
    text = trace.read_text()
    assert [name for name in ("Caller One", "5550001001", '"1001"') if name in text] == []
    assert "Person " in text


def test_one_account_is_recorded_alone_and_a_recording_may_have_an_end(
    live_peer: Peer, worker: WorkerProcess, vhost_url: str, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.jsonl"
    mine, other = Stage(live_peer, "only-mine"), Stage(live_peer, "only-other")
    words = ("--account", mine.account, "--max", "15")
    with recording(vhost_url, trace, *words, prefix=worker.prefix) as recorder:
        for stage in (mine, other):
            call = stage.parked("901")
            call.hang_up()
            call.wait("PARK_ABANDONED")
        again = mine.parked("902")
        again.hang_up()
        again.wait("terminated", times=2)
        recorder.process.wait(20)
        assert recorder.stop() == 0
    lines = read_trace(trace).lines
    messages = [line for line in lines if isinstance(line, Message)]
    assert 5 < len(messages) <= 15
    accounts = {
        line.payload["Call"]["Account-ID"]  # type: ignore[index]
        for line in messages
        if line.exchange == "kapps" and line.payload
    }
    assert accounts == {mine.account}
    assert other.realm not in trace.read_text()


def test_the_broker_does_not_know_that_it_was_recorded(
    live_peer: Peer, worker: WorkerProcess, vhost_url: str, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.jsonl"
    with recording(vhost_url, trace, "--seconds", "3", prefix=worker.prefix) as recorder:
        stage = Stage(live_peer, "unseen")
        parkee = stage.parked("901")
        retriever = stage.retrieve("901")
        retriever.wait_result(TRANSFER)
        assert parkee.count("PARK_PARKED") == 1
        recorder.process.wait(20)
        assert recorder.stop() == 0
    assert live_peer.returned == []
    connection = pika.BlockingConnection(pika.URLParameters(vhost_url))
    try:
        channel = connection.channel()
        work = channel.queue_declare(f"{worker.prefix}.work", passive=True).method
        assert (work.message_count, work.consumer_count) == (0, 1)
    finally:
        connection.close()


def test_a_recorded_demo_replays(vhost_url: str, tmp_path: Path) -> None:
    trace = tmp_path / "demo.jsonl"
    with recording(vhost_url, trace, prefix="kzpark") as recorder:
        environment = {**os.environ, "KZPARK_AMQP_URL": vhost_url}
        done = subprocess.run(
            [sys.executable, "-m", "worker", "demo"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout.decode()
        time.sleep(0.7)
        assert recorder.stop() == 0
    assert_equal(trace)
    assert_mutations_are_named(trace)


@pytest.mark.chaos  # replay may give an execute in flight at the kill to the wrong worker
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_two_workers_of_which_one_ends_replay(
    own_peer: Peer, own_url: str, tmp_path: Path, number: int
) -> None:
    trace = tmp_path / "two.jsonl"
    prefix = f"t{secrets.token_hex(4)}"
    workers = [WorkerProcess(own_url, prefix=prefix) for _ in range(2)]
    try:
        for one in workers:
            one.start()
        with recording(own_url, trace, prefix=prefix) as recorder:
            stage = Stage(own_peer, f"two-{number}")
            calls = [stage.parked(str(900 + n), name=f"p{n}") for n in range(4)]
            rivals = [
                stage.blind("950", name=f"r{n}", data={"action": "park", "slot": "950"})
                for n in range(3)
            ]
            own_peer.wait(
                lambda: sum(call.count("PARK_PARKED") for call in rivals) == 1,
                5,
                "one of the rivals is parked",
            )
            workers[0].stop(number)
            workers[1].wait_event("session adopted", 15)
            time.sleep(2.5)
            retriever = stage.retrieve("900")
            retriever.wait_result(TRANSFER, timeout_s=8)
            for call in [*calls[1:], *rivals]:
                call.hang_up()
            own_peer.quiet(1.0, lambda: True, "lamps go off")
            assert recorder.stop() == 0
    finally:
        for one in workers:
            if one.running:
                one.stop()
    assert isinstance(read_trace(trace).lines[0], TableLine)
    assert_equal(trace)


# ---- shadow -------------------------------------------------------------------------------------


@pytest.mark.chaos  # a recording played by the clock: on a busy machine events are late
def test_shadow_of_a_live_platform_explains_every_difference(
    live_peer: Peer, vhost_url: str
) -> None:
    folder = ROOT / "fixtures" / "traces"
    document = json.loads((folder / "platform-retrieved-twice.json").read_text())
    for exchange, kind in (("callmgr", "topic"),):
        connection = pika.BlockingConnection(pika.URLParameters(vhost_url))
        connection.channel().exchange_declare(exchange, kind)
        connection.close()
    words = ("shadow", "--callflows", str(folder / "callflows" / "stage.json"))
    with listening(vhost_url, *words, "--format", "json", ready="kzpark: watching") as shadow:
        # The queues of the switch and of callflow are learned from a first call.
        for message in document["messages"][:2]:
            publish(live_peer, message)
            time.sleep(0.5)
        started = time.monotonic()
        for message in document["messages"]:
            left = started + message["t_ms"] / 1000 - time.monotonic()
            time.sleep(max(left, 0.004))
            publish(live_peer, message)
        time.sleep(1.0)
        assert shadow.stop() == 0
    lines = [json.loads(line) for line in shadow.said[0].splitlines() if line.startswith("{")]
    summary = lines[-1]
    assert summary["event"] == "summary"
    assert summary["parked_calls"] == 2
    assert summary["unexplained"] == 0
    assert {line["row"] for line in lines[:-1]} >= {"§5.1", "D18", "§4.9"}


def publish(peer: Peer, message: dict[str, Any]) -> None:
    headers = message["properties"]["headers"]
    peer.publish(
        message["exchange"], message["routing_key"], message["payload"], headers=headers
    )
