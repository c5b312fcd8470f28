"""Files that are there whole or not at all, and what an interrupt does."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.cli.interrupt import interrupt_ends, interruptible
from supervisor.files import replacement

ROOT = Path(__file__).parents[2]


def test_a_new_file_appears_when_it_is_whole(tmp_path):
    target = tmp_path / "file"
    with replacement(target, 0o600) as new:
        new.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [target]


def write_half(target, error):
    with replacement(target) as new:
        new.write_bytes(b"half")
        raise error


@pytest.mark.parametrize("raised", [ValueError(), KeyboardInterrupt()])
def test_what_fails_changes_nothing(tmp_path, raised):
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(type(raised)):
        write_half(target, raised)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_names_the_file_that_was_meant(tmp_path):
    target = tmp_path / "no folder" / "file"
    with pytest.raises(FileNotFoundError) as caught, replacement(target):
        pass
    assert caught.value.filename == str(target)
    target = tmp_path / "file"
    with pytest.raises(OSError, match="No space left on device") as full, replacement(target) as new:
        raise OSError(28, "No space left on device", str(new))
    assert full.value.filename == str(target)
    assert list(tmp_path.iterdir()) == []


def kill_oneself(signum):
    with interruptible():
        os.kill(os.getpid(), signum)
        signal.sigtimedwait([], 5)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_polite_signals_interrupt(signum):
    before = signal.getsignal(signum)
    with pytest.raises(KeyboardInterrupt):
        kill_oneself(signum)
    assert signal.getsignal(signum) is before


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_interrupt_ends_a_query_that_python_can_not_interrupt():
    code = (
        "import sqlite3\n"
        "from supervisor.cli.interrupt import interrupt_ends\n"
        "with interrupt_ends(), sqlite3.connect(':memory:') as connection:\n"
        "    print('begun', flush=True)\n"
        "    connection.execute('WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT count(*) FROM n')\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == -signal.SIGINT
    before = signal.getsignal(signal.SIGINT)
    with interrupt_ends():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is before
