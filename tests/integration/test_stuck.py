"""A worker in a busy loop: SIGUSR1 shows where, and the supervisor replaces it."""

import os
import re
import signal

import psutil
import pytest
from fakes.hooks import SPIN, hooked
from fakes.load import steady_load
from fakes.service import config_text, run_service, wait_until

pytestmark = pytest.mark.integration


def cpu_seconds(pid: int) -> float:
    return psutil.Process(pid).cpu_times().user


async def test_stacks_show_the_loop_and_the_worker_is_replaced(tmp_path, port, upstream):
    config = config_text(port, upstream.base_url, server={"worker_timeout": 4.0})
    async with run_service(tmp_path, config, env=hooked(tmp_path / "h")) as service:
        victim, other = await service.wait_serving(2)
        before = cpu_seconds(victim)
        os.kill(victim, signal.SIGRTMIN)
        await wait_until(lambda: cpu_seconds(victim) > before + 0.1, "the loop")
        service.send_signal(signal.SIGUSR1)

        def dumps() -> list[str]:
            return re.findall(r"^(\S.*)\[(\d+)\]\| ==== end", service.log(), re.MULTILINE)

        # The supervisor and both workers, long before the stuck one's time is up.
        await wait_until(lambda: len(dumps()) == 3, "three dumps", timeout=3)
        log = service.log()
        assert not service.events("worker_stuck")
        for name, pid in (("supervisor", service.pid), ("worker 1", victim), ("worker 2", other)):
            lines = [line for line in log.splitlines() if line.startswith(f"{name}[{pid}]| ")]
            assert any("trio task tree" in line for line in lines), name
            assert any(SPIN in line for line in lines) == (pid == victim), name
        assert "Worker._obey_commands" in log
        assert "Fleet.run" in log

        async with steady_load(port, streams=4, rate=10) as load:
            await wait_until(lambda: service.events("worker_stuck"), "the verdict")
            pids = await service.wait_serving(2)
        assert load.mishaps == []
        assert other in pids
        assert victim not in pids
        # It was asked for its stacks once more before it was killed.
        assert len([pid for _, pid in dumps() if pid == str(victim)]) == 2
        [killed] = service.events("worker_killed")
        assert killed["pid"] == str(victim)
