"""Who parks, dials, answers, hangs up; and what breaks. All drawn from the run's seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from worker.switch import ACCOUNT, BUSY, IGNORE, REALM, CallPlan, Device, Ring
from worker.switch.callflow import Flow

if TYPE_CHECKING:
    from tests.simulation.zone import Zone

SLOTS = ("101", "102", "103")
RECOVERY_MS = 6_000
"""After a worker's death: adopted within 5 s (design §5), and a second to act."""


class People:
    """Draws a script for the run and plays it."""

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._random = zone.agenda.random
        self._kazoo = zone.kazoo
        self._calls = 0
        self._lost_servers = False
        self.devices: list[Device] = []
        for number in range(3):
            device = Device(id=f"device-{number}", username=f"user{number}", number=f"400{number}")
            device.rings = [self._ring() for _ in range(6)]
            zone.kazoo.core.devices[device.id] = device
            self.devices.append(device)

    def _ring(self) -> Ring:
        random = self._random
        match random.randint(0, 4):
            case 0:
                return IGNORE
            case 1:
                return BUSY
            case _:
                talk_ms = random.choice((None, 500, 3_000))
                return Ring(answer_after_ms=random.randint(100, 2_500), talk_ms=talk_ms)

    # ---- the script -----------------------------------------------------------------------------

    def plan(self, script_ms: int) -> None:
        random, weather = self._random, self._zone.weather
        for _ in range(weather.calls):
            self._later(script_ms, random.choice(CALLS))
        for _ in range(weather.calls):
            self._later(script_ms, random.choice(LATER))
        if weather.foreign:
            for _ in range(random.randint(1, 4)):
                self._later(script_ms, random.choice(FOREIGN))
        faults = list(WORKER_FAULTS)
        if weather.broker_faults:
            faults += BROKER_FAULTS
        for _ in range(weather.faults):
            self._later(script_ms, random.choice(faults))
        if weather.node_loss:
            self._later(script_ms, People.lose_server)
            self._later(script_ms, People.fall_silent)

    def _later(self, within_ms: int, action: Callable[[People], None]) -> None:
        self._after(self._random.randint(0, within_ms), lambda: action(self))

    def _after(self, delay_ms: int, action: Callable[[], object]) -> None:
        self._zone.agenda.after(delay_ms, action)

    def _tell(self, text: str, *about: str) -> None:
        self._zone.tell("people", text, set(about))

    # ---- calls ----------------------------------------------------------------------------------

    def _call_id(self) -> str:
        self._calls += 1
        return f"c{self._calls}"

    def _data(self, action: str) -> dict[str, object]:
        random = self._random
        return {
            "action": action,
            "default_ringback_timeout": random.choice((700, 1_500, 3_000, 6_000, 60_000)),
            "default_callback_timeout": random.choice((1_000, 2_000)),
        }

    def _slot(self) -> str:
        return self._random.choice(SLOTS)

    def _place(self, plan: CallPlan) -> Flow:
        flows: list[Flow] = []
        self._kazoo.do(lambda core: flows.append(core.place(plan)))
        flow = flows[0]
        self._zone.checker.entered(flow.action_id)
        how = f"replaces {plan.replaces}" if plan.replaces else ""
        by = f"by {plan.transferred_by.id}" if plan.transferred_by else ""
        self._tell(
            f"{flow.call_id} enters {plan.data.get('action')} {plan.capture_group or 'auto'} {by} "
            f"{how} {plan.data} session {flow.action_id}",
            flow.call_id,
            flow.action_id,
            plan.replaces,
        )
        return flow

    def _number(self, slot: str) -> dict[str, Any]:
        if slot and self._random.random() < 0.9:
            return {"number": f"*3{slot}", "capture_group": slot}
        return {"number": "*4"}

    def _server(self) -> int:
        return 1 if self._random.random() < 0.15 else 0

    def _children(self) -> dict[str, object]:
        return {key: {} for key in self._random.choice(((), ("_",), ("_",), ("_", "101")))}

    def park_blind(self, slot: str = "", call_id: str = "") -> None:
        random = self._random
        by = random.choice(self.devices) if random.random() < 0.85 else None
        self._place(
            CallPlan(
                **self._number(slot or self._slot()),
                data=self._data(random.choice(("park", "park", "auto", "direct_park"))),
                children=self._children(),
                call_id=call_id or self._call_id(),
                transferred_by=by,
                unknown_referrer=by is None,
                server=self._server(),
            )
        )

    def park_direct(self, slot: str = "") -> None:
        self._place(
            CallPlan(
                **self._number(slot or self._slot()),
                data=self._data("direct_park"),
                children=self._children(),
                call_id=self._call_id(),
            )
        )

    def park_attended(self, slot: str = "") -> None:
        """A consultation call, and (mostly) the transfer that completes it."""
        random = self._random
        parker = random.choice(self.devices)
        number = self._number(slot or self._slot())
        consultation = self._place(
            CallPlan(
                **number,
                data=self._data(random.choice(("park", "auto"))),
                children=self._children(),
                call_id=self._call_id(),
                caller=parker,
            )
        )
        replaced = consultation.call_id

        def complete() -> None:
            if random.random() < 0.2:
                self._hang_up(replaced)
                if random.random() < 0.5:
                    return
            self._place(
                CallPlan(
                    **number,
                    data=self._data("park"),
                    children=self._children(),
                    call_id=self._call_id(),
                    transferred_by=parker,
                    replaces=replaced,
                    replaced_leg_ends=random.random() < 0.9,
                )
            )

        if random.random() < 0.9:
            self._after(random.randint(20, 4_000), complete)

    def retrieve(self, slot: str = "") -> None:
        self._dial("retrieve", slot)

    def dial_auto(self, slot: str = "") -> None:
        self._dial("auto", slot)

    def _dial(self, action: str, slot: str) -> None:
        number = slot or self._slot()
        self._place(
            CallPlan(
                number=f"*3{number}",
                capture_group=number,
                data=self._data(action),
                children=self._children(),
                call_id=self._call_id(),
                caller=self._random.choice(self.devices),
                server=self._server(),
            )
        )

    def race(self) -> None:
        """Several at once for one slot."""
        slot = self._slot()
        runners = (self.park_blind, self.park_direct, self.retrieve, self.retrieve, self.dial_auto)
        for _ in range(self._random.randint(2, 4)):
            runner = self._random.choice(runners)
            self._after(self._random.randint(0, 40), lambda runner=runner: runner(slot))  # type: ignore[misc]

    def park_again(self) -> None:
        """A retrieved call is transferred into a slot once more: same channel, new flow."""
        core = self._kazoo.core
        talking = [
            channel
            for channel in self._living()
            if core.channels.by_id[channel].other_leg and core.channels.by_id[channel].leg_ended
        ]
        if not talking:
            return
        call_id = self._random.choice(talking)
        channel = core.channels.by_id[call_id]
        other = channel.other_leg
        channel.leg_ended = False
        channel.other_leg = core.channels.by_id[other].other_leg = ""
        self.park_blind(call_id=call_id)
        self._hang_up(other)

    # ---- later in a call's life -----------------------------------------------------------------

    def _living(self) -> list[str]:
        channels = self._kazoo.core.channels.by_id
        return [call_id for call_id, channel in channels.items() if channel.alive]

    def _some(self) -> str | None:
        living = self._living()
        return self._random.choice(living) if living else None

    def _hang_up(self, call_id: str) -> None:
        self._tell(f"{call_id} hangs up", call_id)
        self._kazoo.do(lambda core: core.hang_up(call_id))

    def hang_up(self) -> None:
        call_id = self._some()
        if call_id is not None:
            self._hang_up(call_id)

    def vanish(self) -> None:
        call_id = self._some()
        if call_id is not None:
            self._tell(f"{call_id} vanishes", call_id)
            self._kazoo.do(lambda core: core.vanish(call_id))

    def replace_call(self) -> None:
        """Not in the moments in which nobody listens: a new id that nobody heard of is lost."""
        call_id = self._some()
        if call_id is not None and self._zone.checker.is_followed(call_id):
            new = self._call_id()
            self._tell(f"{call_id} is {new} now", call_id, new)
            direct = self._random.random() < 0.5
            self._zone.checker.replaced(call_id)
            self._kazoo.do(lambda core: core.replace_call(call_id, new, direct=direct))

    def end_application(self) -> None:
        call_id = self._some()
        if call_id is not None:
            channel = self._kazoo.core.channels.by_id[call_id]
            if channel.running is not None and channel.running.name == "hold":
                self._tell(f"the hold of {call_id} ends by itself", call_id)
                self._zone.checker.hold_ended(call_id)
                self._kazoo.do(lambda core: core.end_application(call_id))

    def refuse(self) -> None:
        call_id = self._some()
        if call_id is not None:
            application = self._random.choice(("hold", "call_pickup", "answer", "play"))
            self._tell(f"the next {application} of {call_id} fails", call_id)
            self._kazoo.do(lambda core: core.refuse(call_id, application))

    def _some_parked(self) -> str | None:
        parked = [
            call_id
            for call_id in self._living()
            if (running := self._kazoo.core.channels.by_id[call_id].running) is not None
            and running.name == "hold"
        ]
        return self._random.choice(parked) if parked else None

    def pick_up_foreign(self) -> None:
        call_id = self._some_parked()
        if call_id is not None:
            phone = self._call_id()
            self._tell(f"the phone {phone} picks {call_id} up without us", call_id, phone)
            self._kazoo.do(lambda core: core.pick_up(call_id, phone))

    def usurp(self) -> None:
        call_id = self._some_parked()
        if call_id is not None:
            self._tell(f"{call_id} is usurped", call_id)
            self._kazoo.do(lambda core: core.usurp(call_id))

    def transfer_away(self) -> None:
        call_id = self._some_parked()
        if call_id is not None:
            self._tell(f"{call_id} is transferred away", call_id)
            self._kazoo.do(lambda core: core.transfer_away(call_id))

    def pivot(self) -> None:
        call_id = self._some_parked()
        if call_id is not None:
            self._tell(f"{call_id} pivots", call_id)
            self._kazoo.do(lambda core: core.pivot(call_id, {}))

    # ---- faults of workers ----------------------------------------------------------------------

    def _disturb(self, fault: str, for_ms: int) -> None:
        counts = self._zone.counts.faults
        counts[fault] = counts.get(fault, 0) + 1
        self._zone.checker.disturb(for_ms, late=fault in ("lag", "stall"))

    def _victim(self) -> str | None:
        running = [process.name for process in self._zone.processes if process.running]
        return self._random.choice(running) if running else None

    def _restart(self) -> None:
        delay_ms = self._random.randint(50, 4_000)
        if len(self._zone.alive) < self._zone.weather.workers:
            self._disturb("restart", delay_ms + RECOVERY_MS)
            self._after(delay_ms, self._zone.start_worker)

    def kill(self) -> None:
        self._kill(silently=False)

    def lose_machine(self) -> None:
        self._kill(silently=True)

    def _kill(self, *, silently: bool) -> None:
        process = self._zone.process(self._victim() or "")
        if process is not None:
            how = "its machine is gone" if silently else "kill -9"
            self._zone.tell(process.name, how, set())
            # Unacknowledged executes come back only when the broker has noticed.
            self._disturb("machine" if silently else "kill", 17_000 if silently else RECOVERY_MS)
            process.kill(silently=silently)
            self._restart()

    def terminate(self) -> None:
        process = self._zone.process(self._victim() or "")
        if process is not None:
            self._zone.tell(process.name, "SIGTERM", set())
            self._disturb("term", 3_000)
            process.terminate()
            self._after(1_500, self._restart)

    def freeze(self) -> None:
        self._freeze(self._random.choice((300, 1_500, 2_500, 4_500, 8_000, 14_000)))

    def freeze_long(self) -> None:
        """Long enough to be replaced."""
        self._freeze(4_500)

    def _freeze(self, for_ms: int) -> None:
        process = self._zone.process(self._victim() or "")
        if process is not None:
            for_ms += self._random.randint(0, 800)
            self._zone.tell(process.name, f"SIGSTOP for {for_ms} ms", set())
            self._disturb("freeze", for_ms + RECOVERY_MS)
            process.freeze(for_ms)
            self._after(for_ms, lambda: self._zone.tell(process.name, "SIGCONT", set()))

    def sever(self) -> None:
        process = self._zone.process(self._victim() or "")
        if process is not None and process.link is not None and process.link.there:
            self._zone.tell(process.name, "its connection breaks", set())
            self._disturb("sever", RECOVERY_MS + 2_000)
            process.link.broken()

    def lag(self) -> None:
        process = self._zone.process(self._victim() or "")
        if process is not None and process.link is not None:
            for_ms = self._random.randint(200, 3_000)
            self._zone.tell(process.name, f"hears the log {for_ms} ms late", set())
            self._disturb("lag", for_ms + 1_000)
            process.link.lag_stream(self._zone.agenda.now_ms + for_ms)

    # ---- faults of the broker and the switch ----------------------------------------------------

    def stall_log(self) -> None:
        for_ms = self._random.randint(200, 6_000)
        self._zone.tell("broker", f"streams stand still for {for_ms} ms", set())
        self._disturb("stall", for_ms + RECOVERY_MS)
        self._zone.broker.stall_streams(for_ms)

    def restart_broker(self) -> None:
        self._stop_broker(wipe=False)

    def wipe_broker(self) -> None:
        self._stop_broker(wipe=True)

    def _stop_broker(self, *, wipe: bool) -> None:
        zone = self._zone
        if not zone.broker.up:
            return
        for_ms = self._random.randint(100, 3_000)
        zone.tell("broker", f"{'is wiped' if wipe else 'stops'}, away for {for_ms} ms", set())
        self._disturb("wipe" if wipe else "broker", for_ms + 15_000)
        if wipe:
            zone.checker.wiped()
            zone.truth.wiped()
        zone.checker.broker_stops()
        zone.broker.stop(wipe=wipe)

        def back() -> None:
            zone.tell("broker", "is back", set())
            zone.broker.start()
            zone.kazoo.broker_back()

        self._after(for_ms, back)

    def truncate(self) -> None:
        """Retention drops what the newest snapshot covers."""
        self._zone.truncate_log()

    def lose_server(self) -> None:
        server = self._random.randint(0, 1)
        for_ms = self._random.randint(500, 5_000)
        survivors = self._random.random() < 0.6
        self._zone.tell("switch", f"media server {server} is lost for {for_ms} ms", set())
        self._disturb("server", for_ms + RECOVERY_MS)
        self._kazoo.do(lambda core: core.lose_server(server))

        def regain() -> None:
            how = "with" if survivors else "without"
            self._zone.tell("switch", f"media server {server} is back {how} its calls", set())
            self._disturb("regain", RECOVERY_MS + self._zone.habits.reconcile_ms)
            self._kazoo.do(lambda core: core.regain_server(server, survivors=survivors))

        self._after(for_ms, regain)

    def fall_silent(self) -> None:
        for_ms = self._random.randint(500, 6_000)
        self._zone.tell("switch", f"no ecallmgr answers for {for_ms} ms", set())
        self._disturb("silent", for_ms + RECOVERY_MS)
        channels = self._kazoo.core.channels
        channels.silent = True

        def speak() -> None:
            self._zone.tell("switch", "ecallmgr answers again", set())
            channels.silent = False

        self._after(for_ms, speak)

    # ---- the end --------------------------------------------------------------------------------

    def calm_down(self) -> None:
        """No more faults, enough workers; phones and calls go on by themselves."""
        zone = self._zone
        while len(zone.alive) < zone.weather.workers:
            zone.start_worker()
        zone.checker.disturb(RECOVERY_MS)

    def hang_up_all(self) -> None:
        self._zone.tell("people", "everybody hangs up", set())
        for call_id in self._living():
            self._kazoo.do(lambda core, call_id=call_id: core.hang_up(call_id))  # type: ignore[misc]


P = People
CALLS: tuple[Callable[[People], None], ...] = (
    P.park_blind, P.park_blind, P.park_blind, P.park_direct, P.park_attended, P.park_attended,
    P.retrieve, P.dial_auto, P.race, P.race,
)  # fmt: skip
LATER: tuple[Callable[[People], None], ...] = (
    P.retrieve, P.retrieve, P.dial_auto, P.hang_up, P.hang_up, P.vanish, P.replace_call,
    P.end_application, P.refuse, P.park_again,
)  # fmt: skip
FOREIGN: tuple[Callable[[People], None], ...] = (
    P.pick_up_foreign, P.pick_up_foreign, P.usurp, P.transfer_away, P.pivot,
)  # fmt: skip
WORKER_FAULTS: tuple[Callable[[People], None], ...] = (
    P.kill, P.kill, P.lose_machine, P.terminate, P.freeze, P.freeze, P.sever, P.lag,
)  # fmt: skip
BROKER_FAULTS: list[Callable[[People], None]] = [
    P.stall_log, P.restart_broker, P.wipe_broker, P.truncate,
]  # fmt: skip

__all__ = ["ACCOUNT", "REALM", "People"]
