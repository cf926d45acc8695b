"""``kzpark demo``: parking played with simulated phones, every step checked."""

from __future__ import annotations

from worker.demo.hosting import StartWorker, in_process
from worker.demo.play import run_demo

__all__ = ["StartWorker", "in_process", "run_demo"]
