"""Every pair of state and event is in the table, or is refused without change."""

from __future__ import annotations

import copy
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.table.states_doc import page
from worker.parking import effects as do
from worker.parking import events as e
from worker.parking.call import Call
from worker.parking.changes import (
    ClaimDecided,
    ClaimOutcome,
    Released,
    ReleaseRefused,
    RetrieveDecided,
    RetrieveOutcome,
    Swapped,
)
from worker.parking.machine import TRANSITIONS, receive
from worker.parking.model import (
    AccountId,
    CallId,
    ReleaseReason,
    SessionId,
    SlotEntry,
    SlotId,
    WorkerId,
)
from worker.parking.node import Node
from worker.parking.session import Rules, Session, State, Timer

NOW_MS = 1_800_000_000_000
OWN, TARGET = CallId("own@x"), CallId("target@x")


def entry(session: str, call_id: CallId) -> SlotEntry:
    return SlotEntry(
        account=AccountId("acc"), slot=SlotId("101"), session=SessionId(session), call_id=call_id
    )


EVENTS: dict[type, Any] = {
    e.Started: e.Started(),
    e.Resumed: e.Resumed(adopted=True),
    e.CallWatched: e.CallWatched(call_id=OWN),
    e.LivenessKnown: e.LivenessKnown(call_id=OWN, liveness=e.Liveness.ACTIVE),
    ClaimDecided: ClaimDecided(
        session=SessionId("s"), attempt=1, outcome=ClaimOutcome.WON, entry=entry("s", OWN)
    ),
    RetrieveDecided: RetrieveDecided(
        session=SessionId("s"), attempt=1, outcome=RetrieveOutcome.WON, entry=entry("t", TARGET)
    ),
    Released: Released(
        entry=entry("s", OWN),
        reason=ReleaseReason.ABANDONED,
        by=SessionId("s"),
        author=WorkerId("w"),
        owner=WorkerId("w"),
    ),
    ReleaseRefused: ReleaseRefused(
        holder=SessionId("s"), by=SessionId("s"), reason=ReleaseReason.ABANDONED
    ),
    Swapped: Swapped(before=entry("t", TARGET), after=entry("t", CallId("n"))),
    e.RetrievalBegun: e.RetrievalBegun(retriever=SessionId("r")),
    e.RetrievalEnded: e.RetrievalEnded(retriever=SessionId("r")),
    e.SlotFreed: e.SlotFreed(),
    e.EndpointFound: e.EndpointFound(endpoint_id="dev"),
    e.ReservationCompleted: e.ReservationCompleted(),
    e.ChannelDestroyed: e.ChannelDestroyed(call_id=OWN),
    e.ChannelDisconnected: e.ChannelDisconnected(call_id=OWN),
    e.ChannelConnected: e.ChannelConnected(call_id=OWN),
    e.ChannelAnswered: e.ChannelAnswered(call_id=OWN),
    e.ChannelBridged: e.ChannelBridged(call_id=OWN, other_leg=TARGET),
    e.ChannelUnbridged: e.ChannelUnbridged(call_id=OWN),
    e.ChannelIntercepted: e.ChannelIntercepted(call_id=OWN, by=CallId("x")),
    e.ChannelReplaced: e.ChannelReplaced(call_id=OWN, new_call_id=CallId("n"), fetch_id="f"),
    e.ChannelTransferred: e.ChannelTransferred(call_id=OWN, fetch_id="f"),
    e.ChannelPivoted: e.ChannelPivoted(call_id=OWN),
    e.ControlUsurped: e.ControlUsurped(call_id=OWN, fetch_id="other"),
    e.CommandCompleted: e.CommandCompleted(call_id=OWN, app=e.App.HOLD),
    e.CommandFailed: e.CommandFailed(call_id=OWN, app=e.App.HOLD),
    e.CommandReturned: e.CommandReturned(call_id=OWN, app=e.App.HOLD),
}
KINDS = tuple(kind for kind in get_args(e.Event) if kind is not e.DeadlinePassed)
PAIRS = [*product(State, KINDS), *product(State, Timer)]


def session_in(state: State) -> Session:
    call = Call(call_id=OWN, account=AccountId("acc"), fetch_id="f", capture_group="101")
    session = Session(SessionId("s"), call, Node(), Rules())
    session.state = state
    session.entry = entry("s", OWN)
    session.target = entry("t", TARGET)
    session.attempt = 1
    return session


def picture(session: Session) -> dict[str, Any]:
    return {name: copy.copy(getattr(session, name)) for name in Session.__slots__}


def feed(session: Session, trigger: Any) -> tuple[do.Effect, ...]:
    if isinstance(trigger, Timer):
        session.timers[trigger] = NOW_MS
        return receive(session, e.DeadlinePassed(), NOW_MS)
    return receive(session, EVENTS[trigger], NOW_MS)


def test_every_event_has_an_example() -> None:
    assert set(EVENTS) == set(KINDS)


@pytest.mark.parametrize(("state", "trigger"), PAIRS)
def test_a_pair_is_in_the_table_or_refused_without_change(state: State, trigger: Any) -> None:
    session = session_in(state)
    before = picture(session)
    effects = feed(session, trigger)
    if (state, trigger) not in TRANSITIONS:
        assert effects == ()
        assert picture(session) == before
    else:
        assert session.state in State


def test_a_session_that_has_ended_hears_nothing_more() -> None:
    assert not [pair for pair in TRANSITIONS if pair[0] is State.ENDED]


def test_events_of_other_calls_are_refused() -> None:
    session = session_in(State.HOLDING)
    before = picture(session)
    assert receive(session, e.ChannelDestroyed(call_id=CallId("other")), NOW_MS) == ()
    assert picture(session) == before


def test_the_page_of_states_is_current() -> None:
    assert (Path(__file__).parents[2] / "docs/states.md").read_text() == page()
