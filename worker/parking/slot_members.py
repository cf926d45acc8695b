"""Who is alive, who has gone, whose turn it is: the slot table's view of the workers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

from worker.parking.model import SessionId, WorkerId
from worker.parking.records import Record
from worker.parking.slot_rows import WorkerRow

REMEMBERED_GONE = 1024
REMEMBERED_AUTHORS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The last record of an author that was taken in turn."""

    epoch: int
    seq: int


def heir(session: SessionId, live: Mapping[WorkerId, object]) -> WorkerId | None:
    """The worker a session is dealt to: rendezvous hashing, so each replica finds the same one and
    a worker's sessions are spread over all the others."""

    def weight(worker: WorkerId) -> tuple[bytes, WorkerId]:
        text = f"{len(session)}:{session}{worker}".encode("utf-8", "surrogatepass")
        return (blake2b(text, digest_size=8).digest(), worker)

    return max(live, key=weight, default=None)


class Members:
    """Live and gone workers, and each author's turn."""

    __slots__ = ("gone", "live", "turns")

    def __init__(self) -> None:
        self.live: dict[WorkerId, WorkerRow] = {}
        self.gone: dict[WorkerId, int] = {}
        """Workers that left or were declared dead, with their last beat; oldest first."""
        self.turns: dict[WorkerId, Turn] = {}

    def take_turn(self, record: Record) -> bool:
        """Whether the record is its author's next. Unstamped records always are.

        A new epoch begins with seq 1 and ends the older one: what an earlier connection still had
        on the way has no effect any more."""
        if not record.epoch:
            return True
        last = self.turns.get(record.author)
        if last is not None and record.epoch == last.epoch:
            if record.seq != last.seq + 1:
                return False
        elif record.seq != 1 or (last is not None and record.epoch < last.epoch):
            return False
        else:
            self.turns.pop(record.author, None)
        self.turns[record.author] = Turn(epoch=record.epoch, seq=record.seq)
        return True

    def trim_turns(self) -> list[WorkerId]:
        """Forget the authors that opened an epoch longest ago and are no members."""
        excess = len(self.turns) - REMEMBERED_AUTHORS
        if excess <= 0:
            return []
        idle = [author for author in self.turns if author not in self.live][:excess]
        for author in idle:
            del self.turns[author]
        return idle

    def join(self, worker: WorkerId, name: str) -> None:
        beat = self.gone.pop(worker, -1) + 1
        self.live[worker] = WorkerRow(beat=beat, name=name)

    def leave(self, worker: WorkerId) -> list[WorkerId]:
        """Returns the workers that are forgotten to make room."""
        self.gone[worker] = self.live.pop(worker).beat
        forgotten = list(self.gone)[: max(0, len(self.gone) - REMEMBERED_GONE)]
        for old in forgotten:
            del self.gone[old]
        return forgotten
