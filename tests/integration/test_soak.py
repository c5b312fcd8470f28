"""A steady load, with reloads and deaths, for as long as KIMI_PROXY_SOAK_SECONDS says (10 by default)."""

import os
import random
import signal

import psutil
import pytest
import trio
from fakes.load import steady_load
from fakes.service import config_text, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.soak]
SECONDS = float(os.environ.get("KIMI_PROXY_SOAK_SECONDS", "10"))


async def test_only_what_a_killed_worker_held_fails(service, port, upstream):
    rnd = random.Random(11)
    held: set[int] = set()
    good = config_text(port, upstream.base_url, provider={"backoff_base": 0.0})
    end = trio.current_time() + SECONDS
    async with steady_load(port, streams=50, rate=100) as load:
        while trio.current_time() < end:
            done = load.streams_done
            for text in ("[server\n", good):
                service.write_config(text)
                service.send_signal(signal.SIGHUP)
                requests = load.requests_done
                await wait_until(lambda requests=requests: load.requests_done > requests + 20, "requests")
            victim = psutil.Process(rnd.choice(await service.wait_serving(2)))
            victim.suspend()
            held |= {found.raddr.port for found in victim.net_connections("tcp") if found.raddr}
            victim.kill()
            await wait_until(lambda done=done: load.streams_done > done + 50, "streams after the death", timeout=30)
    assert load.refused == []
    assert [mishap for mishap in load.mishaps if mishap.port not in held] == []

    async def settled() -> bool:
        return (await service.status()).totals.active == 0

    await wait_until(settled, "no open streams")
    totals = (await service.status()).totals
    assert totals.started == totals.completed + totals.cancelled + totals.failed
    records = await service.wait_records(totals.started)
    recorded = {record["trace"] for record in records}
    assert len(recorded) == len(records)
    # A request that was never admitted left no record; its client knows.
    assert set(load.traces) - recorded <= {mishap.trace for mishap in load.mishaps}
