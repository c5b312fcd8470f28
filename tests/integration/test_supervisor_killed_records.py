"""kill -9 of the supervisor: the streams that its workers had, and those it had not written yet, have their records."""

import re
from collections import Counter
from contextlib import suppress

import pytest
import trio
from fakes.load import BrokenOff, Client, chat, complete
from fakes.service import Service, config_text, run_service, wait_until

pytestmark = pytest.mark.integration


async def hold(port: int, model: str) -> None:
    """A stream, for as long as the worker goes on."""
    async with Client(port) as client:
        response = await client.post(chat(model))
        with suppress(BrokenOff):
            while await response.receive():
                pass


async def wait_state(service: Service, *, streams: int, buffered: int) -> None:
    """Wait until so many streams are open, and so many records wait for the database."""

    async def reached() -> bool:
        status = await service.status()
        return status.totals.active == streams and status.storage.buffered == buffered

    await wait_until(reached, f"{streams} open streams, {buffered} records that wait")


async def kill(service: Service) -> None:
    """kill -9, and nothing else of it is harmed."""
    service.process.kill()
    await trio.to_thread.run_sync(service.process.wait)


def begun(service: Service) -> Counter[str]:
    """The traces of all streams that have ever begun."""
    return Counter(re.findall(r"event=stream_start .*?\btrace=(\S+)", service.log()))


def recorded(service: Service) -> Counter[str]:
    return Counter(record["trace"] for record in service.records())


async def wait_accounted(service: Service) -> None:
    """Wait until every stream that has begun has its one record, and no file is left."""
    await wait_until(lambda: not begun(service) - recorded(service), "a record of every stream")
    await wait_until(lambda: not list(service.paths.spool.iterdir()), "an empty spool")
    assert recorded(service) == begun(service)


async def test_a_sigterm_to_all_that_is_left_changes_nothing(service, port):
    """As a service manager sends it to the whole control group when the main process has died."""
    await service.wait_serving(2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold, port, "fake/slow-100+text-10")
        nursery.start_soon(hold, port, "fake/hang-after-2")
        await wait_state(service, streams=2, buffered=0)
        await kill(service)
        for process in service.processes():
            process.terminate()
    service.launch()
    await service.wait_ready()
    await wait_accounted(service)
    assert {record["status"] for record in service.records()} == {"completed", "cancelled"}


async def test_what_a_stop_could_not_write_is_there_after_the_next_start(service, port):
    """Its workers have left before; nobody but their files has the records then."""
    with service.locked_database():
        await complete(port, 5)
        service.process.terminate()
        await wait_until(lambda: len(service.events("worker_exit")) == 2, "the workers' end")
        await kill(service)
    service.launch()
    await service.wait_ready()
    await wait_accounted(service)
    assert len(service.records()) == 5


async def test_an_orderly_stop_leaves_no_files(tmp_path, port, upstream):
    async with run_service(tmp_path, config_text(port, upstream.base_url)) as service:
        await service.wait_serving(2)
        await complete(port, 5)
        await service.stop()
        assert not service.paths.spool.exists()
