"""Questions put to the switch and the registrar, and what their answers add up to.

Every ecallmgr node answers a channel status query; only all of them together say that a channel is
dead (contract §3.6). Pure: time comes in, what became known goes out.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from worker.kapi.registrar import RegistrarAnswer
from worker.kapi.status import StatusAnswer
from worker.parking.events import EndpointFound, Liveness, LivenessKnown
from worker.parking.model import AccountId, CallId, SessionId

WAIT_MS = 2_000
"""How long answers are collected (contract §3.6)."""
QUICK_MS = 100
"""How long a caller who waits for its hold is kept waiting for a first answer."""

NO_CALL = CallId("")

Answer = tuple[SessionId, LivenessKnown | EndpointFound]


@dataclass(slots=True)
class _StatusQuestion:
    session: SessionId
    call_id: CallId
    deadline_ms: int
    nodes: set[str] = field(default_factory=set)
    answers: int = 0
    down: bool = False


class StatusInquiries:
    """Channel status questions under way.

    ``switch_nodes``: how many ecallmgr nodes are known to exist (0: unknown, wait the full time).
    All questions wait equally long, so the oldest is always due first.
    """

    def __init__(self) -> None:
        self._open: dict[str, _StatusQuestion] = {}
        self._quick: dict[str, int] = {}
        self._of_session: defaultdict[SessionId, set[str]] = defaultdict(set)
        self._silent = False
        self.switch_nodes = 0

    def __len__(self) -> int:
        return len(self._open)

    def ask(
        self, msg_id: str, session: SessionId, call_id: CallId, now_ms: int, *, quick: bool
    ) -> None:
        """A question was sent. A switch that left the last questions unanswered is not waited for
        by quick askers."""
        self._open[msg_id] = _StatusQuestion(session, call_id, now_ms + WAIT_MS)
        self._of_session[session].add(msg_id)
        if quick:
            self._quick[msg_id] = now_ms if self._silent else now_ms + QUICK_MS

    def answered(self, answer: StatusAnswer, node: str) -> list[Answer]:
        """One node's answer; ``active`` decides at once."""
        question = self._open.get(answer.request)
        if question is None:
            return []
        self._silent = False
        if answer.liveness is Liveness.ACTIVE:
            return [self._close(answer.request, Liveness.ACTIVE, answer.other_leg)]
        question.answers += 1
        question.nodes.add(node)
        question.down = question.down or answer.liveness is Liveness.UNKNOWN
        self._quick.pop(answer.request, None)  # somebody is there: wait for all of them
        if self.switch_nodes and len(question.nodes) >= self.switch_nodes:
            return [self._close(answer.request, _verdict(question))]
        return []

    def due(self, now_ms: int) -> list[Answer]:
        known: list[Answer] = []
        for msg_id in [m for m, at_ms in self._quick.items() if at_ms <= now_ms]:
            del self._quick[msg_id]
            question = self._open[msg_id]
            known.append((question.session, _known(question, Liveness.UNKNOWN)))
        while (oldest := self._oldest()) is not None and oldest[1].deadline_ms <= now_ms:
            msg_id, question = oldest
            self._silent = self._silent or not question.answers
            known.append(self._close(msg_id, _verdict(question)))
        return known

    def next_deadline_ms(self) -> int | None:
        oldest = self._oldest()
        times = [] if oldest is None else [oldest[1].deadline_ms]
        return min((*times, *self._quick.values()), default=None)

    def forget(self, session: SessionId) -> None:
        for msg_id in self._of_session.pop(session, ()):
            self._open.pop(msg_id, None)
            self._quick.pop(msg_id, None)

    def forget_all(self) -> None:
        self._open.clear()
        self._quick.clear()
        self._of_session.clear()

    def _oldest(self) -> tuple[str, _StatusQuestion] | None:
        return next(iter(self._open.items()), None)

    def _close(self, msg_id: str, liveness: Liveness, other_leg: CallId = NO_CALL) -> Answer:
        question = self._open.pop(msg_id)
        self._quick.pop(msg_id, None)
        self._of_session[question.session].discard(msg_id)
        return question.session, _known(question, liveness, other_leg)


def _verdict(question: _StatusQuestion) -> Liveness:
    if question.down or not question.answers:
        return Liveness.UNKNOWN
    return Liveness.DEAD


def _known(
    question: _StatusQuestion, liveness: Liveness, other_leg: CallId = NO_CALL
) -> LivenessKnown:
    return LivenessKnown(call_id=question.call_id, liveness=liveness, other_leg=other_leg)


@dataclass(frozen=True, slots=True, kw_only=True)
class _EndpointQuestion:
    session: SessionId
    account: AccountId
    deadline_ms: int


class EndpointInquiries:
    """Registrar questions under way: the first positive answer counts (contract §9.4).

    All questions wait equally long, so the oldest is always due first.
    """

    def __init__(self) -> None:
        self._open: dict[str, _EndpointQuestion] = {}

    def ask(self, msg_id: str, session: SessionId, account: AccountId, now_ms: int) -> None:
        """A question was sent, for a call of this account."""
        self._open[msg_id] = _EndpointQuestion(
            session=session, account=account, deadline_ms=now_ms + WAIT_MS
        )

    def answered(self, answer: RegistrarAnswer) -> list[Answer]:
        """One node's answer; a device of another account is no device of the parker."""
        question = self._open.get(answer.request)
        if question is None or not answer.found or answer.account not in ("", question.account):
            return []
        del self._open[answer.request]
        return [(question.session, EndpointFound(endpoint_id=answer.endpoint_id))]

    def due(self, now_ms: int) -> list[Answer]:
        """Questions that nobody answered in time."""
        over: list[Answer] = []
        while (at_ms := self.next_deadline_ms()) is not None and at_ms <= now_ms:
            question = self._open.pop(next(iter(self._open)))
            over.append((question.session, EndpointFound(endpoint_id="")))
        return over

    def next_deadline_ms(self) -> int | None:
        return next((question.deadline_ms for question in self._open.values()), None)

    def forget(self, session: SessionId) -> None:
        """The session is over: nobody waits for its answers."""
        for msg_id in [m for m, question in self._open.items() if question.session == session]:
            del self._open[msg_id]

    def forget_all(self) -> None:
        """The connection is gone, and the answers with it."""
        self._open.clear()
