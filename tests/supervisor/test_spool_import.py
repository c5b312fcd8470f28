"""The importer: real files, a store that is played, and the real one."""

import sqlite3
from contextlib import closing

import pytest
import trio
from fakes.streams import ListedStore, make_record
from structlog.testing import capture_logs

from shared.config import Storage
from shared.messages import StreamEnded, encode
from shared.spool import find_spools, write_spool
from supervisor import spool
from supervisor.spool import SpoolImporter
from supervisor.store import Store


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "spool"


def leave(folder, *ids):
    return write_spool(folder, [encode(StreamEnded(make_record(id))) for id in ids])


def ids(store):
    return [record.start.id for record in store.records]


async def test_without_a_folder_there_is_nothing_to_do(folder):
    await SpoolImporter(folder, ListedStore()).import_all()


async def test_records_are_put_and_the_files_deleted(folder):
    store = ListedStore()
    leave(folder, "a", "b")
    leave(folder, "c")
    with capture_logs() as logs:
        await SpoolImporter(folder, store).import_all()
    assert ids(store) == ["a", "b", "c"]
    assert find_spools(folder) == []
    assert [(entry["event"], entry["count"]) for entry in logs] == [("records_recovered", 2), ("records_recovered", 1)]


class WatchedStore(ListedStore):
    """Stores when a test says so, and counts how often it was asked."""

    def __init__(self):
        super().__init__(holding=True)
        self.looks = 0

    @property
    def stored(self):
        self.looks += 1
        return super().stored

    async def wait_looked(self):
        """Wait until the importer has seen how things are now."""
        seen = self.looks
        await until(lambda: self.looks > seen + 2)


async def until(condition):
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 (what changes has no event)
            await trio.sleep(0.002)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(spool, "POLL", 0.002)
    monkeypatch.setattr(spool, "LOOK_INTERVAL", 0.005)


async def test_a_file_stays_until_its_records_are_stored(folder, nursery, quick):
    store = WatchedStore()
    store.put_nowait(make_record("before"))
    path = leave(folder, "a", "b")
    nursery.start_soon(SpoolImporter(folder, store).run)
    await until(lambda: ids(store) == ["before", "a", "b"])
    store.store(2)
    await store.wait_looked()
    assert path.exists()
    assert store.taken == 3  # and it is not put again
    store.store(1)
    await until(lambda: not path.exists())


async def test_a_kill_in_between_loses_nothing(folder):
    path = leave(folder, "a")
    with trio.move_on_after(0.3) as scope:
        await SpoolImporter(folder, ListedStore(holding=True)).import_all()
    assert scope.cancelled_caught
    assert path.exists()
    store = ListedStore()
    await SpoolImporter(folder, store).import_all()
    assert ids(store) == ["a"]


async def test_files_that_come_later_are_found(folder, nursery, quick):
    store = ListedStore()
    nursery.start_soon(SpoolImporter(folder, store).run)
    for id in ("first", "second"):
        leave(folder, id)
        await until(lambda: not find_spools(folder))
    assert ids(store) == ["first", "second"]


async def test_an_import_leaves_room_in_the_buffer(folder, nursery, quick):
    store = WatchedStore()
    leave(folder, *(f"s{number}" for number in range(spool.ROOM * 2)))
    nursery.start_soon(SpoolImporter(folder, store).run)
    for stored in (0, 50):
        store.store(stored)
        await until(lambda: store.taken > spool.ROOM)
        await store.wait_looked()
        assert store.taken == spool.ROOM + 1 + stored


async def test_a_damaged_file_is_imported_as_far_as_it_goes_and_set_aside(folder):
    store = ListedStore()
    path = leave(folder, "a", "b")
    torn = path.read_bytes()[:-5]
    path.write_bytes(torn)
    importer = SpoolImporter(folder, store)
    with capture_logs() as logs:
        await importer.import_all()
        await importer.import_all()
    assert ids(store) == ["a"]
    assert [entry["event"] for entry in logs] == ["spool_corrupt", "records_recovered"]
    [kept] = folder.iterdir()
    assert str(kept) == logs[0]["kept_as"] == f"{path}.corrupt"
    assert kept.read_bytes() == torn


async def test_what_can_t_be_read_is_reported_once_and_holds_up_nobody(folder):
    store = ListedStore()
    folder.mkdir()
    hopeless = folder / "1-1.frames"
    hopeless.mkdir()
    leave(folder, "a")
    importer = SpoolImporter(folder, store)
    with capture_logs() as logs:
        await importer.import_all()
        await importer.import_all()
    assert ids(store) == ["a"]
    [problem] = [entry for entry in logs if entry["event"] == "spool_problem"]
    assert problem["path"] == str(hopeless)


async def test_a_folder_that_is_none_is_reported_once(folder):
    folder.touch()
    importer = SpoolImporter(folder, ListedStore())
    with capture_logs() as logs:
        await importer.import_all()
        await importer.import_all()
    assert [(entry["event"], entry["path"]) for entry in logs] == [("spool_problem", str(folder))]


async def test_a_buffer_smaller_than_a_file_and_doubles(folder, tmp_path, quick):
    """With the real store: every record has one row, also those it had before."""
    path = tmp_path / "sessions.db"
    store = Store(path, Storage(max_buffered_records=2))
    store.open()
    store.put_nowait(make_record("s1"))
    leave(folder, *(f"s{number}" for number in range(5)))
    with trio.fail_after(20):
        await SpoolImporter(folder, store).import_all()
    assert find_spools(folder) == []
    assert store.close(10)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT id FROM streams ORDER BY id").fetchall() == [(f"s{n}",) for n in range(5)]
