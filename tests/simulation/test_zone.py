"""Many zones, each from a seed: whatever breaks, no caller is lost and no slot is doubled.

``KZTEST_SEEDS=2000`` plays more of them, ``KZTEST_SEED=17`` begins with that one. To read one run's
story: ``python -m tests.simulation 17``.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.zone import Zone

FIRST = int(os.environ.get("KZTEST_SEED", "1"))
COUNT = int(os.environ.get("KZTEST_SEEDS", "1" if "KZTEST_SEED" in os.environ else "120"))


@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
def test_a_zone_keeps_its_rules(seed: int) -> None:
    zone = Zone(seed)
    violations = zone.play()
    if violations:
        told = "\n".join(str(violation) for violation in violations)
        pytest.fail(f"seed {seed}\n{told}\n{zone.weather}\n{zone.story.told(violations[0])}")


def test_a_seed_plays_the_same_again() -> None:
    first, second = Zone(FIRST + 4), Zone(FIRST + 4)
    assert first.play() == second.play()
    assert [str(line) for line in first.story.lines] == [str(line) for line in second.story.lines]
