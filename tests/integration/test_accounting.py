"""Whatever happens: as many terminal records as streams, one each."""

import os
import random
import signal
from collections import Counter

import psutil
import pytest
import trio
from fakes.load import BrokenOff, Client, chat
from fakes.service import wait_until

pytestmark = pytest.mark.integration

MODELS = (
    "text-5",
    "slow-100+text-60",
    "slow-50+text-500",
    "hang-before-headers",
    "hang-before-first",
    "hang-after-3",
    "reset-after-3",
    "cut-after-3",
    "eof-after-3",
    "inline-error",
    "status-500",
    "status-429",
)
CLIENTS = 24
EACH = 12


async def test_streams_and_records_are_the_same_after_chaos(service, port):
    rnd = random.Random(7)
    answered: set[str] = set()

    async def client(number: int) -> None:
        for turn in range(EACH):
            trace = f"chaos-{number}-{turn}"
            model, stream, patience = rnd.choice(MODELS), rnd.random() < 0.7, rnd.random()
            try:
                async with Client(port) as connection:
                    with trio.move_on_after(patience):
                        body = chat(f"fake/{model}", stream=stream)
                        response = await connection.post(body, headers={"x-request-id": trace})
                        answered.add(trace)
                        await response.read()
            except BrokenOff:
                pass  # its worker was killed

    async def hurt() -> None:
        for _ in range(3):
            before = len(service.records())
            await wait_until(lambda before=before: len(service.records()) > before + 20, "some streams")
            victim = rnd.choice(await service.worker_pids())
            os.kill(victim, signal.SIGKILL)
            service.send_signal(signal.SIGHUP)
            await wait_until(lambda victim=victim: not psutil.pid_exists(victim), "its end")
            await service.wait_serving(2)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hurt)
        for number in range(CLIENTS):
            nursery.start_soon(client, number)

    async def settled() -> bool:
        return (await service.status()).totals.active == 0

    await wait_until(settled, "no open streams")
    totals = (await service.status()).totals
    assert totals.started == totals.completed + totals.cancelled + totals.failed
    records = await service.wait_records(totals.started)
    counts = Counter(record["trace"] for record in records)
    assert set(counts.values()) == {1}
    assert answered <= set(counts)
    statuses = Counter(record["status"] for record in records)
    assert statuses == {"completed": totals.completed, "cancelled": totals.cancelled, "failed": totals.failed}
    assert "worker_died" in {record["error_type"] for record in records}
