from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.lint import check
from worker.lint.cli import FORMATS, run_validate

BAD = '{"module": "park", "data": {"default_callback_timeout": 30}}'
GOOD = '{"module": "park", "data": {"default_callback_timeout": 30000}}'


def validate(*paths: str | Path, format: str = "text", stdin: bytes = b"") -> tuple[int, str, str]:
    out, errors = io.StringIO(), io.StringIO()
    code = run_validate(
        [str(path) for path in paths],
        format=format,
        stdin=io.BytesIO(stdin),
        stdout=out,
        stderr=errors,
    )
    return code, out.getvalue(), errors.getvalue()


def files_of(*paths: str | Path) -> list[str]:
    return [Path(row["file"]).name for row in json.loads(validate(*paths, format="json")[1])]


def test_clean_is_0(tmp_path: Path) -> None:
    file = tmp_path / "good.json"
    file.write_text(GOOD)
    assert validate(file) == (0, "", "0 findings in 1 file: 1 node, 1 park node\n")


def test_findings_are_1_and_say_where_and_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "bad.json"
    file.write_text(BAD)
    code, out, _ = validate(file)
    assert code == 1
    where, what = out.splitlines()
    assert where.startswith(f"{file}:1:57: timeout-in-seconds ")
    assert what == "    Write milliseconds: multiply by 1000."


def test_a_path_that_does_not_exist_is_2_and_nothing_is_checked(tmp_path: Path) -> None:
    file = tmp_path / "bad.json"
    file.write_text(BAD)
    code, out, errors = validate(file, tmp_path / "missing.json", "nul\0")
    assert (code, out) == (2, "")
    assert "missing.json" in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(("paths", "form"), [([], "text"), (["-"], "xml")])
def test_other_wrong_usage_is_2(paths: list[str], form: str) -> None:
    code, out, errors = validate(*paths, format=form)
    assert (code, out) == (2, "")
    assert errors.startswith("kzpark validate: ")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("text", "code"), [(GOOD, 0), (BAD, 1), ("{", 1), ("", 1)])
def test_standard_input_in_every_format(form: str, text: str, code: int) -> None:
    found, out, _ = validate("-", format=form, stdin=text.encode())
    assert found == code
    if form in {"json", "sarif"}:
        json.loads(out)
    assert ("stdin" in out) is (code == 1)


def test_standard_input_may_be_text() -> None:
    out = io.StringIO()
    assert run_validate(["-"], stdin=io.StringIO(BAD), stdout=out, stderr=io.StringIO()) == 1
    assert out.getvalue().startswith("<stdin>:1:57: ")


def test_folders_are_read_to_the_bottom_in_order(tmp_path: Path) -> None:
    deep = tmp_path / "b" / "c"
    deep.mkdir(parents=True)
    for file in (tmp_path / "z.json", tmp_path / "a.JSON", deep / "m.json", tmp_path / "n.txt"):
        file.write_text(BAD)
    (tmp_path / "folder.json").mkdir()
    assert files_of(tmp_path) == ["a.JSON", "z.json", "m.json"]


def test_a_file_named_by_itself_needs_no_suffix(tmp_path: Path) -> None:
    file = tmp_path / "flow.txt"
    file.write_text(BAD)
    assert files_of(file) == ["flow.txt"]


def test_a_file_named_twice_is_checked_once(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"numbers": ["1"], "flow": {"module": "park", "data": {"slot": "101"}}}')
    assert validate(file, tmp_path, file)[0] == 0


def test_a_slot_shared_by_two_files_names_the_first(tmp_path: Path) -> None:
    for name in ("a", "b"):
        flow = {"numbers": [name], "flow": {"module": "park", "data": {"slot": "101"}}}
        (tmp_path / f"{name}.json").write_text(json.dumps(flow))
    code, out, _ = validate(tmp_path)
    assert code == 1
    assert out.startswith(f"{tmp_path / 'b.json'}:1:")
    assert f"{tmp_path / 'a.json'}:1:" in out


def test_an_empty_folder_is_clean(tmp_path: Path) -> None:
    assert validate(tmp_path)[0] == 0


def test_what_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "dangling.json").symlink_to(tmp_path / "nowhere")
    code, out, _ = validate(tmp_path)
    assert code == 1
    assert "dangling.json:1:1: invalid-json the file cannot be read: No such file" in out


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_in_a_folder_are_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    assert validate(tmp_path)[0] == 0


def test_a_file_too_large_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "MAX_FILE_BYTES", 10)
    file = tmp_path / "large.json"
    file.write_text(GOOD)
    code, out, _ = validate(file)
    assert code == 1
    assert "the file is larger than 32 MiB" in out


def test_other_json_is_left_alone_and_counted(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"name": "x", "version": "1"}')
    assert validate(tmp_path) == (
        0,
        "",
        "0 findings in 1 file: 0 nodes, 0 park nodes, 1 file without callflows\n",
    )


def test_as_a_command(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(BAD)
    done = subprocess.run(
        [sys.executable, "-m", "worker.lint", "--format", "json", str(tmp_path), "-"],
        input=BAD,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert [row["pointer"] for row in json.loads(done.stdout)] == [
        "/data/default_callback_timeout"
    ] * 2


# ---- any input ----------------------------------------------------------------------------------

WORDS = [
    "flow", "numbers", "patterns", "module", "park", "menu", "data", "children", "_", "slots",
    "101", "vip", "slot", "action", "auto", "direct_park", "default_ringback_timeout",
    "ringback_timeout", "presence_type", "terminated", "max_slot_number", "remote_execution",
    "MAX_SLOT_EXCEEDED", "custom_presence_id", "^\\*3([0-9]*)$", "(", "id", "pvt_account_id", "",
]  # fmt: skip
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(WORDS)
    | st.text(max_size=4)
)
documents = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=3), inner, max_size=5)
        | st.fixed_dictionaries(
            {"module": st.just("park"), "data": inner},
            optional={"children": inner, "remote_execution": inner},
        )
        | st.fixed_dictionaries({"flow": inner, "patterns": inner, "numbers": inner})
    ),
    max_leaves=30,
)


def assert_sound(raw: bytes, form: str) -> None:
    code, out, errors = validate("-", format=form, stdin=raw)
    assert code in {0, 1}
    assert "Traceback" not in out + errors
    if form == "json":
        rows: list[dict[str, Any]] = json.loads(out)
        assert bool(rows) is (code == 1)
        for row in rows:
            assert row["line"] >= 1
            assert row["column"] >= 1


@given(st.binary(), st.sampled_from(FORMATS))
def test_any_bytes_give_0_or_1(raw: bytes, form: str) -> None:
    assert_sound(raw, form)


@settings(max_examples=400)
@given(documents, st.sampled_from(FORMATS))
def test_any_document_gives_0_or_1(document: object, form: str) -> None:
    assert_sound(json.dumps(document).encode(), form)


@given(documents, st.data())
def test_any_damaged_document_gives_0_or_1(document: object, data: st.DataObject) -> None:
    raw = bytearray(json.dumps(document).encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    assert_sound(bytes(raw), "json")


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 200_000,
        b'{"flow":' * 200_000,
        b'{"module":"park","data":' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"module":"park","data":{"action":' + b'{"a":' * 500 + b"1" + b"}" * 502,
        b'{"module":"park","data":{"slots":{"1":{"x":' + b"[" * 505 + b"]" * 505 + b"}}}}",
        b'{"slot":' + b"9" * 100_000 + b"}",
        b'{"max_slot_number":"' + b"9" * 100_000 + b'","slot":"' + b"9" * 100_000 + b'"}',
        b'{"' + b"a" * 1_000_000 + b'":1,"slot":"1"}',
        b'{"slot":"' + b"\\n" * 200_000 + b'"}',
        b"\xff\xfe{\x00}\x00",
        b'{"action":"\\ud800"}',
        b'{"default_ringback_timeout":1e999,"max_slot_number":-1e999}',
        b'{"patterns":["' + b"(" * 9_000 + b'"],"flow":{"module":"park","data":{"slots":{"":{}}}}}',
        b'{"patterns":["^(a*a*a*)*$"],"flow":{"module":"park","data":{"slots":{"'
        + b"a" * 128
        + b'b":{}}}}}',
    ],
    ids=range(14),
)  # fmt: skip
def test_hostile_files_give_0_or_1(raw: bytes) -> None:
    for form in FORMATS:
        assert_sound(raw, form)
