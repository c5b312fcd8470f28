"""What the fleet of workers should do next: (desired, observed, now) → actions.

Theory of operation.  A worker stands in one of four states, and only two of them count as capacity:

    starting ──Ready──▶ serving ──Drain──▶ draining ──▶ gone
        └──────────┬───────┘
               no beat ──▶ stuck ──SIGKILL──▶ gone

* Too few of the current generation, starting and serving together: start the lowest free slots.
* A worker of an older generation is stale, and so is one that has asked to be replaced (`worn`).  While stale ones
  live, one worker more than desired may live.  As soon as more serve than are desired, a stale one is drained, which
  makes room for the next start: the fleet rolls one by one, and capacity never falls below what it was.
* More serving than desired and none stale: the highest slots are drained.
* A slot whose workers die young waits for its backoff; no other slot jumps in for it.
* What drains beyond its deadline, and the grace it needs to end its streams legally, is killed.
"""

from collections.abc import Mapping, Sequence
from itertools import count, islice
from typing import Literal

from msgspec import Struct

from supervisor.backoff import FRESH, Backoff

KILL_GRACE = 0.5 + 3.0 + 1.0 + 0.5
"""After a drain's deadline: the cancel grace of the streams, time for the token counts of their records, for these to
reach the database, and some room."""

State = Literal["starting", "serving", "draining", "stuck"]
DrainMode = Literal["retire", "shutdown"]


class WorkerView(Struct, frozen=True, kw_only=True):
    """One worker as the plan sees it."""

    slot: int
    generation: int
    pid: int | None
    """None while the fork server is being asked for it."""
    state: State
    drain_mode: DrainMode | None = None
    drain_deadline: float = 0.0
    """With a `drain_mode`: when its streams are cancelled."""
    killed: bool = False
    worn: bool = False
    """It has asked to be replaced."""

    def is_current(self, generation: int) -> bool:
        """Whether it is one that should stay."""
        return self.generation == generation and not self.worn


class Desired(Struct, frozen=True, kw_only=True):
    """What the configuration, or a stop, asks for."""

    workers: int
    generation: int
    drain_timeout: float
    stop_at: float | None = None
    """Set when the service stops: the time at which the last streams are cancelled."""
    stop_mode: DrainMode = "shutdown"
    """`retire` when another supervisor has taken over: its workers accept meanwhile."""


class Start(Struct, frozen=True):
    slot: int
    generation: int


class Drain(Struct, frozen=True):
    pid: int
    mode: DrainMode
    deadline: float
    """When its streams are cancelled; a time and not a span, so that carrying it out late does not postpone it."""


class Kill(Struct, frozen=True):
    pid: int


Action = Start | Drain | Kill


class Plan(Struct, frozen=True):
    """The actions that are due, and the time at which to look again even if nothing happens (None: no such)."""

    actions: list[Action]
    wake_at: float | None


def plan(desired: Desired, workers: Sequence[WorkerView], backoffs: Mapping[int, Backoff], now: float) -> Plan:
    """Decide.  Once the actions are carried out and seen in `workers`, the same question has an empty answer."""
    actions: list[Action] = []
    wakes: list[float] = []
    for worker in workers:
        if worker.drain_mode is None or worker.killed or worker.pid is None:
            continue
        if now >= (due := worker.drain_deadline + KILL_GRACE):
            actions.append(Kill(worker.pid))
        else:
            wakes.append(due)
    if desired.stop_at is not None:
        actions += _stops(workers, desired.stop_at, desired.stop_mode)
    else:
        actions += _drains(desired, workers, now + desired.drain_timeout)
        for slot in _vacancies(desired, workers):
            if (not_before := backoffs.get(slot, FRESH).not_before) > now:
                wakes.append(not_before)
            else:
                actions.append(Start(slot, desired.generation))
    return Plan(actions, min(wakes, default=None))


def _stops(workers: Sequence[WorkerView], stop_at: float, mode: DrainMode) -> list[Drain]:
    """Everybody who has not yet been told to leave in this way, or has been given longer."""
    enough = ("shutdown",) if mode == "shutdown" else ("shutdown", "retire")
    return [
        Drain(worker.pid, mode, stop_at)
        for worker in workers
        if worker.pid is not None
        and not worker.killed
        and (worker.drain_mode not in enough or worker.drain_deadline > stop_at)
    ]


def _vacancies(desired: Desired, workers: Sequence[WorkerView]) -> list[int]:
    """The slots that want a worker of the current generation now, those that have none at all first."""
    live = [worker for worker in workers if worker.state in ("starting", "serving")]
    current = {worker.slot for worker in live if worker.is_current(desired.generation)}
    stale = [worker.slot for worker in live if not worker.is_current(desired.generation)]
    missing = max(desired.workers - len(current), 0)
    free = list(islice((slot for slot in count(1) if slot not in current), missing))
    if not stale:
        return free
    room = max(desired.workers + 1 - len(live), 0)
    return sorted(free, key=lambda slot: (slot in stale, slot))[:room]


def _drains(desired: Desired, workers: Sequence[WorkerView], deadline: float) -> list[Drain]:
    """Whom to retire: what serves beyond the desired number, and stale ones that nobody waits for any more."""
    serving = [worker for worker in workers if worker.state == "serving"]
    replaced = {worker.slot for worker in serving if worker.is_current(desired.generation)}

    def order(worker: WorkerView) -> tuple[bool, bool, int]:
        if worker.is_current(desired.generation):
            return (True, True, -worker.slot)
        return (False, worker.slot <= desired.workers and worker.slot not in replaced, worker.slot)

    excess = max(len(serving) - desired.workers, 0)
    retired = sorted(serving, key=order)[:excess]
    if len(replaced) >= desired.workers:
        retired += [w for w in workers if w.state == "starting" and not w.is_current(desired.generation)]
    return [Drain(worker.pid, "retire", deadline) for worker in retired if worker.pid is not None]
