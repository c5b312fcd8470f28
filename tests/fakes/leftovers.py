"""What is left of runs of the agent in the workers: tasks, descriptors, processes.

before = await belongings(agent)
... runs ...
await check_belongings(agent, before)
check_processes(agent)
"""

import re
import signal
from collections import Counter
from collections.abc import Iterable

import psutil
from fakes.agent_clients import Run
from fakes.agent_runs import Agent
from fakes.service import Service, wait_until


async def tasks(service: Service) -> dict[str, Counter[str]]:
    """The tasks of each worker by name, from a dump of its stacks."""
    began = len(service.log())
    service.send_signal(signal.SIGUSR1)
    pids = await service.worker_pids()

    def dumps() -> dict[str, Counter[str]]:
        found = {}
        for pid in pids:
            name = rf"worker \d+\[{pid}\]\| "
            lines = re.findall(rf"^{name}(.*)$", service.log()[began:], re.MULTILINE)
            if "==== end" not in lines:
                return {}
            tree = lines[lines.index("trio task tree") : lines.index("==== end")]
            found[str(pid)] = Counter(line.strip() for line in tree if line.strip().startswith("task "))
        return found

    return await wait_until(dumps, "the stack dumps of all workers")


async def is_quiet(agent: Agent) -> bool:
    """No client is connected, no stream open."""
    workers = (await agent.service.status()).workers
    return all(worker.state == "serving" and worker.connections == worker.streams == 0 for worker in workers)


def keepers(pids: Iterable[int]) -> list[psutil.Process]:
    """The processes of these workers that start programs."""
    return [child for pid in pids for child in psutil.Process(pid).children()]


async def belongings(agent: Agent) -> dict[str, object]:
    """What each worker holds, when it is idle: descriptors, without its idle connections to the upstream, and tasks."""
    await wait_until(lambda: is_quiet(agent), "no client is connected")
    pids = await agent.service.worker_pids()
    upstream = agent.upstream.server.port

    def descriptors(pid: int) -> int:
        worker = psutil.Process(pid)
        idle = [c for c in worker.net_connections("tcp") if c.raddr and c.raddr.port == upstream]
        return worker.num_fds() - len(idle)

    return {"descriptors": {pid: descriptors(pid) for pid in pids}, "tasks": await tasks(agent.service)}


async def check_belongings(agent: Agent, before: dict[str, object]) -> None:
    """It is again as it was."""

    async def same() -> bool:
        return await belongings(agent) == before

    try:
        await wait_until(same, "nothing is left", poll=0.2)
    except AssertionError:
        assert await belongings(agent) == before


def check_processes(agent: Agent, pids: Iterable[int]) -> None:
    """Nothing that a run has started in these workers is there, not even a zombie, and nothing that watched it."""
    assert agent.table.alive == {}
    assert [child for keeper in keepers(pids) for child in keeper.children()] == []
    zombies = [p for p in psutil.process_iter(["status", "ppid"]) if p.info["status"] == psutil.STATUS_ZOMBIE]
    service = {process.pid for process in agent.service.processes()}
    assert [zombie for zombie in zombies if zombie.info["ppid"] in service] == []


async def wait_gone(agent: Agent, runs: Iterable[Run], timeout: float) -> None:
    """Until no process and no connection of these is left."""

    def gone() -> bool:
        return all(run.mark not in agent.table.alive and all(row.outcome != "open" for row in run.rows) for run in runs)

    await agent.table.next_look()
    await wait_until(gone, "nothing alive", timeout, poll=0.005)


def left_behind(agent: Agent, task: str) -> Counter[str]:
    """How often the log says of each run that this did not end with it."""
    events = agent.service.events("agent_task_timeout_on_cancel")
    return Counter(event["trace"] for event in events if event["task"] == task)
