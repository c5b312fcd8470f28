"""Sockets in the service manager's keeping: what it is told, and what comes back from it."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.fdnames import bind_of, kept_binds, name_of
from supervisor.fdstore import FdStore, has_store
from supervisor.listen import Listener, close_listeners, open_listeners, reopen
from supervisor.sdnotify import Notifier

ROOT = Path(__file__).parents[2]


class Manager:
    """systemd, as far as this goes: it keeps descriptors by name and hands them to the next process."""

    def __init__(self, folder):
        self.kept = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(folder / "notify"))
        self.notifier = Notifier({"NOTIFY_SOCKET": str(folder / "notify")})

    def hear(self):
        """The names in its keeping now."""
        with contextlib.suppress(BlockingIOError):
            while True:
                message, fds, _flags, _address = socket.recv_fds(self._socket, 4096, 16)
                said = dict(line.split("=", 1) for line in message.decode().split("\n"))
                if "FDSTORE" in said:
                    self.kept += [(said["FDNAME"], fd) for fd in fds]
                else:
                    assert said.keys() == {"FDSTOREREMOVE", "FDNAME"}
                    for name, fd in [each for each in self.kept if each[0] == said["FDNAME"]]:
                        self.kept.remove((name, fd))
                        os.close(fd)
        return [name for name, _ in self.kept]

    def run(self, code, *binds, given=()):
        """A process that is passed what is kept, and sockets of a socket unit before it; what it prints."""
        fds = [*given, *(fd for _, fd in self.kept)]
        names = ["kimi-proxy.socket"] * len(given) + [name for name, _ in self.kept]
        done = subprocess.run(
            [sys.executable, "-c", PASS + code, str(len(fds)), *map(str, fds), *binds],
            env={**os.environ, "LISTEN_FDNAMES": ":".join(names)},
            cwd=ROOT,
            pass_fds=fds,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def close(self):
        self.notifier.close()
        self._socket.close()
        for _, fd in self.kept:
            os.close(fd)


PASS = """
import fcntl, os, sys
count = int(sys.argv[1])
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[2:2 + count]]
for number, fd in enumerate(high):
    os.dup2(fd, 3 + number)
    os.close(fd)
os.environ |= {"LISTEN_FDS": str(count), "LISTEN_PID": str(os.getpid())}
from supervisor.listen import open_listeners
binds = sys.argv[2 + count:]
"""
OPEN = """
for each in open_listeners(binds, tcp_user_timeout=20.0, patience=0.0):
    name = each.socket.getsockname()
    print(each.bind, name if isinstance(name, str) else name[1], each.adopted, each.inode is not None)
"""


CLOSED = """
open_listeners(binds, tcp_user_timeout=20.0)
print([fd for fd in (3, 4) if os.path.lexists(f"/proc/self/fd/{fd}") and os.readlink(f"/proc/self/fd/{fd}")[0] == "s"])
"""


@pytest.fixture
def manager(tmp_path):
    with contextlib.closing(Manager(tmp_path)) as manager:
        yield manager


@pytest.fixture
def listeners(tmp_path):
    listeners = open_listeners(["127.0.0.1:0", f"unix:{tmp_path}/a b"], tcp_user_timeout=20.0, env={})
    yield listeners
    close_listeners(listeners)


def port_of(listener: Listener) -> int:
    return listener.socket.getsockname()[1]


@pytest.mark.parametrize("bind", ["127.0.0.1:8000", "[::1]:80", "unix:/run/a b%3A:c", "unix:/run/ü", "localhost:1"])
def test_names_are_such_as_systemd_takes_and_tell_the_bind(bind):
    name = name_of(bind)
    assert name.isascii()
    assert name.isprintable()
    assert ":" not in name
    assert bind_of(name) == bind
    assert kept_binds({"LISTEN_FDNAMES": f"kimi-proxy.socket:{name}:"}) == [bind]


def test_a_name_that_is_too_long_is_none():
    assert name_of("unix:/" + "ü" * 60) is None


def test_what_is_configured_is_kept_and_what_is_not_is_let_go_of(manager, listeners):
    store = FdStore(manager.notifier, ["127.0.0.1:9", "127.0.0.1:0"])
    store.keep(listeners)
    names = [name_of(listener.bind) for listener in listeners]
    assert manager.hear() == names
    store.keep(listeners)
    assert manager.hear() == names  # not twice
    changed, removed = reopen(listeners, ["127.0.0.1:0"], tcp_user_timeout=20.0)
    store.keep(changed)
    assert manager.hear() == names[:1]
    close_listeners(removed)


def test_sockets_of_a_socket_unit_are_the_unit_s(manager, listeners):
    FdStore(manager.notifier).keep([Listener("127.0.0.1:1", listeners[0].socket, adopted=True)])
    assert manager.hear() == []


def test_the_next_process_goes_on_with_them(manager, listeners):
    FdStore(manager.notifier).keep(listeners)
    manager.hear()
    tcp, unix = listeners
    with socket.create_connection(("127.0.0.1", port_of(tcp))) as early:
        tcp.socket.close()  # as at a stop: who has connected waits in the manager's queue
        path = unix.socket.getsockname()
        told = manager.run(OPEN, tcp.bind, unix.bind)
        assert told[:2] == [f"{tcp.bind} {early.getpeername()[1]} False False", f"{unix.bind} {path} False True"]


def test_what_is_not_configured_any_more_is_closed_and_what_is_new_opened(manager, listeners):
    FdStore(manager.notifier).keep(listeners)
    manager.hear()
    tcp = listeners[0]
    port = port_of(tcp)
    tcp.socket.close()
    told = manager.run(OPEN, "localhost:0")[-1]
    assert told.startswith("localhost:0 ")
    assert told.split()[1] != str(port)
    assert manager.run(CLOSED) == ["[]"]


def test_a_unix_socket_whose_file_is_gone_is_made_anew(manager, listeners):
    FdStore(manager.notifier).keep(listeners)
    manager.hear()
    unix = listeners[1]
    os.unlink(unix.socket.getsockname())
    told = manager.run(OPEN, unix.bind)
    assert told[0] == f"{unix.bind} {unix.socket.getsockname()} False True"


def test_a_socket_unit_is_all_there_is(manager, listeners):
    """As before; what was kept from a time without the unit is closed."""
    FdStore(manager.notifier).keep(listeners)
    manager.hear()
    with socket.create_server(("127.0.0.1", 0)) as given:
        port = given.getsockname()[1]
        told = manager.run(OPEN, listeners[0].bind, given=[given.fileno()])
        assert told[0] == f"127.0.0.1:{port} {port} True False"
        assert len(told) == 1


def test_whether_there_is_a_store():
    assert has_store({"FDSTORE": "16"})
    assert not any(map(has_store, [{}, {"FDSTORE": "0"}, {"FDSTORE": "x"}]))
