"""Reading beside whoever writes."""

import os
import sqlite3
import time
from contextlib import closing

import pytest
from fakes.history import many_records, write_history

from shared.errors import StorageError
from shared.history import queries
from shared.history.parameters import Filters, Listing
from shared.history.queries import Query
from shared.history.reader import read
from supervisor import database

ALL = queries.page(Listing(limit=1000))
ENDLESS = Query("WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n")


@pytest.fixture
def path(tmp_path):
    return write_history(tmp_path / "sessions.db", many_records(10))


def test_a_file_that_is_not_there_has_no_rows_and_is_not_made(tmp_path):
    path = tmp_path / "no" / "sessions.db"
    assert read(path, ALL, queries.totals(Filters())) == [[], []]
    assert not path.parent.exists()


def test_an_empty_file_has_no_rows(tmp_path):
    path = tmp_path / "sessions.db"
    path.touch()
    assert read(path, ALL) == [[]]
    assert path.stat().st_size == 0


def test_strange_names_of_files(tmp_path):
    path = write_history(tmp_path / "a b?c#d%41&mode=rwc.db", many_records(3))
    assert len(read(path, ALL)[0]) == 3


def test_it_reads_while_another_writes(path):
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM streams")
        assert len(read(path, ALL)[0]) == 10
        writer.execute("COMMIT")
    assert read(path, ALL) == [[]]


def test_a_writer_does_not_wait_for_it(path):
    looks = []

    def write_once():
        if not looks:
            looks.append(True)
            write_history(path, many_records(3, seed=5))
        return len(read(path, ALL)[0]) == 13

    with pytest.raises(StorageError):
        read(path, ENDLESS, stopped=write_once)
    assert looks == [True]


def test_it_can_not_write(path):
    with pytest.raises(StorageError, match="read-only"):
        read(path, Query("DELETE FROM streams"))
    assert len(read(path, ALL)[0]) == 10


def test_a_query_is_given_up(path):
    deadline = time.monotonic() + 0.05
    with pytest.raises(StorageError, match="given up") as error:
        read(path, ENDLESS, stopped=lambda: time.monotonic() > deadline)
    assert error.value.passing


def test_a_query_that_nobody_wants_any_more_does_not_begin(path):
    with pytest.raises(StorageError, match="given up"):
        read(path, ENDLESS, stopped=lambda: True)


def test_garbage_is_told(tmp_path):
    path = tmp_path / "sessions.db"
    path.write_bytes(b"no database at all, whatever its name says" * 100)
    with pytest.raises(StorageError, match="not a database") as error:
        read(path, ALL)
    assert error.value.corrupt


def test_a_file_that_can_not_be_opened_is_no_empty_one(tmp_path):
    path = tmp_path / "sessions.db"
    path.mkdir()
    with pytest.raises(StorageError, match="disk"):
        read(path, ALL)


def test_a_file_that_is_replaced_is_read_anew(path, tmp_path):
    assert len(read(path, ALL)[0]) == 10
    other = write_history(tmp_path / "other.db", many_records(4))
    os.replace(other, path)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    assert len(read(path, ALL)[0]) == 4


def test_old_rows_go_from_what_is_read(path):
    records = many_records(10)
    before = sorted(record.start.started for record in records)[6]
    opened = database.connect(path, 0.0)
    assert opened.prune(before, 100) == sum(record.start.started < before for record in records)
    opened.close()
    rows = read(path, ALL)[0]
    assert {row[0] for row in rows} == {record.start.id for record in records if record.start.started >= before}
