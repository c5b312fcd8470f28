"""The database and its disk: locked, damaged, deleted, full, read-only."""

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest
from fakes.disks import full_disk, read_only, small_disk
from fakes.faults import fault
from fakes.scene import Scene, Setup
from fakes.service import wait_until

pytestmark = pytest.mark.integration

NOTHING = "nothing"
BUFFERED = "every record, in memory until the disk took them; the status says why"
DISK = Setup(around=lambda service: small_disk(service.folder / "s"))


async def problem(scene: Scene, word: str = "") -> str:
    """Wait until the status, and what the service manager hears, tell of it; the sentence."""

    async def told() -> str | None:
        problem = (await scene.service.status()).storage.problem
        return problem if problem is not None and word in problem else None

    sentence = await wait_until(told, f"a problem with {word!r} in the status")
    assert sentence is not None
    await wait_until(lambda: any(word in status for status in scene.service.heard("STATUS")), "it in STATUS=")
    return sentence


async def serves_meanwhile(scene: Scene) -> None:
    """Streams go on, and no record is written."""
    await scene.completed_more(16)
    assert (await scene.service.status()).storage.buffered > 0


async def nothing_lost(scene: Scene) -> None:
    """Nobody noticed, and every stream has its record."""
    await scene.recovered()
    await scene.settle()
    assert scene.not_completed == [], scene.told
    assert (await scene.service.status()).storage.lost == 0
    wanted = {asked.trace for asked in scene.asked}
    await wait_until(lambda: wanted <= {record["trace"] for record in scene.records()}, "all records")


def begins_with(path: Path, data: bytes) -> bool:
    """Whether that is what a file has at its beginning."""
    with path.open("rb") as file:
        return file.read(len(data)) == data


@fault(
    "another process holds a lock on the database",
    family="Storage",
    saw=NOTHING,
    kept=BUFFERED,
    lasting=True,
)
async def test_a_locked_database(scene: Scene) -> None:
    with scene.service.locked_database():
        await problem(scene, "locked")
        await serves_meanwhile(scene)
    scene.injected()
    await nothing_lost(scene)
    assert scene.service.events("storage_recovered")


@fault(
    "the database is locked while the service starts",
    family="Storage",
    saw=NOTHING,
    kept=BUFFERED,
    load=0,
    lasting=True,
)
async def test_a_database_locked_at_the_start(scene: Scene) -> None:
    await scene.stop()
    with scene.service.locked_database():
        scene.service.launch()
        await scene.service.wait_ready()
        async with scene.load(1):
            await problem(scene, "locked")
            await serves_meanwhile(scene)
    scene.injected()
    await nothing_lost(scene)


@fault(
    "the database is locked while the service stops, until after the workers have ended",
    family="Storage",
    saw="open streams were completed; new connections were refused",
    kept="a record `completed` for every stream",
    load=0,
    because="nobody starts it",
)
async def test_a_database_locked_during_the_stop(scene: Scene) -> None:
    with scene.service.locked_database():
        asked = [await scene.ask("fake/text-3"), await scene.ask("claude/text-3", "anthropic")]
        scene.service.process.terminate()
        await wait_until(lambda: len(scene.service.events("worker_exit")) >= 2, "the workers' end")
        assert scene.records() == []
    assert await scene.service.wait_exit() == 0
    assert [(await scene.record(one))["status"] for one in asked] == ["completed"] * 2
    scene.service.launch()
    await scene.service.wait_ready()


@fault(
    "`kill -9` of the supervisor while the database is locked, and again during the next start",
    family="Storage",
    saw="the open stream was completed",
    kept="a record of every stream: those in memory were left in files, which the third start imported",
    load=0,
    because="the start",
)
async def test_two_kills_with_a_locked_database(scene: Scene) -> None:
    service = scene.service
    with service.locked_database():
        for _ in range(5):
            await scene.ask("fake/text-3")
        slow = scene.begin("claude/slow-25+text-10", "anthropic")  # ends after its supervisor
        await slow.wait_bytes()
        for imported in (False, True):
            service.process.kill()
            service.process.wait()
            await wait_until(lambda: not service.processes(), "the workers' end")
            assert list(service.paths.spool.iterdir())
            if not imported:
                service.launch()
                await service.wait_ready()

                async def importing() -> bool:
                    return (await service.status()).storage.buffered > 0

                await wait_until(importing, "records from the files")
        assert scene.records() == []
    scene.injected()
    service.launch()
    await scene.recovered()
    await wait_until(lambda: len(scene.records()) == 6, "the records from the files")
    await wait_until(lambda: not list(service.paths.spool.iterdir()), "no files")
    assert (await slow.wait()).outcome == "completed"
    assert {record["status"] for record in scene.records()} == {"completed"}


@fault(
    "the database is overwritten with garbage while the service runs",
    family="Storage",
    saw=NOTHING,
    kept="the damaged file, put aside; every record since, in a new one",
)
async def test_a_damaged_database(scene: Scene) -> None:
    database = scene.service.paths.database
    scene.excused |= {asked.trace for asked in scene.asked}
    scene.injected()
    with database.open("r+b") as file:
        file.write(b"this is no database " * 4000)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError), database.with_name(database.name + suffix).open("r+b") as file:
            file.write(b"\xff" * 4096)
    await wait_until(lambda: scene.service.events("storage_corrupt"), "the damage in the log")
    kept = Path(scene.service.events("storage_corrupt")[-1]["kept_as"])
    asked = [await scene.ask("fake/text-3"), await scene.ask("claude/text-3", "anthropic")]
    await scene.recovered()
    assert begins_with(kept, b"this is no database ")
    for one in asked:
        assert (await scene.record(one))["status"] == "completed"
    await scene.settle()
    assert scene.not_completed == [], scene.told


@fault(
    "the database is damaged when the service starts",
    family="Storage",
    saw=NOTHING,
    kept="the damaged file, put aside; every record since, in a new one",
    load=0,
)
async def test_a_database_damaged_at_the_start(scene: Scene) -> None:
    service = scene.service
    await scene.stop()
    damaged = b"this is no database " * 400
    for file in service.paths.database.parent.glob("sessions.db*"):
        file.unlink()
    service.paths.database.write_bytes(damaged)
    service.launch()
    await service.wait_ready()
    scene.injected()
    asked = await scene.ask("fake/text-3")
    await scene.recovered()
    assert (await scene.record(asked))["status"] == "completed"
    [event] = service.events("storage_corrupt")
    assert begins_with(Path(event["kept_as"]), damaged)


@fault(
    "the database is deleted while the service runs",
    family="Storage",
    saw=NOTHING,
    kept="every record since, in a new database",
)
async def test_a_deleted_database(scene: Scene) -> None:
    scene.excused |= {asked.trace for asked in scene.asked}
    scene.injected()
    for file in scene.service.paths.database.parent.glob("sessions.db*"):
        file.unlink()
    await wait_until(scene.service.paths.database.exists, "a new database")
    asked = [await scene.ask("fake/text-3"), await scene.ask("claude/text-3", "anthropic")]
    await scene.recovered()
    for one in asked:
        assert (await scene.record(one))["status"] == "completed"
    await scene.settle()
    assert scene.not_completed == [], scene.told


@fault(
    "the database is deleted while the service is stopped",
    family="Storage",
    saw=NOTHING,
    kept="every record since, in a new database",
    load=0,
)
async def test_a_database_deleted_while_stopped(scene: Scene) -> None:
    await scene.stop()
    scene.service.paths.database.unlink()
    scene.service.launch()
    await scene.service.wait_ready()
    scene.injected()
    asked = await scene.ask("fake/text-3")
    await scene.recovered()
    assert (await scene.record(asked))["status"] == "completed"
    assert len(scene.service.records()) <= 3


@fault(
    "the database is replaced by an older copy while the service runs (a restored backup)",
    family="Storage",
    saw=NOTHING,
    kept="what the copy has, and every record since",
)
async def test_a_restored_database(scene: Scene) -> None:
    database = scene.service.paths.database
    copy = database.with_name("copy")
    with contextlib.closing(sqlite3.connect(database)) as source, contextlib.closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        (before,) = target.execute("SELECT count(*) FROM streams").fetchone()
    await scene.completed_more()
    scene.excused |= {asked.trace for asked in scene.asked}
    scene.injected()
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    copy.replace(database)
    asked = [await scene.ask("fake/text-3"), await scene.ask("claude/text-3", "anthropic")]
    await scene.recovered()
    for one in asked:
        assert (await scene.record(one))["status"] == "completed"
    assert len(scene.service.records()) >= before + 2
    await scene.settle()
    assert scene.not_completed == [], scene.told


@fault(
    "the state folder is deleted with all that is in it",
    family="Storage",
    saw=NOTHING,
    kept="every record since, in a new folder",
)
async def test_a_deleted_state_folder(scene: Scene) -> None:
    scene.excused |= {asked.trace for asked in scene.asked}
    scene.injected()
    shutil.rmtree(scene.service.paths.state)
    await wait_until(scene.service.paths.database.exists, "a new database")
    asked = await scene.ask("fake/text-3")
    await scene.recovered()
    assert (await scene.record(asked))["status"] == "completed"
    await scene.settle()
    assert scene.not_completed == [], scene.told


@fault("the disk of the database is full", family="Storage", saw=NOTHING, kept=BUFFERED, setup=DISK, lasting=True)
async def test_a_full_disk(scene: Scene) -> None:
    with full_disk(scene.service.paths.state):
        await problem(scene, "full")
        await serves_meanwhile(scene)
    scene.injected()
    await nothing_lost(scene)


@fault(
    "the database is opened anew, and its folder is read-only by then (a mount)",
    family="Storage",
    saw=NOTHING,
    kept=BUFFERED,
    lasting=True,
)
async def test_a_read_only_folder(scene: Scene) -> None:
    with contextlib.ExitStack() as stack:
        with scene.service.locked_database():
            await problem(scene, "locked")
            stack.enter_context(read_only(scene.service.paths.state))
            await problem(scene, "readonly")  # so it was opened behind the mount
        await serves_meanwhile(scene)
    scene.injected()
    await nothing_lost(scene)
