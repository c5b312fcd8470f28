"""`kimi-proxy backup`: real files, while others write to them."""

import _thread
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from fakes.streams import make_record

from shared.config import Storage
from shared.errors import StorageError
from shared.paths import resolve_paths
from supervisor import cli, database
from supervisor.cli import backup
from supervisor.store import Store

ROOT = Path(__file__).parents[2]


@pytest.fixture
def paths(tmp_path, monkeypatch):
    for name in ("STATE", "RUNTIME", "LOGS"):
        (tmp_path / name.lower()).mkdir()
        monkeypatch.setenv(f"{name}_DIRECTORY", str(tmp_path / name.lower()))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return resolve_paths(os.environ)


@pytest.fixture
def history(paths):
    opened = database.connect(paths.database, 0.0)
    opened.write([make_record(str(number)) for number in range(100)])
    opened.close()
    return paths


def ids(path):
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [id for (id,) in connection.execute("SELECT id FROM streams ORDER BY rowid")]


def test_a_copy_of_a_service_that_does_not_run(history, capsys):
    assert cli.main(["backup", "copy.db"]) == 0
    captured = capsys.readouterr()
    target = Path("copy.db").resolve()
    assert captured.out == f"{target}\n"
    assert captured.err.startswith("kimi-proxy: 100 streams, ")
    assert captured.err.endswith(" KiB, checked\n")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert os.listdir() == ["copy.db"]  # one file, without a log beside it
    assert ids(target) == ids(history.database)


def test_the_copy_is_a_database_that_the_service_takes(history, capsys):
    assert cli.main(["backup", "copy.db"]) == 0
    opened = database.connect(Path("copy.db"), 0.0, "integrity_check")
    opened.write([make_record("new")])
    opened.close()
    assert len(ids("copy.db")) == 101


def test_while_the_service_writes(paths, monkeypatch, capsys):
    """Every copy is the history as it stood at one moment: the first n records, whatever came meanwhile."""
    monkeypatch.setattr(backup, "_STEP_PAGES", 1)
    store = Store(paths.database, Storage())
    store.open()
    enough = threading.Event()
    written = 0

    def write():
        nonlocal written
        while not enough.wait(0.001 if store.taken - store.stored > 1000 else 0.0):
            store.put_nowait(make_record(f"{written:08}"))
            written += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        sizes = []
        for _ in range(5):
            assert cli.main(["backup", "copy.db", "--force"]) == 0
            copied = ids("copy.db")
            assert copied == [f"{number:08}" for number in range(len(copied))]
            sizes.append(len(copied))
        assert sizes == sorted(sizes)
    finally:
        enough.set()
        writer.join()
        assert store.close(60.0)
    assert len(ids(paths.database)) == written
    assert store.status().problem is None


def test_what_is_there_is_not_replaced_unless_told(history, capsys):
    Path("copy.db").write_text("precious")
    assert cli.main(["backup", "copy.db"]) == 1
    said = capsys.readouterr().err
    assert said == f"kimi-proxy: {Path('copy.db').resolve()} exists; replace it with --force, or choose another file\n"
    assert Path("copy.db").read_text() == "precious"
    assert cli.main(["backup", "copy.db", "--force"]) == 0
    assert len(ids("copy.db")) == 100
    assert stat.S_IMODE(os.stat("copy.db").st_mode) == 0o600


def test_a_file_that_appears_meanwhile_is_not_replaced(history, capsys, monkeypatch):
    copy = backup.copy

    def copy_slowly(source, target):
        streams = copy(source, target)
        Path("copy.db").write_text("precious")
        return streams

    monkeypatch.setattr(backup, "copy", copy_slowly)
    assert cli.main(["backup", "copy.db"]) == 1
    assert "exists; replace it with --force" in capsys.readouterr().err
    assert Path("copy.db").read_text() == "precious"
    assert os.listdir() == ["copy.db"]


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_the_database_itself_is_never_the_target(history, capsys, suffix):
    with closing(sqlite3.connect(history.database)) as user:
        user.execute("SELECT count(*) FROM streams").fetchone()  # so that all three files are there
        os.symlink(f"{history.database}{suffix}", "copy.db")
        assert cli.main(["backup", "copy.db", "--force"]) == 1
    assert capsys.readouterr().err == (
        f"kimi-proxy: {history.database}{suffix} is the database itself: choose another file\n"
    )
    assert len(ids(history.database)) == 100


def test_targets_that_can_not_be(history, capsys):
    assert cli.main(["backup", "."]) == 1
    assert "is a folder: name a file in it" in capsys.readouterr().err
    assert cli.main(["backup", "/dev/null", "--force"]) == 1
    assert "is no ordinary file" in capsys.readouterr().err
    assert cli.main(["backup", "nowhere/copy.db"]) == 1
    assert "nowhere/copy.db: No such file or directory" in capsys.readouterr().err


def test_a_damaged_database_makes_no_copy(history, capsys):
    with closing(sqlite3.connect(history.database)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'streams_started'").fetchone()
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    with history.database.open("r+b") as file:
        file.seek((page - 1) * page_bytes)
        file.write(b"\xff" * page_bytes)
    assert cli.main(["backup", "copy.db"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"kimi-proxy: {history.database}")
    assert os.listdir() == []


def test_an_interrupt_leaves_nothing(history, monkeypatch):
    """Ctrl-C between two steps, in a real process: it stops itself there, and we interrupt it."""
    code = (
        "import os, signal, sys\n"
        "from supervisor import cli\n"
        "from supervisor.cli import backup\n"
        "copy = backup.copy\n"
        "def interrupted(source, target):\n"
        "    copy(source, target)\n"
        "    print('copied', flush=True)\n"
        "    signal.pause()\n"
        "backup.copy = interrupted\n"
        "sys.exit(cli.main(['backup', 'copy.db']))\n"
    )
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with subprocess.Popen(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout.readline() == b"copied\n"
            assert len(os.listdir()) == 1
            process.send_signal(signum)
            assert process.wait(10) == 130
        assert os.listdir() == []


@pytest.mark.parametrize("work", ["copying", "checking"])
def test_an_interrupt_is_heard_while_sqlite_works(history, monkeypatch, work):
    def interrupted(callback):
        def called(*arguments):
            _thread.interrupt_main()
            return callback(*arguments)

        return called

    class Slow(sqlite3.Connection):
        def backup(self, target, *, pages, progress):
            super().backup(target, pages=pages, progress=interrupted(progress) if work == "copying" else progress)

        def set_progress_handler(self, handler, steps):
            super().set_progress_handler(interrupted(handler) if work == "checking" else handler, 1)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, **options, factory=Slow))
    assert cli.main(["backup", "copy.db"]) == 130
    assert os.listdir() == []


def test_the_copy_is_of_one_moment(history, monkeypatch):
    """A commit between two steps neither ends up in the copy nor begins it anew."""
    monkeypatch.setattr(backup, "_STEP_PAGES", 1)
    other = database.connect(history.database, 0.0)
    numbers = iter(range(1000, 9999))

    class Counted(sqlite3.Connection):
        def backup(self, target, *, pages, progress):
            super().backup(target, pages=pages, progress=lambda *_: other.write([make_record(f"late{next(numbers)}")]))

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, **options, factory=Counted))
    assert backup.copy(history.database, Path("copy.db")) == 100
    monkeypatch.undo()
    assert next(numbers) > 1003
    other.close()


def test_a_full_disk(history, tmp_path, monkeypatch):
    connect = sqlite3.connect

    def small(target, **options):
        connection = connect(target, **options)
        if "mode=ro" not in str(target):
            connection.execute("PRAGMA max_page_count = 2")
        return connection

    monkeypatch.setattr(sqlite3, "connect", small)
    with pytest.raises(StorageError, match="the disk is full"):
        backup.copy(history.database, tmp_path / "copy.db")
