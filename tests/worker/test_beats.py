"""How often a worker says that it is alive."""

import trio
from fakes.gateway import make_config, serve_gateway

from worker.clock import BEAT


async def test_a_short_worker_timeout_makes_beats_come_more_often():
    async with serve_gateway(make_config(server={"worker_timeout": 1.0})) as gateway:
        await gateway.wait(lambda: bool(gateway.beats))
        first, before = len(gateway.beats), trio.current_time()
        await gateway.wait(lambda: len(gateway.beats) >= first + 4)
        assert trio.current_time() - before < 4 * BEAT
