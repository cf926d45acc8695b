"""The exact journal: replayed to the byte, in pieces, and never in the worker's way."""

from __future__ import annotations

import base64
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.solo import BLIND, World, attended, make_config
from worker.engine import solo
from worker.engine.config import EngineConfig
from worker.parking.slots import SlotTable
from worker.trace.checkpoint import CheckpointError, load_engine, save_engine
from worker.trace.journal import Journal, JournaledEngine, JournaledTable
from worker.trace.journal_replay import JournalReplay, replay_journal
from worker.trace.lines import NotATraceError, read_trace
from worker.trace.update import update_journal

ROOT = Path(__file__).parents[3]


class Kept:
    """What the journal complains of."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def __call__(self, event: str, _level: str, fields: dict[str, object]) -> None:
        self.said.append(f"{event}: {fields.get('reason')}")


@contextmanager
def journaled(
    path: Path, monkeypatch: pytest.MonkeyPatch, **limits: Any
) -> Iterator[tuple[Callable[[], World], Kept]]:
    """Worlds whose engine keeps a journal; closed at the end."""
    kept = Kept()
    journals: list[Journal] = []

    def engine(config: EngineConfig, table: JournaledTable) -> JournaledEngine:
        journal = Journal(path, config, write_log=kept, **limits)
        journals.append(journal)
        table.journal = journal
        return JournaledEngine(config, table, journal)

    monkeypatch.setattr(solo, "Engine", engine)
    monkeypatch.setattr(solo, "SlotTable", JournaledTable)
    yield World, kept
    for journal in journals:
        journal.close()


def episode(world: World, rounds: int = 6) -> None:
    """Much of what can happen."""
    for n in range(rounds):
        slot = str(101 + n)
        world.execute(f"a{n}", capture=slot, restricted="device-1", **BLIND)
        world.wait(700)
        world.execute(f"v{n}", capture=f"9{slot}")
        world.completed("answer", f"v{n}")
        world.execute(f"x{n}", capture=f"9{slot}", **attended(f"v{n}"))
        world.wait(500)
        fetch: dict[str, Any] = {"Custom_Channel_Vars": {"Fetch-ID": f"fetch-a{n}"}}
        world.event("CHANNEL_REPLACED", f"a{n}", Replaced_By=f"n{n}", **fetch)
        world.execute(f"b{n}", capture=slot, data={"action": "auto"})
        world.wait(300)
        world.bridge(f"b{n}", f"n{n}")
        world.message({"Event-Name": "odd"}, "targeted")
        world.deliver(b"not json")
        world.wait(1_000)
        if n % 2:
            world.destroy(f"x{n}")
    world.wait(130_000)


def same(run: JournalReplay) -> None:
    assert [str(one) for one in run.differences] == []


def test_a_journal_replays_to_the_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    with journaled(path, monkeypatch) as (world, kept):
        episode(world())
    run = replay_journal(read_trace(path))
    same(run)
    assert len(run.recorded) == len(run.replayed) > 200
    assert run.skipped_inputs == 0
    assert kept.said == []
    assert path.stat().st_mode & 0o777 == 0o600


def test_every_piece_of_a_full_journal_replays_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    with journaled(path, monkeypatch, piece_bytes=60_000, pieces=3) as (world, _):
        episode(world(), 12)
    pieces = sorted(tmp_path.iterdir())
    assert [piece.name for piece in pieces] == [
        "journal.jsonl",
        "journal.jsonl.1",
        "journal.jsonl.2",
    ]
    for piece in pieces:
        run = replay_journal(read_trace(piece))
        same(run)
        assert run.inputs > 20
    assert all(len(replay_journal(read_trace(piece)).recorded) > 20 for piece in pieces[1:])


def test_another_process_with_another_hash_seed_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    with journaled(path, monkeypatch) as (world, _):
        episode(world(), 3)
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "worker", "replay", str(path)],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        assert "equal to the byte" in done.stdout


def edited(path: Path, change: Callable[[dict[str, Any]], bool]) -> None:
    """Change the first line for which ``change`` says that it did; None of it may be left out."""
    rows = [json.loads(row) for row in path.read_bytes().splitlines()]
    assert any(change(row) for row in rows)
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")


def test_a_changed_operation_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    with journaled(path, monkeypatch) as (world, _):
        episode(world(), 2)

    def change(row: dict[str, Any]) -> bool:
        payload = row.get("payload", {})
        if row["kind"] != "op" or payload.get("Application-Name") != "hold":
            return False
        payload["Insert-At"] = "tail"
        return True

    edited(path, change)
    [one] = replay_journal(read_trace(path)).differences
    assert "publish hold after" in str(one)
    assert "/payload/Insert-At" in str(one)


def test_a_lost_input_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    with journaled(path, monkeypatch) as (world, _):
        episode(world(), 2)
    rows = path.read_bytes().splitlines()
    lost = next(n for n, row in enumerate(rows) if b'"call":"execute"' in row)
    path.write_bytes(b"\n".join([*rows[:lost], *rows[lost + 1 :]]))
    assert replay_journal(read_trace(path)).differences


def test_update_puts_in_what_replay_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    with journaled(path, monkeypatch) as (world, _):
        episode(world(), 2)
    rows = path.read_bytes().splitlines()
    ops = [n for n, row in enumerate(rows) if b'"kind":"op"' in row]
    path.write_bytes(b"\n".join([*rows[: ops[5]], *rows[ops[5] + 1 :]]))
    run = replay_journal(read_trace(path))
    assert run.differences
    update_journal(path, run)
    same(replay_journal(read_trace(path)))


def test_a_journal_cut_off_in_the_middle_is_equal_up_to_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    with journaled(path, monkeypatch) as (world, _):
        episode(world(), 2)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    same(replay_journal(read_trace(path)))


# ---- never in the way ---------------------------------------------------------------------------


def test_a_file_that_cannot_be_written_costs_nothing_but_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with journaled(tmp_path / "no" / "folder" / "j", monkeypatch) as (world, kept):
        one = world()
        episode(one, 2)
    assert one.words("a0")[0] == "accepted"
    assert kept.said
    assert all(said.startswith("journal failed: ") for said in kept.said)


def test_a_disk_that_hangs_costs_nothing_but_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    go_on = threading.Event()
    opened = Journal._new_piece

    def slow(self: Journal) -> Any:
        go_on.wait(10)
        return opened(self)

    monkeypatch.setattr(Journal, "_new_piece", slow)
    monkeypatch.setattr("worker.trace.journal.QUEUED_MAX", 50)
    with journaled(path, monkeypatch) as (world, kept):
        one = world()
        episode(one, 2)
        assert one.words("a0")[0] == "accepted"
        assert kept.said == ["journal interrupted: the disk is too slow"]
        go_on.set()
    # What was written before the hole is whole.
    same(replay_journal(read_trace(path)))


# ---- the state at the beginning -----------------------------------------------------------------


def test_a_state_that_names_foreign_code_is_refused() -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("echo boom",)

    config = make_config()
    for bomb in (pickle.dumps({"x": Bomb()}), pickle.dumps({"x": subprocess.run}), b"junk"):
        with pytest.raises(CheckpointError):
            load_engine(bomb, config, SlotTable(loads=json.loads))


def test_a_state_may_not_name_methods_of_the_interpreter() -> None:
    world = World()
    state = save_engine(world.solo.engine)
    assert load_engine(state, make_config(), SlotTable(loads=json.loads)).sessions == 0

    class Sneaky(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return ("method", "text", "__class__") if value == "x" else None

    import io

    file = io.BytesIO()
    Sneaky(file, 4).dump({"y": "x"})
    with pytest.raises(CheckpointError):
        load_engine(file.getvalue(), make_config(), SlotTable(loads=json.loads))


@pytest.mark.parametrize("state", ["", "AAAA", base64.b64encode(pickle.dumps([1])).decode()])
def test_a_journal_whose_state_is_of_no_use_is_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    path = tmp_path / "journal.jsonl"
    with journaled(path, monkeypatch) as (world, _):
        world()

    def change(row: dict[str, Any]) -> bool:
        if row["kind"] == "state":
            row["engine_base64"] = state
        return bool(row["kind"] == "state")

    edited(path, change)
    with pytest.raises(NotATraceError):
        replay_journal(read_trace(path))
