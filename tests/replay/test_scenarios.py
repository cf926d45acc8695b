"""Every file of ``fixtures/scenarios`` and ``fixtures/quirks`` is played on a whole worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.replay.scenario import Play, Player, files, load, name_of, plays

FILES = files()
PLAYS = [
    pytest.param(
        play,
        id=play.id,
        marks=[pytest.mark.xfail(reason=play.xfail)] if play.xfail else [],
    )
    for path in FILES
    for play in plays(path)
]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_file_obeys_the_scenario_schema(path: Path) -> None:
    load(path)


@pytest.mark.parametrize("play", PLAYS)
def test_scenario(play: Play) -> None:
    Player(play).run()


@pytest.mark.parametrize("play", PLAYS)
def test_scenario_twice_is_the_same_to_the_byte(play: Play) -> None:
    first, second = Player(play), Player(play)
    first.run()
    second.run()
    assert first.stage.solo.ops == second.stage.solo.ops
    assert first.stage.solo.records == second.stage.solo.records
