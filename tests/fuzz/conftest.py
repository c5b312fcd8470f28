"""The service with two workers and upstreams of both dialects, and the agent on, for all tests of a file."""

import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from fakes.apart import live_apart
from fakes.bounds import BOUND
from fakes.fuzz import COUNT
from fakes.leftovers import tasks
from fakes.patient_upstream import serve_patient
from fakes.service import CRASHES, Service, config_text, free_port, run_service, wait_until
from fakes.upstream import FakeUpstream

AGENT = '[agent]\nenabled = true\nworkspace = "WORKSPACE"\nmodel = "fake/m"\nresponse_timeout = 5.0\n'


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.bound(BOUND + COUNT))


@dataclass(frozen=True)
class Running:
    """See the module."""

    service: Service
    port: int
    openai: FakeUpstream
    anthropic: FakeUpstream

    async def belongings(self) -> dict[str, Any]:
        """What the workers hold when nobody asks for anything: descriptors beside those to upstreams, and tasks."""
        await wait_until(self._is_quiet, "no connection, no stream")
        pids = await self.service.worker_pids()
        ports = {self.openai.port, self.anthropic.port}
        held: dict[str, Any] = {}
        for pid in pids:
            process = psutil.Process(pid)
            to_upstreams = [c for c in process.net_connections("tcp") if c.raddr and c.raddr.port in ports]
            held[f"descriptors of {pid}"] = process.num_fds() - len(to_upstreams)
            held[f"upstream connections of {pid}"] = Counter(
                c.status for c in to_upstreams if c.status != psutil.CONN_ESTABLISHED
            )
        for pid, found in (await tasks(self.service)).items():
            held[f"tasks of {pid}"] = found
        return held

    async def _is_quiet(self) -> bool:
        status = await self.service.status()
        idle = [w for w in status.workers if w.state == "serving" and w.connections == w.streams == 0]
        return len(idle) == len(status.workers) == status.workers_wanted and status.totals.active == 0

    async def check(self, before: dict[str, Any]) -> None:
        """Nothing has crashed, nothing is left, and every stream has its record."""
        log = self.service.log()
        crashed = re.search("|".join(CRASHES), log)
        assert crashed is None, log[max(0, crashed.start() - 500) :][:8000]
        after = await self.belongings()
        assert after.keys() == before.keys(), "a worker was replaced"
        for name, held in before.items():
            if name.startswith("descriptors"):  # the database, and threads' wakeups, may have been opened meanwhile
                assert after[name] <= held + 4, f"{name}: {after[name]}, before {held}"
            else:
                assert after[name] == held, name
        begun = len(re.findall(r"event=stream_start ", log))
        await wait_until(lambda: len(self.service.records()) >= begun, "the records of all streams")


@asynccontextmanager
async def run_all(folder: Path, workspace: Path) -> AsyncIterator[Running]:
    """The service in `folder`, and what it needs."""
    port = free_port()
    async with serve_patient("openai") as openai, serve_patient("anthropic") as anthropic:
        config = config_text(
            port,
            openai.base_url,
            anthropic=anthropic.base_url,
            provider={"backoff_base": 0.0, "first_byte_timeout": 3.0},
            more=AGENT.replace("WORKSPACE", str(workspace)),
        )
        async with run_service(folder, config) as service:
            yield Running(service, port, openai, anthropic)


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[Running]:
    with live_apart(run_all(tmp_path_factory.mktemp("service"), tmp_path_factory.mktemp("workspace"))) as running:
        yield running
