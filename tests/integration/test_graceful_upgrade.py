"""A new supervisor takes over from the running one: no connection refused, no stream cut, no record lost."""

import os
import random
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import trio
from fakes.load import Client, chat, said, steady_load
from fakes.openai_upstream import marker, text_of
from fakes.service import Service, config_text, run_service, wait_until, watch_over

from supervisor.cli.client import request
from supervisor.control import Refused, Upgrade

pytestmark = pytest.mark.integration

SLOW = "fake/slow-20+text-2000"


AS_SYSTEMD = """
import os, sys
os.environ["SYSTEMD_EXEC_PID"] = os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "supervisor", *sys.argv[1:]])
"""


async def cli(service: Service, *arguments: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[bytes]:
    """`kimi-proxy …`, with the service's environment, as what it starts is part of the service."""
    done = await trio.run_process(
        [sys.executable, "-m", "supervisor", *arguments],
        env={**service.env, **env},
        cwd=service.folder,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert done.returncode == code, done.stderr.decode() + service.log()
    return done


@asynccontextmanager
async def upgradable(folder, config):
    """A service that is stopped by command, whichever process it is by then; then nothing of it is left."""
    temporary = folder / "tmp"
    temporary.mkdir()
    async with run_service(folder, config, env={"TMPDIR": os.fspath(temporary)}) as service:
        yield service
        await cli(service, "stop")
        await wait_until(lambda: not service.processes(), "all processes gone")
        assert service.exit_code == 0
        assert [path.name for path in service.paths.runtime.iterdir()] == ["supervisor.lock"]
        assert list(temporary.iterdir()) == []


def listening_inode(pid: int, port: int) -> set[int]:
    """The sockets of a process that listen on a port of 127.0.0.1."""
    found = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == f"0100007F:{port:04X}" and fields[3] == "0A":
            found.add(int(fields[9]))
    held = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")}
    return {inode for inode in found if f"socket:[{inode}]" in held}


async def test_three_upgrades_under_load_and_those_that_fail_in_between(tmp_path, port, upstream):
    config = config_text(port, upstream.base_url)
    chance = random.Random(os.environ.get("KIMI_PROXY_SEED", "6"))
    async with upgradable(tmp_path, config) as service:
        pids = [service.pid]
        inode = listening_inode(service.pid, port)
        assert len(inode) == 1
        before = service.processes()

        async def upgrade() -> None:
            said = (await cli(service, "restart")).stdout.decode()
            status = await service.status()
            assert status.pid not in pids
            assert said.startswith(f"kimi-proxy {status.version} serves as pid {status.pid}; ")
            assert f"of pid {pids[-1]} go on until the end" in said
            pids.append(status.pid)
            assert listening_inode(status.pid, port) == inode

        async def fail() -> str:
            failures = len(service.events("upgrade_failed"))
            refused = (await cli(service, "restart", code=1)).stderr.decode().splitlines()
            assert refused[1:] == [f"kimi-proxy: not restarted; pid {pids[-1]} goes on as it was"]
            assert len(service.events("upgrade_failed")) == failures + 1
            assert {path.name for path in service.paths.runtime.iterdir()} == {"supervisor.lock", "admin.sock"}
            assert (await service.status()).pid == pids[-1]
            return refused[0]

        async def lose_the_heir(moment: str) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill_the_heir, service, moment, chance.randint(1, 10))
                assert "the new supervisor " in await fail()

        async with steady_load(port, streams=50, rate=20, words=10, pace=8) as load:
            await wait_until(lambda: load.streams_done, "streams")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(upgrade)
                await wait_until(lambda: service.events("upgrade_start"), "the first upgrade")
                reply = await trio.to_thread.run_sync(request, service.paths, Upgrade(argv=["true"]), 5.0)
                assert isinstance(reply, Refused)
                assert "another restart is going on" in reply.message
            service.write_config(config.replace("workers", "wokers"))
            assert 'has no key "wokers": did you mean "workers"?' in await fail()
            service.write_config(config)
            await lose_the_heir("service_start")
            await upgrade()
            # So many that it is not ready before it is killed.
            service.write_config(config.replace("workers = 2", "workers = 20"))
            await lose_the_heir("worker_start")
            service.write_config(config)
            await upgrade()
        assert load.mishaps == []
        assert load.streams_done > 100
        await wait_until(lambda: not set(service.processes()) & set(before), "the first ones gone")
        await wait_until(lambda: [p.pid for p in service.processes() if p.pid in pids] == pids[-1:], "the elders gone")
        records = await service.wait_records(len(load.traces))
        assert {record["status"] for record in records} == {"completed"}
        assert {record["trace"] for record in records} == set(load.traces)
        # All that was open at the first upgrade, or came later, is in the sums of the last one or was in an elder's.
        totals = (await service.status()).totals
        assert totals.active == 0
        assert totals.started == totals.completed > 0
        service.check_log()
        service.check_accounts()
    assert [len(service.heard(name)) for name in ("MAINPID", "STOPPING")] == [3, 1]
    assert service.heard("MAINPID") == [str(pid) for pid in pids[1:]]


async def kill_the_heir(service: Service, moment: str, steps: int) -> None:
    """SIGKILL some steps behind the moment when the log tells of another event `moment`.

    It lives from step to step, of a few milliseconds, and is stopped in between: it must not be ready before it is
    killed, however long it takes to look into the log.
    """

    def count(event: str) -> int:
        return service.log_file.read_bytes().count(f" event={event} ".encode())

    started, seen = count("service_start"), count(moment)
    await wait_until(lambda: count("service_start") > started, "an heir", poll=0.005)
    heir = int(service.events("service_start")[-1]["pid"])
    while steps:
        os.kill(heir, signal.SIGSTOP)
        steps -= count(moment) > seen
        os.kill(heir, signal.SIGCONT)
        await trio.sleep(0.005)
    os.kill(heir, signal.SIGKILL)


async def test_what_a_session_has_and_who_cancels_crosses_the_upgrade(tmp_path, port, upstream):
    path = tmp_path / "api.sock"
    config = config_text(port, upstream.base_url, server={"graceful_timeout": 1.0}).replace(
        f'"127.0.0.1:{port}"', f'"127.0.0.1:{port}", "unix:{path}"'
    )
    async with upgradable(tmp_path, config) as service:
        elder = service.pid
        inode = path.stat().st_ino
        names = [marker(name) for name in ("superseded", "cancelled", "stopped", "newer")]
        async with Client(port) as first, Client(port) as second, Client(port) as third, Client(port) as fourth:
            streams = []
            for client, name in zip((first, second, third), names, strict=False):
                headers = {"x-request-id": name, "x-session-id": f"session-{name}"}
                streams.append(await client.post(chat(SLOW, name), headers=headers))
                await streams[-1].receive()
            await cli(service, "restart")
            status = await service.status()
            assert [(each.pid, each.streams) for each in status.elders] == [(elder, 3)]
            assert f"elder    pid {elder} finishes 3 streams" in (await cli(service, "status")).stdout.decode()

            # A newer stream of the session, in a worker of the new supervisor.
            headers = {"x-request-id": names[3], "x-session-id": f"session-{names[0]}"}
            newer = await fourth.post(chat("fake/text-3", names[3]), headers=headers)
            assert said(await newer.read()) == "".join(text_of(3))
            assert b"error" in await streams[0].read()
            assert (await service.record(names[0]))["error_type"] == "registry_new_stream"

            # By the command line, asked of the new one.
            await cli(service, "sessions", "cancel", f"session-{names[1]}")
            assert b"error" in await streams[1].read()
            assert (await service.record(names[1]))["error_type"] == "admin"

            # The UNIX socket is the same one.
            assert path.stat().st_ino == inode
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(os.fspath(path))

            # A reload that was meant for the service, and a stop that is about the elder's streams as well.
            os.kill(elder, signal.SIGHUP)
            await wait_until(lambda: service.reloads(), "the reload in the new one")
            await cli(service, "stop")
            assert b"error" in await streams[2].read()
            assert (await service.record(names[2]))["error_type"] == "shutdown"
        assert not path.exists()
        service.check_log()
        service.check_accounts()


async def test_a_service_of_systemd_stays_one_and_one_that_ends_takes_its_heir_along(tmp_path, port):
    service = Service(tmp_path, config_text(port), env={"WATCHDOG_USEC": "400000", "FDSTORE": "8", "OWN": "yes"})
    service.command = [sys.executable, "-c", AS_SYSTEMD]
    async with watch_over(service, stop=False):
        service.launch()
        await service.wait_ready()
        # Whoever upgrades has an environment of his own, which is none of the service's.
        await cli(service, "restart", OWN="no", SHELL_OF_SOMEBODY="yes", NOTIFY_SOCKET="/nowhere")
        heir = psutil.Process((await service.status()).pid)
        environ = heir.environ()
        assert (environ["OWN"], environ.get("SHELL_OF_SOMEBODY")) == ("yes", None)
        # It is a child of whoever looks after orphans, as systemd does, and speaks after it was named.
        assert heir.ppid() != service.pid
        kinds = [
            "MAINPID" if "MAINPID" in pairs else "READY"
            for _, pairs in service.notifications
            if {"MAINPID", "READY"} & pairs.keys()
        ]
        assert kinds == ["READY", "MAINPID", "READY"]
        fed = len(service.heard("WATCHDOG"))
        await wait_until(lambda: service.exit_code is not None, "the elder's end")
        await wait_until(lambda: len(service.heard("WATCHDOG")) > fed + 2, "signs of life")
        assert service.heard("FDNAME")[0] == f"bind/127.0.0.1%3A{port}"

        async def die() -> None:
            seen = len(service.events("service_start"))
            await wait_until(lambda: len(service.events("service_start")) > seen, "an heir", poll=0.002)
            heir.kill()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(die)
            lost = (await cli(service, "restart", code=1)).stderr.decode()
        assert "`kimi-proxy status` tells who serves" in lost
        await wait_until(lambda: not service.processes(), "all processes gone")
        assert "Traceback" not in service.log()
        await cli(service, "status", code=3)
        assert "serves http://" in (await cli(service, "restart", "--config", "config.toml")).stdout.decode()

        elder = psutil.Process((await service.status()).pid)

        async def stop() -> None:
            await wait_until((service.paths.runtime / "heir.sock").exists, "an heir", poll=0.002)
            elder.terminate()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop)
            refused = (await cli(service, "restart", code=1)).stderr.decode()
        assert refused == "kimi-proxy: not restarted: the service is stopping, as somebody has asked it to\n"
        await wait_until(lambda: not service.processes(), "all processes gone")
