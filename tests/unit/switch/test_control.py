"""Command queues and applications of the simulated switch."""

from __future__ import annotations

from tests.unit.switch.conftest import ENVELOPE, Rig
from worker.switch.plan import Ring


def after_execute(rig: Rig, call_id: str) -> list[str]:
    names = rig.seen(call_id)
    return names[names.index("execute") + 1 :]


def test_a_tail_command_waits_for_the_one_before_it(rig: Rig) -> None:
    flow = rig.place()
    rig.command(flow, "answer")
    rig.command(
        flow, "say", Say_Text="101", Language="en-us", Type="name_spelled", Method="pronounced"
    )
    assert after_execute(rig, flow.call_id) == ["answer", "say"]
    rig.run(5)
    assert after_execute(rig, flow.call_id)[2:] == ["CHANNEL_ANSWER", "done:answer"]
    rig.run(40)
    assert after_execute(rig, flow.call_id)[4:] == ["done:say"]


def test_a_now_command_bypasses_the_queue(rig: Rig) -> None:
    flow = rig.place()
    rig.command(flow, "play", Media_Name="a")
    rig.command(flow, "noop", Msg_ID="n", Insert_At="now")
    assert rig.last(flow.call_id, "CHANNEL_EXECUTE_COMPLETE")["Application-Response"] == "n"


def test_a_head_command_runs_next(rig: Rig) -> None:
    flow = rig.place()
    rig.command(flow, "play", Media_Name="a")
    rig.command(flow, "noop", Msg_ID="last")
    rig.command(flow, "noop", Msg_ID="first", Insert_At="head")
    rig.run(40)
    responses = [
        note.payload.get("Application-Response")
        for note in rig.core.world.notes[flow.call_id]
        if note.name == "CHANNEL_EXECUTE_COMPLETE"
    ]
    assert responses == ["FILE PLAYED", "first", "last"]


def test_a_flush_breaks_what_runs_and_empties_the_queue(rig: Rig) -> None:
    flow = rig.place()
    rig.command(flow, "play", Media_Name="a")
    rig.command(flow, "play", Media_Name="b")
    rig.command(flow, "noop", Msg_ID="n", Insert_At="flush")
    rig.run(1000)
    assert after_execute(rig, flow.call_id)[3:] == ["done:play", "done:noop"]


def test_a_queue_runs_its_last_element_first(rig: Rig) -> None:
    flow = rig.place()
    prompt = [
        {"Application-Name": "noop", "Call-ID": flow.call_id, "Msg-ID": "n"},
        {"Application-Name": "play", "Call-ID": flow.call_id, "Media-Name": "p", "Msg-ID": "p"},
    ]
    rig.command(flow, "queue", Commands=prompt)
    rig.run(40)
    assert after_execute(rig, flow.call_id)[2:] == ["done:play", "done:noop"]


def test_queue_elements_inherit_the_parents_call(rig: Rig) -> None:
    flow = rig.place()
    rig.command(flow, "queue", Commands=[{"Application-Name": "noop", "Msg-ID": "n"}])
    assert after_execute(rig, flow.call_id) == ["noop", "done:noop"]


def test_hold_completes_only_when_interrupted(rig: Rig) -> None:
    flow = rig.place()
    rig.command(flow, "hold", Insert_At="now")
    rig.run(3_600_000)
    assert "done:hold" not in rig.seen(flow.call_id)
    rig.command(flow, "break", Insert_At="now")
    assert rig.seen(flow.call_id)[-1] == "done:hold"


def test_hold_over_hold_says_nothing(rig: Rig) -> None:
    flow = rig.place()
    rig.command(flow, "hold", Insert_At="now")
    rig.command(flow, "hold", Insert_At="now")
    assert "done:hold" not in rig.seen(flow.call_id)


def test_set_and_park_are_silent(rig: Rig) -> None:
    flow = rig.place()
    rig.command(flow, "set", Custom_Channel_Vars={"a": "b"}, Custom_Call_Vars={}, Insert_At="now")
    rig.command(flow, "park", Insert_At="now")
    assert after_execute(rig, flow.call_id) == ["set", "park"]
    assert rig.core.channels.by_id[flow.call_id].channel_vars["a"] == "b"


def test_an_invalid_command_is_dropped_without_an_error(rig: Rig) -> None:
    flow = rig.place()
    rig.command(flow, "say", Say_Text="101")
    rig.command(flow, "set", Custom_Channel_Vars={})
    assert after_execute(rig, flow.call_id) == []
    assert rig.drops == ["say without Language, Type, Method", "set without Custom-Call-Vars"]


def test_an_unknown_command_is_a_dialplan_error_and_the_queue_goes_on(rig: Rig) -> None:
    flow = rig.place()
    msg_id = rig.command(flow, "juggle")
    rig.command(flow, "noop")
    error = rig.last(flow.call_id, "dialplan")
    assert (error["Event-Category"], error["Msg-ID"]) == ("error", msg_id)
    assert error["Request"]["Application-Name"] == "juggle"  # type: ignore[index]
    assert rig.seen(flow.call_id)[-1] == "done:noop"


def test_a_command_for_another_call_is_an_error(rig: Rig) -> None:
    flow = rig.place()
    rig.command(flow, "hold", Call_ID="stranger")
    assert after_execute(rig, flow.call_id) == ["dialplan"]


def test_a_refused_hold_is_a_dialplan_error_once(rig: Rig) -> None:
    flow = rig.place()
    rig.core.refuse(flow.call_id, "hold")
    rig.command(flow, "hold", Insert_At="now")
    rig.command(flow, "hold", Insert_At="now")
    assert after_execute(rig, flow.call_id) == ["hold", "dialplan", "hold"]
    assert rig.core.channels.by_id[flow.call_id].running is not None


def test_a_dead_channel_answers_down_for_two_seconds_and_then_nothing(rig: Rig) -> None:
    flow = rig.place()
    rig.core.hang_up(flow.call_id)
    rig.run(1999)
    rig.command(flow, "hold", Insert_At="now")
    assert rig.last(flow.call_id, "dialplan")["Channel-Call-State"] == "DOWN"
    rig.run(1)
    rig.command(flow, "hold", Insert_At="now")
    assert rig.drops[-1].startswith("no control process")


def test_a_message_without_deliver_to_pid_is_dropped(rig: Rig) -> None:
    flow = rig.place()
    payload = {
        **ENVELOPE,
        "Event-Category": "call",
        "Event-Name": "command",
        "Application-Name": "hold",
        "Call-ID": flow.call_id,
    }
    rig.receive("callctl", rig.core.control_queue, payload, {})
    assert rig.drops == ["no Deliver-To-PID header"]
    assert not rig.core.crashes


def test_bad_pids_and_content_types_crash_a_listener(rig: Rig) -> None:
    queue = rig.core.control_queue
    rig.receive("callctl", queue, ENVELOPE, {}, content_type="")
    full = {**ENVELOPE, "Event-Category": "call", "Event-Name": "command"}
    rig.receive("callctl", queue, full, {"Deliver-To-PID": "garbage"})
    assert len(rig.core.crashes) == len(rig.drops) == 2


def test_a_byte_array_pid_is_as_good_as_text(rig: Rig) -> None:
    flow = rig.place()
    payload = {
        **ENVELOPE,
        "Event-Category": "call",
        "Event-Name": "command",
        "Application-Name": "hold",
        "Call-ID": flow.call_id,
    }
    pid = flow.control_pid.encode()
    rig.receive("callctl", rig.core.control_queue, payload, {"Deliver-To-PID": pid})
    assert rig.drops == []


def test_events_carry_the_call_id_as_a_byte_array_header(rig: Rig) -> None:
    flow = rig.place()
    rig.core.hang_up(flow.call_id)
    rig.run()
    destroy = next(
        message for message in rig.sent if message.payload["Event-Name"] == "CHANNEL_DESTROY"
    )
    assert destroy.headers["call-id"] == bytearray(flow.call_id.encode())
    assert destroy.routing_key == f"call.CHANNEL_DESTROY.{flow.call_id}"


def test_wrong_call_state_is_never_published(rig: Rig) -> None:
    flow = rig.place()
    rig.core.hang_up(flow.call_id, "WRONG_CALL_STATE")
    assert "CHANNEL_DESTROY" not in rig.seen(flow.call_id)
    assert rig.status(flow.call_id) == ["terminated", "terminated"]


def test_the_holder_says_active_and_the_others_terminated(rig: Rig) -> None:
    flow = rig.place()
    assert rig.status(flow.call_id) == ["terminated", "active"]
    assert rig.status(flow.call_id, Active_Only=True) == ["active"]
    assert rig.status("nobody") == ["terminated", "terminated"]


def test_a_lost_media_server_is_tmpdown_until_it_is_seen_again(rig: Rig) -> None:
    flow = rig.place()
    rig.core.lose_server(0)
    assert rig.seen(flow.call_id)[-1] == "CHANNEL_DISCONNECTED"
    assert rig.status(flow.call_id) == ["terminated", "tmpdown"]
    rig.core.regain_server(0)
    assert rig.seen(flow.call_id)[-1] == "CHANNEL_CONNECTED"
    assert rig.status(flow.call_id) == ["terminated", "active"]


def test_channels_that_do_not_survive_the_outage_are_terminated(rig: Rig) -> None:
    flow = rig.place()
    rig.core.lose_server(0)
    rig.core.regain_server(0, survivors=False)
    assert "CHANNEL_DESTROY" not in rig.seen(flow.call_id)
    assert rig.status(flow.call_id) == ["terminated", "terminated"]


def test_silent_ecallmgrs_answer_nothing(rig: Rig) -> None:
    flow = rig.place()
    rig.core.channels.silent = True
    assert rig.status(flow.call_id) == []


def test_a_flushed_ringing_bridge_is_cancelled(rig: Rig) -> None:
    device = rig.device("c0ffee", Ring())
    flow = rig.place()
    endpoint = {"Invite-Format": "endpoint", "Endpoint-URI": f"c0ffee@{device.account}"}
    rig.command(flow, "bridge", Endpoints=[endpoint], Timeout=20)
    rig.command(flow, "noop", Insert_At="flush")
    complete = rig.core.world.notes[flow.call_id][-2].payload
    assert complete["Application-Response"] == "ORIGINATOR_CANCEL"
