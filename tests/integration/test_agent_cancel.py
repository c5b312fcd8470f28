"""Agent runs that are cancelled, whatever they are busy with: half a second later nothing of them is alive."""

import gc
import os
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import cycle, islice

import pytest
import trio
from fakes.agent_clients import CANCELS, HARD, WAYS, Run
from fakes.agent_kinds import BLOCKED, FLOOD, HEEDLESS, KINDS, SANDBOXES
from fakes.agent_runs import Agent, begin_all, serve_agent
from fakes.bounds import BOUND
from fakes.leftovers import belongings, check_belongings, check_processes, is_quiet, keepers, left_behind, wait_gone
from fakes.load import Client, chat
from fakes.service import Service, wait_until
from fakes.sessions_api import active

pytestmark = pytest.mark.integration

RUNS = int(os.environ.get("KIMI_PROXY_RUNS", "20"))
AT_ONCE = 4
SHARES = {"p50": 0.5, "p99": 0.99, "max": 1.0}


@pytest.fixture
def no_pauses():
    """The collector would stop clients and upstream, which live in this process, for longer than a cancel takes."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@dataclass(frozen=True)
class Plan:
    """How a run is to be cancelled: see `Run.live`."""

    run: Run
    way: str
    settles: bool
    wait: float


def plans(agent: Agent, count: int) -> list[Plan]:
    rnd = random.Random(2026)
    made = []
    for kind, client in islice(zip(cycle(KINDS), cycle(WAYS), strict=False), count):
        settles = rnd.random() < 0.7
        wait = rnd.random() * (0.05 if settles else 0.3)
        made.append(Plan(agent.run(kind, client), rnd.choice(WAYS[client]), settles, wait))
    return made


async def warm_up(agent: Agent) -> None:
    """Have each worker start the process that its programs need, and whatever else is made once."""
    pids = await agent.service.wait_serving(2)
    while len(keepers(pids)) < 2:
        async with trio.open_nursery() as nursery:
            for kind in ("Bash: plain", "a search that hangs") * 2:
                nursery.start_soon(agent.run(kind).live, "fin")


@asynccontextmanager
async def no_places(port: int) -> AsyncIterator[None]:
    """Somebody has the only place at the provider `narrow`."""
    async with Client(port) as client:
        response = await client.post(chat("narrow/slow-10+text-100000", "somebody"), headers={"x-request-id": "holder"})
        await response.receive()
        yield


def told_ends(service: Service) -> dict[str, float]:
    """When the log says that each stream ended; trio's time."""
    offset = time.time() - trio.current_time()
    found = re.findall(r"^timestamp=(\S+) level=\S+ event=stream_end .*?trace=(\S+)", service.log(), re.MULTILINE)
    return {trace: datetime.fromisoformat(at).timestamp() - offset for at, trace in found}


@pytest.mark.bound(BOUND + RUNS)
@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("sandbox", SANDBOXES)
async def test_nothing_is_alive_after_a_cancel_at_a_random_moment(tmp_path, port, upstream, sandbox):
    async with serve_agent(tmp_path, port, upstream, sandbox=sandbox, max_abandoned_threads=1000) as agent:
        await warm_up(agent)
        before, pids = await belongings(agent), await agent.service.worker_pids()
        earlier = len(agent.asked)
        todo = plans(agent, max(RUNS, len(KINDS)))
        runs = [plan.run for plan in todo]
        limiter = trio.CapacityLimiter(AT_ONCE)

        async def one(plan: Plan) -> None:
            async with limiter:
                await plan.run.live(plan.way, settles=plan.settles, wait=plan.wait)

        async with no_places(port), trio.open_nursery() as nursery:
            for plan in todo:
                nursery.start_soon(one, plan)

        heard = {run.trace for run in runs if run.was_heard}
        await wait_until(lambda: heard <= told_ends(agent.service).keys(), "the ends of all runs")
        await wait_until(lambda: is_quiet(agent), "no client is connected")
        ends = told_ends(agent.service)
        runs = [run for run in runs if run.trace in ends]
        count = earlier + len(runs) + sum(run.newer for run in runs) + 1
        records = {record["trace"]: record for record in await agent.service.wait_records(count)}
        latency = {run: max(run.last_life, ends[run.trace]) - run.cancelled for run in runs}
        print(f"sandbox {sandbox}: {len(runs)} runs, from the cancel to nothing alive: {shares(latency.values())}")
        assert [(run.kind, run.client, run.way) for run in runs if latency[run] > HARD] == []
        for run in runs:
            record = records[run.trace]
            assert (record["status"], record["error_type"]) == ("cancelled", CANCELS[run.way]), run.kind
            if CANCELS[run.way] != "client_disconnect":
                run.check_told()

        await check_belongings(agent, before)
        assert await active(port) == {}
        assert upstream.open_requests == 0
        assert await agent.service.worker_pids() == pids
        check_processes(agent, pids)
        blocked = Counter(run.trace for run in runs if run.kind == BLOCKED and run.is_marked())
        await wait_until(lambda: left_behind(agent, "block") == blocked, "as many threads left behind as were blocked")


def shares(seconds: Iterable[float]) -> str:
    """The quantiles of some durations."""
    ordered = sorted(seconds)
    found = {name: ordered[min(int(len(ordered) * share), len(ordered) - 1)] for name, share in SHARES.items()}
    return ", ".join(f"{name} {value * 1000:.0f} ms" for name, value in found.items())


async def test_a_client_that_does_not_read_is_reset(tmp_path, port, upstream):
    async with serve_agent(tmp_path, port, upstream) as agent:
        before = await belongings(agent)
        runs = [agent.run(FLOOD, client, reads=False) for client in WAYS]
        async with trio.open_nursery() as nursery:
            for run in runs:
                nursery.start_soon(run.live, "delete")
        for run in runs:
            record = await agent.service.record(run.trace)
            assert (record["status"], record["error_type"]) == ("cancelled", "admin")
        await check_belongings(agent, before)


async def test_a_run_that_takes_too_long_leaves_nothing(tmp_path, port, upstream):
    async with serve_agent(tmp_path, port, upstream, response_timeout=1.0) as agent, trio.open_nursery() as nursery:
        runs = await begin_all(agent, nursery, settle=False)
        await wait_until(lambda: all(run.ended for run in runs), "the ends of all")
        await wait_gone(agent, runs, HARD)
        for run in runs:
            record = await agent.service.record(run.trace)
            assert (record["status"], record["error_type"]) == ("failed", "ResponseTimeout"), run.kind
            assert b"timeout" in run.told, run.kind


async def test_a_task_that_heeds_nothing_is_left_behind(tmp_path, port, upstream):
    async with serve_agent(tmp_path, port, upstream, sandbox="off") as agent:
        await agent.service.wait_serving(2)
        before = await belongings(agent)
        runs = [agent.run(HEEDLESS, client) for client in WAYS]
        async with trio.open_nursery() as nursery:
            for run in runs:
                nursery.start_soon(run.live, "delete")
        for run in runs:
            run.check_told()
            record = await agent.service.record(run.trace)
            assert (record["status"], record["error_type"]) == ("cancelled", "admin")
        assert left_behind(agent, "heedless") == Counter(run.trace for run in runs)
        await check_belongings(agent, before)
