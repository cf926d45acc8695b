"""The simulated cf_exe: what it sends, and what it makes of results and events."""

from __future__ import annotations

import pytest

from tests.unit.switch.conftest import CONTINUE, CONTINUE_101, STOP, TRANSFER, Rig
from worker.switch.plan import SwitchPlan
from worker.switch.wire import FlowResult, ResultError, decode_result


def test_an_execute_is_mandatory_and_carries_pid_addresses(rig: Rig) -> None:
    flow = rig.place(capture_group="101", children={"101": {}, "_": {}})
    execute = next(message for message in rig.sent if message.exchange == "kapps")
    assert execute.mandatory
    assert execute.routing_key == "callflow.action.park"
    call = rig.call(flow)
    assert str(call["Control-Queue"]).startswith("pid://<0.")
    assert execute.payload["Server-ID"] == call["Controller-Queue"]
    store = call["Key-Value-Store"]
    assert store["action-exit-keys"] == ["101", "_"]  # type: ignore[index]
    assert store["cf_capture_group"] == "101"  # type: ignore[index]


def test_the_call_starts_with_a_harmless_usurp_of_its_own_fetch(rig: Rig) -> None:
    flow = rig.place()
    assert rig.last(flow.call_id, "usurp_control")["Fetch-ID"] == flow.fetch_id
    assert flow.ended == ""


def test_a_blind_transfer_names_parker_and_slot(rig: Rig) -> None:
    flow = rig.place(number="*3101", transferred_by=rig.device("c0ffee"))
    channel_vars = rig.call(flow)["Custom-Channel-Vars"]
    assert channel_vars["Referred-By"] == "<sip:user_c0ffee@acme.sip.example.com>"  # type: ignore[index]
    assert channel_vars["Referred-To"] == "<sip:*3101@acme.sip.example.com>"  # type: ignore[index]
    store = rig.call(flow)["Key-Value-Store"]
    assert store["Restricted-Endpoint-ID"] == "c0ffee"  # type: ignore[index]


def test_completing_a_transfer_names_the_leg_and_ends_it(rig: Rig) -> None:
    leg = rig.place()
    flow = rig.place(transferred_by=rig.device("c0ffee"), replaces=leg.call_id)
    referred_to = rig.call(flow)["Custom-Channel-Vars"]["Referred-To"]  # type: ignore[index]
    assert f"Replaces={leg.call_id};" in referred_to
    rig.run(20)
    assert leg.ended == "destroyed"


@pytest.mark.parametrize(
    ("term", "children", "branch", "alive"),
    [
        (TRANSFER, {}, None, True),
        (STOP, {}, None, False),
        (CONTINUE, {"_": {}}, "_", True),
        (CONTINUE, {}, None, False),
        (CONTINUE_101, {"101": {}, "_": {}}, "101", True),
        (CONTINUE_101, {"_": {}}, "_", True),
        ("bm90IGEgdGVybQ==", {"_": {}}, "_", True),
    ],
)
def test_a_result_is_acted_on(
    rig: Rig, term: str, children: dict[str, object], branch: str | None, alive: bool
) -> None:
    flow = rig.place(children=children)
    rig.result(flow, term)
    assert flow.ended == flow.results[0].verdict
    assert flow.branch == branch
    assert (rig.core.channels.living(flow.call_id) is not None) is alive


def test_stop_while_on_hold_hangs_up_at_once(rig: Rig) -> None:
    flow = rig.place()
    rig.command(flow, "hold", Insert_At="now")
    rig.result(flow, STOP)
    assert "CHANNEL_DESTROY" in rig.seen(flow.call_id)


@pytest.mark.parametrize("field", ["Call_ID", "Msg_ID"])
def test_a_result_for_another_call_or_action_is_ignored(rig: Rig, field: str) -> None:
    flow = rig.place()
    rig.result(flow, STOP, **{field: "other"})
    assert flow.ended == ""
    assert len(rig.drops) == 1


def test_only_the_first_result_counts(rig: Rig) -> None:
    flow = rig.place()
    rig.result(flow, TRANSFER)
    rig.result(flow, STOP)
    assert (flow.results, flow.late_results) == ([FlowResult(verdict="transfer")], 1)


def test_a_result_after_the_call_died_is_late(rig: Rig) -> None:
    flow = rig.place()
    rig.core.hang_up(flow.call_id)
    rig.result(flow, STOP)
    assert (flow.ended, flow.late_results) == ("destroyed", 1)


def test_disconnected_marks_the_call_destroyed_so_stop_sends_no_hangup(rig: Rig) -> None:
    flow = rig.place()
    rig.core.lose_server(0)
    rig.core.regain_server(0)
    rig.result(flow, STOP)
    assert flow.ended == "destroyed"
    assert rig.core.channels.living(flow.call_id) is not None


def test_usurp_transfer_and_pivot_end_the_flow(rig: Rig) -> None:
    usurped, transferred, pivoted = rig.place(), rig.place(), rig.place()
    rig.core.usurp(usurped.call_id)
    rig.core.transfer_away(transferred.call_id)
    rig.core.pivot(pivoted.call_id, {"module": "hangup"})
    assert [flow.ended for flow in (usurped, transferred, pivoted)] == [
        "control_usurped",
        "transfer",
        "pivot",
    ]


@pytest.mark.parametrize("direct", [False, True])
def test_a_replaced_call_expects_its_result_under_the_new_id(rig: Rig, direct: bool) -> None:
    flow = rig.place()
    old_call_id = flow.call_id
    rig.core.replace_call(old_call_id, "new@h", direct=direct)
    assert flow.call_id == "new@h"
    rig.result(flow, TRANSFER, Call_ID=old_call_id)
    assert flow.ended == ""
    rig.result(flow, TRANSFER)
    assert flow.ended == "transfer"
    assert rig.status(old_call_id) == ["terminated", "terminated"]
    assert rig.status("new@h") == ["terminated", "active"]


def test_placing_a_living_call_again_takes_over_from_its_old_flow(rig: Rig) -> None:
    first = rig.place()
    second = rig.place(call_id=first.call_id)
    assert first.ended == "control_usurped"
    assert second.ended == ""


def test_an_unroutable_execute_leaves_the_caller_hanging(rig: Rig) -> None:
    flow = rig.place()
    rig.core.returned(next(message for message in rig.sent if message.mandatory))
    assert flow.ended == "unroutable"
    assert rig.core.channels.living(flow.call_id) is not None


def test_a_cold_call_is_gone_before_its_flow_starts(rig: Rig) -> None:
    flow = rig.place(cold=True)
    assert rig.status(flow.call_id) == ["terminated", "terminated"]


@pytest.mark.parametrize("encoded", [None, 7, "not base64!", "g2QABHN0b3A"])
def test_an_undecodable_result_is_an_error(encoded: object) -> None:
    with pytest.raises(ResultError):
        decode_result(encoded)


def test_stop_may_carry_a_cause() -> None:
    assert decode_result("g2gCZAAEc3RvcG0AAAAJVVNFUl9CVVNZ") == FlowResult(
        verdict="stop", argument="USER_BUSY"
    )


def test_the_same_inputs_give_the_same_messages() -> None:
    def episode() -> list[object]:
        rig = Rig(SwitchPlan(ecallmgr_nodes=3))
        flow = rig.place()
        rig.command(flow, "hold", Insert_At="now")
        rig.status(flow.call_id)
        rig.result(flow, STOP)
        rig.run(5000)
        return [(message.routing_key, message.payload) for message in rig.sent]

    assert episode() == episode()
