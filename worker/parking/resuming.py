"""Going on with a session: after the broker was away, or in a worker that adopted it (design §5).

Events may have been missed. Nothing is repeated to the switch before it has been asked; what the
session had already said (accepted, parked, result) is not said again.
"""

from __future__ import annotations

from collections.abc import Mapping

from worker.parking import arriving, holding, retrieving, ringing, visiting
from worker.parking import effects as do
from worker.parking import events as e
from worker.parking.changes import Released, ReleaseRefused
from worker.parking.model import CallId, SlotEntry, SlotId
from worker.parking.session import Check, Session, State, Timer

UNSAVED_HANGUP_MS = 30_000


def restore(
    session: Session,
    saved: Mapping[str, object],
    *,
    holds: SlotEntry | None,
    retrieves: SlotEntry | None,
    freed: Released | None,
    took: Released | ReleaseRefused | None = None,
) -> None:
    """Put a fresh session where ``saved`` (its checkpoint, maybe empty) and the table say it is.

    ``freed``: how the slot it once held became free, when it did. ``took``: what the log answered
    when it, a retriever, was bridged."""
    session.target = retrieves
    entry = holds
    session.call_id = CallId(str(saved.get("call_id", session.call_id)))
    session.attempt = _number(saved, "attempt")
    session.round = _number(saved, "round")
    if saved.get("slot"):
        session.slot = SlotId(str(saved["slot"]))
    session.endpoint_id = str(saved.get("endpoint_id") or session.endpoint_id)
    session.held_since_ms = _number(saved, "held_since_ms") or None
    session.announced = bool(saved.get("announced"))
    session.finished = bool(saved.get("finished"))
    session.control_lost = bool(saved.get("control_lost"))
    if entry is not None:
        session.hold_entry(entry)
        session.call_id = entry.call_id
        session.retrieving = entry.retriever
    timers = saved.get("timers")
    if isinstance(timers, Mapping):
        session.timers = {
            timer: at_ms for timer in Timer if isinstance(at_ms := timers.get(timer.value), int)
        }
    session.freed, session.took = freed, took
    session.state = State.HANDING_OVER if took else _state(entry, saved, freed=freed)


def _number(saved: Mapping[str, object], key: str) -> int:
    value = saved.get(key, 0)
    return value if isinstance(value, int) else 0


def _state(
    entry: SlotEntry | None, saved: Mapping[str, object], *, freed: Released | None
) -> State:
    """Without a checkpoint the table alone tells: a slot is held, or the session starts over."""
    name = saved.get("state")
    state = State(name) if name in {s.value for s in State} else None
    if entry is None:
        if state in (State.ANSWERED, State.VISITING, State.VISITED):
            return state
        return State.NEW if freed is None else State.RELEASING
    if entry.reserved:
        return state if state in (State.AWAITING_HANGUP, State.LINGERING, State.RESERVED) else (
            State.AWAITING_HANGUP
        )
    if state in (State.HOLDING, State.RINGING, State.ADRIFT):
        return state
    return State.HOLDING


def resume(s: Session, event: e.Resumed, now_ms: int) -> None:
    """Listen again, ask the switch, and go on from there."""
    s.watched = False
    s.emit(do.Watch(call_id=s.call_id))
    s.checks.clear()
    match s.state:
        case State.NEW | State.CHECKING:
            _start_over(s)
        case State.HOLDING | State.RINGING | State.ADRIFT:
            _resume_parkee(s, now_ms)
        case State.INTERCEPTED | State.LEAVING:
            s.timers.setdefault(Timer.STEP, now_ms + holding.PROOF_MS)
        case State.ANSWERED | State.VISITED:
            s.timers.setdefault(Timer.RECONCILE, now_ms + s.rules.reconcile_ms)
            s.checks.add(Check.RESUME)
        case State.LOOKING_UP | State.VISITING:
            _resume_visitor(s, now_ms)
        case State.AWAITING_HANGUP | State.LINGERING | State.RESERVED:
            _resume_reservation(s, now_ms)
        case State.RELEASING if s.freed is not None:
            # Decided while its owner was dead, or the owner died before it acted on it.
            holding.released(s, s.freed, now_ms)
        case State.RETRIEVING | State.PICKING_UP | State.DOUBTING | State.HANDING_OVER:
            _resume_retriever(s, now_ms)
        case State.RELEASING:
            s.timers[Timer.STEP] = min(s.timers.get(Timer.STEP, now_ms), now_ms)
        case State.CLAIMING:
            s.liveness = None
            arriving.ask_for_slot(s, now_ms)
        case State.CONFIRMING:
            s.liveness = None
        case _:
            pass  # bounded by their own STEP timers


def _start_over(s: Session) -> None:
    """Nothing was decided, or it was not saved: like an execute that waited in the queue."""
    s.timers.clear()
    s.round = 1
    s.enter(State.CHECKING)


def _resume_parkee(s: Session, now_ms: int) -> None:
    s.resumed = True
    s.timers.setdefault(Timer.RECONCILE, now_ms + s.rules.reconcile_ms)
    if s.entry is not None and s.state is not State.ADRIFT and not s.announced:
        # The claim was decided, but nobody heard the owner say so.
        s.announced = True
        s.emit(
            do.Hold(media=s.entry.hold_media),
            do.Announce(event=do.ParkEvent.PARKED, slot=s.entry.slot),
            do.Save(),
        )
        s.held_since_ms = s.entry.parked_at_ms or now_ms
    if s.entry is not None:
        s.emit(do.LightLamp(entry=s.entry))
    if s.state is State.HOLDING and Timer.RING not in s.timers:
        ringing.arm(s, now_ms)
        if not s.endpoint_id:
            arriving.ask_for_parker(s)
    s.checks.add(Check.RESUME)


def _resume_reservation(s: Session, now_ms: int) -> None:
    if s.state is State.RESERVED:
        s.timers.setdefault(Timer.STEP, now_ms + s.policy.valet_cleanup_ms)
        return
    if s.state is State.AWAITING_HANGUP:
        s.timers.setdefault(Timer.STEP, now_ms + UNSAVED_HANGUP_MS)
    s.timers.setdefault(Timer.RECONCILE, now_ms + s.rules.reconcile_ms)
    s.checks.add(Check.RESUME)


def _resume_visitor(s: Session, now_ms: int) -> None:
    if s.state is State.LOOKING_UP:  # the registrar's answer is lost
        s.timers[Timer.STEP] = now_ms + visiting.LOOKUP_MS
        arriving.ask_for_parker(s)
        return
    s.resumed = True
    s.timers.setdefault(Timer.STEP, now_ms + visiting.LOOKUP_MS)
    s.checks.add(Check.RESUME)


def _resume_retriever(s: Session, now_ms: int) -> None:
    if s.state is State.RETRIEVING:
        retrieving.ask_for_pickup(s, now_ms)
    elif s.state is not State.HANDING_OVER:
        s.checks.add(Check.RESUME)  # the bridge may have come while nobody listened
    elif isinstance(s.took, Released):
        retrieving.handed_over(s, s.took, now_ms)
    elif s.took is not None:
        retrieving.handed_over_by_other(s, s.took, now_ms)
    else:
        s.timers[Timer.STEP] = min(s.timers.get(Timer.STEP, now_ms), now_ms)
