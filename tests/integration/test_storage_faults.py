"""The database can't be written for a while, or is damaged: the service serves on, says so, and catches up."""

import pytest
from fakes.load import complete
from fakes.service import config_text, run_service, wait_until

pytestmark = pytest.mark.integration


async def test_a_locked_database_holds_up_nobody(service, port):
    await complete(port, 3)
    await service.wait_records(3)
    with service.locked_database():
        await complete(port, 20)

        async def problem() -> str | None:
            storage = (await service.status()).storage
            return storage.problem if storage.buffered == 20 else None

        assert "locked" in await wait_until(problem, "the problem in the status")
        await wait_until(lambda: any("locked" in status for status in service.heard("STATUS")), "it in STATUS=")
        assert len(service.records()) == 3
        await complete(port, 5)
    await service.wait_records(28)
    storage = (await service.status()).storage
    assert (storage.problem, storage.buffered, storage.lost) == (None, 0, 0)
    assert service.events("storage_recovered")


async def test_a_database_that_is_locked_at_the_start(tmp_path, port, upstream):
    config = config_text(port, upstream.base_url)
    async with run_service(tmp_path, config) as service:
        await complete(port, 1)
        await service.stop()
        with service.locked_database():
            service.launch()
            await service.wait_ready()
            await complete(port, 4)
            assert (await service.status()).storage.problem is not None
        await service.wait_records(5)


async def test_the_last_records_wait_for_a_lock_that_ends_after_the_stop_began(service, port):
    with service.locked_database():
        await complete(port, 6)
        service.process.terminate()
        await wait_until(lambda: service.heard("STOPPING"), "STOPPING=1")
        await wait_until(lambda: len(service.events("worker_exit")) == 2, "the workers' end")
    assert await service.wait_exit() == 0
    assert len(service.records()) == 6


async def test_a_damaged_database_is_put_aside(tmp_path, port, upstream):
    state = tmp_path / "s"
    state.mkdir()
    damaged = b"this is no database " * 400
    (state / "sessions.db").write_bytes(damaged)
    async with run_service(tmp_path, config_text(port, upstream.base_url)) as service:
        await complete(port, 2)
        await service.wait_records(2)
        [kept] = state.glob("sessions.db.corrupt-*")
        assert kept.read_bytes() == damaged
        [event] = service.events("storage_corrupt")
        assert event["kept_as"] == str(kept)


async def test_deleting_the_database_while_stopped_is_a_reset(tmp_path, port, upstream):
    async with run_service(tmp_path, config_text(port, upstream.base_url)) as service:
        await complete(port, 2)
        await service.stop()
        service.paths.database.unlink()
        service.launch()
        await service.wait_ready()
        await complete(port, 1)
        await service.wait_records(1)
