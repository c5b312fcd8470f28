import subprocess
import sys

import pytest

from worker.orphan import EXIT_CODE

GUARD = """
import os, sys, time
from worker import orphan
orphan.ORPHAN_DEADLINE = 0.2
orphan.LAST_ACT = 0.1
def last_act():
    print("last act", flush=True)
    time.sleep(60)
guard = orphan.ExitGuard(int(sys.argv[1]), last_act)
guard.start()
if len(sys.argv) > 2:
    guard.exit_by(time.monotonic() + float(sys.argv[2]))
print("up", flush=True)
while True:
    pass
"""


@pytest.fixture
def supervisor():
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


@pytest.fixture
def start():
    """Starts workers whose main thread is stuck, and kills what is left."""
    workers = []

    def start(*args):
        workers.append(subprocess.Popen([sys.executable, "-c", GUARD, *map(str, args)], stdout=subprocess.PIPE))
        assert workers[-1].stdout.readline() == b"up\n"
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()
        worker.wait()
        worker.stdout.close()


def test_a_stuck_worker_ends_with_its_supervisor(start, supervisor):
    worker = start(supervisor.pid)
    supervisor.kill()
    supervisor.wait()
    assert worker.wait(10) == EXIT_CODE


def test_a_supervisor_that_is_gone_already(start, supervisor):
    supervisor.kill()
    supervisor.wait()
    assert start(supervisor.pid).wait(10) == EXIT_CODE


def test_a_deadline(start, supervisor):
    assert start(supervisor.pid, 0.1).wait(10) == EXIT_CODE
    assert supervisor.poll() is None


def test_the_last_act_is_done_and_can_t_hold_up_the_exit(start, supervisor):
    worker = start(supervisor.pid, 0.1)
    assert worker.stdout.readline() == b"last act\n"
    assert worker.wait(10) == EXIT_CODE


def test_the_supervisors_death_does_not_postpone_a_deadline(start, supervisor):
    worker = start(supervisor.pid, 0.3)
    supervisor.kill()
    assert worker.wait(10) == EXIT_CODE


def test_without_a_reason_it_stays(start, supervisor):
    worker = start(supervisor.pid)
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(0.4)
