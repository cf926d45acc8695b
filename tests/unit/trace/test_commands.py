"""The commands as they are typed: exit codes and what they print."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.trace.platform_module import FOLDER
from tests.unit.trace.tape import Tape, changed, find, parked_and_retrieved
from worker.cli import main

FLOWS = str(FOLDER / "callflows" / "stage.json")


@pytest.fixture(scope="module")
def tape() -> Tape:
    return parked_and_retrieved()


def write(path: Path, rows: list[bytes]) -> str:
    path.write_bytes(b"\n".join(rows) + b"\n")
    return str(path)


def test_an_equal_trace_is_one_line_and_0(
    tape: Tape, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "t.jsonl", tape.rows(numbered=True))
    assert main(["replay", path]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1
    assert printed[0].startswith(f"{path}: equal (")


def test_a_different_trace_is_1_and_shows_both_sides(
    tape: Tape, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = changed(tape, find(tape, "PARK_PARKED"), Parking_Slot="102").lines[:-1]
    path = write(tmp_path / "t.jsonl", tape.rows(lines))
    assert main(["replay", path]) == 1
    printed = capsys.readouterr().out
    assert "different" in printed
    assert "PARK_PARKED for a" in printed
    row = next(line for line in printed.splitlines() if "/Parking-Slot" in line)
    assert row.split() == ["/Parking-Slot", "102", "101"]
    assert "trace at" in printed
    assert "replay at" in printed


def test_something_else_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", write(tmp_path / "x", [b"hello"])]) == 2
    assert main(["replay", str(tmp_path / "none")]) == 2
    assert main(["replay"]) == 2
    assert "not a kzpark trace" in capsys.readouterr().err


def test_one_different_trace_among_equal_ones_is_1(tape: Tape, tmp_path: Path) -> None:
    good = write(tmp_path / "good", tape.rows())
    index = find(tape, "hold")
    lines = [*tape.lines[:index], *tape.lines[index + 1 :]]
    bad = write(tmp_path / "bad", tape.rows(lines))
    assert main(["replay", good, bad, good]) == 1


def test_update_makes_it_equal(tape: Tape, tmp_path: Path) -> None:
    lines = changed(tape, find(tape, "hold"), Insert_At="tail").lines[:-1]
    path = write(tmp_path / "t.jsonl", tape.rows(lines))
    assert main(["replay", path]) == 1
    assert main(["replay", path, "--update"]) == 0
    assert main(["replay", path]) == 0


@pytest.mark.parametrize(
    "words",
    [
        ["--set", "lamp_expires_s"],
        ["--set", "lamp_expires_s=soon"],
        ["--set", "color=red"],
        ["--compat", "loose"],
        ["--tolerance", "0"],
    ],
)
def test_a_setting_that_is_none_is_2(tape: Tape, tmp_path: Path, words: list[str]) -> None:
    path = write(tmp_path / "t.jsonl", tape.rows())
    assert main(["replay", path, *words]) == 2


def test_a_setting_of_ones_own_wins(
    tape: Tape, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "t.jsonl", tape.rows())
    assert main(["replay", path, "--set", "lamp_expires_s=61"]) == 1
    assert "/Expires" in capsys.readouterr().out
    assert main(["replay", path, "--compat", "strict"]) == 1
    assert "/Publish-Usurp" in capsys.readouterr().out


def test_shadow_of_recordings_is_0_when_all_is_explained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    recording = str(FOLDER / "platform-retrieved-twice.json")
    assert main(["shadow", "--callflows", FLOWS, "--golden", recording]) == 0
    printed = capsys.readouterr().out
    assert "4 differences explained, 0 not explained" in printed
    assert "only Kazoo: PARK_RETRIEVED for ann@10.9.0.2  D18" in printed


def test_shadow_as_json_has_one_object_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    recording = str(FOLDER / "platform-retrieved-twice.json")
    words = ["shadow", "--callflows", FLOWS, "--format", "json", "--golden", recording]
    assert main(words) == 0
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["event"] for one in objects] == ["disagreement"] * 4 + ["summary"]
    assert objects[-1]["unexplained"] == 0
    assert {one["row"] for one in objects[:-1]} >= {"D18", "§4.9"}


def test_shadow_is_1_when_something_is_not_explained(tmp_path: Path) -> None:
    document = json.loads((FOLDER / "platform-parked-and-abandoned.json").read_text())
    document["messages"] = [
        message
        for message in document["messages"]
        if message["payload"].get("Application-Name") != "hold"
    ]
    path = tmp_path / "r.json"
    path.write_text(json.dumps(document))
    assert main(["shadow", "--callflows", FLOWS, "--golden", str(path)]) == 1


def test_shadow_of_what_is_no_recording_is_2(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("{}")
    assert main(["shadow", "--golden", str(path)]) == 2
    assert main(["shadow", "--callflows", str(tmp_path / "none.json"), "--golden", FLOWS]) == 2


@pytest.mark.parametrize("command", ["record", "replay", "shadow"])
def test_each_command_tells_what_it_does(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    assert "usage: kzpark" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["--seconds", "0"], ["--seconds", "x"], ["--max", "0"], ["--color"]]
)
def test_a_wrong_limit_of_a_recording_is_2(words: list[str]) -> None:
    assert main(["record", *words]) == 2


def test_recording_without_a_broker_is_3(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KZPARK_AMQP_URL", "amqp://guest:guest@127.0.0.1:1/")
    assert main(["record", "--out", str(tmp_path / "t"), "--seconds", "1"]) == 3
    assert main(["shadow", "--callflows", FLOWS, "--seconds", "1"]) == 3
    assert "cannot reach the broker" in capsys.readouterr().err


def test_recording_into_nowhere_is_2(tmp_path: Path) -> None:
    assert main(["record", "--out", str(tmp_path / "no" / "t"), "--seconds", "1"]) == 2
