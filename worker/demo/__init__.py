"""``kzpark demo``: parking played with simulated phones, every step checked."""

from __future__ import annotations

from worker.demo.play import StartWorker, run_demo

__all__ = ["StartWorker", "run_demo"]
