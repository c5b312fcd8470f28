"""File descriptors run out: requests wait or fail with a reason, and nobody dies of it."""

from collections import Counter

import psutil
import pytest
import trio
from fakes.load import Client, chat, said
from fakes.openai_upstream import text_of
from fakes.service import wait_until

pytestmark = pytest.mark.integration


async def test_workers_without_descriptors_live_on(service, port):
    before = await service.wait_serving(2)
    for pid in before:
        worker = psutil.Process(pid)
        worker.rlimit(psutil.RLIMIT_NOFILE, (worker.num_fds() + 12, worker.rlimit(psutil.RLIMIT_NOFILE)[1]))
    answers: Counter[int] = Counter()

    async def ask() -> None:
        async with Client(port) as client:
            response = await client.post(chat("fake/slow-20+text-10"))
            answers[response.status] += 1
            body = await response.read()
            if response.status == 200:
                assert said(body) == "".join(text_of(10))
            else:
                assert b"Too many open files" in body

    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(ask)
    assert set(answers) <= {200, 502}
    assert sum(answers.values()) == 60
    assert await service.worker_pids() == before
    await wait_until(lambda: len(service.records()) == 60, "a record for each")
