"""What systemd does and hears: a passed socket, the notifications in their order, the watchdog."""

import os
import signal
import socket
import sys

import psutil
import pytest
from fakes.load import Client, chat, said
from fakes.openai_upstream import text_of
from fakes.service import Service, config_text, monotonic_usec, run_service, wait_until, watch_over

pytestmark = pytest.mark.integration

# As systemd does it: the socket as descriptor 3, the pid of the service itself in LISTEN_PID.
ACTIVATE = """
import os, sys
fd = int(sys.argv[1])
os.dup2(fd, 3)
os.environ["LISTEN_FDS"], os.environ["LISTEN_PID"] = "1", str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "supervisor", *sys.argv[2:]])
"""


async def test_a_passed_socket_is_served_and_outlives_the_service(tmp_path, upstream):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(16)
        port = sock.getsockname()[1]
        # What the configuration says is not opened then.
        env = {"LISTEN_FDNAMES": "http"}
        service = Service(tmp_path, config_text(1, upstream.base_url), env=env)
        service.command = [sys.executable, "-c", ACTIVATE, str(sock.fileno())]
        async with watch_over(service):
            service.launch(pass_fds=(sock.fileno(),))
            await service.wait_ready()
            assert (await service.status()).bind == [f"http://127.0.0.1:{port}"]
            async with Client(port) as client:
                response = await client.post(chat("fake/text-3"))
                assert said(await response.read()) == "".join(text_of(3))
            await service.reload()
            assert (await service.status()).bind == [f"http://127.0.0.1:{port}"]
        async with Client(port):
            pass  # the service is gone; its manager still listens


async def test_notifications_come_in_order(service):
    before = monotonic_usec()
    service.send_signal(signal.SIGHUP)
    await wait_until(lambda: len(service.heard("READY")) == 2, "READY=1 after the reload")
    await service.stop()
    kinds = [name for _, pairs in service.notifications for name in ("READY", "RELOADING", "STOPPING") if name in pairs]
    assert kinds == ["READY", "RELOADING", "READY", "STOPPING"]
    [reloading] = [pairs for _, pairs in service.notifications if "RELOADING" in pairs]
    assert before <= int(reloading["MONOTONIC_USEC"]) <= monotonic_usec()
    [first, *_] = [pairs for _, pairs in service.notifications if "READY" in pairs]
    assert "workers" in first["STATUS"]
    assert "WATCHDOG" not in {name for _, pairs in service.notifications for name in pairs}


async def test_the_watchdog_is_fed_while_a_worker_serves(tmp_path, port):
    config = config_text(port, server={"workers": 1, "worker_timeout": 1.0})
    async with run_service(tmp_path, config, env={"WATCHDOG_USEC": "200000"}) as service:
        await wait_until(lambda: len(service.heard("WATCHDOG")) >= 5, "signs of life")
        [pid] = await service.wait_serving(1)
        os.kill(pid, signal.SIGSTOP)
        await wait_until(lambda: service.events("worker_exit"), "the stopped worker's end")
        await service.wait_serving(1)
        fed = len(service.heard("WATCHDOG"))
        await wait_until(lambda: len(service.heard("WATCHDOG")) > fed, "signs of life again")


async def test_children_do_not_inherit_the_manager_s_variables(service):
    # They would speak in the service's name.
    for pid in await service.wait_serving(2):
        assert "NOTIFY_SOCKET" not in psutil.Process(pid).environ()
