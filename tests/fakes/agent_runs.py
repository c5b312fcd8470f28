"""Runs of the agent that would go on for ever, each busy with something else, and clients that end them.

async with serve_agent(tmp_path, port, upstream) as agent:
    run = agent.run("Bash: double fork", client="websocket")
    await run.live("cancel")                            # one of `WAYS["websocket"]`
    run.check_told()
"""

import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import trio
from fakes import upstream as raw
from fakes.agent_clients import CLIENTS, WAYS, Run
from fakes.agent_kinds import HAYSTACK, KINDS, OWN_TOOLS
from fakes.openai_upstream import OpenAIUpstream
from fakes.process_table import ProcessTable, watch_processes
from fakes.service import Service, config_text, run_service


@dataclass(eq=False)
class Agent:
    """The service with an agent, its upstream, and what there is to be seen of its runs."""

    service: Service
    port: int
    upstream: OpenAIUpstream
    table: ProcessTable
    workspace: Path
    searches: dict[str, float] = field(default_factory=dict)
    """Mark → when the search for it was given up."""
    asked: list[Run] = field(default_factory=list)
    """Every run that was started."""

    def run(self, kind: str, client: str = "sse", *, reads: bool = True) -> Run:
        """One that is yet to be started; `kind` is one of `ALL_KINDS`, `client` one of `WAYS`.

        `reads`: the client does.
        """
        return CLIENTS[client](self, kind, reads=reads)


@asynccontextmanager
async def serve_agent(
    folder: Path,
    port: int,
    upstream: OpenAIUpstream,
    *,
    server: dict[str, object] | None = None,
    stop: bool = True,
    **settings: object,
) -> AsyncIterator[Agent]:
    """An `Agent`; `settings` are `[agent]`'s.  On leaving, the service is stopped as by `run_service`."""
    workspace = (folder / "workspace").resolve()
    workspace.mkdir()
    (workspace / "haystack").write_text(HAYSTACK)
    (folder / "tools.py").write_text(OWN_TOOLS)
    async with raw.serve_upstream() as search, watch_processes() as table:
        more = {
            "workspace": workspace,
            "tools_file": folder / "tools.py",
            "execute_client_tools": True,
            "search_url": f"{search.origin}/{{query}}",
            **settings,
        }
        section = "\n".join(f"{key} = {json.dumps(value, default=str)}" for key, value in more.items())
        config = config_text(
            port,
            upstream.base_url,
            server=server,
            provider={"backoff_base": 60.0, "max_backoff": 60.0},
            more=f"""
[providers.narrow]
base_url = "{upstream.base_url}"
max_concurrent = 1
[rate_limiting]
max_wait = 60.0
[agent]
enabled = true
{section}
""",
        )
        async with run_service(folder, config, stop=stop) as service:
            agent = Agent(service, port, upstream, table, workspace)

            async def hang(request: raw.Request, connection: raw.Connection) -> None:
                mark = request.path.removeprefix("/")
                agent.searches[mark] = math.inf
                await request.closed.wait()
                agent.searches[mark] = trio.current_time()

            search.default = [hang]
            try:
                yield agent
            finally:
                for run in agent.asked:
                    run.close()


async def begin_all(agent: Agent, nursery: trio.Nursery, *, settle: bool = True) -> list[Run]:
    """One run of each kind, busy if they are to settle; what forks without an end would leave the others no time."""
    kinds = [kind for kind in KINDS if kind not in ("Bash: forks on and on", "waiting for a place")]
    runs = [agent.run(kind, client) for kind, client in zip(kinds, cycle(WAYS), strict=False)]
    for run in runs:
        await run.start(nursery)
    for run in runs if settle else ():
        await run.wait_busy()
    return runs
