"""Shadow mode: what the platform's module did beside what we would do, and why they differ."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.trace import platform_module
from tests.unit.trace.platform_module import APPS, FOLDER, ROOT
from worker.kapi.execute import parse_execute
from worker.trace.callflows import Callflows, add_document, read_callflows
from worker.trace.explain import all_rows
from worker.trace.lines import Message, NotATraceError
from worker.trace.recordings import read_recording
from worker.trace.routes import Routes
from worker.trace.shadow import Shadow, ShadowResult

GOLDEN = ROOT.parent / "shared" / "golden"
RECORDED = sorted(GOLDEN.glob("[0-9]*.json"))
EXECUTES = sorted(GOLDEN.glob("execute-*.json"))
OWN = sorted(FOLDER.glob("platform-*.json"))
DOC = ROOT / "docs" / "compatibility.md"

needs_golden = pytest.mark.skipif(not RECORDED, reason="the reference's recordings are not here")


def rows_of_the_document() -> list[tuple[str, str]]:
    """(first, second) column of every row."""
    rows = []
    for line in DOC.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0] not in {"Where", ""} and "---" not in cells[0]:
            rows.append((cells[0], cells[1]))
    return rows


ROWS = rows_of_the_document()


def is_row(name: str) -> bool:
    where, _, begins = name.partition(": ")
    return any(first == where and second.startswith(begins) for first, second in ROWS)


@pytest.mark.parametrize("row", all_rows())
def test_every_explanation_names_a_row_of_the_document(row: str) -> None:
    assert is_row(row)


def shadow(path: Path, flows: Path, compat: str = "fixed") -> ShadowResult:
    recording = read_recording(path)
    run = Shadow(read_callflows([flows]), {"compat": compat})
    return run.run(recording.messages, recording.outcomes)


def unexplained(result: ShadowResult) -> list[str]:
    return [str(one.difference) for one in result.unexplained]


@needs_golden
@pytest.mark.parametrize("compat", ["fixed", "strict"])
@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_every_difference_from_the_reference_is_explained(path: Path, compat: str) -> None:
    result = shadow(path, FOLDER / "callflows" / "recordings.json", compat)
    assert unexplained(result) == []
    assert all(is_row(one.row) for one in result.disagreements)
    assert result.calls >= 1
    assert result.unknown == 0
    assert result.agreed >= 1
    assert result.crashes == ()


def test_the_recordings_of_our_own_are_as_they_are_made() -> None:
    for path, content in platform_module.files().items():
        assert path.read_text() == content, f"run: python -m {platform_module.__name__}"


@pytest.mark.parametrize("compat", ["fixed", "strict"])
@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_our_own_recordings_are_explained(path: Path, compat: str) -> None:
    result = shadow(path, FOLDER / "callflows" / "stage.json", compat)
    assert unexplained(result) == []


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("parked-and-abandoned", {"§5.1", "§5.3: Says terminated once"}),
        ("retrieved-twice", {"§5.1", "§5.3: Says terminated once", "D18", "§4.9"}),
        ("hold-ended", {"§5.1", "D14", "§14 r6"}),
        ("over-the-maximum", {"design §8 r7"}),
        ("not-parked", set()),
    ],
)
def test_a_recording_is_explained_by_its_rows(name: str, rows: set[str]) -> None:
    result = shadow(FOLDER / f"platform-{name}.json", FOLDER / "callflows" / "stage.json")
    assert {one.row for one in result.disagreements} == rows


def test_strict_mode_agrees_where_the_reference_is_audible() -> None:
    path, flows = FOLDER / "platform-wildcard-child.json", FOLDER / "callflows" / "stage.json"
    assert "D19" in {one.row for one in shadow(path, flows).disagreements}
    strict = {one.row for one in shadow(path, flows, "strict").disagreements}
    assert strict == {"§5.1", "§5.3: Says terminated once", "§7.10 r23"}


# ---- what is not explained ----------------------------------------------------------------------


def spoiled(tmp_path: Path, change: Any) -> ShadowResult:
    """The pickup's recording, changed: the platform did something else."""
    document = copy.deepcopy(json.loads((FOLDER / "platform-retrieved-twice.json").read_text()))
    change(document)
    path = tmp_path / "spoiled.json"
    path.write_text(json.dumps(document))
    return shadow(path, FOLDER / "callflows" / "stage.json")


def said(document: Any, name: str) -> Any:
    names = ("Event-Name", "Application-Name")
    return next(
        message
        for message in document["messages"]
        if message["direction"] == "out" and name in [message["payload"].get(n) for n in names]
    )


def test_another_slot_is_not_explained(tmp_path: Path) -> None:
    def change(document: Any) -> None:
        said(document, "PARK_PARKED")["payload"]["Parking-Slot"] = "102"

    [one] = spoiled(tmp_path, change).unexplained
    assert one.call_id == "ann@10.9.0.2"
    assert "/Parking-Slot" in str(one.difference)


def test_a_hold_that_was_not_played_is_not_explained(tmp_path: Path) -> None:
    def change(document: Any) -> None:
        document["messages"].remove(said(document, "hold"))

    assert any("unexpected: hold" in text for text in unexplained(spoiled(tmp_path, change)))


def test_a_pickup_of_somebody_else_is_not_explained(tmp_path: Path) -> None:
    def change(document: Any) -> None:
        document["messages"] = [
            message
            for message in document["messages"]
            if message["payload"].get("Application-Name") != "call_pickup"
        ]

    assert any("call_pickup" in text for text in unexplained(spoiled(tmp_path, change)))


def test_another_result_is_not_explained(tmp_path: Path) -> None:
    def change(document: Any) -> None:
        document["outcome"][0]["outcome"] = "stop"

    assert any("/Result" in text for text in unexplained(spoiled(tmp_path, change)))


def test_a_call_picked_up_that_was_parked_before_we_looked_is_left_alone(tmp_path: Path) -> None:
    def change(document: Any) -> None:
        first = "ann@10.9.0.2"
        document["messages"] = [
            message for message in document["messages"] if message["payload"]["Call-ID"] != first
        ]

    result = spoiled(tmp_path, change)
    assert [one.call_id for one in result.unexplained if one.call_id.startswith("bob")] == []


def test_a_recording_without_outcomes_is_compared_by_what_the_wire_shows(tmp_path: Path) -> None:
    def change(document: Any) -> None:
        del document["outcome"]

    assert unexplained(spoiled(tmp_path, change)) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"messages": 1}', "nonsense"])
def test_what_is_no_recording_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(NotATraceError, match=r"x\.json"):
        read_recording(path)


# ---- executes out of routing --------------------------------------------------------------------


@needs_golden
@pytest.mark.parametrize("path", EXECUTES, ids=lambda path: path.stem)
def test_an_execute_is_derived_as_callflow_would_have_sent_it(path: Path) -> None:
    document = json.loads(path.read_text())
    wanted = document["payload"]
    store = wanted["Call"]["Key-Value-Store"]
    captured = "cf_capture_group" in store
    flow = {
        "id": store["cf_flow_id"],
        "numbers": [] if captured else [wanted["Call"]["Request-User"]],
        "patterns": [r"^\*5([0-9]*)$"],
        "flow": {
            "module": "park",
            "data": wanted["Data"],
            "children": {key: {} for key in store["action-exit-keys"]},
        },
    }
    flows = Callflows()
    add_document(flows, flow)
    flows.devices["user_parker"] = "deadbeef000000000000000000000001"
    routes = Routes(flows)

    def saw(payload: Any) -> Message | None:
        return routes.saw(Message(at_ms=1, exchange="targeted", key="", payload=payload))

    assert saw(document["route_req"]) is None
    response = {"Event-Name": "route_resp", "Node": APPS}
    response |= {name: wanted[name] for name in ("Call-ID", "Server-ID")}
    assert saw(response) is None
    derived = saw(document["route_win"])
    assert derived is not None
    assert derived.payload is not None
    ours, theirs = parse_execute(derived.payload), parse_execute(wanted)
    assert (ours.call, ours.call_id, ours.data) == (theirs.call, theirs.call_id, theirs.data)


def test_a_flow_is_found_by_its_number_before_any_pattern() -> None:
    flows = Callflows()
    park = {"module": "park", "data": {}, "children": {}}
    add_document(flows, {"data": [{"id": "p", "patterns": ["^(.*)$"], "flow": park}]})
    add_document(flows, [{"id": "n", "numbers": ["101"], "flow": park}, {"id": "x", "flow": 1}])
    add_document(flows, {"id": "m", "pvt_account_id": "b", "numbers": ["102"], "flow": park})
    by_number, by_pattern = flows.find("a", "101"), flows.find("a", "102")
    assert by_number is not None
    assert by_pattern is not None
    assert (by_number.flow.id, by_number.capture) == ("n", "")
    assert (by_pattern.flow.id, by_pattern.capture) == ("p", "102")
    assert flows.find("b", "102").flow.id == "m"  # type: ignore[union-attr]


def test_a_number_of_no_park_flow_is_nothing_to_us() -> None:
    result = shadow(FOLDER / "platform-not-parked.json", FOLDER / "callflows" / "stage.json")
    assert (result.calls, result.unknown) == (0, 1)


def test_the_recordings_name_nobody_real() -> None:
    text = "".join(path.read_text() for path in OWN)
    assert set(re.findall(r"\+1[0-9]{10}", text)) == {"+15550002001"}
