"""What ends more than a run of the agent: a stop, a death, a worker that is replaced.  Nothing of any run survives."""

import os
import signal
from collections import Counter

import psutil
import pytest
import trio
from fakes.agent_clients import HARD, WAYS
from fakes.agent_kinds import BLOCKED, SANDBOXES
from fakes.agent_runs import begin_all, serve_agent
from fakes.leftovers import check_processes, keepers, wait_gone
from fakes.load import steady_load
from fakes.service import wait_until
from fakes.sessions_api import active

pytestmark = pytest.mark.integration


async def test_a_stop_leaves_nothing(tmp_path, port, upstream):
    server = {"graceful_timeout": 0.3}
    async with serve_agent(tmp_path, port, upstream, server=server) as agent, trio.open_nursery() as nursery:
        runs = await begin_all(agent, nursery)
        began = trio.current_time()
        agent.service.send_signal(signal.SIGTERM)
        assert await agent.service.wait_exit() == 0
        took = trio.current_time() - began
        assert agent.table.alive == {}
        print(f"a stop with {len(runs)} runs: {took:.2f} s, {server['graceful_timeout']} s of them for their ends")
        await wait_until(lambda: all(run.ended for run in runs), "the clients' ends")
        for run in runs:
            run.check_told()
            record = await agent.service.record(run.trace)
            assert (record["status"], record["error_type"]) == ("cancelled", "shutdown"), run.kind
        assert len(agent.service.records()) == len(runs)


@pytest.mark.parametrize("sandbox", SANDBOXES)
async def test_nothing_outlives_a_killed_worker(tmp_path, port, upstream, sandbox):
    async with serve_agent(tmp_path, port, upstream, sandbox=sandbox) as agent, trio.open_nursery() as nursery:
        await agent.service.wait_serving(2)
        runs = await begin_all(agent, nursery)
        live = await active(port)
        slots = Counter(live[run.trace]["worker"] for run in runs)
        [(slot, _)] = slots.most_common(1)
        victims = [run for run in runs if live[run.trace]["worker"] == slot]
        others = [run for run in runs if run not in victims]
        [pid] = [worker.pid for worker in (await agent.service.status()).workers if worker.worker == slot]
        watchers = [*keepers([pid]), *(child for keeper in keepers([pid]) for child in keeper.children())]
        killed = trio.current_time()
        os.kill(pid, signal.SIGKILL)
        await wait_gone(agent, victims, HARD)
        latest = max(run.last_life for run in victims) - killed
        print(f"sandbox {sandbox}: {len(victims)} runs of a killed worker, nothing alive after {latest * 1000:.0f} ms")
        await wait_until(lambda: not any(watcher.is_running() for watcher in watchers), "the end of who watched them")
        await agent.service.wait_serving(2)
        for run in victims:
            assert not run.ended
            record = await agent.service.record(run.trace)
            assert (record["status"], record["error_type"]) == ("failed", "worker_died"), run.kind
        for run in others:
            assert run.trace in await active(port), run.kind
            await run.cancel("delete")
        for run in others:
            await run.wait_over()
        assert len(await agent.service.wait_records(len(runs))) == len(runs)
        check_processes(agent, await agent.service.worker_pids())


async def test_nothing_outlives_a_killed_supervisor(tmp_path, port, upstream):
    async with serve_agent(tmp_path, port, upstream, stop=False) as agent, trio.open_nursery() as nursery:
        runs = await begin_all(agent, nursery)
        agent.service.process.kill()
        await wait_gone(agent, runs, 10.0)
        await wait_until(lambda: not agent.service.processes(), "the end of all workers")


async def test_a_worker_with_too_many_blocked_threads_is_replaced_while_its_streams_go_on(tmp_path, port, upstream):
    server = {"workers": 1}
    async with serve_agent(tmp_path, port, upstream, server=server, max_abandoned_threads=2) as agent:
        [old] = await agent.service.wait_serving(1)
        async with steady_load(port, streams=4, rate=20) as load, trio.open_nursery() as nursery:
            await wait_until(lambda: load.requests_done, "a load")
            survivor = agent.run("Bash: plain", "websocket")
            await survivor.start(nursery)
            await survivor.wait_busy()
            for client in WAYS:
                assert agent.service.events("worker_recycle") == []
                await agent.run(BLOCKED, client).live("fin")
            [event] = await wait_until(lambda: agent.service.events("worker_recycle"), "the worker's wish")
            assert event["pid"] == str(old)

            async def replaced() -> bool:
                return old not in [worker.pid for worker in await agent.service.serving()]

            await wait_until(replaced, "another worker")
            done = load.streams_done
            await wait_until(lambda: load.streams_done > done + 4, "streams after that")
            assert survivor.is_asleep()
            await survivor.cancel("cancel")
            await survivor.wait_over()
            survivor.check_told()
        assert load.mishaps == []
        await wait_until(lambda: not psutil.pid_exists(old), "the end of the old one")
        [exit] = agent.service.events("worker_exit")
        assert (exit["pid"], exit["code"], exit["asked"]) == (str(old), "0", "true")
        [new] = await agent.service.wait_serving(1)
        assert new != old
        assert await active(port) == {}
        check_processes(agent, [new])
