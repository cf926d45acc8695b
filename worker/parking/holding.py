"""The parkee is in the slot: hold, pickups, hangups, lost control, and how the slot becomes free.

Contract §7.8; design §8. A slot is only ever freed by the log's decision: the step that learns why
the parkee leaves asks for a release, `released` does what follows from it. So exactly one side
announces a retrieval, whoever saw it first.
"""

from __future__ import annotations

from worker.parking import effects as do
from worker.parking import events as e
from worker.parking import ringing
from worker.parking.changes import Released, ReleaseRefused
from worker.parking.model import ReleaseReason, SlotId
from worker.parking.session import RECHECK_MS, RELEASE_AGAIN_MS, Check, Session, State, Timer

VERIFY_HOLD_MS = 500
"""After a hold ended: time for the event that explains it, before the switch is asked."""
PROOF_MS = 1_000
"""After a foreign interception: time for the bridge that proves it."""
GRACE_MS = 300
"""Time for our own retriever's record to reach this replica before a pickup counts as foreign."""
RING_ECHO_MS = 5_000
"""A bridge this soon after a ringback was given up is the parker's late answer (D22)."""


def begin(s: Session, now_ms: int) -> None:
    """Put the parkee on hold and tell the world."""
    if s.entry is None:
        return
    s.call_dead = False
    s.held_since_ms = now_ms
    if s.retrieving is None:
        hold_again(s)
    if not s.announced:
        s.announced = True
        s.emit(do.Announce(event=do.ParkEvent.PARKED, slot=s.entry.slot))
    s.emit(do.LightLamp(entry=s.entry))
    hold_on(s, now_ms)
    ringing.arm(s, now_ms)
    s.emit(do.Save())


def hold_on(s: Session, now_ms: int) -> None:
    """Be in HOLDING with nothing pending but time."""
    s.enter(State.HOLDING)
    s.timers.setdefault(Timer.RECONCILE, now_ms + s.rules.reconcile_ms)


def hold_again(s: Session) -> None:
    if s.entry is not None:
        s.emit(do.Hold(media=s.entry.hold_media))


def endpoint_found(s: Session, event: e.EndpointFound, now_ms: int) -> None:
    """The parker's device became known: the ringback counts from when the hold began."""
    if event.endpoint_id and not s.endpoint_id:
        s.endpoint_id = event.endpoint_id
        if s.state is State.HOLDING:
            ringing.arm(s, now_ms)
            s.emit(do.Save())


# ---- liveness -----------------------------------------------------------------------------------


def reconcile(s: Session, now_ms: int) -> None:
    s.timers[Timer.RECONCILE] = now_ms + s.rules.reconcile_ms
    s.ask_again(Check.RECONCILE)


def ask_again(s: Session, _now_ms: int) -> None:
    if s.checks:
        s.emit(do.AskLiveness(call_id=s.call_id))


def disconnected(s: Session, _event: e.ChannelDisconnected, _now_ms: int) -> None:
    """ecallmgr lost the media node: the channel may live on (contract §7.8)."""
    s.check(Check.HOLD if s.state is State.HOLDING else Check.FAULT)


def liveness_known(s: Session, event: e.LivenessKnown, now_ms: int) -> None:
    if event.liveness is e.Liveness.DEAD and (s.presumed_dead or not _idle_check(s)):
        s.checks.clear()
        abandon(s, now_ms)
        return
    if event.liveness is not e.Liveness.ACTIVE:
        s.presumed_dead = event.liveness is e.Liveness.DEAD
        if s.checks:
            s.timers[Timer.RECHECK] = now_ms + RECHECK_MS
        return
    s.presumed_dead = False
    checks = set(s.checks)
    s.checks.clear()
    s.timers.pop(Timer.RECHECK, None)
    if s.retrieving is not None:
        if Check.RING in checks:
            s.timers[Timer.RING] = now_ms + ringing.RETRIEVAL_WAIT_MS
        return
    if checks and event.other_leg:
        # It was picked up and we have not heard of it. (An answer that nobody waits for any more
        # may be from before the hold: it does not count.)
        s.release(ReleaseReason.INTERCEPTED, now_ms)
    elif s.intercepted:
        s.release(ReleaseReason.INTERCEPTED, now_ms)
    elif Check.RING in checks:
        ringing.ring(s, now_ms)
    elif Check.HOLD in checks:
        hold_again(s)


def _idle_check(s: Session) -> bool:
    """Whether we asked for no other reason than that time had passed. Such a check must say DEAD
    twice: the answer of the one node that knows may be late, and a caller would be cut off."""
    return s.checks == {Check.RECONCILE}


def abandon(s: Session, now_ms: int) -> None:
    s.call_dead = True
    s.release(ReleaseReason.ABANDONED, now_ms)


def parkee_gone(s: Session, _event: e.ChannelDestroyed, now_ms: int) -> None:
    abandon(s, now_ms)


# ---- the hold ends ------------------------------------------------------------------------------


def command_completed(s: Session, event: e.CommandCompleted, now_ms: int) -> None:
    """Only the end of the hold matters here. It does not say who ended it (D14)."""
    if event.app not in (e.App.HOLD, e.App.PARK) or s.retrieving is not None:
        return
    if event.channel_state == "HANGUP":
        abandon(s, now_ms)
    else:
        s.timers[Timer.STEP] = now_ms + VERIFY_HOLD_MS


def verify_hold(s: Session, _now_ms: int) -> None:
    if s.retrieving is None:
        s.check(Check.HOLD)


def command_failed(s: Session, event: e.CommandFailed, _now_ms: int) -> None:
    """Hold media that cannot be played must not cost the caller the call: park in silence."""
    if event.app is e.App.HOLD and not event.channel_down:
        s.emit(
            do.Note(text="hold cannot be played", fields=(("error", event.message),)),
            do.ParkSilently(),
        )
    elif event.app in (e.App.HOLD, e.App.PARK):
        s.check(Check.FAULT)


def command_returned(s: Session, event: e.CommandReturned, now_ms: int) -> None:
    """The control queue is gone: with its call, or with an ecallmgr."""
    s.emit(do.Note(text="command could not be routed", fields=(("command", event.app.value),)))
    if s.state is State.RINGING:
        s.ring_ended_at_ms = now_ms
        hold_on(s, now_ms)
        ringing.arm(s, now_ms)
    if event.app in (e.App.HOLD, e.App.PARK):
        s.timers[Timer.STEP] = now_ms + VERIFY_HOLD_MS  # not played: once more, if it lives
    s.check(Check.FAULT)


# ---- pickups ------------------------------------------------------------------------------------


def retrieval_begun(s: Session, event: e.RetrievalBegun, now_ms: int) -> None:
    s.retrieving = event.retriever
    if s.state is State.INTERCEPTED:
        s.intercepted = True
        hold_on(s, now_ms)
    elif s.state is State.HOLDING:
        s.timers.pop(Timer.STEP, None)


def retrieval_ended(s: Session, event: e.RetrievalEnded, now_ms: int) -> None:
    """The pickup failed; whatever it did to the parkee is set right."""
    if s.retrieving != event.retriever:
        return
    s.retrieving = None
    if s.state is State.RINGING and s.bridged_leg:
        ringing.take_answer(s, now_ms)
    elif s.state is State.HOLDING:
        s.check(Check.HOLD)


def intercepted(s: Session, _event: e.ChannelIntercepted, now_ms: int) -> None:
    s.intercepted = True
    if s.retrieving is None:
        s.enter(State.INTERCEPTED, now_ms, PROOF_MS)


def bridged(s: Session, event: e.ChannelBridged, now_ms: int) -> None:
    """Bridged while on hold: the parker's late answer, or a pickup whose interception we missed."""
    if s.retrieving is not None:
        return
    echo = s.ring_ended_at_ms is not None and now_ms - s.ring_ended_at_ms < RING_ECHO_MS
    if echo and not s.intercepted:
        s.bridged_leg = event.other_leg
        ringing.take_answer(s, now_ms)
    else:
        s.intercepted = True
        s.enter(State.INTERCEPTED, now_ms, GRACE_MS)
        s.bridged_leg = event.other_leg


def foreign_pickup_bridged(s: Session, event: e.ChannelBridged, now_ms: int) -> None:
    s.bridged_leg = event.other_leg
    s.timers[Timer.STEP] = now_ms + GRACE_MS


def foreign_pickup_step(s: Session, now_ms: int) -> None:
    if s.bridged_leg is not None:
        s.release(ReleaseReason.INTERCEPTED, now_ms)
    else:
        s.check(Check.RECONCILE)


def foreign_pickup_known(s: Session, event: e.LivenessKnown, now_ms: int) -> None:
    """The interception stands unless the parkee is proven dead (contract §14)."""
    s.checks.clear()
    if event.liveness is e.Liveness.DEAD:
        abandon(s, now_ms)
    else:
        s.release(ReleaseReason.INTERCEPTED, now_ms)


def foreign_pickup_gone(s: Session, _event: e.ChannelDestroyed, now_ms: int) -> None:
    s.call_dead = True
    if s.bridged_leg is not None:
        s.release(ReleaseReason.INTERCEPTED, now_ms)
    else:
        s.release(ReleaseReason.ABANDONED, now_ms)


def usurped_while_intercepted(s: Session, event: e.ControlUsurped, now_ms: int) -> None:
    if has_lost_control(s, event):
        s.control_lost = True
        s.timers[Timer.STEP] = now_ms + GRACE_MS


# ---- control is lost ----------------------------------------------------------------------------


def has_lost_control(
    s: Session, event: e.ControlUsurped | e.ChannelTransferred | e.ChannelPivoted
) -> bool:
    """The filters of cf_exe (contract §3.5, §3.3)."""
    match event:
        case e.ControlUsurped():
            return event.fetch_id != s.call.fetch_id
        case e.ChannelTransferred():
            return event.fetch_id == s.call.fetch_id
        case e.ChannelPivoted():
            return True


def usurped(s: Session, event: e.ControlUsurped, now_ms: int) -> None:
    """Somebody else controls the parkee: say nothing more to it. If it was our own retriever, the
    slot waits for the outcome."""
    if not has_lost_control(s, event):
        return
    s.control_lost = True
    s.timers.pop(Timer.RING, None)
    if s.retrieving is not None:
        s.enter(State.ADRIFT)
        s.timers.setdefault(Timer.RECONCILE, now_ms + s.rules.reconcile_ms)
        s.emit(do.Save())
    else:
        s.enter(State.LEAVING, now_ms, GRACE_MS)


def transferred(s: Session, event: e.ChannelTransferred, now_ms: int) -> None:
    if has_lost_control(s, event):
        _left(s, now_ms)


def pivoted(s: Session, _event: e.ChannelPivoted, now_ms: int) -> None:
    _left(s, now_ms)


def _left(s: Session, now_ms: int) -> None:
    s.control_lost = True
    s.release(ReleaseReason.LEFT, now_ms)


def has_left(s: Session, now_ms: int) -> None:
    s.release(ReleaseReason.INTERCEPTED if s.intercepted else ReleaseReason.LEFT, now_ms)


def has_left_dead(s: Session, _event: e.ChannelDestroyed, now_ms: int) -> None:
    abandon(s, now_ms)


def intercepted_after_usurp(s: Session, _event: e.ChannelIntercepted, now_ms: int) -> None:
    s.intercepted = True
    s.timers[Timer.STEP] = now_ms + GRACE_MS


def adrift(s: Session, event: e.RetrievalBegun, now_ms: int) -> None:
    s.retrieving = event.retriever
    s.enter(State.ADRIFT)
    s.timers.setdefault(Timer.RECONCILE, now_ms + s.rules.reconcile_ms)
    s.emit(do.Save())


def adrift_intercepted(s: Session, _event: e.ChannelIntercepted, _now_ms: int) -> None:
    s.intercepted = True


def adrift_retrieval_ended(s: Session, event: e.RetrievalEnded, _now_ms: int) -> None:
    """Slot and lamp stay while the parkee is not proven dead (design §8)."""
    if s.retrieving == event.retriever:
        s.retrieving = None
        s.check(Check.RECONCILE)


def adrift_liveness(s: Session, event: e.LivenessKnown, now_ms: int) -> None:
    s.checks.clear()
    if event.liveness is e.Liveness.DEAD:
        abandon(s, now_ms)
    elif event.liveness is e.Liveness.UNKNOWN:
        s.checks.add(Check.RECONCILE)
        s.timers[Timer.RECHECK] = now_ms + RECHECK_MS
    elif s.retrieving is None and (event.other_leg or s.intercepted):
        s.release(ReleaseReason.INTERCEPTED, now_ms)


# ---- the log has decided ------------------------------------------------------------------------


def release_again(s: Session, now_ms: int) -> None:
    """The log was silent (the broker was away): ask once more; releasing twice changes nothing."""
    if s.entry is not None and s.releasing is not None:
        s.timers[Timer.STEP] = now_ms + RELEASE_AGAIN_MS
        s.emit(do.ReleaseSlot(slot=s.entry.slot, holder=s.id, reason=s.releasing))


def gone_while_releasing(s: Session, _event: e.ChannelDestroyed, _now_ms: int) -> None:
    s.call_dead = True


def lost_while_releasing(
    s: Session, event: e.ControlUsurped | e.ChannelTransferred | e.ChannelPivoted, _now_ms: int
) -> None:
    if has_lost_control(s, event):
        s.control_lost = True


def released(s: Session, event: Released, now_ms: int) -> None:
    """Our slot is free: by our own word, or somebody else was first."""
    if event.by != s.id:
        taken_away(s, event, now_ms)
        return
    slot = event.entry.slot
    s.entry = None
    match event.reason:
        case ReleaseReason.ANSWERED:
            announce(s, do.ParkEvent.RETRIEVED, slot)
            ringing.talk(s, now_ms)
            return
        case ReleaseReason.INTERCEPTED:
            announce(s, do.ParkEvent.RETRIEVED, slot)
            s.finish(do.Verdict.TRANSFER)
        case ReleaseReason.ABANDONED:
            announce(s, do.ParkEvent.ABANDONED, slot)
            s.finish(do.Verdict.STOP)
        case ReleaseReason.BRANCHED:
            announce(s, do.ParkEvent.ABANDONED, slot)
            s.finish(do.Verdict.CONTINUE, slot)
        case ReleaseReason.WITHDRAWN:
            s.finish(do.Verdict.CONTINUE)
        case _:
            pass
    s.end()


def announce(s: Session, event: do.ParkEvent, slot: SlotId) -> None:
    """Tell the end of an episode whose beginning was told."""
    if s.announced:
        s.emit(do.Announce(event=event, slot=slot))


def release_refused(s: Session, event: ReleaseRefused, _now_ms: int) -> None:
    """We did not hold it any more and were not told why (a late repeat): nothing left to say."""
    if event.by == s.id:
        s.entry = None
        if not s.call_dead:
            s.finish(do.Verdict.TRANSFER)
        s.end()


def replaced_by_a_transfer(s: Session, _event: e.ReservationCompleted, _now_ms: int) -> None:
    """A Replaces named our call: the slot is the new call's, ours is on its way out."""
    s.entry = None
    s.finish(do.Verdict.TRANSFER)
    s.end()


def taken_away(s: Session, event: Released, now_ms: int) -> None:
    """Somebody else freed our slot: a retriever has the parkee, or found it dead."""
    if event.entry.session != s.id:
        return
    slot = event.entry.slot
    s.entry = None
    match event.reason:
        case ReleaseReason.RETRIEVED:
            s.finish(do.Verdict.TRANSFER)
        case ReleaseReason.EVICTED | ReleaseReason.ABANDONED:
            if s.announced:
                s.emit(do.Announce(event=do.ParkEvent.ABANDONED, slot=slot))
                s.finish(do.Verdict.STOP)
            else:
                s.finish(do.Verdict.CONTINUE)
        case _:
            s.finish(do.Verdict.CONTINUE)
    s.end()
