"""The instance lock, against other processes: within one process a POSIX lock never conflicts."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import ControlError, StartError
from supervisor.instance import InstanceLock, running_pid

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys
from pathlib import Path
from shared.errors import StartError
from supervisor.instance import InstanceLock
try:
    lock = InstanceLock.acquire(Path(sys.argv[1]))
except StartError as error:
    sys.exit(str(error))
print("held", flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
sys.stdin.readline()
"""


def spawn(path: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def holder(tmp_path):
    with spawn(tmp_path / "lock") as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_nobody_holds_a_lock_that_was_never_made(tmp_path):
    assert running_pid(tmp_path / "lock") is None


def test_the_holder_is_known_by_its_pid(tmp_path, holder):
    assert running_pid(tmp_path / "lock") == holder.pid
    assert (tmp_path / "lock").read_text() == f"{holder.pid}\n"
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600


def test_a_second_instance_is_told_who_runs(tmp_path, holder):
    with pytest.raises(StartError, match=f"already running as pid {holder.pid}"):
        InstanceLock.acquire(tmp_path / "lock")
    assert running_pid(tmp_path / "lock") == holder.pid


def test_looking_never_stands_in_the_way_of_a_start(tmp_path, holder):
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "released\n"
    assert running_pid(tmp_path / "lock") is None
    with InstanceLock.acquire(tmp_path / "lock"):
        pass


def test_a_killed_holder_leaves_a_free_lock_whatever_the_file_says(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "lock").read_text() == f"{holder.pid}\n"
    assert running_pid(tmp_path / "lock") is None
    with InstanceLock.acquire(tmp_path / "lock"):
        with spawn(tmp_path / "lock") as second:
            _, said = second.communicate()
        assert second.returncode == 1
        assert f"already running as pid {os.getpid()}" in said
    assert (tmp_path / "lock").read_text() == ""


def test_release_may_be_called_twice(tmp_path):
    lock = InstanceLock.acquire(tmp_path / "lock")
    lock.release()
    lock.release()


def test_a_lock_file_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(StartError, match=r"the lock file .*/lock can't be opened"):
        InstanceLock.acquire(tmp_path / "missing" / "lock")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(ControlError, match=r"the lock file .*/loop can't be opened"):
        running_pid(loop)


HEIR = """
import sys
from pathlib import Path
from supervisor.instance import InstanceLock
lock = InstanceLock.join(Path(sys.argv[1]))
for line in sys.stdin:
    try:
        getattr(lock, line.strip())()
        print("done", flush=True)
    except OSError:
        print("refused", flush=True)
"""


def test_a_hand_over_leaves_no_moment_for_a_third_one(tmp_path):
    path = tmp_path / "lock"
    lock = InstanceLock.acquire(path)
    with subprocess.Popen(
        [sys.executable, "-c", HEIR, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as heir:

        def order(what):
            heir.stdin.write(f"{what}\n")
            heir.stdin.flush()
            return heir.stdout.readline().strip()

        def a_third_one_is_refused():
            with spawn(path) as third:
                return "already running as pid" in third.communicate()[1]

        assert order("take_share") == order("complete") == "refused"
        lock.share()
        assert a_third_one_is_refused()
        assert order("take_share") == "done"
        assert order("complete") == "refused"
        lock.release()
        assert a_third_one_is_refused()
        assert order("complete") == "done"
        assert running_pid(path) == heir.pid
        assert path.read_text() == f"{heir.pid}\n"
        heir.stdin.close()


def test_a_share_that_nobody_took_is_taken_back(tmp_path):
    lock = InstanceLock.acquire(tmp_path / "lock")
    lock.share()
    lock.complete()
    with spawn(tmp_path / "lock") as other:
        assert f"already running as pid {os.getpid()}" in other.communicate()[1]
    lock.release()
