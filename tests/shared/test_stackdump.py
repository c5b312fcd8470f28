"""Real processes, real signals."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from shared import stackdump

PATIENCE = 20.0

HEAD = """
import os, signal, sys, threading, time
import trio
from shared import stackdump
"""


class Process:
    """A Python process whose stderr can be waited on."""

    def __init__(self, script, **options):
        self._popen = subprocess.Popen(
            [sys.executable, "-c", HEAD + script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            **{"stderr": subprocess.PIPE, **options},
        )
        self.pid = self._popen.pid
        self.stderr = ""
        self._more = threading.Condition()

    def wait_ready(self, read):
        assert self.read_line() == b"ready\n", self._popen.stderr and self._popen.stderr.read().decode()
        if read:
            self._read_stderr()

    def _read_stderr(self):
        def read():
            for line in self._popen.stderr:
                with self._more:
                    self.stderr += line.decode()
                    self._more.notify_all()

        threading.Thread(target=read, daemon=True).start()

    def read_line(self):
        return self._popen.stdout.readline()

    def write_line(self):
        self._popen.stdin.write(b"\n")
        self._popen.stdin.flush()

    def dump(self, signum=signal.SIGUSR1):
        self._popen.send_signal(signum)

    def wait_stderr(self, pattern):
        with self._more:
            found = self._more.wait_for(lambda: re.search(pattern, self.stderr), PATIENCE)
        assert found, f"{pattern!r} not in {self.stderr}"
        return found

    def alive(self):
        return self._popen.poll() is None

    def finish(self):
        """Close stdin, which every script takes as its end; the exit code."""
        self._popen.stdin.close()
        return self._popen.wait(PATIENCE)

    def close(self):
        self._popen.kill()
        self._popen.wait()
        for stream in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if stream:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


@pytest.fixture
def start():
    processes = []

    def make(script, read=True, **options):
        process = Process(script, **options)
        processes.append(process)
        process.wait_ready(read)
        return process

    yield make
    for process in processes:
        process.close()


TRIO = """
async def waits_for_a_token(secret):
    await trio.sleep_forever()

async def main():
    stackdump.install("worker 7")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits_for_a_token, "sk-very-secret", name="stream abc")
        await trio.testing.wait_all_tasks_blocked()
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()

import trio.testing
trio.run(main)
"""


def test_an_idle_trio_shows_its_threads_and_tasks(start):
    process = start(TRIO)
    process.dump()
    process.wait_stderr("==== end")
    lines = [line.removeprefix(f"worker 7[{process.pid}]| ") for line in process.stderr.splitlines()]
    (header,) = [line for line in lines if line.startswith("==== stack dump")]
    assert re.fullmatch(rf"==== stack dump of worker 7, pid {process.pid}, \d{{4}}-\d\d-\d\dT[\d:.]+\+00:00", header)
    assert any(line.startswith("thread MainThread") for line in lines)
    task = next(at for at, line in enumerate(lines) if line.strip() == "task stream abc")
    # Below its parent's nursery, and followed by where it waits.
    parent = next(at for at, line in enumerate(lines) if line.strip().startswith("task __main__.main"))
    assert parent < task
    assert lines[task].index("task") > lines[parent].index("task")
    assert re.match(r" +<string>:\d+ waits_for_a_token$", lines[task + 1])
    assert "very-secret" not in process.stderr
    assert process.finish() == 0


def test_a_later_signal_dumps_again(start):
    process = start(TRIO)
    for count in range(1, 4):
        process.dump()
        process.wait_stderr("(?s)" + ".*".join(["==== end"] * count))
    assert process.finish() == 0


def test_a_busy_loop_in_python_shows_the_task_that_runs(start):
    process = start("""
async def spins():
    stackdump.install("worker 1")
    print("ready", flush=True)
    while True:
        pass

trio.run(spins)
""")
    process.dump()
    process.wait_stderr(r"task __main__.spins \(running\)")
    process.wait_stderr(r"<string>:\d+ spins\n")
    assert process.alive()


@pytest.mark.parametrize("call", ["lock.acquire()", "time.sleep(60)", "os.read(nobody_writes, 1)"])
def test_a_call_that_blocks_in_c_shows_where(start, call):
    process = start(f"""
stackdump.install("worker 1")
lock = threading.Lock()
lock.acquire()
nobody_writes, _ = os.pipe()

async def waits_in_vain():
    print("ready", flush=True)
    {call}

trio.run(waits_in_vain)
""")
    process.dump()
    process.wait_stderr(r"<string>:\d+ waits_in_vain\n")
    process.wait_stderr("==== end")
    process.dump()  # the first may have found it not yet blocked
    process.wait_stderr("the main thread is blocked and does not answer")
    assert process.alive()


def test_without_trio_the_dump_says_so(start):
    process = start("""
stackdump.install("worker 1")
print("ready", flush=True)
while True:
    pass
""")
    process.dump()
    process.wait_stderr("trio: not running in this thread")
    assert process.alive()


def test_trio_in_another_thread_is_not_mistaken_for_ours(start):
    process = start("""
stackdump.install("worker 1")
threading.Thread(target=trio.run, args=(trio.sleep_forever,), name="trio's", daemon=True).start()
print("ready", flush=True)
while True:
    pass
""")
    process.dump()
    process.wait_stderr("thread trio's")
    process.wait_stderr("trio: not running in this thread")
    assert process.alive()


def test_last_words_name_every_thread(start):
    process = start("""
stackdump.install("worker 1")
in_thread = threading.Event()

def waits_elsewhere():
    in_thread.set()
    time.sleep(60)

threading.Thread(target=waits_elsewhere, daemon=True).start()
in_thread.wait()
print("ready", flush=True)
sum(range(10**12))
""")
    process.dump(stackdump.LAST_WORDS)
    process.wait_stderr("in waits_elsewhere")
    process.wait_stderr(r"in <module>")
    assert process.alive()


def test_signals_on_the_way_out_do_not_kill(start):
    process = start("""
stackdump.install("worker 1")

class Lingers:
    def __del__(self, write=os.write, sleep=time.sleep):
        write(1, b"going\\n")
        sleep(0.1)

# Goes with the last module, when the interpreter is half gone.
sys.lingers = Lingers()
print("ready", flush=True)
""")
    assert process.read_line() == b"going\n"
    for _ in range(10):
        process.dump()
    assert process.finish() == 0


def test_a_thread_older_than_the_installation_may_get_the_signal(start):
    process = start("""
started = threading.Event()
older = threading.Thread(target=lambda: (started.set(), time.sleep(60)), daemon=True)
older.start()
started.wait()

async def main():
    stackdump.install("worker 1")
    print("ready", flush=True)
    signal.pthread_kill(older.ident, signal.SIGUSR1)
    await trio.to_thread.run_sync(sys.stdin.read)

trio.run(main)
""")
    process.wait_stderr("==== end")
    assert process.finish() == 0


def test_an_answer_that_comes_late_is_no_dump_of_its_own(start):
    process = start("""
stackdump.TREE_TIMEOUT = 0.01

async def main():
    stackdump.install("worker 1")
    print("ready", flush=True)
    sys.stdin.readline()
    await trio.sleep(0)
    print("free", flush=True)
    await trio.to_thread.run_sync(sys.stdin.read)

trio.run(main)
""")
    asked = 0
    while "does not answer" not in process.stderr:  # the first may have found it not yet blocked
        process.dump()
        asked += 1
        process.wait_stderr("(?s)" + ".*".join(["==== end"] * asked))
    process.write_line()
    assert process.read_line() == b"free\n"
    process.dump()
    process.wait_stderr("(?s)" + ".*".join(["==== end"] * (asked + 1)))
    assert process.finish() == 0
    assert process.stderr.count("==== end") == asked + 1


def test_a_signal_before_the_installation_of_a_child_waits(start):
    process = start("""
import subprocess
stackdump.install("supervisor")
child = '''
import os, signal, sys
os.kill(os.getpid(), signal.SIGUSR1)
from shared import stackdump
stackdump.install("worker 1")
sys.stdin.read()
'''
with subprocess.Popen([sys.executable, "-c", child]) as running:
    print("ready", flush=True)
sys.exit(running.returncode)
""")
    process.wait_stderr("stack dump of worker 1")
    assert process.finish() == 0


def test_a_forked_process_listens_for_itself(start):
    process = start("""
stackdump.install("parent")
pid = os.fork()
if pid == 0:
    stackdump.install("child")
    os.kill(os.getpid(), signal.SIGUSR1)
    sys.stdin.read()
    os._exit(0)
print("ready", flush=True)
_, status = os.waitpid(pid, 0)
sys.exit(status)
""")
    process.wait_stderr("stack dump of child")
    assert process.finish() == 0


def test_a_storm_harms_nothing(start):
    process = start(TRIO)
    for _ in range(1000):
        process.dump()
    process.wait_stderr("==== end")
    assert process.finish() == 0


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_storm_with_nobody_reading_harms_nothing(start, kind):
    ours, theirs = socket.socketpair() if kind == "socket" else map(os.fdopen, os.pipe(), ("rb", "wb"))
    with ours, theirs:
        process = start(TRIO, read=False, stderr=theirs)
        for _ in range(1000):
            process.dump()
        assert process.finish() == 0


def test_a_reader_that_left_harms_nothing(start):
    process = start(TRIO, read=False)
    process._popen.stderr.close()
    for _ in range(10):
        process.dump()
    assert process.finish() == 0


def test_installing_again_renames(start):
    process = start("""
stackdump.install("starting")
stackdump.install("worker 2")
print("ready", flush=True)
sys.stdin.read()
""")
    process.dump()
    process.wait_stderr("stack dump of worker 2")
    assert "starting" not in process.stderr
    assert process.finish() == 0


def test_the_callback_runs_after_the_dump(start):
    process = start("""
stackdump.install("supervisor", lambda: os.write(2, b"passed on\\n"))
print("ready", flush=True)
sys.stdin.read()
""")
    process.dump()
    process.wait_stderr("(?s)==== end.*passed on")
    assert process.finish() == 0


def test_a_callback_that_fails_harms_nothing(start):
    process = start("""
stackdump.install("supervisor", lambda: 1 / 0)
print("ready", flush=True)
sys.stdin.read()
""")
    process.dump()
    process.wait_stderr("the stack dump of supervisor failed: ZeroDivisionError")
    assert process.finish() == 0


def test_without_trio_the_tree_is_a_sentence():
    assert stackdump.format_task_tree() == "trio: not running in this thread"


async def test_the_tree_is_bounded(nursery):
    for _ in range(stackdump.MAX_TASKS + 100):
        nursery.start_soon(trio.sleep_forever)
    await wait_all_tasks_blocked()
    tree = stackdump.format_task_tree().splitlines()
    assert sum(line.lstrip().startswith("task ") for line in tree) == stackdump.MAX_TASKS
    assert re.fullmatch(r"… and \d+ more tasks", tree[-1])


async def test_deep_stacks_are_bounded(nursery):
    async def descend(depth):
        if depth:
            await descend(depth - 1)
        else:
            await trio.sleep_forever()

    nursery.start_soon(descend, 300)
    await wait_all_tasks_blocked()
    tree = stackdump.format_task_tree()
    assert tree.count("descend") <= stackdump.MAX_FRAMES + 1
    assert "more frames" in tree


async def test_a_cancelled_nursery_says_so(nursery):
    released = trio.Event()

    async def lingers():
        with trio.CancelScope(shield=True):
            await released.wait()

    async def parent():
        async with trio.open_nursery() as inner:
            inner.start_soon(lingers)
            inner.cancel_scope.cancel()

    nursery.start_soon(parent)
    await wait_all_tasks_blocked()
    assert "nursery (cancelled)" in stackdump.format_task_tree()
    released.set()


def test_a_dump_can_be_asked_for(capfd):
    stackdump.dump()
    written = capfd.readouterr().err
    assert "test_a_dump_can_be_asked_for" in written
    assert written.splitlines()[-1].endswith("==== end")
