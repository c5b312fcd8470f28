"""What an older version has left: its database is upgraded where it stands, its spooled records are understood."""

import sqlite3
from contextlib import closing

import msgspec
import pytest
from fakes.streams import make_record

from shared.config import Storage
from shared.errors import StorageError
from shared.framing import frame
from shared.history import answers, queries
from shared.history.parameters import Listing
from shared.history.reader import read
from shared.spool import read_spool
from supervisor import database, schema
from supervisor.store import Store

FIRST_COLUMNS = 23
NEW = {"cache_read", "cache_write", "cost", "client", "groups_only", "context_size"}


@pytest.fixture
def old(tmp_path):
    """A database of the first version, with three streams."""
    path = tmp_path / "sessions.db"
    marks = ", ".join("?" * FIRST_COLUMNS)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for statement in schema.MIGRATIONS[0]:
            connection.execute(statement)
        for id in ("a", "b", "c"):
            row = schema.row(make_record(id, first_byte=0.25, retries=1))[:FIRST_COLUMNS]
            connection.execute(f"INSERT INTO streams VALUES ({marks})", row)
        connection.execute("PRAGMA user_version = 1")
    return path


def streams(path):
    [rows] = read(path, queries.page(Listing()))
    return {told["id"]: told for told in map(answers.stream, rows)}


def test_an_old_database_is_upgraded_with_its_rows(old):
    with closing(sqlite3.connect(old)) as connection:
        connection.row_factory = sqlite3.Row
        before = {row["id"]: dict(row) for row in connection.execute("SELECT * FROM streams")}
    database.connect(old, 1_000.0).close()
    after = streams(old)
    assert set(after) == set(before) == {"a", "b", "c"}
    for id, told in after.items():
        assert {name: value for name, value in told.items() if name not in NEW} == before[id]
        assert {name: told[name] for name in NEW} == {**dict.fromkeys(NEW), "groups_only": False}


def test_an_upgraded_database_goes_on(old):
    writer = Store(old, Storage(keep_days=30), now=lambda: 1_000.0)
    writer.open()
    writer.put_nowait(make_record("a", cost=1.0))  # it was there before
    writer.put_nowait(make_record("d", cost=0.5, cache_read=3, cache_write=0))
    assert writer.close(20.0)
    after = streams(old)
    assert set(after) == {"a", "b", "c", "d"}
    assert after["a"]["cost"] is None
    assert (after["d"]["cost"], after["d"]["cache_read"], after["d"]["cache_write"]) == (0.5, 3, 0)


def test_an_upgraded_database_is_like_a_new_one(old, tmp_path):
    database.connect(old, 1_000.0).close()
    database.connect(tmp_path / "new.db", 1_000.0).close()

    def shape(path):
        with closing(sqlite3.connect(path)) as connection:
            tables = ("streams", "conversations")
            columns = [connection.execute(f"PRAGMA table_info({table})").fetchall() for table in tables]
            indexes = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index'").fetchall()
            return columns, sorted(indexes), connection.execute("PRAGMA user_version").fetchone()

    assert shape(old) == shape(tmp_path / "new.db")


def test_before_its_upgrade_it_is_not_read(old):
    with pytest.raises(StorageError, match="older version"):
        streams(old)


def test_records_that_an_older_worker_left_are_understood(tmp_path):
    record = msgspec.to_builtins(make_record("a", retries=2))
    for name in ("cache_read", "cache_write", "cost"):
        del record[name]
    for name in ("client", "groups_only", "context_size"):
        del record["start"][name]
    path = tmp_path / "1-1.frames"
    path.write_bytes(frame(msgspec.msgpack.encode({"type": "StreamEnded", "record": record})))
    spool = read_spool(path)
    assert spool.damage is None
    assert spool.records == [make_record("a", retries=2)]
