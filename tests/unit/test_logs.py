"""worker.ops.logs: one line per event, whatever it is given."""

from __future__ import annotations

import io
import json
import logging
import threading
import warnings
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.ops.logs import LEVELS, MAX_GATHERED, MAX_TEXT, Log, configure, log, stack, wants


def written(event: str, *, threshold: str = "info", shape: str = "json", **fields: object) -> str:
    stream = io.StringIO()
    sink = Log(level=threshold, shape=shape, stream=stream, now_s=lambda: 1_700_000_000.25)
    sink.write(event, "info", fields)
    return stream.getvalue()


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = root.level
    stream = io.StringIO()
    configure(stream=stream)
    yield stream
    configure()
    root.setLevel(before)
    logging.captureWarnings(False)


def test_a_line_is_one_json_object_with_the_call_id_before_the_other_fields() -> None:
    line = written("parked", slot="101", call_id="a@b", at_ms=5)
    assert line == (
        '{"event":"parked","at":"2023-11-14T22:13:20.250Z","level":"info",'
        '"call_id":"a@b","slot":"101","at_ms":5}\n'
    )


def test_a_text_line_is_for_people() -> None:
    line = written("parked", shape="text", call_id="a@b", reason="no answer", rounds=[1, 2])
    assert line == (
        '2023-11-14T22:13:20.250Z INFO    parked call_id=a@b reason="no answer" rounds=[1,2]\n'
    )


def test_who_called_whom_is_written_at_debug_only() -> None:
    assert "Ann" not in written("parked", caller_name="Ann", slot="101")
    assert "Ann" in written("parked", threshold="debug", caller_name="Ann")


def test_gathered_lines_share_a_write_and_a_warning_waits_for_nobody() -> None:
    stream = io.StringIO()
    sink = Log(stream=stream)
    later: list[Callable[[], None]] = []
    sink.gather(later.append)
    sink.write("one", "info", {})
    sink.write("two", "info", {})
    assert stream.getvalue() == ""
    assert len(later) == 1
    later.pop()()
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["one", "two"]
    sink.write("three", "info", {})
    sink.write("four", "warning", {})
    assert len(stream.getvalue().splitlines()) == 4
    sink.write("five", "info", {})
    sink.gather(None)
    sink.write("six", "info", {})
    events = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert events == ["one", "two", "three", "four", "five", "six"]


def test_gathered_lines_are_bounded_and_those_of_other_threads_do_not_wait() -> None:
    stream = io.StringIO()
    sink = Log(stream=stream)
    sink.gather(lambda _flush: None)
    for number in range(MAX_GATHERED):
        sink.write("line", "info", {"number": number})
    assert len(stream.getvalue().splitlines()) == MAX_GATHERED
    thread = threading.Thread(target=sink.write, args=("other", "info", {}))
    thread.start()
    thread.join()
    assert stream.getvalue().splitlines()[-1].startswith('{"event":"other"')


def test_an_event_below_the_level_is_not_written() -> None:
    assert written("parked", threshold="warning") == ""
    assert not Log(level="warning").wants("info")


def test_an_exception_is_its_type_and_text() -> None:
    assert json.loads(written("crash", error=KeyError("x")))["error"] == "KeyError: 'x'"


def test_a_field_may_not_replace_the_events_own() -> None:
    assert json.loads(written("parked", at="never"))["at"].startswith("2023-")


def test_a_long_text_is_cut() -> None:
    text = json.loads(written("refused", body=b"x" * 1_000_000))["body"]
    assert MAX_TEXT < len(text) < MAX_TEXT + 40


def test_a_text_line_stays_one_line() -> None:
    assert written("refused", shape="text", reason="a\nb\x1b[31m").count("\n") == 1


class Odd:
    def __str__(self) -> str:
        raise RuntimeError("no text")


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.builds(Odd),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(st.text(st.characters()), values, max_size=4), st.sampled_from(["json", "text"])
)
def test_any_fields_give_exactly_one_line(fields: dict[str, object], shape: str) -> None:
    stream = io.StringIO()
    Log(shape=shape, stream=stream).write("odd", "info", fields)
    line = stream.getvalue()
    assert line.endswith("\n")
    assert line.count("\n") == 1
    if shape == "json":
        assert json.loads(line)["event"] == "odd"


def test_a_closed_stream_is_survived() -> None:
    stream = io.StringIO()
    stream.close()
    Log(stream=stream).write("parked", "info", {})


def test_log_writes_where_it_was_told_to(stream: io.StringIO) -> None:
    log("ready", queue="work")
    log("detail", level="debug")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["ready"]
    assert wants("info")
    assert not wants("debug")


def test_what_libraries_log_comes_out_as_a_line_of_ours(stream: io.StringIO) -> None:
    logger = logging.getLogger("asyncio")
    logger.info("reconnecting")
    try:
        raise OSError("gone")
    except OSError:
        logger.exception("lost %s", "link")
    (first,) = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["event"], first["level"], first["message"]) == ("library", "error", "lost link")
    assert first["error"] == "OSError: gone"
    assert "Traceback" in first["stack"]


def test_a_library_that_logs_wrongly_is_survived(stream: io.StringIO) -> None:
    record = logging.LogRecord("lib", logging.WARNING, "x.py", 1, "%d items", ("x",), None)
    for handler in logging.getLogger().handlers:
        if type(handler).__module__ == "worker.ops.logs":
            handler.emit(record)
    assert json.loads(stream.getvalue())["message"].startswith("%d items (")


def test_configuring_twice_does_not_write_twice(stream: io.StringIO) -> None:
    configure(stream=stream)
    logging.getLogger("asyncio").error("once")
    assert stream.getvalue().count("\n") == 1


def test_a_python_warning_becomes_a_line(stream: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        configure(stream=stream)
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)
    logging.captureWarnings(False)
    assert "old thing" in json.loads(stream.getvalue())["message"]


def test_the_end_of_a_long_stack_is_kept() -> None:
    try:
        raise ValueError("x" * 10 * MAX_TEXT + "end")
    except ValueError as error:
        text = stack(error)
    assert text.endswith("end\n")
    assert len(text) == MAX_TEXT


def test_the_levels_are_those_of_the_settings() -> None:
    from worker.options import LOG_LEVELS

    assert tuple(LEVELS) == LOG_LEVELS
