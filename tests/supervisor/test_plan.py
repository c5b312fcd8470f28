"""The plan: single decisions, then whole histories of a simulated fleet."""

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from supervisor.backoff import FRESH, Backoff, became_ready, died
from supervisor.plan import KILL_GRACE, Desired, Drain, Kill, Plan, Start, WorkerView, plan


def desired(workers=2, generation=1, drain_timeout=30.0, stop_at=None):
    return Desired(workers=workers, generation=generation, drain_timeout=drain_timeout, stop_at=stop_at)


def worker(slot, state="serving", generation=1, pid=0, **more):
    return WorkerView(slot=slot, generation=generation, pid=pid or 100 * generation + slot, state=state, **more)


def draining(slot, deadline, mode="retire", **more):
    return worker(slot, "draining", drain_mode=mode, drain_deadline=deadline, **more)


class TestStarting:
    def test_an_empty_fleet_starts_all_slots(self):
        assert plan(desired(3), [], {}, 0.0).actions == [Start(1, 1), Start(2, 1), Start(3, 1)]

    @pytest.mark.parametrize("state", ["starting", "serving"])
    def test_a_full_fleet_is_left_alone(self, state):
        assert plan(desired(2), [worker(1, state), worker(2, state)], {}, 0.0) == Plan([], None)

    def test_a_worker_that_is_being_forked_counts(self):
        asked = WorkerView(slot=1, generation=1, pid=None, state="starting")
        assert plan(desired(1), [asked], {}, 0.0).actions == []

    @pytest.mark.parametrize("state", ["stuck", "draining"])
    def test_what_no_longer_serves_is_replaced_at_once(self, state):
        assert plan(desired(2), [worker(1), worker(2, state)], {}, 0.0).actions == [Start(2, 1)]

    def test_a_slot_in_backoff_waits_and_nobody_jumps_in(self):
        waiting = {1: Backoff(young=3, not_before=7.5)}
        assert plan(desired(2), [worker(2)], waiting, 7.0) == Plan([], 7.5)
        assert plan(desired(2), [worker(2)], waiting, 7.5) == Plan([Start(1, 1)], None)


class TestRolling:
    def test_one_more_than_desired_may_live(self):
        stale = [worker(1), worker(2)]
        assert plan(desired(2, generation=2), stale, {}, 0.0).actions == [Start(1, 2)]

    def test_the_stale_one_is_drained_only_when_the_new_one_serves(self):
        fleet = [worker(1), worker(2), worker(1, "starting", 2)]
        assert plan(desired(2, generation=2), fleet, {}, 0.0).actions == []
        fleet[2] = worker(1, "serving", 2)
        assert plan(desired(2, generation=2), fleet, {}, 0.0).actions == [Drain(101, "retire", 30.0)]

    def test_the_next_starts_when_the_stale_one_drains(self):
        fleet = [draining(1, 30.0), worker(2), worker(1, "serving", 2)]
        assert plan(desired(2, generation=2), fleet, {}, 0.0).actions == [Start(2, 2)]

    def test_a_dead_slot_comes_first_and_beside_the_roll(self):
        assert plan(desired(2, generation=2), [worker(1)], {}, 0.0).actions == [Start(2, 2), Start(1, 2)]

    def test_stale_starters_go_once_the_new_fleet_serves(self):
        fleet = [worker(1, "starting"), worker(1, "serving", 2), worker(2, "serving", 2)]
        assert plan(desired(2, generation=2), fleet, {}, 0.0).actions == [Drain(101, "retire", 30.0)]

    def test_a_new_generation_that_crashes_leaves_the_old_serving(self):
        fleet = [worker(1), worker(2)]
        waiting = {1: Backoff(young=1, unready=1, not_before=9.0)}
        assert plan(desired(2, generation=2), fleet, waiting, 0.0) == Plan([], 9.0)


class TestRecycling:
    """A worker that wants to be replaced is so without a new generation, and only when another one serves."""

    def test_its_successor_starts_first(self):
        assert plan(desired(2), [worker(1), worker(2, worn=True)], {}, 0.0).actions == [Start(2, 1)]

    def test_it_serves_until_its_successor_does(self):
        fleet = [worker(1), worker(2, worn=True), worker(2, "starting", pid=7)]
        assert plan(desired(2), fleet, {}, 0.0).actions == []
        fleet[2] = worker(2, pid=7)
        assert plan(desired(2), fleet, {}, 0.0).actions == [Drain(102, "retire", 30.0)]

    def test_when_it_drains_all_is_well(self):
        fleet = [worker(1), draining(2, 30.0, worn=True), worker(2, pid=7)]
        assert plan(desired(2), fleet, {}, 0.0).actions == []

    def test_all_are_replaced_one_by_one(self):
        fleet = [worker(1, worn=True), worker(2, worn=True)]
        assert plan(desired(2), fleet, {}, 0.0).actions == [Start(1, 1)]

    def test_the_only_one_goes_on_while_there_is_no_other(self):
        waiting = {1: Backoff(young=3, not_before=7.5)}
        assert plan(desired(1), [worker(1, worn=True)], waiting, 7.0) == Plan([], 7.5)


class TestScaling:
    def test_down_drains_the_highest_slots(self):
        fleet = [worker(slot) for slot in (1, 2, 3, 4)]
        assert plan(desired(2), fleet, {}, 0.0).actions == [Drain(104, "retire", 30.0), Drain(103, "retire", 30.0)]

    def test_down_never_takes_the_last_that_serve(self):
        assert plan(desired(2), [worker(3), worker(4)], {}, 0.0).actions == []

    def test_down_waits_for_starters_instead_of_wasting_servers(self):
        fleet = [worker(1), worker(2), worker(3, "starting")]
        assert plan(desired(2), fleet, {}, 0.0).actions == []

    def test_up_starts_the_missing(self):
        assert plan(desired(3), [worker(1), worker(3)], {}, 0.0).actions == [Start(2, 1)]

    def test_down_with_a_new_generation_retires_stale_ones_first(self):
        fleet = [worker(1), worker(2), worker(3), worker(1, generation=2)]
        retired = plan(desired(2, generation=2), fleet, {}, 0.0).actions
        assert retired == [Drain(101, "retire", 30.0), Drain(103, "retire", 30.0)]


class TestStopping:
    def test_everybody_drains_and_nobody_starts(self):
        fleet = [worker(1), worker(2, "starting"), worker(3, "stuck")]
        actions = plan(desired(4, stop_at=10.0), fleet, {}, 4.0).actions
        assert actions == [Drain(pid, "shutdown", 10.0) for pid in (101, 102, 103)]

    def test_a_retiring_worker_hears_of_the_shutdown(self):
        fleet = [draining(1, deadline=5.0)]
        assert plan(desired(stop_at=10.0), fleet, {}, 4.0).actions == [Drain(101, "shutdown", 10.0)]

    def test_once_is_enough_until_the_wait_is_shortened(self):
        fleet = [draining(1, deadline=10.0, mode="shutdown")]
        assert plan(desired(stop_at=10.0), fleet, {}, 4.0).actions == []
        assert plan(desired(stop_at=4.0), fleet, {}, 4.5).actions == [Drain(101, "shutdown", 4.0)]

    def test_one_that_is_being_forked_is_told_as_soon_as_it_has_a_pid(self):
        asked = WorkerView(slot=1, generation=1, pid=None, state="starting")
        assert plan(desired(stop_at=10.0), [asked], {}, 0.0).actions == []


class TestForce:
    def test_a_drain_beyond_deadline_and_grace_is_killed_once(self):
        fleet = [worker(1), worker(2), draining(3, deadline=10.0)]
        due = 10.0 + KILL_GRACE
        assert plan(desired(2), fleet, {}, 10.0) == Plan([], due)
        assert plan(desired(2), fleet, {}, due) == Plan([Kill(103)], None)
        fleet[2] = draining(3, deadline=10.0, killed=True)
        assert plan(desired(2), fleet, {}, due + 1.0) == Plan([], None)


@dataclass
class Simulated:
    """A worker in the simulation."""

    slot: int
    generation: int
    pid: int
    born: float
    state: str = "starting"
    ready: bool = False
    drain: Drain | None = None
    deadline: float = 0.0
    killed: bool = False
    worn: bool = False

    def view(self):
        return WorkerView(
            slot=self.slot,
            generation=self.generation,
            pid=self.pid,
            state=self.state,
            drain_mode=self.drain.mode if self.drain else None,
            drain_deadline=self.deadline,
            killed=self.killed,
            worn=self.worn,
        )


@dataclass
class Simulation:
    """A fleet that carries out the plan at once, and to which anything may happen in between."""

    now: float = 0.0
    desired: Desired = field(default_factory=desired)
    workers: dict[int, Simulated] = field(default_factory=dict)
    backoffs: dict[int, Backoff] = field(default_factory=dict)
    pids: int = 1000

    def views(self):
        return [worker.view() for worker in self.workers.values()]

    def serving(self):
        return [worker for worker in self.workers.values() if worker.state == "serving"]

    def settle(self):
        """Carry out the plan until it has nothing to say; it must have nothing to say the second time."""
        before = len(self.serving())
        actions = plan(self.desired, self.views(), self.backoffs, self.now).actions
        for action in actions:
            match action:
                case Start(slot, generation):
                    self.pids += 1
                    self.workers[self.pids] = Simulated(slot, generation, self.pids, self.now)
                case Drain(pid, _mode, deadline):
                    victim = self.workers[pid]
                    victim.state = victim.state if victim.state == "stuck" else "draining"
                    victim.drain, victim.deadline = action, deadline
                case Kill(pid):
                    self.workers[pid].killed = True
        again = plan(self.desired, self.views(), self.backoffs, self.now).actions
        assert again == [] or (
            any(isinstance(action, Drain) for action in actions) and all(type(a) is Start for a in again)
        )
        if again:
            self.settle()
        if self.desired.stop_at is None:
            assert len(self.serving()) >= min(before, self.desired.workers), "the plan itself cost capacity"

    def die(self, pid, *, asked=False):
        worker = self.workers.pop(pid)
        if worker.drain is None and not asked:
            backoff = self.backoffs.get(worker.slot, FRESH)
            self.backoffs[worker.slot] = died(backoff, self.now, self.now - worker.born, ready=worker.ready)

    def ready(self, pid):
        worker = self.workers[pid]
        worker.ready = True
        self.backoffs[worker.slot] = became_ready(self.backoffs.get(worker.slot, FRESH))
        if worker.state == "starting":
            worker.state = "serving"


class FleetHistory(RuleBasedStateMachine):
    """Deaths, hangs, reloads and scalings in any order: the fleet is never too large and always comes back."""

    @initialize(workers=st.integers(1, 4))
    def begin(self, workers):
        self.fleet = Simulation(desired=desired(workers))
        self.fleet.settle()

    def pick(self, choice, *states):
        pids = [pid for pid, worker in self.fleet.workers.items() if worker.state in states]
        return pids[choice % len(pids)] if pids else None

    @rule(choice=st.integers(0, 50))
    def ready(self, choice):
        if pid := self.pick(choice, "starting"):
            self.fleet.ready(pid)
            self.fleet.settle()

    @rule(choice=st.integers(0, 50))
    def die(self, choice):
        if pid := self.pick(choice, "starting", "serving", "draining", "stuck"):
            self.fleet.die(pid)
            self.fleet.settle()

    @rule(choice=st.integers(0, 50))
    def hang(self, choice):
        if pid := self.pick(choice, "starting", "serving"):
            self.fleet.workers[pid].state = "stuck"
            self.fleet.settle()

    @rule(choice=st.integers(0, 50))
    def wear_out(self, choice):
        if pid := self.pick(choice, "serving"):
            self.fleet.workers[pid].worn = True
            self.fleet.settle()

    @rule(seconds=st.sampled_from([0.05, 1.0, 6.0, 40.0]))
    def wait(self, seconds):
        self.fleet.now += seconds
        self.fleet.settle()

    @rule()
    def roll(self):
        now = self.fleet.desired
        self.fleet.desired = desired(now.workers, now.generation + 1)
        self.fleet.settle()

    @rule(workers=st.integers(1, 4))
    def scale(self, workers):
        self.fleet.desired = desired(workers, self.fleet.desired.generation)
        self.fleet.settle()

    @rule()
    def everything_goes_well_from_here(self):
        """Convergence: every starter gets ready, every drained one leaves, no backoff lasts."""
        fleet = self.fleet
        for _ in range(40):
            fleet.now += 31.0
            for worker in list(fleet.workers.values()):
                if worker.state == "starting":
                    fleet.ready(worker.pid)
                elif worker.state in ("draining", "stuck"):
                    fleet.die(worker.pid, asked=True)
            fleet.settle()
        views = fleet.views()
        assert [view.state for view in views] == ["serving"] * fleet.desired.workers
        assert {view.generation for view in views} == {fleet.desired.generation}
        assert not any(view.worn for view in views)
        assert plan(fleet.desired, views, fleet.backoffs, fleet.now) == Plan([], None)

    @invariant()
    def slots_are_not_shared_within_a_generation(self):
        if hasattr(self, "fleet"):
            live = [w for w in self.fleet.workers.values() if w.state in ("starting", "serving") and not w.worn]
            places = [(w.slot, w.generation) for w in live]
            assert len(places) == len(set(places))

    @invariant()
    def the_fleet_looks_again_in_time(self):
        if hasattr(self, "fleet"):
            fleet = self.fleet
            wake = plan(fleet.desired, fleet.views(), fleet.backoffs, fleet.now).wake_at
            due = [w.deadline + KILL_GRACE for w in fleet.workers.values() if w.drain and not w.killed]
            assert (math.inf if wake is None else wake) <= min(due, default=math.inf)


FleetHistory.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestFleetHistory = FleetHistory.TestCase
