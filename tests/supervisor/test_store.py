"""Real files, real locks, real limits."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from fakes.streams import make_record, make_start
from structlog.testing import capture_logs

from shared.config import Storage
from shared.errors import StartError
from supervisor import database, schema, store
from supervisor.store import Store
from supervisor.unwritten import Kept

DAY = 86_400.0
PATIENCE = 20.0


def wait_until(condition, what="the condition"):
    """Look at what another thread does until it has done it."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true"
        time.sleep(0.005)


def stored_ids(path):
    with closing(sqlite3.connect(path)) as connection:
        return [id for (id,) in connection.execute("SELECT id FROM streams ORDER BY rowid")]


def conversation(session, data=b"[]", updated=1_000.0):
    return Kept(session, "", updated, data)


def conversations(path):
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT session, data FROM conversations ORDER BY rowid"))


def events(logs):
    return [entry["event"] for entry in logs]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "sessions.db"


@pytest.fixture
def opened(path):
    """Makes stores that are closed in the end."""
    stores = []

    def make(settings=None, now=lambda: 1_000.0, **changes):
        made = Store(path, settings or Storage(**changes), now)
        stores.append(made)
        made.open()
        return made

    yield make
    for made in stores:
        made.close(0.0)


@pytest.fixture
def quick_retries(monkeypatch):
    monkeypatch.setattr(store, "LAST_RETRY", 0.1)


def test_records_are_written_without_closing(opened, path):
    writer = opened()
    writer.put_nowait(make_record("a"))
    wait_until(lambda: writer.status().buffered == 0)
    assert stored_ids(path) == ["a"]
    status = writer.status()
    assert (status.path, status.problem, status.lost) == (str(path), None, 0)


def test_it_counts_what_it_took_and_what_is_stored(opened, path, quick_retries):
    writer = opened(max_buffered_records=3)
    assert (writer.taken, writer.stored) == (0, 0)
    for record in (make_record("a"), make_record("a"), make_record("huge", http_status=2**70)):
        writer.put_nowait(record)
    wait_until(lambda: writer.stored == 3)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for number in range(5):  # two of which are lost
            writer.put_nowait(make_record(f"s{number}"))
        wait_until(lambda: writer.status().problem)
        assert (writer.taken, writer.stored) == (6, 3)
        other.execute("ROLLBACK")
        wait_until(lambda: writer.stored == 6)
    assert writer.taken == 6
    assert stored_ids(path) == ["a", "s0", "s1", "s2"]


def test_close_writes_everything_in_order_and_once(opened, path):
    writer = opened()
    for number in range(1700):
        writer.put_nowait(make_record(f"s{number}"))
    writer.put_nowait(make_record("s0", status="failed"))
    assert writer.close(PATIENCE)
    assert stored_ids(path) == [f"s{number}" for number in range(1700)]
    assert not any(thread.name == "store" for thread in threading.enumerate())


def test_the_file_is_in_wal_mode_and_has_its_version(opened, path):
    opened()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)


def test_records_survive_a_restart(opened, path):
    for id in ("a", "b"):
        writer = opened()
        writer.put_nowait(make_record(id))
        assert writer.close(PATIENCE)
    assert stored_ids(path) == ["a", "b"]


def test_a_record_after_close_is_counted_as_lost(opened):
    writer = opened()
    assert writer.close(PATIENCE)
    with capture_logs() as logs:
        writer.put_nowait(make_record("late"))
    assert writer.status().lost == 1
    assert events(logs) == ["storage_losing_records"]
    assert writer.close(0.0)


def test_old_rows_go_and_new_ones_stay(opened, path, monkeypatch):
    monkeypatch.setattr(store, "PRUNE_ROWS", 3)
    writer = opened()
    for number in range(8):
        writer.put_nowait(make_record(start=make_start(f"old{number}", started=5.0)))
    writer.put_nowait(make_record(start=make_start("new", started=5.0 + 2 * DAY)))
    assert writer.close(PATIENCE)
    opened(now=lambda: 6.0 + 3 * DAY, keep_days=3)
    wait_until(lambda: stored_ids(path) == ["new"])


def test_with_new_settings_old_rows_go_at_once(opened, path):
    writer = opened(now=lambda: 10 * DAY)
    writer.put_nowait(make_record(start=make_start("old", started=5 * DAY)))
    writer.put_nowait(make_record(start=make_start("new", started=9 * DAY)))
    wait_until(lambda: writer.stored == 2)
    assert stored_ids(path) == ["old", "new"]
    writer.settings = Storage(keep_days=2)
    wait_until(lambda: stored_ids(path) == ["new"])


def test_a_lock_held_by_another_process_is_waited_out(opened, path, quick_retries):
    writer = opened()
    with closing(sqlite3.connect(path, isolation_level=None)) as other, capture_logs() as logs:
        other.execute("BEGIN EXCLUSIVE")
        writer.put_nowait(make_record("a"))
        wait_until(lambda: writer.status().problem)
        assert "locked" in writer.status().problem
        writer.put_nowait(make_record("b"))
        assert writer.status().buffered == 2
        other.execute("ROLLBACK")
        wait_until(lambda: writer.status().problem is None)
        wait_until(lambda: writer.status().buffered == 0)
    assert stored_ids(path) == ["a", "b"]
    assert events(logs) == ["storage_problem", "storage_recovered"]


def test_how_long_the_oldest_record_has_waited(opened, path, quick_retries):
    writer = opened()
    assert writer.status().lag == 0.0
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        writer.put_nowait(make_record("a"))
        wait_until(lambda: writer.status().lag > 0.05)
        writer.put_nowait(make_record("b"))
        assert writer.status().lag > 0.05
        other.execute("ROLLBACK")
        wait_until(lambda: writer.status().buffered == 0)
    assert writer.status().lag == 0.0


def test_a_lock_does_not_prevent_the_start(opened, path, quick_retries):
    opened().close(PATIENCE)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        writer = opened()
        assert "locked" in writer.status().problem
        writer.put_nowait(make_record("a"))
        other.execute("ROLLBACK")
    assert writer.close(PATIENCE)
    assert stored_ids(path) == ["a"]


def test_recovery_needs_no_record(opened, path, quick_retries):
    opened().close(PATIENCE)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        writer = opened()
        other.execute("ROLLBACK")
    wait_until(lambda: writer.status().problem is None)


def test_the_buffer_is_bounded_and_the_newest_are_lost(opened, path, quick_retries):
    writer = opened(max_buffered_records=3)
    with closing(sqlite3.connect(path, isolation_level=None)) as other, capture_logs() as logs:
        other.execute("BEGIN EXCLUSIVE")
        writer.put_nowait(make_record("s0"))
        wait_until(lambda: writer.status().problem)
        for number in range(1, 6):
            writer.put_nowait(make_record(f"s{number}"))
        status = writer.status()
        assert (status.buffered, status.lost) == (3, 3)
        other.execute("ROLLBACK")
        wait_until(lambda: writer.status().problem is None)
    assert writer.close(PATIENCE)
    assert stored_ids(path) == ["s0", "s1", "s2"]
    assert events(logs) == ["storage_problem", "storage_losing_records", "storage_recovered"]
    assert logs[-1]["lost"] == 3


def test_close_gives_up_at_its_timeout_and_says_what_is_lost(opened, path):
    writer = opened()
    with closing(sqlite3.connect(path, isolation_level=None)) as other, capture_logs() as logs:
        other.execute("BEGIN EXCLUSIVE")
        writer.put_nowait(make_record("a"))
        writer.put_nowait(make_record("b"))
        assert not writer.close(0.3)
    assert writer.status().lost == 2
    assert logs[-1]["event"] == "storage_records_lost"
    assert logs[-1]["count"] == 2


def test_close_waits_for_a_lock_that_goes(opened, path):
    writer = opened()
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        writer.put_nowait(make_record("a"))
        wait_until(lambda: writer.status().problem)
        release = threading.Timer(0.2, other.execute, ["ROLLBACK"])
        release.start()
        assert writer.close(PATIENCE)
        release.join()
    assert stored_ids(path) == ["a"]


@pytest.mark.parametrize("garbage", [b"this is no database at all\n" * 400, b"SQLite format 3\x00" + b"\xff" * 8176])
def test_a_file_that_is_no_database_is_put_aside(opened, path, garbage):
    path.parent.mkdir()
    path.write_bytes(garbage)
    Path(f"{path}-wal").write_bytes(b"old log")
    with capture_logs() as logs:
        writer = opened()
    (entry,) = [entry for entry in logs if entry["event"] == "storage_corrupt"]
    assert entry["log_level"] == "error"
    kept = Path(entry["kept_as"])
    assert kept.name == "sessions.db.corrupt-19700101T001640Z"
    assert kept.read_bytes() == garbage
    writer.put_nowait(make_record("a"))
    assert writer.close(PATIENCE)
    assert stored_ids(path) == ["a"]


def damage(path):
    """Overwrite every page but the first."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))


def test_a_database_with_damaged_pages_is_put_aside(opened, path):
    writer = opened()
    for number in range(200):
        writer.put_nowait(make_record(f"s{number}"))
    assert writer.close(PATIENCE)
    damage(path)
    with capture_logs() as logs:
        writer = opened()
    assert "storage_corrupt" in events(logs)
    writer.put_nowait(make_record("a"))
    assert writer.close(PATIENCE)
    assert stored_ids(path) == ["a"]


def test_two_corruptions_in_one_second_are_both_kept(tmp_path):
    path = tmp_path / "sessions.db"
    for content in ("first", "second"):
        path.write_text(content)
        database.put_aside(path, 0.0)
    kept = sorted(tmp_path.iterdir())
    assert [file.name for file in kept] == [
        "sessions.db.corrupt-19700101T000000Z",
        "sessions.db.corrupt-19700101T000000Z-2",
    ]
    assert [file.read_text() for file in kept] == ["first", "second"]


def test_damage_while_running_loses_no_buffered_record(opened, path, quick_retries):
    writer = opened()
    for number in range(500):
        writer.put_nowait(make_record(f"s{number}"))
    wait_until(lambda: writer.status().buffered == 0)
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        # A write of another process makes the store's connection drop its cached pages.
        other.execute("UPDATE streams SET retries = 1")
        other.commit()
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        damage(path)
        with capture_logs() as logs:
            writer.put_nowait(make_record("after"))
            wait_until(lambda: "storage_recovered" in events(logs))
    assert writer.close(PATIENCE)
    assert "storage_corrupt" in events(logs)
    assert stored_ids(path) == ["after"]


def test_a_file_deleted_while_running_is_created_again(opened, path):
    writer = opened()
    writer.put_nowait(make_record("before"))
    wait_until(lambda: writer.status().buffered == 0)
    for file in path.parent.iterdir():
        file.unlink()
    with capture_logs() as logs:
        writer.put_nowait(make_record("after"))
        assert writer.close(PATIENCE)
    assert "storage_replaced" in events(logs)
    assert stored_ids(path) == ["after"]


def test_a_file_replaced_while_running_gets_the_records(opened, path):
    writer = opened()
    writer.put_nowait(make_record("before"))
    wait_until(lambda: writer.status().buffered == 0)
    replacement = path.with_name("replacement.db")
    other = Store(replacement, Storage())
    other.open()
    other.put_nowait(make_record("theirs"))
    assert other.close(PATIENCE)
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink()
    replacement.rename(path)
    writer.put_nowait(make_record("after"))
    assert writer.close(PATIENCE)
    assert stored_ids(path) == ["theirs", "after"]


def test_a_folder_deleted_while_running_is_created_again(opened, path):
    writer = opened()
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    writer.put_nowait(make_record("after"))
    assert writer.close(PATIENCE)
    assert stored_ids(path) == ["after"]


def test_a_record_that_no_database_takes_does_not_hold_up_the_others(opened, path):
    writer = opened()
    with capture_logs() as logs:
        for record in (make_record("a"), make_record("huge", http_status=2**70), make_record("b")):
            writer.put_nowait(record)
        assert writer.close(PATIENCE)
    assert stored_ids(path) == ["a", "b"]
    assert writer.status().lost == 1
    assert [entry["id"] for entry in logs if entry["event"] == "storage_record_refused"] == ["huge"]


def test_a_mistake_of_ours_in_the_thread_is_a_problem_not_the_end(opened, path, monkeypatch, quick_retries):
    writer = opened()
    with monkeypatch.context() as patch:

        def fail(_self, _records):
            raise RuntimeError("unforeseen")

        patch.setattr(database.Database, "write", fail)
        writer.put_nowait(make_record("a"))
        wait_until(lambda: writer.status().problem == "unforeseen")
    assert writer.close(PATIENCE)
    assert stored_ids(path) == ["a"]


def test_a_newer_database_is_refused_with_a_sentence(opened, path):
    opened().close(PATIENCE)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {schema.VERSION + 3}")
    with pytest.raises(StartError, match=re.escape(f"schema {schema.VERSION + 3}") + ".*upgrade kimi-proxy"):
        opened()
    assert path.exists()


def test_an_interrupted_upgrade_leaves_nothing_behind(opened, path, monkeypatch):
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE half (a)", "nonsense")))
    monkeypatch.setattr(schema, "VERSION", len(schema.MIGRATIONS))
    with pytest.raises(StartError, match="nonsense"):
        opened()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def test_an_impossible_path_is_refused_with_a_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StartError, match="can't be created"):
        Store(tmp_path / "file" / "sessions.db", Storage()).open()
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(StartError, match="can't be opened or created"):
        Store(tmp_path / "folder.db", Storage()).open()


def run_script(script, *args):
    """Run Python code in a process of its own, where limits and users may change; its stdout."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FULL = """
import resource, sys, time
from pathlib import Path
from fakes.streams import make_record
from shared.config import Storage
from supervisor import store
store.LAST_RETRY = 0.1

def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)

writer = store.Store(Path(sys.argv[1]), Storage())
writer.open()
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
for number in range(5000):
    writer.put_nowait(make_record(f"s{number}"))
wait_until(lambda: writer.status().problem)
problem = writer.status().problem
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
wait_until(lambda: writer.status().problem is None)
assert writer.close(20)
print(problem)
"""


def test_no_room_for_the_file_keeps_every_record_until_there_is(tmp_path):
    path = tmp_path / "sessions.db"
    output = run_script(FULL, path)
    assert "the disk refused a read or a write" in output
    assert stored_ids(path) == [f"s{number}" for number in range(5000)]


def test_a_full_database_keeps_every_record_until_there_is_room(opened, path, monkeypatch, quick_retries):
    pages = {"max": 30}
    connect = database.connect

    def connect_with_a_bound(*args, **more):
        made = connect(*args, **more)
        made._connection.execute(f"PRAGMA max_page_count = {pages['max']}")
        return made

    monkeypatch.setattr(database, "connect", connect_with_a_bound)
    writer = opened()
    for number in range(1000):
        writer.put_nowait(make_record(f"s{number}"))
    wait_until(lambda: writer.status().problem)
    assert "the disk is full" in writer.status().problem
    pages["max"] = 1_000_000
    wait_until(lambda: writer.status().problem is None)
    assert writer.close(PATIENCE)
    assert stored_ids(path) == [f"s{number}" for number in range(1000)]


READ_ONLY = """
import os, sys, tempfile
from pathlib import Path
from shared.config import Storage
from shared.errors import StartError
from supervisor.store import Store
if os.getuid() == 0:  # root may write everywhere
    os.setgid(65534)
    os.setuid(65534)
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "sessions.db")
    if sys.argv[1] == "existing":
        made = Store(path, Storage())
        made.open()
        assert made.close(20)
        path.chmod(0o444)
    os.chmod(folder, 0o555)
    try:
        Store(path, Storage()).open()
    except StartError as error:
        print(error)
    finally:
        os.chmod(folder, 0o755)
"""


@pytest.mark.parametrize("file", ["missing", "existing"])
def test_a_read_only_folder_is_refused_with_a_sentence(file):
    output = run_script(READ_ONLY, file)
    assert "read-only for this user" in output or "can't be opened or created" in output


def test_kill_9_in_the_middle_leaves_a_sound_database(tmp_path):
    path = tmp_path / "sessions.db"
    script = """
import itertools, sys, time
from pathlib import Path
from fakes.streams import make_record
from shared.config import Storage
from supervisor.store import Store
writer = Store(Path(sys.argv[1]), Storage())
writer.open()
print("up", flush=True)
for number in itertools.count():
    while writer.status().buffered >= 5000:
        time.sleep(0.001)
    writer.put_nowait(make_record(f"s{number}"))
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout.readline() == b"up\n"
        wait_until(lambda: stored_ids(path))
        process.send_signal(signal.SIGKILL)
    ids = stored_ids(path)
    assert ids == [f"s{number}" for number in range(len(ids))]
    reopened = Store(path, Storage())
    reopened.open()
    assert reopened.status().problem is None
    assert reopened.close(PATIENCE)


def test_conversations_are_written_without_closing(opened, path):
    writer = opened()
    writer.keep_nowait(conversation("a", b"[1]"))
    writer.keep_nowait(conversation("a", b"[2]"))
    wait_until(lambda: writer.find_unwritten("a", "") is None)
    assert conversations(path) == {"a": b"[2]"}
    writer.keep_nowait(conversation("a", b""))
    wait_until(lambda: writer.find_unwritten("a", "") is None)
    assert conversations(path) == {}
    assert (writer.taken, writer.stored) == (0, 0)


def test_close_writes_all_conversations(opened, path, monkeypatch):
    monkeypatch.setattr(store, "BATCH_CONVERSATIONS", 3)
    writer = opened()
    for number in range(20):
        writer.keep_nowait(conversation(f"s{number}", b"[%d]" % number))
        writer.put_nowait(make_record(f"r{number}"))
    assert writer.close(PATIENCE)
    assert conversations(path) == {f"s{number}": b"[%d]" % number for number in range(20)}
    assert len(stored_ids(path)) == 20


def test_conversations_wait_for_a_lock_that_goes(opened, path, quick_retries):
    writer = opened()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        writer.keep_nowait(conversation("a", b"[1]"))
        wait_until(lambda: writer.status().problem)
        assert writer.find_unwritten("a", "").data == b"[1]"
        other.execute("ROLLBACK")
        wait_until(lambda: writer.find_unwritten("a", "") is None)
    assert conversations(path) == {"a": b"[1]"}


def test_conversations_that_find_no_room_are_lost_the_oldest_first(opened, path, monkeypatch, quick_retries):
    monkeypatch.setattr(store, "MAX_UNWRITTEN_BYTES", 10)
    writer = opened()
    with closing(sqlite3.connect(path, isolation_level=None)) as other, capture_logs() as logs:
        other.execute("BEGIN EXCLUSIVE")
        for session in "abc":
            writer.keep_nowait(conversation(session, b"x" * 4))
        other.execute("ROLLBACK")
        wait_until(lambda: writer.find_unwritten("c", "") is None)
    assert [(entry["event"], entry["session"]) for entry in logs if "session" in entry] == [("conversation_lost", "a")]
    assert set(conversations(path)) == {"b", "c"}


def test_conversations_that_can_t_be_written_at_the_end_are_counted(opened, path):
    writer = opened()
    with closing(sqlite3.connect(path, isolation_level=None)) as other, capture_logs() as logs:
        other.execute("BEGIN EXCLUSIVE")
        writer.keep_nowait(conversation("a"))
        writer.keep_nowait(conversation("b"))
        assert writer.close(0.3)
        writer.keep_nowait(conversation("late"))
    lost = [entry for entry in logs if entry["event"].startswith("conversation")]
    assert [entry["event"] for entry in lost] == ["conversations_lost", "conversation_lost"]
    assert lost[0]["count"] == 2
    assert lost[1]["session"] == "late"


def test_the_database_holds_no_more_conversations_than_the_bound(opened, path, monkeypatch):
    monkeypatch.setattr(database, "MAX_CONVERSATIONS", 3)
    monkeypatch.setattr(database, "MAX_CONVERSATION_BYTES", 20)
    writer = opened()
    for number, size in enumerate((1, 1, 1, 1, 18)):
        writer.keep_nowait(conversation(f"s{number}", b"x" * size, updated=1_000.0 + number))
        wait_until(lambda: not writer._unwritten)
    assert set(conversations(path)) == {"s2", "s3", "s4"}
    writer.keep_nowait(conversation("s5", b"xx", updated=2_000.0))
    wait_until(lambda: not writer._unwritten)
    assert set(conversations(path)) == {"s4", "s5"}


def test_old_conversations_go_at_the_start_and_at_a_reload(opened, path, monkeypatch):
    monkeypatch.setattr(database, "FORGET_ROWS", 2)
    writer = opened(now=lambda: 0.0)
    for number in range(5):
        writer.keep_nowait(conversation(f"s{number}", updated=float(number)))
    assert writer.close(PATIENCE)
    assert len(conversations(path)) == 5
    writer = store.Store(path, Storage(), lambda: 1_000.0, keep_conversations=997.0)
    writer.open()
    wait_until(lambda: set(conversations(path)) == {"s3", "s4"})
    writer.keep_conversations = 996.0
    writer.settings = Storage(keep_days=7)
    wait_until(lambda: set(conversations(path)) == {"s4"})
    assert writer.close(PATIENCE)


def test_a_file_deleted_while_running_gets_the_conversation_again(opened, path):
    writer = opened()
    writer.keep_nowait(conversation("before"))
    wait_until(lambda: writer.find_unwritten("before", "") is None)
    for file in path.parent.iterdir():
        file.unlink()
    with capture_logs() as logs:
        writer.keep_nowait(conversation("after"))
        assert writer.close(PATIENCE)
    assert "storage_replaced" in events(logs)
    assert set(conversations(path)) == {"after"}
