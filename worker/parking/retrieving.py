"""Picking up the call in a slot (contract §7.4, §4.9; design §8).

The log grants the pickup to one retriever at a time; the slot is freed only once the bridge to the
parkee stands. A pickup that fails leaves the parkee where it is.
"""

from __future__ import annotations

from worker.parking import arriving, visiting
from worker.parking import effects as do
from worker.parking import events as e
from worker.parking.changes import (
    Released,
    ReleaseRefused,
    RetrieveDecided,
    RetrieveOutcome,
    Swapped,
)
from worker.parking.holding import has_lost_control
from worker.parking.model import ReleaseReason, SlotEntry
from worker.parking.session import RECHECK_MS, RELEASE_AGAIN_MS, Check, Session, State, Timer

PICKUP_MS = 10_000
"""Absolute: unrelated events do not restart it (D11)."""
PENDING_MS = 1_000
PENDING_TRIES = 3
LOG_MS = 5_000
"""What the log has not decided by then is asked for again."""
TURNS = 3
TURN_MS = 12_000
"""Longer than another session's pickup can take."""


def begin(s: Session, now_ms: int) -> None:
    if s.slot is None:
        _nobody_there(s, now_ms)  # an automatic slot is by definition a free one
        return
    s.attempt += 1
    s.enter(State.RETRIEVING)
    ask_for_pickup(s, now_ms)


def ask_for_pickup(s: Session, now_ms: int) -> None:
    """Put the request into the log; asking twice gets the same answer twice."""
    s.timers[Timer.STEP] = now_ms + LOG_MS
    if s.slot is not None:
        s.emit(do.RetrieveSlot(slot=s.slot, attempt=s.attempt))


def decided(s: Session, event: RetrieveDecided, now_ms: int) -> None:
    if event.attempt != s.attempt:
        return
    match event.outcome:
        case RetrieveOutcome.WON if event.entry is not None and event.entry.call_id != s.call_id:
            s.target = event.entry
            s.round = 0
            s.enter(State.PICKING_UP, now_ms, PICKUP_MS)
            if s.watched:
                pick_up(s)
        case RetrieveOutcome.PENDING:
            s.round += 1
            if s.round < PENDING_TRIES:
                s.enter(State.PENDING, now_ms, PENDING_MS)
            else:
                visiting.refuse(s, _in_use_or_nobody(s), now_ms)
        case RetrieveOutcome.BUSY if s.auto_retrieves and s.round < TURNS:
            s.round += 1
            if s.slot is not None:
                s.emit(do.AwaitSlot(slot=s.slot))
            s.enter(State.AWAITING_TURN)
            s.timers[Timer.STEP] = now_ms + TURN_MS
        case RetrieveOutcome.BUSY:
            visiting.refuse(s, _in_use_or_nobody(s), now_ms)
        case _:
            _nobody_there(s, now_ms)


def _nobody_there(s: Session, now_ms: int) -> None:
    if s.auto_retrieves:
        s.target = None
        arriving.claim(s, now_ms)
    else:
        visiting.refuse(s, do.Prompt.NO_CALLER, now_ms)


def _in_use_or_nobody(s: Session) -> do.Prompt:
    return do.Prompt.IN_USE if s.auto_retrieves else do.Prompt.NO_CALLER


def ask_again(s: Session, now_ms: int) -> None:
    begin(s, now_ms)


# ---- waiting for somebody else's pickup (auto) --------------------------------------------------


def slot_freed(s: Session, _event: e.SlotFreed, now_ms: int) -> None:
    _nobody_there(s, now_ms)


def turn_came(s: Session, _event: e.RetrievalEnded, now_ms: int) -> None:
    begin(s, now_ms)


def turn_never_came(s: Session, now_ms: int) -> None:
    visiting.refuse(s, _in_use_or_nobody(s), now_ms)


# ---- picking up ---------------------------------------------------------------------------------


def watched(s: Session, _event: e.CallWatched, _now_ms: int) -> None:
    s.watched = True
    if Check.RESUME in s.checks:
        ask_about_ourselves(s, _now_ms)
    elif s.state is State.PICKING_UP and s.target is not None and s.round == 0:
        pick_up(s)


def pick_up(s: Session) -> None:
    if s.target is not None:
        s.round += 1
        s.emit(do.Pickup(target=s.target.call_id, usurp=s.rules.strict))


def bridged(s: Session, event: e.ChannelBridged, now_ms: int) -> None:
    """Only a bridge to the parkee counts (D11)."""
    target = s.target
    if target is None or event.call_id != s.call_id:
        return
    if event.other_leg and event.other_leg != target.call_id:
        return
    s.asked = None
    s.enter(State.HANDING_OVER)
    _free_slot(s, now_ms)


def found_bridged(s: Session, target: SlotEntry, now_ms: int) -> None:
    """It had succeeded while nobody listened, or its owner died during the pickup."""
    s.target, s.asked = target, None
    s.enter(State.HANDING_OVER)
    _free_slot(s, now_ms)


def _free_slot(s: Session, now_ms: int) -> None:
    if s.target is not None:
        s.timers[Timer.STEP] = now_ms + RELEASE_AGAIN_MS
        s.emit(
            do.ReleaseSlot(
                slot=s.target.slot, holder=s.target.session, reason=ReleaseReason.RETRIEVED
            )
        )


def hand_over_again(s: Session, now_ms: int) -> None:
    _free_slot(s, now_ms)


def handed_over(s: Session, event: Released, _now_ms: int) -> None:
    """The slot is free by our word, or by another's that was first and announced it."""
    if event.by == s.id:
        s.emit(do.Announce(event=do.ParkEvent.RETRIEVED, slot=event.entry.slot))
    s.finish(do.Verdict.TRANSFER)
    s.end()


def handed_over_by_other(s: Session, event: ReleaseRefused, _now_ms: int) -> None:
    if event.by == s.id:
        s.finish(do.Verdict.TRANSFER)
        s.end()


def pickup_failed(s: Session, event: e.CommandFailed, now_ms: int) -> None:
    if event.app is e.App.PICKUP:
        _doubt(s)


def pickup_completed(s: Session, event: e.CommandCompleted, now_ms: int) -> None:
    if event.app is e.App.PICKUP:
        _doubt(s)


def _doubt(s: Session) -> None:
    """The pickup ended without a bridge: does the parkee live? STEP still bounds the whole."""
    if s.target is not None:
        s.asked = s.target.call_id
        s.state = State.DOUBTING
        s.emit(do.AskLiveness(call_id=s.target.call_id))


def pickup_returned(s: Session, event: e.CommandReturned, now_ms: int) -> None:
    """The control queue is gone: with its call, or Kazoo is only coming back. Ask before a second
    try."""
    if event.app is not e.App.PICKUP:
        return
    if not s.retry_used:
        _doubt(s)
    else:
        _give_back(s)
        s.finish(do.Verdict.STOP)
        s.end()


def target_known(s: Session, event: e.LivenessKnown, now_ms: int) -> None:
    target = s.target
    if target is None or event.call_id != target.call_id:
        own_liveness(s, event, now_ms)
    elif event.liveness is e.Liveness.DEAD:
        s.emit(
            do.ReleaseSlot(
                slot=target.slot, holder=target.session, reason=ReleaseReason.EVICTED
            )
        )
    elif event.liveness is e.Liveness.ACTIVE and not s.retry_used:
        s.retry_used = True
        s.asked = None
        s.state = State.PICKING_UP
        pick_up(s)
    else:
        gave_up(s, now_ms)


def target_released(s: Session, event: Released, now_ms: int) -> None:
    """The parkee is not there any more: hung up, proven dead, or taken by the parker."""
    if s.target is None or event.entry.session != s.target.session:
        return
    if event.reason is ReleaseReason.RETRIEVED:
        return  # our own word from before a take-over
    s.asked = s.target = None
    _nobody_there(s, now_ms)


def target_moved(s: Session, event: Swapped, _now_ms: int) -> None:
    """The parkee has a new call id (D17): that is who the bridge will be with."""
    if s.target is not None and event.after.session == s.target.session:
        s.target = event.after


def gave_up(s: Session, now_ms: int) -> None:
    """No bridge in time: the parkee stays in its slot, the retriever is told (D10)."""
    _give_back(s)
    visiting.refuse(s, _in_use_or_nobody(s), now_ms)


def _give_back(s: Session) -> None:
    if s.target is not None:
        s.emit(do.GiveUpRetrieval(slot=s.target.slot))
        s.asked = s.target = None


# ---- the retriever itself -----------------------------------------------------------------------


def own_liveness(s: Session, event: e.LivenessKnown, now_ms: int) -> None:
    if event.call_id != s.call_id:
        return
    if event.liveness is e.Liveness.DEAD:
        _give_back(s)
        s.finish(do.Verdict.STOP)
        s.end()
    elif Check.RESUME in s.checks and event.liveness is e.Liveness.UNKNOWN:
        s.timers[Timer.RECHECK] = now_ms + RECHECK_MS
    elif Check.RESUME in s.checks:
        s.checks.discard(Check.RESUME)
        if s.target is not None and event.other_leg == s.target.call_id:
            found_bridged(s, s.target, now_ms)
        elif s.state is State.PICKING_UP and not event.other_leg and not s.retry_used:
            s.retry_used = True  # the first may have been lost with the connection
            s.timers[Timer.STEP] = now_ms + PICKUP_MS
            pick_up(s)


def ask_about_ourselves(s: Session, _now_ms: int) -> None:
    s.emit(do.AskLiveness(call_id=s.call_id))


def time_is_up(s: Session, now_ms: int) -> None:
    """Give up, but not on a call of which nobody knows whether it talks to the parkee by now."""
    if Check.RESUME in s.checks:
        s.timers[Timer.STEP] = now_ms + RECHECK_MS
        ask_about_ourselves(s, now_ms)
    else:
        gave_up(s, now_ms)


def retriever_gone(s: Session, _event: e.ChannelDestroyed, _now_ms: int) -> None:
    if s.state is State.HANDING_OVER:
        s.call_dead = True
        return
    _give_back(s)
    s.finish(do.Verdict.STOP)
    s.end()


def retriever_left(
    s: Session, event: e.ControlUsurped | e.ChannelTransferred | e.ChannelPivoted, _now_ms: int
) -> None:
    """Redirected to the parkee's media server (contract §4.9): the call comes back anew."""
    if has_lost_control(s, event):
        s.control_lost = True
        if s.state is not State.HANDING_OVER:
            _give_back(s)
            s.end()
