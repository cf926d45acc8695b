"""Lamps tell the truth after restarts, crashes and long waits (issue: must show)."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from secrets import token_hex
from typing import Any

import pytest

from tests.acceptance.calls import PeerCall, pause
from tests.acceptance.peer import Peer
from tests.acceptance.scenarios import Stage
from tests.acceptance.worker_process import WorkerProcess
from tests.lamps.desk import Desk
from tests.lamps.test_hostile import assert_readable
from tests.lamps.test_transitions import park, retrieve

EXPIRES_S = 3
SWEEP_S = 1
ADOPTED_WITHIN_S = 5.0
StartWorker = Callable[[], WorkerProcess]


@pytest.fixture
def peer(vhost_url: str) -> Iterator[Peer]:
    with Peer.connected(vhost_url) as running:
        yield running


@pytest.fixture
def stage(peer: Peer) -> Stage:
    return Stage(peer, token_hex(4))


@pytest.fixture
def desk(vhost_url: str) -> Iterator[Desk]:
    with Desk.at_work(vhost_url) as running:
        yield running
        assert running.kamailio.alive()


@pytest.fixture
def slot(stage: Stage) -> str:
    """The lamp ``*3101``, not yet watched."""
    return stage.presence_id("*3101")


@pytest.fixture
def start_worker(vhost_url: str, peer: Peer) -> Iterator[StartWorker]:
    """Starts one worker more, all on one slot table, with an Expires of 3 s."""
    prefix = f"t{token_hex(4)}"
    settings = {"KZPARK_LAMP_EXPIRES_S": str(EXPIRES_S), "KZPARK_SETTLE_MS": "200"}
    with ExitStack() as stack:

        def start() -> WorkerProcess:
            worker = WorkerProcess(vhost_url, prefix=prefix, settings=settings)
            worker.start()
            stack.callback(lambda: worker.running and worker.stop())
            return worker

        yield start


@pytest.fixture
def worker(start_worker: StartWorker) -> WorkerProcess:
    return start_worker()


def parked(stage: Stage, **fields: Any) -> PeerCall:
    call = park(stage, **fields)
    call.wait("early")
    return call


@pytest.mark.usefixtures("worker")
def test_a_phone_that_subscribes_after_the_park_sees_the_lamp_at_once(
    stage: Stage, desk: Desk, slot: str
) -> None:
    parkee = parked(stage)
    started_s = time.monotonic()
    desk.subscribe(slot)
    lit = desk.wait_lit(slot, parkee.call_id)
    assert lit.at_s - started_s < 0.5
    parkee.hang_up()
    desk.wait_dark(slot)
    desk.stays(slot, "off")


@pytest.mark.usefixtures("worker")
def test_a_probe_is_answered_once_however_many_workers(
    stage: Stage, desk: Desk, slot: str, start_worker: StartWorker
) -> None:
    for _ in range(2):
        start_worker()
    parkee = parked(stage)
    before = len(stage.peer.dialogs(slot))
    stage.peer.probe("*3101", stage.realm)
    pause(0.4)
    probed = stage.peer.dialogs(slot)[before:]
    assert [update["State"] for update in probed] == ["early"]
    parkee.hang_up()
    parkee.wait("terminated", 3, times=2)
    pause(0.4)
    before = len(stage.peer.dialogs(slot))
    stage.peer.probe("*3101", stage.realm)
    stage.peer.probe("*3999", stage.realm)
    pause(0.4)
    assert [update["State"] for update in stage.peer.dialogs(slot)[before:]] == ["terminated"]
    assert stage.peer.dialogs(stage.presence_id("*3999")) == []


@pytest.mark.usefixtures("worker")
def test_a_phone_is_served_in_the_letter_case_it_subscribed_with(stage: Stage, slot: str) -> None:
    parkee = parked(stage)
    shouted = stage.realm.upper()
    stage.peer.probe("*3101", shouted)
    as_spelled = f"*3101@{shouted}"
    stage.peer.wait(lambda: bool(stage.peer.dialogs(as_spelled)), 3, "answered as asked")
    parkee.hang_up()
    stage.peer.wait(
        lambda: (
            stage.peer.dialogs(as_spelled)[-1]["State"] == "terminated"
            and stage.peer.dialogs(slot)[-1]["State"] == "terminated"
        ),
        3,
        "darkened in both cases",
    )


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("kill", [True, False])
def test_after_a_restart_of_kamailio_phones_that_subscribe_again_see_the_truth(
    stage: Stage, desk: Desk, slot: str, kill: bool
) -> None:
    parkee = parked(stage)
    other = park(stage, name="other", number="*3102", capture_group="102")
    free = stage.presence_id("*3102")
    desk.subscribe(slot, free)
    desk.wait_lit(slot, parkee.call_id)
    desk.wait_lit(free, other.call_id)
    desk.stop_kamailio(kill=kill)
    other.hang_up()
    other.wait("terminated")
    desk.start_kamailio()
    desk.subscribe_anew(slot, free)
    desk.wait_lit(slot, parkee.call_id)
    desk.stays(slot, "on", 0.5)
    desk.stays(free, "off", 0.5)


@pytest.mark.usefixtures("worker")
def test_after_a_restart_of_kamailio_that_kept_its_subscriptions_lamps_come_back_by_themselves(
    stage: Stage, desk: Desk, slot: str
) -> None:
    desk.subscribe(slot)
    desk.stop_kamailio()
    parkee = parked(stage)
    desk.start_kamailio(forget=False)
    desk.wait_lit(slot, parkee.call_id, 8)
    desk.stop_kamailio()
    parkee.hang_up()
    parkee.wait("terminated", 3, times=2)
    desk.start_kamailio(forget=False)
    desk.wait_dark(slot, 8)
    desk.stays(slot, "off", 0.5)


@pytest.mark.usefixtures("worker")
def test_a_call_parked_longer_than_expires_stays_lit(stage: Stage, desk: Desk, slot: str) -> None:
    desk.subscribe(slot)
    parkee = parked(stage)
    desk.wait_lit(slot, parkee.call_id)
    desk.stays(slot, "on", 2.0 * EXPIRES_S + SWEEP_S)
    desk.subscribe_anew(slot)
    desk.wait_lit(slot, parkee.call_id)
    parkee.hang_up()
    desk.wait_dark(slot)
    desk.stays(slot, "off")


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("user", ["*", "*3101"])
def test_after_a_presence_reset_the_lamp_is_lit_again(
    stage: Stage, desk: Desk, slot: str, user: str
) -> None:
    desk.subscribe(slot)
    parkee = parked(stage)
    desk.wait_lit(slot, parkee.call_id)
    before = parkee.count("early")
    reset = {
        "Event-Category": "presence",
        "Event-Name": "reset",
        "Realm": stage.realm,
        "Username": user,
        "Msg-ID": token_hex(8),
        "App-Name": "crossbar",
        "App-Version": "1.0",
    }
    key = f"presence.reset.{stage.realm.replace('.', '%2E')}.{user.replace('*3', '%2A3')}"
    stage.peer.publish("presence", key, reset)
    parkee.wait("early", 5, times=before + 1)
    desk.wait_lit(slot, parkee.call_id)
    desk.stays(slot, "on", 1.5)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_lamps_are_true_after_the_worker_is_gone(
    stage: Stage, desk: Desk, slot: str, start_worker: StartWorker, number: signal.Signals
) -> None:
    owner = start_worker()
    desk.subscribe(slot)
    parkee = parked(stage)
    desk.wait_lit(slot, parkee.call_id)
    successor = start_worker()
    owner.stop(number)
    successor.wait_event("session adopted", ADOPTED_WITHIN_S + 1)
    desk.wait_lit(slot, parkee.call_id)
    desk.stays(slot, "on", EXPIRES_S + 2.0 * SWEEP_S)
    parkee.hang_up()
    desk.wait_dark(slot)
    desk.stays(slot, "off")


def test_a_caller_who_hangs_up_while_the_worker_is_dead_leaves_no_lamp_on(
    stage: Stage, desk: Desk, slot: str, start_worker: StartWorker
) -> None:
    owner = start_worker()
    desk.subscribe(slot)
    parkee = parked(stage)
    desk.wait_lit(slot, parkee.call_id)
    start_worker()
    owner.stop(signal.SIGKILL)
    parkee.hang_up()
    desk.wait_dark(slot, ADOPTED_WITHIN_S + 3)
    desk.stays(slot, "off")


def test_a_call_retrieved_while_its_worker_is_dead_leaves_no_lamp_on(
    stage: Stage, desk: Desk, slot: str, start_worker: StartWorker
) -> None:
    owner = start_worker()
    desk.subscribe(slot)
    parkee = parked(stage)
    desk.wait_lit(slot, parkee.call_id)
    start_worker()
    owner.stop(signal.SIGKILL)
    retrieve(stage).wait("PARK_RETRIEVED", ADOPTED_WITHIN_S + 3)
    desk.wait_dark(slot, ADOPTED_WITHIN_S + 3)
    desk.stays(slot, "off")


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    "name",
    [
        "A" * 10_000,
        "\U0001f4a9" * 2_500,
        "&" * 10_000,
        '<script>&"quotes"</script>',
        "\x00\x01\x1f\r\n\tBob",
        "\u202eevil\u202c \u05e9\u05dc\u05d5\u05dd",
        '"Al" <sip:al@evil.example.com>;tag=1',
        "$ci $var(x) {s.md5} %00 \\",
        '","Call-ID":"stolen","x":"',
    ],
    ids=["long", "emoji", "amps", "xml", "controls", "rtl", "sip", "kamailio", "json"],
)
def test_a_callers_name_cannot_blank_a_lamp(stage: Stage, desk: Desk, slot: str, name: str) -> None:
    desk.subscribe(slot)
    parkee = park(stage, caller_name=name, caller_number=name[:100], user="1001")
    lit = desk.wait_lit(slot, parkee.call_id)
    assert_readable(lit.dialogs[0].remote_display, name, name[:100])
    parkee.hang_up()
    desk.wait_dark(slot)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("call_id", ["c" * 129, "c&" * 30], ids=["long", "escapes"])
def test_a_call_whose_id_no_lamp_can_carry_is_parked_without_one(
    stage: Stage, desk: Desk, slot: str, call_id: str
) -> None:
    desk.subscribe(slot)
    parkee = park(stage, call_id=f"{call_id}{token_hex(2)}")
    parkee.wait("hold")
    desk.stays(slot, "off", 0.3)
    retrieve(stage).wait("PARK_RETRIEVED")
    neighbour = park(stage, name="neighbour")
    desk.wait_lit(slot, neighbour.call_id)
    neighbour.hang_up()
    desk.wait_dark(slot)
