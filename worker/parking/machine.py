"""The session's state machine: a literal table from (state, event) to the step that handles it.

A pair that is not in the table is refused: nothing changes, nothing is emitted. Timers are keys
like events, because a deadline means something else in each state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from worker.parking import (
    arriving,
    changes,
    events,
    holding,
    reserving,
    resuming,
    retrieving,
    ringing,
    visiting,
)
from worker.parking.effects import Command, Effect
from worker.parking.session import Session, State, Timer

Step = Callable[..., None]
"""``step(session, event, now_ms)``; for a Timer key ``step(session, now_ms)``."""

S = State

PARKED = (S.HOLDING, S.RINGING, S.INTERCEPTED, S.LEAVING, S.ADRIFT, S.CONFIRMING)
"""The session holds a slot for a parkee, and a retriever may come."""
FIRST_STAGE = (S.ANSWERING, S.PROMPTING, S.SAYING, S.AWAITING_HANGUP, S.LINGERING)
"""The session holds a reservation and the parker's leg is up."""
RETRIEVER = (S.RETRIEVING, S.PENDING, S.AWAITING_TURN, S.PICKING_UP, S.DOUBTING, S.HANDING_OVER)
REFUSED = (S.REFUSING, S.EXPLAINING)
BEFORE_HOLD = (S.CHECKING, S.CLAIMING, S.SUSPECTING)
ALL_OPEN = tuple(state for state in State if state not in (S.NEW, S.ENDED))


def _rows() -> dict[tuple[State, object], Step]:  # noqa: PLR0915 - a table, not a procedure
    e, c = events, changes
    table: dict[tuple[State, object], Step] = {}

    def on(states: State | tuple[State, ...], event: object, step: Step) -> None:
        for state in states if isinstance(states, tuple) else (states,):
            table[state, event] = step

    # -- everywhere
    on(S.NEW, e.Started, arriving.start)
    on((S.NEW,), e.Resumed, resuming.resume)
    on(ALL_OPEN, e.Resumed, resuming.resume)
    on(ALL_OPEN, e.ChannelReplaced, arriving.follow_new_id)
    on(ALL_OPEN, e.CallWatched, arriving.note_watched)
    on(ALL_OPEN, e.EndpointFound, holding.endpoint_found)

    # -- arriving
    on(S.CHECKING, e.CallWatched, arriving.ask_before_acting)
    on(S.CHECKING, e.LivenessKnown, arriving.act_if_alive)
    on(S.CHECKING, Timer.RECHECK, arriving.ask_again)
    on(S.CLAIMING, e.CallWatched, arriving.watched_while_claiming)
    on(S.CLAIMING, c.ClaimDecided, arriving.claim_decided)
    on(S.CLAIMING, Timer.STEP, arriving.ask_for_slot)
    on(S.CLAIMING, e.LivenessKnown, arriving.liveness_while_claiming)
    on(S.CONFIRMING, e.CallWatched, arriving.watched_while_claiming)
    on(S.CONFIRMING, e.LivenessKnown, arriving.confirm)
    on(S.CONFIRMING, Timer.STEP, arriving.confirm_unanswered)
    on(S.CONFIRMING, e.RetrievalBegun, holding.retrieval_begun)
    on(S.CONFIRMING, e.RetrievalEnded, holding.retrieval_ended)
    on(S.CONFIRMING, c.Released, holding.taken_away)
    on(S.SUSPECTING, e.LivenessKnown, arriving.holder_known)
    on(S.SUSPECTING, Timer.STEP, arriving.holder_unknown)
    on(BEFORE_HOLD, e.ChannelDestroyed, arriving.gone_before_hold)
    on(BEFORE_HOLD, e.ControlUsurped, arriving.left_before_hold)
    on(BEFORE_HOLD, e.ChannelTransferred, arriving.left_before_hold)
    on(BEFORE_HOLD, e.ChannelPivoted, arriving.left_before_hold)
    on(S.CONFIRMING, e.ChannelDestroyed, arriving.gone_while_confirming)

    # -- holding
    on(S.HOLDING, Timer.RING, ringing.ring_due)
    on((S.HOLDING, S.RINGING), Timer.RECHECK, holding.ask_again)
    on(S.HOLDING, e.LivenessKnown, holding.liveness_known)
    on(S.HOLDING, e.CommandCompleted, holding.command_completed)
    on(S.HOLDING, e.CommandFailed, holding.command_failed)
    on((S.HOLDING, S.RINGING), e.CommandReturned, holding.command_returned)
    on(S.HOLDING, e.ChannelBridged, holding.bridged)
    on(S.HOLDING, Timer.STEP, holding.verify_hold)
    on((S.HOLDING, S.RINGING, S.ADRIFT), Timer.RECONCILE, holding.reconcile)
    on((S.HOLDING, S.RINGING), e.ChannelDestroyed, holding.parkee_gone)
    on((S.HOLDING, S.RINGING, S.INTERCEPTED, S.ADRIFT), e.ChannelDisconnected, holding.disconnected)
    on((S.HOLDING, S.RINGING), e.ChannelIntercepted, holding.intercepted)
    on((S.HOLDING, S.RINGING, S.CONFIRMING), e.ControlUsurped, holding.usurped)
    on((S.HOLDING, S.RINGING, S.CONFIRMING), e.ChannelTransferred, holding.transferred)
    on((S.HOLDING, S.RINGING, S.CONFIRMING), e.ChannelPivoted, holding.pivoted)
    on((S.HOLDING, S.RINGING), e.RetrievalBegun, holding.retrieval_begun)
    on((S.HOLDING, S.RINGING), e.RetrievalEnded, holding.retrieval_ended)
    on((S.HOLDING, S.RINGING), c.Released, holding.taken_away)
    on(PARKED, e.ReservationCompleted, holding.replaced_by_a_transfer)
    # a foreign pickup
    on(S.INTERCEPTED, e.ChannelBridged, holding.foreign_pickup_bridged)
    on(S.INTERCEPTED, Timer.STEP, holding.foreign_pickup_step)
    on(S.INTERCEPTED, e.LivenessKnown, holding.foreign_pickup_known)
    on(S.INTERCEPTED, e.ChannelDestroyed, holding.foreign_pickup_gone)
    on(S.INTERCEPTED, e.ControlUsurped, holding.usurped_while_intercepted)
    on(S.INTERCEPTED, e.RetrievalBegun, holding.retrieval_begun)
    on(S.INTERCEPTED, c.Released, holding.taken_away)
    # control lost
    on(S.LEAVING, Timer.STEP, holding.has_left)
    on(S.LEAVING, e.RetrievalBegun, holding.adrift)
    on(S.LEAVING, c.Released, holding.taken_away)
    on(S.LEAVING, e.ChannelIntercepted, holding.intercepted_after_usurp)
    on(S.LEAVING, e.ChannelDestroyed, holding.has_left_dead)
    on(S.ADRIFT, c.Released, holding.taken_away)
    on(S.ADRIFT, e.RetrievalBegun, holding.retrieval_begun)
    on(S.ADRIFT, e.RetrievalEnded, holding.adrift_retrieval_ended)
    on(S.ADRIFT, e.LivenessKnown, holding.adrift_liveness)
    on(S.ADRIFT, Timer.RECHECK, holding.ask_again)
    on(S.ADRIFT, e.ChannelIntercepted, holding.adrift_intercepted)
    on(S.ADRIFT, e.ChannelDestroyed, holding.parkee_gone)
    # the log decides
    on(S.RELEASING, c.Released, holding.released)
    on(S.RELEASING, c.ReleaseRefused, holding.release_refused)
    on(S.RELEASING, Timer.STEP, holding.release_again)
    on(S.RELEASING, e.ChannelDestroyed, holding.gone_while_releasing)
    on(S.RELEASING, e.CommandCompleted, ringing.completed_while_releasing)
    on(S.RELEASING, e.ControlUsurped, holding.lost_while_releasing)
    on(S.RELEASING, e.ChannelTransferred, holding.lost_while_releasing)
    on(S.RELEASING, e.ChannelPivoted, holding.lost_while_releasing)

    # -- ringing the parker
    on(S.RINGING, e.ChannelBridged, ringing.answered)
    on(S.RINGING, e.CommandCompleted, ringing.command_completed)
    on(S.RINGING, e.CommandFailed, ringing.command_failed)
    on(S.RINGING, Timer.STEP, ringing.nobody_answered)
    on(S.RINGING, e.LivenessKnown, ringing.liveness_known)
    on(S.ANSWERED, e.CommandCompleted, ringing.bridge_completed)
    on(S.ANSWERED, e.CommandFailed, ringing.bridge_failed)
    on(S.ANSWERED, e.ChannelUnbridged, ringing.unbridged)
    on(S.ANSWERED, e.ChannelBridged, ringing.bridged_again)
    on(S.ANSWERED, Timer.STEP, ringing.ask_after_bridge)
    on(S.ANSWERED, Timer.RECONCILE, ringing.ask_during_bridge)
    on(S.ANSWERED, Timer.RECHECK, ringing.ask_after_bridge)
    on(S.ANSWERED, e.LivenessKnown, ringing.liveness_after_bridge)
    on(S.ANSWERED, e.ChannelDisconnected, ringing.ask_on_event)
    on((S.ANSWERED, S.VISITED), e.ChannelDestroyed, ringing.gone_after_bridge)
    on((S.ANSWERED, S.VISITED), e.ControlUsurped, ringing.left_after_bridge)
    on((S.ANSWERED, S.VISITED), e.ChannelTransferred, ringing.left_after_bridge)
    on((S.ANSWERED, S.VISITED), e.ChannelPivoted, ringing.left_after_bridge)

    # -- attended, first stage
    on(S.ANSWERING, e.CommandCompleted, reserving.answer_completed)
    on(S.ANSWERING, e.CommandFailed, reserving.answer_failed)
    on(S.ANSWERING, Timer.STEP, reserving.play)
    on(S.PROMPTING, e.CommandCompleted, reserving.prompt_completed)
    on(S.PROMPTING, Timer.STEP, reserving.say)
    on(S.SAYING, e.CommandCompleted, reserving.say_completed)
    on(S.SAYING, e.CommandFailed, reserving.say_failed)
    on(S.SAYING, Timer.STEP, reserving.await_hangup)
    on(S.AWAITING_HANGUP, Timer.STEP, reserving.hangup_awaited)
    on(FIRST_STAGE, e.ChannelDestroyed, reserving.leg_gone)
    on(FIRST_STAGE, e.ControlUsurped, reserving.leg_left)
    on(FIRST_STAGE, e.ChannelTransferred, reserving.leg_left)
    on(FIRST_STAGE, e.ChannelPivoted, reserving.leg_left)
    on(FIRST_STAGE, e.ChannelDisconnected, reserving.ask)
    on(FIRST_STAGE, Timer.RECONCILE, reserving.ask_timer)
    on(FIRST_STAGE, Timer.RECHECK, reserving.ask_timer)
    on(FIRST_STAGE, e.LivenessKnown, reserving.liveness_known)
    on((*FIRST_STAGE, S.RESERVED), e.ReservationCompleted, reserving.completed)
    on((*FIRST_STAGE, S.RESERVED), c.Released, reserving.taken_away)
    on(S.RESERVED, Timer.STEP, reserving.expired)
    on(S.RELEASING, e.ReservationCompleted, reserving.completed)

    # -- retrieving
    on(S.RETRIEVING, c.RetrieveDecided, retrieving.decided)
    on(S.RETRIEVING, e.CallWatched, retrieving.watched)
    on(S.RETRIEVING, Timer.STEP, retrieving.ask_for_pickup)
    on(S.PICKING_UP, e.CallWatched, retrieving.watched)
    on(S.PENDING, Timer.STEP, retrieving.ask_again)
    on(S.AWAITING_TURN, e.SlotFreed, retrieving.slot_freed)
    on(S.AWAITING_TURN, e.RetrievalEnded, retrieving.turn_came)
    on(S.AWAITING_TURN, Timer.STEP, retrieving.turn_never_came)
    on((S.PICKING_UP, S.DOUBTING), e.ChannelBridged, retrieving.bridged)
    on(S.PICKING_UP, e.CommandFailed, retrieving.pickup_failed)
    on(S.PICKING_UP, e.CommandReturned, retrieving.pickup_returned)
    on(S.PICKING_UP, e.CommandCompleted, retrieving.pickup_completed)
    on((S.PICKING_UP, S.DOUBTING), Timer.STEP, retrieving.time_is_up)
    on((S.PICKING_UP, S.DOUBTING), Timer.RECHECK, retrieving.ask_about_ourselves)
    on((S.PICKING_UP, S.DOUBTING), c.Released, retrieving.target_released)
    on(S.DOUBTING, e.LivenessKnown, retrieving.target_known)
    on(RETRIEVER, c.Swapped, retrieving.target_moved)
    on(S.HANDING_OVER, c.Released, retrieving.handed_over)
    on(S.HANDING_OVER, c.ReleaseRefused, retrieving.handed_over_by_other)
    on(S.HANDING_OVER, Timer.STEP, retrieving.hand_over_again)
    on(RETRIEVER, e.ChannelDestroyed, retrieving.retriever_gone)
    on(RETRIEVER, e.ControlUsurped, retrieving.retriever_left)
    on(RETRIEVER, e.ChannelTransferred, retrieving.retriever_left)
    on(RETRIEVER, e.ChannelPivoted, retrieving.retriever_left)
    on(RETRIEVER, e.LivenessKnown, retrieving.own_liveness)
    on(S.DOUBTING, e.LivenessKnown, retrieving.target_known)

    # -- refusing
    on(S.REFUSING, e.CommandCompleted, visiting.refusal_answered)
    on(S.REFUSING, e.CommandFailed, visiting.refusal_failed)
    on(S.REFUSING, Timer.STEP, visiting.explain)
    on(S.EXPLAINING, e.CommandCompleted, visiting.explained)
    on(S.EXPLAINING, Timer.STEP, visiting.stop)
    on(REFUSED, e.ChannelDestroyed, visiting.refused_gone)
    on(REFUSED, e.ControlUsurped, visiting.refused_left)
    on(REFUSED, e.ChannelTransferred, visiting.refused_left)
    on(REFUSED, e.ChannelPivoted, visiting.refused_left)

    # -- a call transferred into an occupied slot
    on(S.LOOKING_UP, e.EndpointFound, visiting.endpoint_found)
    on(S.LOOKING_UP, Timer.STEP, visiting.failed)
    on(S.VISITING, e.ChannelBridged, visiting.taken_back)
    on(S.VISITING, e.ChannelIntercepted, visiting.intercepted)
    on(S.VISITING, e.CommandCompleted, visiting.command_completed)
    on(S.VISITING, e.CommandFailed, visiting.command_failed)
    on(S.VISITING, Timer.STEP, visiting.ring_over)
    on(S.VISITING, e.LivenessKnown, visiting.liveness_known)
    on((S.LOOKING_UP, S.VISITING), e.ChannelDestroyed, visiting.visitor_gone)
    on((S.LOOKING_UP, S.VISITING), e.ControlUsurped, visiting.refused_left)
    on((S.LOOKING_UP, S.VISITING), e.ChannelTransferred, visiting.refused_left)
    on((S.LOOKING_UP, S.VISITING), e.ChannelPivoted, visiting.refused_left)
    on(S.VISITED, e.CommandCompleted, ringing.bridge_completed)
    on(S.VISITED, e.CommandFailed, ringing.bridge_failed)
    on(S.VISITED, e.ChannelUnbridged, ringing.unbridged)
    on(S.VISITED, e.ChannelBridged, ringing.bridged_again)
    on(S.VISITED, Timer.STEP, ringing.ask_after_bridge)
    on(S.VISITED, Timer.RECONCILE, ringing.ask_during_bridge)
    on(S.VISITED, Timer.RECHECK, ringing.ask_after_bridge)
    on(S.VISITED, e.LivenessKnown, ringing.liveness_after_bridge)
    on(S.VISITED, e.ChannelDisconnected, ringing.ask_on_event)
    return table


TRANSITIONS: Mapping[tuple[State, object], Step] = _rows()


def receive(
    session: Session, event: events.Event | events.ChannelEvent, now_ms: int
) -> tuple[Effect, ...]:
    """Feed one event; returns what is wanted, in order.

    Events about calls the session neither is nor has asked about are refused, as are pairs that
    are not in the table."""
    if isinstance(event, events.DeadlinePassed):
        for timer in session.due(now_ms):
            step = TRANSITIONS.get((session.state, timer))
            if step is not None:
                step(session, now_ms)
    elif not (
        isinstance(event, events.ChannelEvent)
        and event.call_id not in (session.call_id, session.asked)
    ):
        step = TRANSITIONS.get((session.state, type(event)))
        if step is not None:
            step(session, event, now_ms)
    return _take_effects(session)


def _take_effects(session: Session) -> tuple[Effect, ...]:
    """Commands wait until we listen: their completions must not be missed (contract §3.2)."""
    wanted, session.effects = session.effects, []
    if session.control_lost:  # whatever a step wanted: the call is not ours to command
        session.unsent = []
        wanted = [effect for effect in wanted if not isinstance(effect, Command)]
    elif session.watched:
        wanted, session.unsent = [*session.unsent, *wanted], []
    else:
        session.unsent += [effect for effect in wanted if isinstance(effect, Command)]
        wanted = [effect for effect in wanted if not isinstance(effect, Command)]
    return tuple(wanted)
