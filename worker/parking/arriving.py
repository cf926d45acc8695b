"""From the execute to the decision: what the call wants, whether it lives, whether it got its slot.

Contract §7.3 to §7.7; design §8 rows on slots, age and death.
"""

from __future__ import annotations

from dataclasses import replace

from worker.parking import effects as do
from worker.parking import events as e
from worker.parking import holding, reserving, retrieving, visiting
from worker.parking.call import Arrival
from worker.parking.changes import ClaimDecided, ClaimOutcome
from worker.parking.model import Action, ReleaseReason, SlotEntry
from worker.parking.node import over_max
from worker.parking.session import RECHECK_MS, Check, Session, State, Timer

MAX_SLOT_EXCEEDED = "MAX_SLOT_EXCEEDED"
CONFIRM_MS = 4_000
"""Longer than any liveness answer takes: only a lost answer lets it run out."""
TOO_OLD_ASKS = 3
"""How often the switch is asked about an execute older than its patience."""
LAST_ASK = 1
"""The round of an execute that only waited: it is acted on unless its channel is dead."""
MAX_EVICTIONS = 3
LOG_MS = 5_000
"""A decision takes milliseconds; what is not decided by then is asked for again."""


def start(s: Session, event: e.Started, now_ms: int) -> None:
    """Accept, listen, and either act at once or ask the switch first."""
    s.emit(do.Accept())
    if over_max(s.slot or "", s.node.max_slot):
        s.finish(do.Verdict.CONTINUE, MAX_SLOT_EXCEEDED)
        s.end()
        return
    if event.waited:
        s.round = TOO_OLD_ASKS + LAST_ASK if event.too_old else LAST_ASK
        s.enter(State.CHECKING)
    else:
        act(s, now_ms)
    s.emit(do.Watch(call_id=s.call_id))
    ask_for_parker(s)


def ask_for_parker(s: Session) -> None:
    """The parker's device: Restricted-Endpoint-ID, else the registrar's answer (design §8)."""
    call = s.call
    if s.endpoint_id or call.arrival is Arrival.DIRECT or not call.referred_user:
        return
    s.emit(do.AskEndpoint(user=call.referred_user, realm=call.referred_realm or call.realm))


def act(s: Session, now_ms: int) -> None:
    """Do what the node and the way of arrival ask for (contract §7.3)."""
    direct = s.call.arrival is Arrival.DIRECT
    if direct and s.action in (Action.RETRIEVE, Action.AUTO):
        retrieving.begin(s, now_ms)
    else:
        claim(s, now_ms)


def claim(s: Session, now_ms: int) -> None:
    """Ask the log for the slot; meanwhile the switch says whether the call lives."""
    s.attempt += 1
    s.enter(State.CLAIMING)
    ask_for_slot(s, now_ms)
    if s.watched and s.liveness is None:
        _ask_quickly(s)


def ask_for_slot(s: Session, now_ms: int) -> None:
    """Put the claim into the log; asking twice gets the same answer twice."""
    s.timers[Timer.STEP] = now_ms + LOG_MS
    entry = s.wanted_entry(now_ms)
    if entry.reserved and s.call.authorizing_type == "device":
        # The leg that reserves is the parker's own: it is who will be rung (contract §14).
        entry = replace(entry, parker_device=s.call.authorizing_id)
    replaces, suspect = s.call.replaces, s.target
    if suspect is not None and _is_ours(s, suspect):
        replaces, suspect = (*replaces, s.call_id), None
    s.emit(
        do.ClaimSlot(
            entry=entry,
            attempt=s.attempt,
            max_slot=s.node.max_slot,
            replaces=replaces,
            evict=None if suspect is None else suspect.session,
            evict_call=None if suspect is None else suspect.call_id,
            lamps=s.lamps_by_slot(),
        )
    )


def _is_ours(s: Session, holder: SlotEntry) -> bool:
    """The same call is parked there by an older action: it stays, under this session."""
    return holder.call_id == s.call_id and not (holder.reserved or s.reserves)


# ---- an execute that waited ---------------------------------------------------------------------


def ask_before_acting(s: Session, _event: e.CallWatched, _now_ms: int) -> None:
    s.watched = True
    s.emit(do.AskLiveness(call_id=s.call_id))


def act_if_alive(s: Session, event: e.LivenessKnown, now_ms: int) -> None:
    """Only a channel that is not proven dead is acted on; beyond the switch's patience, only one
    that is proven alive."""
    s.liveness = event.liveness
    target, s.target = s.target, None
    if event.liveness is e.Liveness.DEAD:
        _nothing_to_hold(s)
    elif target is not None and event.other_leg == target.call_id:
        retrieving.found_bridged(s, target, now_ms)
    elif event.other_leg:
        # While it waited somebody else has taken the call: it is not ours to interrupt.
        s.emit(do.Note(text="call in a conversation before it was held"))
        s.finish(do.Verdict.TRANSFER)
        s.end()
    elif event.liveness is e.Liveness.ACTIVE or s.round == LAST_ASK:
        s.round = 0
        act(s, now_ms)
    elif s.round == LAST_ASK + 1:
        _nothing_to_hold(s)
    else:
        s.round -= 1
        s.timers[Timer.RECHECK] = now_ms + RECHECK_MS


def ask_again(s: Session, _now_ms: int) -> None:
    s.emit(do.AskLiveness(call_id=s.call_id))


def _nothing_to_hold(s: Session) -> None:
    s.emit(do.Note(text="call gone before it was held"))
    s.finish(do.Verdict.CONTINUE)
    s.end()


# ---- everywhere ---------------------------------------------------------------------------------


def note_watched(s: Session, _event: e.CallWatched, _now_ms: int) -> None:
    """Listening again after an outage: only now can the switch be asked without missing a thing."""
    s.watched = True
    if Check.RESUME in s.checks:
        s.emit(do.AskLiveness(call_id=s.call_id, patient=True))


def follow_new_id(s: Session, event: e.ChannelReplaced, _now_ms: int) -> None:
    """Slot, binding and lamp follow the call to its new id (contract §3.4, D17)."""
    if not event.new_call_id or event.new_call_id == s.call_id:
        return
    if event.fetch_id != s.call.fetch_id:
        return
    old, s.call_id = s.call_id, event.new_call_id
    s.emit(do.Watch(call_id=s.call_id), do.Unwatch(call_id=old))
    if s.entry is not None:
        s.emit(do.SwapCall(slot=s.entry.slot, old_call_id=old, new_call_id=s.call_id))
        s.entry = replace(s.entry, call_id=s.call_id)
    if s.state not in (State.RELEASING, State.INTERCEPTED, State.LEAVING):
        s.emit(do.Save())  # a successor must not look for the old id
    if s.checks:
        s.emit(do.AskLiveness(call_id=s.call_id))


# ---- claiming -----------------------------------------------------------------------------------


def watched_while_claiming(s: Session, _event: e.CallWatched, _now_ms: int) -> None:
    s.watched = True
    if s.liveness is None:
        _ask_quickly(s)


def _ask_quickly(s: Session) -> None:
    s.emit(do.AskLiveness(call_id=s.call_id, quick=True))


def liveness_while_claiming(s: Session, event: e.LivenessKnown, _now_ms: int) -> None:
    s.liveness = event.liveness


def claim_decided(s: Session, event: ClaimDecided, now_ms: int) -> None:
    if event.attempt != s.attempt:
        return
    outcome = event.outcome
    if outcome is ClaimOutcome.EXCEEDED:
        s.finish(do.Verdict.CONTINUE, MAX_SLOT_EXCEEDED)
        s.end()
    elif outcome is ClaimOutcome.OCCUPIED:
        _occupied(s, event, now_ms)
    elif event.entry is not None:
        s.target = None
        s.inherits_lamp = event.previous is not None and not event.previous.reserved
        s.hold_entry(event.entry)
        _confirm_or_wait(s, now_ms)


def _confirm_or_wait(s: Session, now_ms: int) -> None:
    if s.liveness is None:
        s.enter(State.CONFIRMING, now_ms, CONFIRM_MS)
    elif s.liveness is e.Liveness.DEAD:
        s.release(ReleaseReason.WITHDRAWN, now_ms)
    else:
        _settle_in(s, now_ms)


def confirm(s: Session, event: e.LivenessKnown, now_ms: int) -> None:
    s.liveness = event.liveness
    _confirm_or_wait(s, now_ms)


def confirm_unanswered(s: Session, now_ms: int) -> None:
    s.liveness = e.Liveness.UNKNOWN
    _settle_in(s, now_ms)


def _settle_in(s: Session, now_ms: int) -> None:
    if s.entry is not None and s.entry.reserved:
        reserving.begin(s, now_ms)
    else:
        holding.begin(s, now_ms)


def gone_before_hold(s: Session, _event: e.ChannelDestroyed, now_ms: int) -> None:
    """A claim still under way is undone by the session's end (Close frees what it holds)."""
    _nothing_to_hold(s)


def gone_while_confirming(s: Session, _event: e.ChannelDestroyed, now_ms: int) -> None:
    s.liveness = e.Liveness.DEAD
    s.release(ReleaseReason.WITHDRAWN, now_ms)


def left_before_hold(
    s: Session, event: e.ControlUsurped | e.ChannelTransferred | e.ChannelPivoted, _now_ms: int
) -> None:
    if holding.has_lost_control(s, event):
        s.control_lost = True
        s.end()


# ---- the slot is occupied -----------------------------------------------------------------------


def _occupied(s: Session, event: ClaimDecided, now_ms: int) -> None:
    """Believe it only when the switch says that the holder lives (contract §7.5)."""
    holder = event.previous
    if holder is None or s.attempt > MAX_EVICTIONS:
        visiting.slot_occupied(s, now_ms)
    elif holder.call_id == s.call_id and holder.session != s.id:
        # The same channel cannot be in two flows: the older session is over.
        s.target = holder
        claim(s, now_ms)
    elif holder.reserved:
        # Its leg may be gone while the transfer is on its way; it expires by itself.
        visiting.slot_occupied(s, now_ms)
    else:
        s.target = holder
        s.asked = holder.call_id
        s.emit(do.AskLiveness(call_id=holder.call_id))
        s.enter(State.SUSPECTING, now_ms, CONFIRM_MS)


def holder_known(s: Session, event: e.LivenessKnown, now_ms: int) -> None:
    if s.target is None or event.call_id != s.target.call_id:
        s.liveness = event.liveness  # the answer about our own call
    elif event.liveness is e.Liveness.DEAD:
        s.asked = None
        claim(s, now_ms)
    else:
        holder_unknown(s, now_ms)


def holder_unknown(s: Session, now_ms: int) -> None:
    s.target = s.asked = None
    visiting.slot_occupied(s, now_ms)
