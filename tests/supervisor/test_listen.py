"""Listening sockets: real ones, on loopback and in the test's own folder."""

import contextlib
import errno
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shared.config import Auth, Tls
from shared.errors import StartError
from supervisor import listen
from supervisor.listen import Listener, close_listeners, open_listeners, refuse_exposed, reopen, urls
from supervisor.portowner import port_owner

ROOT = Path(__file__).parents[2]


@pytest.fixture
def opened():
    """`open_listeners` with a timeout and an empty environment filled in; what it opened is closed afterwards."""
    everything = []

    def open_them(*binds, **options):
        listeners = open_listeners(binds, **{"tcp_user_timeout": 20.0, "env": {}, "patience": 0.0, **options})
        everything.extend(listeners)
        return listeners

    yield open_them
    close_listeners(everything)


def port_of(listener):
    return listener.socket.getsockname()[1]


def exchange(listener, family=socket.AF_INET):
    """Connect, accept, and return the accepted socket."""
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.connect(listener.socket.getsockname())
        accepted, _ = listener.socket.accept()
        return accepted


def test_a_tcp_socket_passes_its_options_to_what_it_accepts(opened):
    [listener] = opened("127.0.0.1:0")
    assert listener.url == f"http://127.0.0.1:{port_of(listener)}"
    assert urls([listener], None) == [listener.url]
    assert urls([listener], Tls(cert="/cert", key="/key")) == [f"https://127.0.0.1:{port_of(listener)}"]
    assert listener.bind == "127.0.0.1:0"
    assert not listener.socket.getblocking()
    assert not listener.socket.get_inheritable()
    with exchange(listener) as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000


def test_ipv6_leaves_ipv4_alone(opened):
    [six] = opened("[::]:0")
    assert six.url == f"http://[::]:{port_of(six)}"
    [four] = opened(f"0.0.0.0:{port_of(six)}")
    assert port_of(four) == port_of(six)


def test_a_host_name_is_opened_on_all_its_addresses(opened, monkeypatch):
    def resolve(host, port, **_):
        assert host == "gateway.example"
        stream = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        absent = (socket.AF_INET, *stream, ("192.0.2.1", port))
        return [
            (socket.AF_INET, *stream, ("127.0.0.1", port)),
            (socket.AF_INET6, *stream, ("::1", port, 0, 0)),
            absent,
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    listeners = opened("gateway.example:0")
    assert [listener.socket.getsockname()[0] for listener in listeners] == ["127.0.0.1", "::1"]
    assert {listener.bind for listener in listeners} == {"gateway.example:0"}


def test_an_address_of_another_machine(opened):
    with pytest.raises(StartError, match=r"this machine has no address 192\.0\.2\.1; use one of its own"):
        opened("192.0.2.1:0")


def test_a_name_that_does_not_resolve(opened, monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(StartError, match=r"the host name nowhere\.invalid can't be resolved"):
        opened("nowhere.invalid:8000")


def test_a_port_in_use_is_refused_with_the_name_of_its_holder(opened):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StartError, match=rf"port {port} on 127\.0\.0\.1 is in use by .* \(pid {os.getpid()}\)"):
            opened("127.0.0.1:0", f"127.0.0.1:{port}")


def test_a_port_that_becomes_free_in_time_is_taken(opened, monkeypatch):
    other = socket.create_server(("127.0.0.1", 0))
    port = other.getsockname()[1]
    waits = []

    def wait(seconds):
        waits.append(seconds)
        other.close()

    monkeypatch.setattr(listen.time, "sleep", wait)
    [listener] = opened(f"127.0.0.1:{port}", patience=60.0)
    assert port_of(listener) == port
    assert len(waits) == 1


def test_a_privileged_port_is_explained(opened, monkeypatch):
    real = socket.socket

    class Unprivileged(real):
        def bind(self, _address):
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "socket", Unprivileged)
    with pytest.raises(StartError, match="not permitted to listen on port 80; use a port from 1024 up"):
        opened("127.0.0.1:80")


def test_nothing_stays_open_when_one_of_several_fails(opened, tmp_path):
    path = tmp_path / "http.sock"
    with pytest.raises(StartError):
        opened(f"unix:{path}", "192.0.2.1:0")
    assert not path.exists()


def test_a_unix_socket_is_for_its_owner_alone_and_leaves_with_us(opened, tmp_path):
    path = tmp_path / "http.sock"
    [listener] = opened(f"unix:{path}")
    assert listener.url == f"unix:{path}"
    assert urls([listener], Tls(cert="/cert", key="/key")) == [f"unix:{path}"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    exchange(listener, socket.AF_UNIX).close()
    close_listeners([listener])
    assert not path.exists()


def test_a_stale_unix_socket_is_replaced(opened, tmp_path):
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    [listener] = opened(f"unix:{path}")
    exchange(listener, socket.AF_UNIX).close()


def test_a_live_unix_socket_and_other_files_are_left_alone(opened, tmp_path):
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as live:
        live.bind(str(path))
        live.listen()
        with pytest.raises(StartError, match="another program listens on"):
            opened(f"unix:{path}")
        exchange_with = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        exchange_with.connect(str(path))
        exchange_with.close()
    precious = tmp_path / "precious"
    precious.write_text("data")
    with pytest.raises(StartError, match="exists and is not a socket"):
        opened(f"unix:{precious}")
    assert precious.read_text() == "data"


def test_a_unix_socket_in_a_missing_folder(opened, tmp_path):
    with pytest.raises(StartError, match="can't make the socket"):
        opened(f"unix:{tmp_path}/missing/http.sock")


def test_the_successors_socket_file_is_not_removed(opened, tmp_path):
    path = tmp_path / "http.sock"
    [old] = opened(f"unix:{path}")
    path.unlink()
    opened(f"unix:{path}")
    close_listeners([old])
    assert path.exists()


def test_a_reload_keeps_the_sockets_of_unchanged_binds(opened, tmp_path):
    old = opened("127.0.0.1:0", f"unix:{tmp_path}/a.sock")
    tcp, unix = old
    listeners, removed = reopen(old, ["127.0.0.1:0", f"unix:{tmp_path}/b.sock"], tcp_user_timeout=5.0)
    try:
        assert listeners[0] is tcp
        assert [listener.bind for listener in listeners] == ["127.0.0.1:0", f"unix:{tmp_path}/b.sock"]
        assert removed == [unix]
        assert tcp.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 5_000
        exchange(unix, socket.AF_UNIX).close()  # until the caller closes it
    finally:
        close_listeners(listeners)


def test_a_reload_that_fails_changes_nothing(opened, tmp_path):
    old = opened("127.0.0.1:0")
    with pytest.raises(StartError):
        reopen(old, [f"unix:{tmp_path}/new.sock", "192.0.2.1:0"], tcp_user_timeout=5.0)
    assert not (tmp_path / "new.sock").exists()
    exchange(old[0]).close()


def test_an_inherited_descriptor(opened):
    with socket.create_server(("127.0.0.1", 0)) as born_with:
        fd = os.dup(born_with.fileno())
        os.set_inheritable(fd, True)
        [listener] = opened(f"fd://{fd}")
        assert listener.bind == f"fd://{fd}"
        assert not listener.adopted
        assert not os.get_inheritable(fd)
        with exchange(listener) as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000


def test_a_descriptor_that_is_no_listening_socket(opened, tmp_path):
    with (tmp_path / "file").open("w") as file, pytest.raises(StartError, match="is not an open socket"):
        opened(f"fd://{file.fileno()}")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as idle:
        with pytest.raises(StartError, match="is not a listening stream socket; pass a listening"):
            opened(f"fd://{idle.fileno()}")
        assert idle.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM  # still open
    with pytest.raises(StartError, match="is not an open socket"):
        opened("fd://9999")


# Puts the sockets where systemd would, from descriptor 3 on, and becomes the service.
SYSTEMD = """
import os, sys
import fcntl
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[2:]]
for at, fd in enumerate(high, start=3):
    os.dup2(fd, at)
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""
ACTIVATED = """
import os
from supervisor.listen import open_listeners, reopen

os.environ["LISTEN_PID"] = str(os.getpid())
listeners = open_listeners(["127.0.0.1:1"], tcp_user_timeout=1.0)
print(*(f"{listener.bind} {listener.adopted} {listener.socket.get_inheritable()}" for listener in listeners), sep="\\n")
print([name for name in os.environ if name.startswith("LISTEN_")])
print(reopen(listeners, ["127.0.0.1:2"], tcp_user_timeout=1.0) == (listeners, []))
"""


def test_sockets_from_systemd_replace_the_binds(tmp_path):
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as unix,
    ):
        unix.bind(f"{tmp_path}/passed.sock")
        unix.listen()
        done = subprocess.run(
            [sys.executable, "-c", SYSTEMD, ACTIVATED, str(tcp.fileno()), str(unix.fileno())],
            cwd=ROOT,
            env={**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "http:local"},
            pass_fds=[tcp.fileno(), unix.fileno()],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines() == [
            f"127.0.0.1:{tcp.getsockname()[1]} True False",
            f"unix:{tmp_path}/passed.sock True False",
            "[]",
            "True",
        ]


def test_sockets_meant_for_another_process_are_not_touched(opened):
    env = {"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "http"}
    [listener] = opened("127.0.0.1:0", env=env)
    assert not listener.adopted
    assert env == {}


def test_the_owner_of_a_port_nobody_listens_on():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.1", 0))
        assert port_owner(sock.getsockname()[1]) is None


def test_connections_queue_while_nobody_accepts(opened):
    [listener] = opened("127.0.0.1:0")
    clients = [socket.create_connection(("127.0.0.1", port_of(listener))) for _ in range(64)]
    accepted = []
    listener.socket.setblocking(True)
    reader = threading.Thread(target=lambda: accepted.extend(listener.socket.accept()[0] for _ in clients))
    reader.start()
    reader.join(10)
    assert len(accepted) == len(clients)
    for sock in (*clients, *accepted):
        sock.close()


@pytest.mark.parametrize(
    ("host", "keys", "refused"), [("0.0.0.0", (), True), ("0.0.0.0", ("k",), False), ("127.0.0.1", (), False)]
)
def test_inherited_sockets_are_not_exposed_without_keys(host, keys, refused):
    with socket.socket() as sock:
        sock.bind((host, 0))
        sock.listen()
        listeners = [Listener("descriptor 3", sock, adopted=True)]
        with pytest.raises(StartError, match="client keys are needed") if refused else contextlib.nullcontext():
            refuse_exposed(listeners, Auth(keys))
