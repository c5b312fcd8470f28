"""The fork server: real processes, real pipes, and its own death."""

import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path

import pytest
import trio
from fakes.fork_server import FAKE_WORKER, fake_fork_server

import supervisor.forkserver
from shared.channel import FrameReader, FrameWriter
from shared.config import Config
from shared.entry import WorkerStart
from shared.errors import StartError
from shared.messages import Drain, Ready, decode_up, encode


@pytest.fixture(scope="module")
def server():
    return fake_fork_server()


def start_of(slot=1, **keys):
    return WorkerStart(worker=slot, generation=1, supervisor_pid=os.getpid(), config=Config(), keys=keys, spool="")


async def first_message(process):
    reader = FrameReader(process.up_fd)
    try:
        return decode_up((await reader.receive())[0])
    finally:
        reader.close()


async def leave(process):
    """Have it exit politely; its exit code."""
    writer = FrameWriter(process.down_fd)
    writer.send_nowait(encode(Drain("shutdown", 0.0)))
    with trio.fail_after(10):
        await process.wait_exit()
    writer.close()
    code = await process.exit_code()
    process.close()
    return code


async def test_a_worker_gets_its_start_and_speaks_on_its_pipe(server):
    process = await server.spawn(start_of(), [])
    assert await first_message(process) == Ready(pid=process.pid, generation=1)
    assert await leave(process) == 0


async def test_a_worker_inherits_the_listening_sockets(server):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        process = await server.spawn(start_of(), [listener])
        stream = await trio.open_tcp_stream(*listener.getsockname())
    async with stream:
        await stream.send_all(b"pid\n")
        assert int(await stream.receive_some()) == process.pid
    os.close(process.up_fd)
    await leave(process)


async def test_the_pipe_ends_with_the_worker(server):
    """Nobody else holds its ends: not the fork server, not a sibling, not this process."""
    process = await server.spawn(start_of(), [])
    sibling = await server.spawn(start_of(2), [])
    reader = FrameReader(process.up_fd)
    process.send_signal(signal.SIGKILL)
    with trio.fail_after(10):
        while await reader.receive():
            pass
    reader.close()
    os.close(process.down_fd)
    assert await process.exit_code() == -signal.SIGKILL
    process.close()
    os.close(sibling.up_fd)
    await leave(sibling)


async def test_a_worker_whose_supervisor_closed_the_pipe_leaves(server):
    process = await server.spawn(start_of(), [])
    os.close(process.down_fd)
    with trio.fail_after(10):
        await process.wait_exit()
    os.close(process.up_fd)
    assert await process.exit_code() == 0
    process.close()


async def test_signals_for_the_whole_group_do_not_hurt_a_worker(server):
    process = await server.spawn(start_of(), [])
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        os.kill(process.pid, signum)
        os.kill(forkserver._forkserver._forkserver_pid, signum)
    assert await first_message(process) == Ready(pid=process.pid, generation=1)
    assert await leave(process) == 0


async def test_an_exit_code_is_told(server):
    process = None
    with trio.fail_after(10):
        while process is None:
            with contextlib.suppress(StartError):  # it may be dead before it could be watched
                process = await server.spawn(start_of(behaviour="die"), [])
        await process.wait_exit()
    assert await process.exit_code() == 3
    process.close()
    os.close(process.up_fd)
    os.close(process.down_fd)


async def test_workers_outlive_the_fork_server_and_the_next_spawn_brings_up_another(server):
    survivor = await server.spawn(start_of(), [])
    first = forkserver._forkserver._forkserver_pid
    os.kill(first, signal.SIGKILL)
    replacement = await server.spawn(start_of(2), [])
    assert forkserver._forkserver._forkserver_pid != first
    assert await first_message(survivor) == Ready(pid=survivor.pid, generation=1)
    os.close(replacement.up_fd)
    assert await leave(replacement) == 0
    assert await leave(survivor) is None  # who knew its exit code is gone


async def test_a_fork_server_that_hangs_is_killed_and_replaced(server, monkeypatch):
    await leave_alone(server)
    monkeypatch.setattr(supervisor.forkserver, "SPAWN_TIMEOUT", 3.0)
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGSTOP)
    process = await server.spawn(start_of(), [])
    os.close(process.up_fd)
    assert await leave(process) == 0


async def test_a_new_fork_server_may_take_its_time_to_preload(server, monkeypatch):
    await leave_alone(server)
    monkeypatch.setattr(supervisor.forkserver, "SPAWN_TIMEOUT", 0.001)  # no new one has loaded anything by then
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
    process = await server.spawn(start_of(), [])
    os.close(process.up_fd)
    assert await leave(process) == 0


async def test_a_failed_start_leaves_no_descriptors(server):
    await leave_alone(server)
    gc.collect()
    before = open_fds()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.close()
    with pytest.raises(StartError, match="could not start a worker"):
        await server.spawn(start_of(), [listener])
    gc.collect()  # what multiprocessing opened goes with the exception
    assert open_fds() == before


async def leave_alone(server):
    process = await server.spawn(start_of(), [])
    os.close(process.up_fd)
    await leave(process)


def open_fds():
    return set(os.listdir("/proc/self/fd"))


def launch_in_a_process(tmp_path, source):
    (tmp_path / "broken_preload.py").write_text(source)
    code = (
        "from supervisor.forkserver import ForkServer\n"
        "from shared.errors import StartError\n"
        "try:\n"
        "    print('launched', ForkServer('nowhere', 'broken_preload').launch())\n"
        "except StartError as error:\n"
        "    print('refused:', error)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    ("source", "said", "traced"),
    [
        (
            "import no_such_module_anywhere",
            "refused: the workers' code can't be loaded: ModuleNotFoundError",
            "broken_preload.py",
        ),
        ("def broken(:", "refused: the fork server died while it loaded broken_preload", "SyntaxError"),
        ("raise RuntimeError('no encoding')", "refused: the fork server died", "no encoding"),
        ("", "launched True", ""),
    ],
)
def test_a_preload_that_fails_is_one_clear_error(tmp_path, source, said, traced):
    stdout, stderr = launch_in_a_process(tmp_path, source)
    assert said in stdout
    assert traced in stderr


def test_the_supervisor_never_imports_the_workers_module(server):
    assert FAKE_WORKER not in sys.modules


def test_a_temporary_folder_whose_name_is_too_long_for_a_socket(tmp_path, monkeypatch):
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", os.fspath(folder))
    assert launch_in_a_process(tmp_path, "") == ("launched True\n", "")


@pytest.fixture
def short_folder():
    """pytest's own has a name that is too long for sockets where tests run side by side."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.parametrize("asks", [False, True])
def test_a_supervisor_that_is_killed_leaves_no_folder_and_no_traceback(short_folder, asks):
    """`asks`: it was about to start a worker."""
    code = f"""
import os, signal
from multiprocessing import forkserver
from supervisor.forkserver import ForkServer
ForkServer(preload="shared.entry").launch()
if {asks}:
    forkserver.connect_to_new_process([])
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "TMPDIR": os.fspath(short_folder)}
    # It returns when the last of them has closed its stderr.
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
    assert list(short_folder.iterdir()) == []
