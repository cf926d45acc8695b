"""A whole zone: broker, Kazoo, N workers, faults. See `checker` for the rules it must keep."""

from __future__ import annotations

import asyncio
import logging
import random as global_random
from dataclasses import dataclass, field

import orjson

from tests.simulation.agenda import Agenda, Climate
from tests.simulation.broker import Broker, Stream
from tests.simulation.checker import Checker
from tests.simulation.kazoo import Kazoo
from tests.simulation.people import People
from tests.simulation.process import PREFIX, Habits, Process
from tests.simulation.story import Story, Violation
from tests.simulation.truth import Truth
from worker.broker.port import Delivery
from worker.kapi.results import decode_result
from worker.parking.records import Record
from worker.replica.codec import decode_snapshot
from worker.replica.vitals import Timing
from worker.switch import SwitchPlan
from worker.switch import Timing as SwitchTiming

LOG = f"{PREFIX}.log"
SNAPSHOTS = f"{PREFIX}.snap"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What a run is like; drawn from its seed, or given."""

    workers: int
    climate: Climate
    script_ms: int
    calls: int
    faults: int
    foreign: bool
    """Pickups, usurps and the like that are not ours."""
    node_loss: bool
    broker_faults: bool
    kazoo_late: bool
    """Kazoo comes back after the workers when the broker was away."""
    advertises: bool
    quick_snapshots: bool
    skew_ms: int


def draw(agenda: Agenda) -> Weather:
    random = agenda.random
    worst_ms = random.choice((4, 20, 80, 250))
    calm = random.random() < 0.2
    return Weather(
        workers=random.choice((1, 2, 3, 3, 3, 4)),
        climate=Climate(usual_ms=random.choice((1, 3, 10)), worst_ms=max(worst_ms, 12), slow=0.05),
        script_ms=random.choice((12_000, 20_000, 30_000)),
        calls=random.choice((6, 12, 20)),
        faults=0 if calm else random.choice((1, 2, 4, 7)),
        foreign=random.random() < 0.5,
        node_loss=random.random() < 0.2,
        broker_faults=random.random() < 0.4,
        kazoo_late=random.random() < 0.3,
        advertises=random.random() < 0.7,
        quick_snapshots=random.random() < 0.4,
        skew_ms=random.choice((0, 0, 30, 200)),
    )


@dataclass(slots=True)
class Counts:
    """What a run did, to see that runs do something."""

    steps: int = 0
    stays: int = 0
    retrieved: int = 0
    rung: int = 0
    moved: int = 0
    doubled_results: int = 0
    excused: int = 0
    faults: dict[str, int] = field(default_factory=dict)


class Zone:
    """One run. `play` returns its violations, worst first."""

    def __init__(self, seed: int, weather: Weather | None = None) -> None:
        self.seed = seed
        self.agenda = Agenda(seed)
        self.weather = weather or draw(self.agenda)
        self.story = Story()
        self.truth = Truth(lambda: self.agenda.now_ms, self.tell)
        self.counts = Counts()
        self.processes: list[Process] = []
        self.broker = Broker(self.agenda, self.weather.climate)
        # A redirected call comes back only after everything about its first visit has been said.
        redirect_ms = 30 + 2 * self.weather.climate.worst_ms
        timing = SwitchTiming(play_ms=300, say_ms=300, redirect_ms=redirect_ms)
        plan = SwitchPlan(transcript_limit=None, timing=timing)
        self.kazoo = Kazoo(self.broker, self.weather.climate, plan)
        self.kazoo.advertises = self.weather.advertises
        if self.weather.kazoo_late:
            self.kazoo.restart_ms = (500, 3_000)
        self.checker = Checker(self)
        self.people = People(self)
        self.broker.on_append = self._appended
        self.broker.on_route = self._routed
        self.broker.on_unrouted = self._unrouted
        self.kazoo.after_step = self.checker.switch_stepped
        snapshot_ms = 4_000 if self.weather.quick_snapshots else 60_000
        self.habits = Habits(timing=Timing(snapshot_ms=snapshot_ms))
        self._names = 0

    # ---- telling --------------------------------------------------------------------------------

    def tell(self, actor: str, text: str, about: set[str]) -> None:
        self.story.add(self.agenda.elapsed_ms, actor, text, about)

    def logged(self, worker: str, event: str, level: str, fields: dict[str, object]) -> None:
        if event in ("session crashed", "session cannot be adopted", "internal error"):
            self.checker.violated(
                "crash", f"{worker}: {event} {fields}", {str(fields.get("session"))}
            )
        if level == "debug":
            return
        process = self.process(worker)
        if event == "ready" and process is not None:
            process.ready = True
        about = {str(fields[key]) for key in ("session", "call_id") if key in fields}
        shown = {key: value for key, value in fields.items() if value not in ("", None)}
        self.tell(worker, f"{event} {shown}", about)

    def broken(self, worker: str, what: str) -> None:
        self.checker.violated("crash", f"{worker}: {what}")

    def read(self, process: Process, offset: int, record: Record) -> None:
        self.checker.record_read(process, offset)

    def _appended(self, name: str, offset: int, delivery: Delivery) -> None:
        if name == LOG:
            self.truth.append(offset, delivery.body)
            self.checker.record_placed(offset)

    def _routed(self, who: str, delivery: Delivery) -> None:
        if delivery.exchange and who != "switch":
            payload = orjson.loads(delivery.body)
            self._say(who, delivery.exchange, payload)
            self.checker.arrived(who, delivery, payload)

    def _unrouted(self, who: str, delivery: Delivery) -> None:
        if delivery.exchange == "presence" and who != "switch":
            self.checker.lamp_lost(orjson.loads(delivery.body))
        elif delivery.exchange == "targeted" and who != "switch":
            payload = orjson.loads(delivery.body)
            if payload["Event-Name"] == "action.result":
                self.checker.result_lost(payload["Msg-ID"])

    def _say(self, who: str, exchange: str, payload: dict[str, object]) -> None:
        name, call_id = str(payload.get("Event-Name")), str(payload.get("Call-ID", ""))
        match name:
            case "command":
                word = (
                    f"command {payload.get('Application-Name')} {payload.get('Target-Call-ID', '')}"
                )
            case "action.result":
                word = f"result {decode_result(str(payload['Result']))}"
            case "dialog_update":
                word = f"lamp {payload.get('From-User')} {payload.get('State')}"
            case _:
                word = name
        if exchange in ("callctl", "targeted", "callevt", "presence"):
            self.tell(who, f"{call_id}: {word}", {call_id, str(payload.get("Msg-ID"))})

    # ---- workers --------------------------------------------------------------------------------

    def start_worker(self) -> Process:
        self._names += 1
        skew = self.weather.skew_ms
        process = Process(
            f"w{self._names}",
            self.broker,
            self.habits,
            self,
            skew_ms=self.agenda.random.randint(-skew, skew),
        )
        self.processes.append(process)
        self.tell(process.name, "starts", set())
        process.step()
        return process

    @property
    def alive(self) -> list[Process]:
        return [process for process in self.processes if process.alive]

    def process(self, name: str) -> Process | None:
        return next((each for each in self.processes if each.name == name and each.alive), None)

    def truncate_log(self) -> None:
        """Retention drops old segments of the log, as far as the newest snapshot reaches."""
        log, snapshots = self.broker.queues.get(LOG), self.broker.queues.get(SNAPSHOTS)
        if not (isinstance(log, Stream) and isinstance(snapshots, Stream) and snapshots.records):
            return
        at = decode_snapshot(snapshots.records[-1][1].body).at
        self.tell("broker", f"drops the log before {at}", set())
        log.drop_before(at)

    # ---- the run --------------------------------------------------------------------------------

    def play(self) -> list[Violation]:
        state = global_random.getstate()
        global_random.seed(self.seed)  # tenacity's jitter
        handler = _Raised(self)
        logging.getLogger("worker").addHandler(handler)
        try:
            self._play()
        finally:
            logging.getLogger("worker").removeHandler(handler)
            global_random.setstate(state)
            for process in self.alive:
                process.alive = False
                process.loop.abandon()
            asyncio.set_event_loop(None)
        self.counts.steps = self.agenda.steps
        return self.checker.violations

    def _play(self) -> None:
        agenda, weather = self.agenda, self.weather
        for _ in range(weather.workers):
            agenda.after(agenda.random.randint(0, 300), self.start_worker)
        self.run_for(4_000)
        self.checker.begin()
        self.people.plan(weather.script_ms)
        self.run_for(weather.script_ms)
        self.people.calm_down()
        self.run_for(20_000)
        self.checker.quiet()
        self.people.hang_up_all()
        self.run_for(22_000)
        self.checker.over()

    def run_for(self, ms: int) -> None:
        until_ms = self.agenda.now_ms + ms
        while self.agenda.now_ms < until_ms and not self.checker.violations:
            self.agenda.run_until(min(self.agenda.now_ms + CHECK_MS, until_ms))
            self.checker.look()


CHECK_MS = 100


class _Raised(logging.Handler):
    """What the workers log as an exception is a violation."""

    def __init__(self, zone: Zone) -> None:
        super().__init__(logging.ERROR)
        self._zone = zone

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._zone.broken("?", f"{record.getMessage()}: {error!r}")
