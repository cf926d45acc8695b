"""``python -m tests.simulation SEED [COUNT]``: play seeds; a failing one tells its story."""

from __future__ import annotations

import sys
import time

from tests.simulation.zone import Zone


def main(first: int, count: int) -> int:
    failed = 0
    for seed in range(first, first + count):
        zone = Zone(seed)
        started = time.perf_counter()
        violations = zone.play()
        took_s = time.perf_counter() - started
        print(f"seed {seed}: {took_s:.2f} s {zone.counts} {len(violations)} violations")
        for violation in violations[:3]:
            print("   ", violation)
        if violations and count == 1:
            print(zone.weather)
            print(zone.story.told(violations[0]))
        failed += bool(violations)
    print(f"{failed} of {count} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    arguments = [int(text) for text in sys.argv[1:]]
    sys.exit(main(arguments[0], arguments[1] if len(arguments) > 1 else 1))
