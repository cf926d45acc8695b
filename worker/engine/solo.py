"""An engine that is alone with its log: what it appends is decided at once.

For replay, shadow mode and tests: the whole worker under a virtual clock, without a broker.
"""

from __future__ import annotations

import orjson

from worker.engine.config import EngineConfig
from worker.engine.engine import Engine
from worker.engine.ops import Append, Bind, Op
from worker.parking.records import Join, Record, Settled
from worker.parking.slots import SlotTable


class Solo:
    """Engine, table and log in one. ``ops`` collects what the shell of a real worker would do."""

    def __init__(self, config: EngineConfig) -> None:
        self.table = SlotTable(loads=orjson.loads)
        self.engine = Engine(config, self.table)
        self.ops: list[Op] = []
        self.records: list[Record] = []
        self._offset = -1
        at_ms = config.started_at_ms
        self._append(Join(author=config.worker, at_ms=at_ms), at_ms)
        self._append(Settled(author=config.worker, at_ms=at_ms), at_ms)

    def _append(self, record: Record, now_ms: int) -> None:
        self._offset += 1
        self.records.append(record)
        self.engine.applied(self.table.apply(self._offset, record), now_ms)

    def run(self, now_ms: int) -> list[Op]:
        """Carry the engine's operations out until it has no more; returns those for the world."""
        done: list[Op] = []
        while ops := self.engine.take_ops():
            for op in ops:
                match op:
                    case Append():
                        self._append(op.record, now_ms)
                    case Bind():
                        self.engine.bound(op.call_id, now_ms)
                        done.append(op)
                    case _:
                        done.append(op)
        self.ops += done
        return done

    def advance(self, until_ms: int) -> list[tuple[int, Op]]:
        """Let time pass, deadline by deadline; returns what was done when."""
        happened: list[tuple[int, Op]] = []
        while (deadline_ms := self.engine.next_deadline_ms()) is not None and (
            deadline_ms <= until_ms
        ):
            self.engine.tick(deadline_ms)
            happened += [(deadline_ms, op) for op in self.run(deadline_ms)]
        return happened
