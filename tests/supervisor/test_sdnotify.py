"""sd_notify against a real datagram socket in the role of systemd."""

import os
import socket
import time

import pytest

from supervisor.sdnotify import Notifier, watchdog_interval


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """The service manager's socket, and what it puts into NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        if request.param == "path":
            name = str(tmp_path / "notify")
            sock.bind(name)
        else:
            sock.bind(f"\0kimi-proxy-test-{os.getpid()}")
            name = f"@kimi-proxy-test-{os.getpid()}"
        sock.settimeout(5)
        yield sock, name


def test_every_message_has_the_form_systemd_reads(manager):
    sock, name = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})

    assert notifier.ready("2 workers")
    assert sock.recv(4096) == b"READY=1\nSTATUS=2 workers"

    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert notifier.reloading()
    kind, clock = sock.recv(4096).decode().split("\n")
    assert kind == "RELOADING=1"
    name, _, usec = clock.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(usec) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000

    assert notifier.stopping()
    assert sock.recv(4096) == b"STOPPING=1\nSTATUS=stopping"
    assert notifier.status("a line\nREADY=1")
    assert sock.recv(4096) == b"STATUS=a line READY=1"
    assert notifier.watchdog()
    assert sock.recv(4096) == b"WATCHDOG=1"
    notifier.close()
    assert not notifier.watchdog()


def test_children_do_not_inherit_the_address(manager):
    _, name = manager
    env = {"NOTIFY_SOCKET": name, "HOME": "/"}
    Notifier(env).close()
    assert env == {"HOME": "/"}


@pytest.mark.parametrize(
    "env", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}, {"NOTIFY_SOCKET": "relative"}]
)
def test_without_a_socket_nothing_happens(env):
    assert not Notifier(env).ready("up")


def test_a_manager_that_is_gone_or_does_not_read_is_no_error(tmp_path):
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    assert not notifier.ready("up")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "nobody"))
        assert notifier.ready("up")
        while notifier.watchdog():
            pass
        assert not notifier.status("its queue is full")
        deaf.recv(4096)
        assert notifier.status("and has room again")
    notifier.close()


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ""}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_due_at_half_of_its_interval(env, expected):
    assert watchdog_interval(env, 7) == expected
