"""How long a lamp takes: dialog update published → NOTIFY at the phone, through the real Kamailio.

    python -m benchmarks.lamps [--amqp URL] [--count N]

Prints one JSON object; times in milliseconds. Everything runs on this machine, publisher and phone
in one process. Needs Kamailio (tests/lamps/packages.sh) and a RabbitMQ on loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import sys
import time
from collections.abc import Sequence

from tests.lamps.phone import Phone
from tests.lamps.publisher import Publisher, an_entry
from tests.lamps.rig import Kamailio, RigError
from worker.parking.model import PresenceType

REALM = "lamps.example.com"
DEFAULT_URL = "amqp://guest:guest@127.0.0.1:5672/%2F"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds."""
    return {
        "p50": round(percentile(seconds, 0.50) * 1000, 2),
        "p99": round(percentile(seconds, 0.99) * 1000, 2),
        "max": round(max(seconds) * 1000, 2),
    }


async def one_at_a_time(phone: Phone, publisher: Publisher, count: int) -> list[float]:
    """Light and darken one lamp ``count`` times; seconds from publish to NOTIFY."""
    slot = f"*3101@{REALM}"
    await phone.subscribe(slot)
    took_s = []
    for number in range(count):
        entry = an_entry("*3101", REALM, f"call-{number}")
        started_s = time.monotonic()
        await publisher.say(entry)
        lit = await phone.wait_lit(slot, entry.call_id)
        took_s.append(lit.at_s - started_s)
        started_s = time.monotonic()
        await publisher.say(entry, PresenceType.TERMINATED, 10)
        dark = await phone.wait_dark(slot)
        took_s.append(dark.at_s - started_s)
    return took_s


async def all_at_once(phone: Phone, publisher: Publisher, slots: int) -> tuple[float, int]:
    """Light many lamps back to back; seconds until the last is lit, and how many are not."""
    names = [f"*3{number}" for number in range(201, 201 + slots)]
    for name in names:
        await phone.subscribe(f"{name}@{REALM}")
    started_s = time.monotonic()
    for name in names:
        await publisher.say(an_entry(name, REALM, f"burst-{name[1:]}"))
    await phone.settle(0.5)
    lit = [phone.last(f"{name}@{REALM}") for name in names]
    last_s = max((one.at_s for one in lit if one is not None), default=started_s)
    return last_s - started_s, sum(one is None or not one.lit for one in lit)


async def measure(url: str, count: int, slots: int) -> dict[str, object]:
    async with Kamailio(url) as kamailio, Phone(kamailio.sip_port) as phone, Publisher(url) as peer:
        await one_at_a_time(phone, peer, 10)
        took_s = await one_at_a_time(phone, peer, count // 2)
        burst_s, dark = await all_at_once(phone, peer, slots)
    return {
        "benchmark": "lamps",
        "updates": len(took_s),
        "publish_to_notify_ms": summary(took_s),
        "burst_lamps": slots,
        "burst_ms": round(burst_s * 1000, 1),
        "burst_not_lit": dark,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--amqp", default=os.environ.get("KZPARK_AMQP_URL", DEFAULT_URL))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--slots", type=int, default=200)
    arguments = parser.parse_args()
    try:
        result = asyncio.run(measure(arguments.amqp, arguments.count, arguments.slots))
    except (RigError, OSError) as error:
        print(f"lamps: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
