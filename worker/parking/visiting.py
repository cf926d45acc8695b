"""Calls that get no slot: told so by a prompt, or given back to who transferred them.

Contract §7.4, §7.6 and §7.7; design §8.
"""

from __future__ import annotations

from worker.parking import effects as do
from worker.parking import events as e
from worker.parking import ringing
from worker.parking.call import Arrival
from worker.parking.holding import has_lost_control
from worker.parking.session import Check, Session, State, Timer

ANSWER_MS = 5_000
PROMPT_MS = 15_000
LOOKUP_MS = 2_500


def slot_occupied(s: Session, now_ms: int) -> None:
    """The slot is somebody else's. Its occupant is not disturbed."""
    if s.reserves:
        refuse(s, do.Prompt.IN_USE, now_ms)
    elif s.call.arrival is Arrival.DIRECT:
        s.finish(do.Verdict.STOP)
        s.end()
    elif s.endpoint_id:
        _visit(s, now_ms)
    elif s.call.referred_user:
        s.enter(State.LOOKING_UP, now_ms, LOOKUP_MS)
    else:
        failed(s, now_ms)


# ---- a prompt, then stop ------------------------------------------------------------------------


def refuse(s: Session, prompt: do.Prompt, now_ms: int) -> None:
    s.refusal = prompt
    s.emit(do.Answer())
    s.enter(State.REFUSING, now_ms, ANSWER_MS)


def refusal_answered(s: Session, event: e.CommandCompleted, now_ms: int) -> None:
    if event.app is e.App.ANSWER:
        explain(s, now_ms)


def refusal_failed(s: Session, event: e.CommandFailed, now_ms: int) -> None:
    if event.channel_down:
        stop(s, now_ms)
    elif event.app is e.App.ANSWER:
        explain(s, now_ms)


def explain(s: Session, now_ms: int) -> None:
    s.emit(do.Play(prompt=s.refusal or do.Prompt.NO_CALLER))
    s.enter(State.EXPLAINING, now_ms, PROMPT_MS)


def explained(s: Session, event: e.CommandCompleted, now_ms: int) -> None:
    if event.app is e.App.NOOP:
        stop(s, now_ms)


def stop(s: Session, _now_ms: int) -> None:
    s.finish(do.Verdict.STOP)
    s.end()


def refused_gone(s: Session, _event: e.ChannelDestroyed, now_ms: int) -> None:
    stop(s, now_ms)


def refused_left(
    s: Session, event: e.ControlUsurped | e.ChannelTransferred | e.ChannelPivoted, _now_ms: int
) -> None:
    if has_lost_control(s, event):
        s.control_lost = True
        s.end()


# ---- back to the parker -------------------------------------------------------------------------


def endpoint_found(s: Session, event: e.EndpointFound, now_ms: int) -> None:
    if event.endpoint_id:
        s.endpoint_id = event.endpoint_id
        _visit(s, now_ms)
    else:
        failed(s, now_ms)


def _visit(s: Session, now_ms: int) -> None:
    call = s.call
    timeout_s = ringing.bridge_timeout_s(s)
    s.emit(
        do.SetCallee(number=call.caller_number, name=call.caller_name),
        do.Bridge(
            endpoint_id=s.endpoint_id,
            timeout_s=timeout_s,
            slot=s.wanted_entry(now_ms).slot,
            caller_name=call.caller_name,
            caller_number=call.caller_number,
        ),
    )
    patience_ms = max(s.policy.callback_timeout_ms, timeout_s * 1000) + ringing.CANCEL_GRACE_MS
    s.enter(State.VISITING, now_ms, patience_ms)
    s.emit(do.Save())


def taken_back(s: Session, event: e.ChannelBridged, now_ms: int) -> None:
    """The parker took the call back; strict ends the action here, fixed when they have talked."""
    s.bridged_leg = event.other_leg
    if s.rules.strict:
        s.finish(do.Verdict.TRANSFER)
        s.end()
        return
    s.enter(State.VISITED)
    s.timers[Timer.RECONCILE] = now_ms + s.rules.reconcile_ms
    s.emit(do.Save())


def intercepted(s: Session, _event: e.ChannelIntercepted, _now_ms: int) -> None:
    s.finish(do.Verdict.TRANSFER)
    s.end()


def command_completed(s: Session, event: e.CommandCompleted, now_ms: int) -> None:
    if event.app is not e.App.BRIDGE:
        return
    if ringing.succeeded(event):
        s.finish(do.Verdict.TRANSFER if s.rules.strict else do.Verdict.CONTINUE)
        s.end()
    else:
        failed(s, now_ms)


def command_failed(s: Session, event: e.CommandFailed, now_ms: int) -> None:
    if event.app is e.App.BRIDGE:
        failed(s, now_ms)


def failed(s: Session, _now_ms: int) -> None:
    """Nobody took the call back: hang up, like the reference (contract §7.7)."""
    s.emit(do.Hangup())
    s.finish(do.Verdict.STOP)
    s.end()


def ring_over(s: Session, now_ms: int) -> None:
    """Nobody answered in time; after an outage only the switch knows whether that is true."""
    if s.resumed:
        s.resumed = False
        s.checks.clear()
        s.check(Check.RESUME)
    else:
        failed(s, now_ms)


def liveness_known(s: Session, event: e.LivenessKnown, now_ms: int) -> None:
    s.checks.clear()
    if event.liveness is e.Liveness.DEAD:
        visitor_gone(s, e.ChannelDestroyed(call_id=s.call_id), now_ms)
    elif Timer.STEP in s.timers:
        return
    elif event.liveness is e.Liveness.ACTIVE and not event.other_leg:
        failed(s, now_ms)
    else:
        taken_back(s, e.ChannelBridged(call_id=s.call_id, other_leg=event.other_leg), now_ms)


def visitor_gone(s: Session, _event: e.ChannelDestroyed, _now_ms: int) -> None:
    s.finish(do.Verdict.STOP)
    s.end()
