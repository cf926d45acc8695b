"""Ringing the parker back, and the conversation that may follow (contract §7.8 to §7.10)."""

from __future__ import annotations

from worker.parking import effects as do
from worker.parking import events as e
from worker.parking import holding
from worker.parking.model import ReleaseReason
from worker.parking.session import RECHECK_MS, Check, Session, State, Timer

STRICT_TIMEOUT_S = 20
"""The reference always rings 20 s, whatever the callback timeout (D22)."""
MIN_PERIOD_MS = 100
"""A ringback timeout of 0 must not become a busy loop."""
CANCEL_GRACE_MS = 250
"""Time for the switch's own NO_ANSWER before the attempt is cancelled."""
REBRIDGE_MS = 2_000
"""After an unbridge: time for the bridge's completion, or for another bridge."""
RETRIEVAL_WAIT_MS = 1_000
WILDCARD = "_"


def arm(s: Session, now_ms: int) -> None:
    """Set the ringback timer when there is somebody to ring; it counts from the last hold."""
    if not s.endpoint_id:
        s.timers.pop(Timer.RING, None)
        return
    since = max(s.held_since_ms or now_ms, s.ring_ended_at_ms or 0)
    period_ms = max(s.policy.ringback_timeout_ms, MIN_PERIOD_MS)
    s.timers[Timer.RING] = max(since + period_ms, now_ms)


def ring_due(s: Session, now_ms: int) -> None:
    if s.retrieving is not None:
        s.timers[Timer.RING] = now_ms + RETRIEVAL_WAIT_MS
    else:
        s.check(Check.RING)


def bridge_timeout_s(s: Session) -> int:
    """Whole seconds, at least 1 (D22)."""
    if s.rules.strict:
        return STRICT_TIMEOUT_S
    return max(s.policy.callback_timeout_ms // 1000, 1)


def ring(s: Session, now_ms: int) -> None:
    """The parkee lives: ring the parker."""
    entry = s.entry
    if entry is None:
        return
    s.round += 1
    s.bridged_leg = None
    timeout_s = bridge_timeout_s(s)
    s.emit(do.SetCallee(number=entry.caller_number, name=entry.caller_name))
    if not s.rules.strict:
        s.emit(do.Break())
    s.emit(
        do.Bridge(
            endpoint_id=s.endpoint_id,
            timeout_s=timeout_s,
            slot=entry.slot,
            caller_name=entry.caller_name,
            caller_number=entry.caller_number,
        )
    )
    if s.rules.strict:
        patience_ms = s.policy.callback_timeout_ms
    else:
        patience_ms = max(s.policy.callback_timeout_ms, timeout_s * 1000) + CANCEL_GRACE_MS
    s.enter(State.RINGING, now_ms, patience_ms)
    s.emit(do.Save())


def succeeded(event: e.CommandCompleted) -> bool:
    """Whether a bridge completion says that the parker had answered (contract §7.10)."""
    return "SUCCESS" in (event.disposition, event.response, event.hangup_cause)


def answered(s: Session, event: e.ChannelBridged, now_ms: int) -> None:
    s.bridged_leg = event.other_leg
    if s.retrieving is None:
        take_answer(s, now_ms)


def take_answer(s: Session, now_ms: int) -> None:
    """The parker has the parkee: free the slot; the result comes when the bridge ends."""
    s.release(ReleaseReason.ANSWERED, now_ms)


def command_completed(s: Session, event: e.CommandCompleted, now_ms: int) -> None:
    if event.app is not e.App.BRIDGE:
        return  # the end of the hold is the ringing's doing
    s.bridge_over = succeeded(event)
    if s.retrieving is not None:
        _wait_for_the_retriever(s, now_ms)
    elif s.bridge_over:
        take_answer(s, now_ms)
    else:
        unanswered(s, now_ms)


def command_failed(s: Session, event: e.CommandFailed, now_ms: int) -> None:
    if event.app is not e.App.BRIDGE:
        return
    if s.retrieving is not None:
        _wait_for_the_retriever(s, now_ms)
    else:
        unanswered(s, now_ms)


def _wait_for_the_retriever(s: Session, now_ms: int) -> None:
    """A pickup ends the ringing, too: not a word to the parkee before its outcome is known."""
    s.timers[Timer.STEP] = now_ms + RETRIEVAL_WAIT_MS


def nobody_answered(s: Session, now_ms: int) -> None:
    """The callback timeout is over and the switch has not said so itself."""
    if s.retrieving is not None:
        _wait_for_the_retriever(s, now_ms)
    elif s.resumed:
        # Nobody listened for a while: the parker may have answered meanwhile.
        s.resumed = False
        s.check(Check.RESUME)
    elif s.bridge_over:
        take_answer(s, now_ms)
    else:
        unanswered(s, now_ms)


def unanswered(s: Session, now_ms: int) -> None:
    """Branch to the slot's own child if there is one, else hold for another period (D19)."""
    entry = s.entry
    if entry is None:
        return
    keys = s.call.child_keys
    if entry.slot in keys or (s.rules.strict and WILDCARD in keys):
        if not s.rules.strict:
            s.emit(do.Break())
        s.release(ReleaseReason.BRANCHED, now_ms)
        return
    s.ring_ended_at_ms = now_ms
    if not s.rules.strict:
        s.emit(do.Break())
    holding.hold_again(s)
    if not s.rules.strict:
        s.emit(do.LightLamp(entry=entry))
    holding.hold_on(s, now_ms)
    arm(s, now_ms)
    s.emit(do.Save())


def liveness_known(s: Session, event: e.LivenessKnown, now_ms: int) -> None:
    """While ringing only death matters; after a take-over also whether they already talk."""
    resumed = Check.RESUME in s.checks
    if event.liveness is e.Liveness.UNKNOWN:
        if s.checks:
            s.timers[Timer.RECHECK] = now_ms + RECHECK_MS
        return
    s.checks.clear()
    if event.liveness is e.Liveness.DEAD:
        holding.abandon(s, now_ms)
    elif resumed and Timer.STEP not in s.timers:
        # The ringing is over by the clock: a leg that is still there has answered.
        if event.other_leg:
            take_answer(s, now_ms)
        else:
            unanswered(s, now_ms)


# ---- they talk ----------------------------------------------------------------------------------


def completed_while_releasing(s: Session, event: e.CommandCompleted, _now_ms: int) -> None:
    if event.app is e.App.BRIDGE:
        s.bridge_over = True


def talk(s: Session, now_ms: int) -> None:
    """The slot is free, the parker has the call: wait for the bridge to end."""
    if s.call_dead or s.control_lost:
        s.end()
    elif s.bridge_over:
        s.finish(do.Verdict.CONTINUE)
        s.end()
    else:
        s.enter(State.ANSWERED)
        s.timers[Timer.RECONCILE] = now_ms + s.rules.reconcile_ms
        s.emit(do.Save())


def bridge_completed(s: Session, event: e.CommandCompleted, _now_ms: int) -> None:
    if event.app is e.App.BRIDGE:
        s.finish(do.Verdict.CONTINUE)
        s.end()


def bridge_failed(s: Session, event: e.CommandFailed, _now_ms: int) -> None:
    if event.app is e.App.BRIDGE:
        s.finish(do.Verdict.CONTINUE)
        s.end()


def unbridged(s: Session, _event: e.ChannelUnbridged, now_ms: int) -> None:
    s.timers[Timer.STEP] = now_ms + REBRIDGE_MS


def bridged_again(s: Session, _event: e.ChannelBridged, _now_ms: int) -> None:
    s.timers.pop(Timer.STEP, None)


def ask_after_bridge(s: Session, _now_ms: int) -> None:
    s.check(Check.HOLD)


def ask_during_bridge(s: Session, now_ms: int) -> None:
    s.timers[Timer.RECONCILE] = now_ms + s.rules.reconcile_ms
    s.ask_again(Check.RECONCILE)


def ask_on_event(s: Session, _event: e.ChannelDisconnected, _now_ms: int) -> None:
    s.check(Check.RECONCILE)


def liveness_after_bridge(s: Session, event: e.LivenessKnown, now_ms: int) -> None:
    checks = set(s.checks)
    s.checks.clear()
    if event.liveness is e.Liveness.DEAD:
        s.end()
    elif event.liveness is e.Liveness.UNKNOWN:
        if Check.HOLD in checks:
            s.timers[Timer.RECHECK] = now_ms + RECHECK_MS
    elif Check.HOLD in checks or (Check.RESUME in checks and not event.other_leg):
        s.finish(do.Verdict.CONTINUE)
        s.end()


def gone_after_bridge(s: Session, _event: e.ChannelDestroyed, _now_ms: int) -> None:
    """The parkee hung up: its flow ends by itself, no result is due (design §8)."""
    s.end()


def left_after_bridge(
    s: Session, event: e.ControlUsurped | e.ChannelTransferred | e.ChannelPivoted, _now_ms: int
) -> None:
    if holding.has_lost_control(s, event):
        s.control_lost = True
        s.end()
