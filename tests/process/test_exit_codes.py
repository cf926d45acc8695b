"""What ``run`` says and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.process.zone import Scene, SteadyPeer, Zone, eventually
from worker.broker.private_node import free_port

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str, **settings: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "worker", "run", *words],
        cwd=ROOT,
        env={**os.environ, **settings},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def nobody() -> str:
    """The URL of a broker that is not there."""
    return f"amqp://guest:secret-word@127.0.0.1:{free_port()}/%2F"


def test_with_once_and_no_broker_it_ends_with_3_and_one_line() -> None:
    process = run("--once", KZPARK_AMQP_URL=nobody())
    out, err = process.communicate(timeout=20)
    assert process.returncode == 3
    assert out == ""
    assert "Traceback" not in err
    assert "secret-word" not in err
    assert err.splitlines()[-1].startswith("kzpark: cannot reach the broker")


def test_without_a_broker_it_goes_on_trying_and_still_stops_with_0() -> None:
    process = run(KZPARK_AMQP_URL=nobody())
    assert process.stderr is not None
    events = []
    for line in process.stderr:
        events.append(json.loads(line))
        if sum(event["event"] == "broker not reached" for event in events) >= 3:
            break
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert "secret-word" not in json.dumps(events)
    process.stderr.close()
    process.stdout and process.stdout.close()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("KZPARK_PREFETSH", "5", "KZPARK_PREFETCH"),
        ("KZPARK_UNHEARD_OF", "1", "KZPARK_UNHEARD_OF is not a setting"),
        ("KZPARK_PREFETCH", "many", "KZPARK_PREFETCH must be"),
        ("KZPARK_COMPAT", "loose", "KZPARK_COMPAT must be"),
    ],
)
def test_settings_that_are_wrong_end_it_with_2(name: str, value: str, told: str) -> None:
    process = run(**{name: value})
    _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert told in err
    assert len(err.splitlines()) == 1


def test_an_unknown_option_ends_it_with_2() -> None:
    process = run("--twice")
    process.communicate(timeout=20)
    assert process.returncode == 2


def test_ready_is_one_line_of_json_once_it_consumes(
    peer: SteadyPeer, zone: Zone, scene: Scene
) -> None:
    began = time.monotonic()
    zone.start("w1")
    assert time.monotonic() - began < 5
    worker = zone.workers["w1"]
    lines = [json.loads(line) for line in worker.lines]
    ready = [line for line in lines if line["event"] == "ready"]
    assert len(ready) == 1
    assert ready[0]["work"] == f"{zone.prefix}.work"
    scene.parked("101")


def test_sigterm_ends_it_with_0_within_ten_seconds(
    peer: SteadyPeer, zone: Zone, scene: Scene
) -> None:
    """With calls parked, reserved, being rung back and being retrieved."""
    zone.start("w1")
    scene.parked("101")
    rung = scene.parked("102", "rung", ring_ms=1_000)
    leg = scene.make("b2", "*3103", data={"action": "auto"}, capture_group="103")
    peer.execute(leg)
    leg.wait("say")
    rung.wait("bridge")
    taken = scene.parked("104", "taken")
    taken_by = scene.retrieve("104", "slow", answers={"call_pickup": lambda call, command: None})
    taken_by.wait("call_pickup")
    code, took_s = zone.stop("w1")
    assert code == 0
    assert took_s < 5
    assert taken.results == []
    stopped = zone.workers["w1"].wait_event("stopped")
    assert stopped["handed_over"] >= 4  # type: ignore[operator]


def test_sigterm_while_the_broker_is_frozen_ends_it_within_ten_seconds(
    zone: Zone, peer: SteadyPeer, scene: Scene
) -> None:
    """A broker that accepts bytes and answers nothing, played by a socket that never reads."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        port = server.getsockname()[1]
        process = run(KZPARK_AMQP_URL=f"amqp://guest:guest@127.0.0.1:{port}/%2F")
        connection, _ = server.accept()
        with connection:
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=10)
    assert process.returncode == 0, err
    eventually(lambda: process.poll() is not None, 1, "gone")
