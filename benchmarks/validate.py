"""`kzpark validate` over generated callflows: nodes per second on one core, and peak memory.

Run: python -m benchmarks.validate [--flows 10000] [--json]

Every measurement runs in a process of its own; memory is its peak resident size, shown for a
tenth of the files and for all of them: equal figures mean constant memory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WANTED_NODES_PER_S = 2000
SEED = 20
_MODULES = ("menu", "voicemail", "user", "device", "ring_group", "play", "tts", "callflow")


def main() -> int:
    """Print the figures; 1 when fewer than 2,000 nodes are checked per second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flows", type=int, default=10_000)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--measure", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return 0
    figures = {kind: both_sizes(options.flows, kind) for kind in ("clean", "faulty")}
    if options.json:
        print(json.dumps(figures))
    else:
        show(figures)
    slowest = min(row["all"]["nodes_per_s"] for row in figures.values())
    return 0 if slowest >= WANTED_NODES_PER_S else 1


def both_sizes(flows: int, kind: str) -> dict[str, dict[str, Any]]:
    """Figures for a tenth of the files and for all of them."""
    with tempfile.TemporaryDirectory(prefix="kzpark-validate-") as folder:
        write_flows(Path(folder), flows, faulty=kind == "faulty")
        tenth = os.path.join(folder, "0")
        return {"tenth": in_own_process(tenth), "all": in_own_process(folder)}


def in_own_process(folder: str) -> dict[str, Any]:
    """The figures of one run in a fresh interpreter."""
    command = [sys.executable, "-m", "benchmarks.validate", "--measure", folder]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def measure(folder: str) -> dict[str, Any]:
    """Check a folder in this process; the report goes to /dev/null."""
    from worker.lint.check import Run
    from worker.lint.cli import run_validate

    Run().check_bytes("warm-up", b'{"module": "park"}')
    resident = peak_kib()
    began, began_cpu = time.perf_counter(), time.process_time()
    with open(os.devnull, "w", encoding="utf-8") as null, tempfile.TemporaryFile("w+") as summary:
        code = run_validate([folder], format="json", stdin=sys.stdin, stdout=null, stderr=summary)
        elapsed, cpu = time.perf_counter() - began, time.process_time() - began_cpu
        summary.seek(0)
        words = summary.read().split()
    nodes = int(words[words.index("files:") + 1])
    return {
        "exit": code,
        "findings": int(words[0]),
        "nodes": nodes,
        "nodes_per_s": round(nodes / cpu),
        "seconds": round(elapsed, 3),
        "peak_mib": round(peak_kib() / 1024, 1),
        "grown_mib": round((peak_kib() - resident) / 1024, 1),
    }


def peak_kib() -> int:
    """Peak resident size of this process in KiB (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def write_flows(folder: Path, flows: int, *, faulty: bool) -> None:
    """One file a flow, in ten sub-folders, the same for the same arguments."""
    dice = random.Random(SEED)
    for part in range(10):
        (folder / str(part)).mkdir()
    for number in range(flows):
        text = json.dumps(callflow(dice, number, faulty=faulty), indent=2)
        (folder / str(number * 10 // flows) / f"flow-{number:06}.json").write_text(text)


def callflow(dice: random.Random, number: int, *, faulty: bool) -> dict[str, Any]:
    """A callflow document: half begin with a park node, half have one below a menu."""
    root = park(dice, faulty=faulty)
    if number % 2:
        below = {str(key): other(dice) for key in range(dice.randint(1, 4))}
        root = {**other(dice), "children": {**below, "9": root}}
    return {
        "id": f"{number:032x}",
        "numbers": [str(4000 + number)],
        "patterns": ["^\\*3([0-9]*)$"],
        "flow": root,
        "metadata": {},
    }


def park(dice: random.Random, *, faulty: bool) -> dict[str, Any]:
    """A park node with some slots; ``faulty``: with several findings."""
    slots = {
        str(101 + slot): {"ringback_timeout": 1000 * dice.randint(5, 90), "presence_type": "early"}
        for slot in range(dice.randint(0, 8))
    }
    data: dict[str, Any] = {
        "action": dice.choice(["auto", "park", "retrieve"]),
        "default_ringback_timeout": 120000,
        "default_callback_timeout": 30 if faulty else 30000,
        "slots": slots,
    }
    if faulty:
        data["default_presence"] = dice.choice(["early", "busy"])
        slots["101"] = {"default_ringback_timeout": "ten"}
    children = {"_": other(dice), **{slot: other(dice) for slot in list(slots)[:2]}}
    return {"module": "park", "data": data, "children": children}


def other(dice: random.Random) -> dict[str, Any]:
    """A node of another module."""
    data = {"id": f"{dice.getrandbits(128):032x}", "timeout": dice.randint(1, 60)}
    return {"module": dice.choice(_MODULES), "data": data, "children": {}}


def show(figures: dict[str, dict[str, dict[str, Any]]]) -> None:
    """The figures as a table."""
    print(f"{'files':<14}{'nodes':>8}{'findings':>10}{'nodes/s':>10}{'peak MiB':>10}{'grown':>8}")
    for kind, sizes in figures.items():
        for size, row in sizes.items():
            print(
                f"{kind + ', ' + size:<14}{row['nodes']:>8}{row['findings']:>10}"
                f"{row['nodes_per_s']:>10}{row['peak_mib']:>10}{row['grown_mib']:>8}"
            )


if __name__ == "__main__":
    sys.exit(main())
