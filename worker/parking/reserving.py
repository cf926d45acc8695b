"""Attended park, first stage: the parker hears the slot's number and then transfers into it.

Contract §7.6; design §8. No lamp and no park event here: the slot is only reserved. The result is
*transfer* once the parker's leg is gone, or 30 s after the announcement; the reservation is freed
some time after that leg is gone, unless the Replaces came.
"""

from __future__ import annotations

from worker.parking import effects as do
from worker.parking import events as e
from worker.parking import holding
from worker.parking.changes import Released
from worker.parking.model import ReleaseReason
from worker.parking.session import RECHECK_MS, Check, Session, State, Timer

ANSWER_MS = 5_000
PROMPT_MS = 15_000
SAY_MS = 10_000
HANGUP_MS = 30_000


def begin(s: Session, now_ms: int) -> None:
    s.emit(do.Answer())
    s.enter(State.ANSWERING, now_ms, ANSWER_MS)
    s.timers[Timer.RECONCILE] = now_ms + s.rules.reconcile_ms


def answer_completed(s: Session, event: e.CommandCompleted, now_ms: int) -> None:
    if event.app is e.App.ANSWER:
        play(s, now_ms)


def answer_failed(s: Session, event: e.CommandFailed, now_ms: int) -> None:
    if event.app is e.App.ANSWER:
        play(s, now_ms)


def play(s: Session, now_ms: int) -> None:
    s.emit(do.Play(prompt=do.Prompt.PLACED))
    s.enter(State.PROMPTING, now_ms, PROMPT_MS)


def prompt_completed(s: Session, event: e.CommandCompleted, now_ms: int) -> None:
    """The noop behind the prompt ends even when the prompt cannot be played (contract §4.6)."""
    if event.app is e.App.NOOP:
        say(s, now_ms)


def say(s: Session, now_ms: int) -> None:
    s.emit(do.Say(text=s.slot or ""))
    s.enter(State.SAYING, now_ms, SAY_MS)


def say_completed(s: Session, event: e.CommandCompleted, now_ms: int) -> None:
    if event.app is e.App.SAY:
        await_hangup(s, now_ms)


def say_failed(s: Session, event: e.CommandFailed, now_ms: int) -> None:
    if event.app is e.App.SAY:
        await_hangup(s, now_ms)


def await_hangup(s: Session, now_ms: int) -> None:
    s.enter(State.AWAITING_HANGUP, now_ms, HANGUP_MS)
    s.emit(do.Save())


def hangup_awaited(s: Session, now_ms: int) -> None:
    """30 s after the announcement the flow is let go; the reservation stays with the leg."""
    s.finish(do.Verdict.TRANSFER)
    if s.entry is None:
        s.end()
        return
    s.enter(State.LINGERING)
    s.emit(do.Save())


def leg_gone(s: Session, _event: e.ChannelDestroyed, now_ms: int) -> None:
    s.finish(do.Verdict.TRANSFER)
    _wait_for_replaces(s, now_ms)


def leg_left(
    s: Session, event: e.ControlUsurped | e.ChannelTransferred | e.ChannelPivoted, now_ms: int
) -> None:
    if holding.has_lost_control(s, event):
        s.control_lost = True
        _wait_for_replaces(s, now_ms)


def _wait_for_replaces(s: Session, now_ms: int) -> None:
    if s.entry is None:
        s.end()
        return
    s.timers.clear()
    s.checks.clear()
    s.enter(State.RESERVED, now_ms, s.policy.valet_cleanup_ms)
    s.emit(do.Save())


def expired(s: Session, now_ms: int) -> None:
    s.release(ReleaseReason.EXPIRED, now_ms)


def completed(s: Session, _event: e.ReservationCompleted, _now_ms: int) -> None:
    """The transfer is complete: the slot is another session's, this one only has its leg left."""
    s.entry = None
    if s.state in (State.RESERVED, State.LINGERING, State.RELEASING):
        s.end()


def taken_away(s: Session, event: Released, _now_ms: int) -> None:
    if event.entry.session == s.id:
        s.entry = None
        if s.state in (State.RESERVED, State.LINGERING):
            s.end()


def ask(s: Session, _event: e.ChannelDisconnected, _now_ms: int) -> None:
    s.check(Check.RECONCILE)


def ask_timer(s: Session, now_ms: int) -> None:
    s.timers[Timer.RECONCILE] = now_ms + s.rules.reconcile_ms
    s.checks.clear()
    s.check(Check.RECONCILE)


def liveness_known(s: Session, event: e.LivenessKnown, now_ms: int) -> None:
    asked = bool(s.checks)
    s.checks.clear()
    if event.liveness is e.Liveness.DEAD:
        s.finish(do.Verdict.TRANSFER)
        _wait_for_replaces(s, now_ms)
    elif event.liveness is e.Liveness.UNKNOWN and asked:
        s.timers[Timer.RECHECK] = now_ms + RECHECK_MS
