"""Processes that are killed, stopped, or die young: who notices, and what is there afterwards."""

import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import trio
from fakes.hooks import hooked
from fakes.load import BrokenOff, Client, chat, is_refused, said, steady_load
from fakes.openai_upstream import marker, text_of
from fakes.service import Service, config_text, run_service, wait_until

pytestmark = pytest.mark.integration


def client_ports(pid: int, port: int) -> set[int]:
    """The clients' ports of the connections that a worker holds."""
    connections = psutil.Process(pid).net_connections("tcp")
    return {found.raddr.port for found in connections if found.raddr and found.laddr.port == port}


async def wait_streams(service: Service, count: int) -> list[int]:
    """Wait until `count` streams are open; the workers' pids, the busiest first (the kernel chooses who accepts)."""

    async def reached() -> list[int]:
        workers = sorted((await service.status()).workers, key=lambda worker: -worker.streams)
        return [worker.pid for worker in workers] if sum(worker.streams for worker in workers) >= count else []

    return await wait_until(reached, f"{count} streams")


async def ask(port: int, model: str = "fake/text-5") -> str:
    async with Client(port) as client:
        response = await client.post(chat(model))
        return said(await response.read())


async def test_a_killed_worker_takes_only_its_own_streams(service, port):
    await service.wait_serving(2)
    async with steady_load(port, streams=16, rate=40) as load:
        victim, survivor = await wait_streams(service, 16)
        # Stopped first, so that what it holds at its death is known exactly.
        psutil.Process(victim).suspend()
        held = client_ports(victim, port)
        [slot] = [worker.worker for worker in (await service.status()).workers if worker.pid == victim]
        psutil.Process(victim).kill()
        pids = await wait_until(lambda: replaced(service, victim), "a new worker")
        done = load.streams_done
        await wait_until(lambda: load.streams_done > done + 16, "streams after the death")

    assert survivor in pids
    assert load.refused == []
    assert load.mishaps
    assert {mishap.port for mishap in load.mishaps} <= held
    await wait_until(lambda: not set(load.traces) - traces(service) - {mishap.trace for mishap in load.mishaps})
    died = [record for record in service.records() if record["error_type"] == "worker_died"]
    assert died
    for record in died:
        assert (record["status"], record["worker"], record["completion_source"]) == ("failed", slot, "partial")
    unharmed = {record["trace"] for record in service.records() if record["status"] == "completed"}
    assert not unharmed & {mishap.trace for mishap in load.mishaps}
    [restarted] = [worker for worker in (await service.status()).workers if worker.worker == slot]
    assert restarted.restarts == 1


async def replaced(service: Service, victim: int) -> list[int]:
    pids = [worker.pid for worker in await service.serving()]
    return pids if len(pids) == 2 and victim not in pids else []


def traces(service: Service) -> set[str]:
    return {record["trace"] for record in service.records()}


async def test_a_killed_fork_server_harms_nobody_and_workers_can_still_be_replaced(service, port):
    pids = await service.wait_serving(2)
    async with steady_load(port, streams=8, rate=20) as load:
        await wait_streams(service, 8)
        before = service.fork_server_pid()
        psutil.Process(before).kill()
        await wait_until(lambda: not psutil.pid_exists(before) or before not in [p.pid for p in service.processes()])
        done = load.streams_done
        await wait_until(lambda: load.streams_done > done + 8, "streams after the death")
    assert load.mishaps == []
    assert await service.wait_serving(2) == pids
    psutil.Process(pids[0]).kill()
    await wait_until(lambda: replaced(service, pids[0]), "a new worker")
    assert await ask(port) == "".join(text_of(5))
    assert service.fork_server_pid() != before


async def test_a_killed_supervisor_leaves_nothing_and_the_next_start_works_at_once(service, port, upstream):
    marks = [marker("orphan") for _ in range(6)]
    async with trio.open_nursery() as nursery:

        async def outlive(mark: str) -> None:
            async with Client(port) as client:
                response = await client.post(chat("fake/slow-20+text-2000", mark))
                answer = b""
                with suppress(BrokenOff):
                    while data := await response.receive():
                        answer += data
                assert b"[DONE]" not in answer

        for mark in marks:
            nursery.start_soon(outlive, mark)
        await wait_streams(service, len(marks))
        service.process.kill()
        service.process.wait()
        orphans = service.processes()
        service.launch()
        await service.wait_ready()
        assert await ask(port) == "".join(text_of(5))
        await wait_until(lambda: not any(alive(orphan) for orphan in orphans), "the orphans' end", timeout=5)
    await wait_until(lambda: all(row.outcome == "client_closed" for mark in marks for row in upstream.rows(mark)))


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


async def test_workers_without_a_supervisor_are_gone_in_time_and_their_port_is_free(tmp_path, port, upstream):
    config = config_text(port, upstream.base_url)
    async with run_service(tmp_path, config, stop=False) as service, Client(port) as client:
        response = await client.post(chat("fake/hang-after-2"))
        await response.receive()
        service.process.kill()
        await wait_until(lambda: not service.processes(), "no processes", timeout=5)
        assert await is_refused(port)


async def test_a_stopped_worker_is_replaced_and_the_other_goes_on(tmp_path, port, upstream):
    config = config_text(port, upstream.base_url, server={"worker_timeout": 2.0})
    async with run_service(tmp_path, config) as service:
        await service.wait_serving(2)
        async with steady_load(port, streams=6, rate=10) as load:
            victim, other = await wait_streams(service, 6)
            psutil.Process(victim).suspend()
            held = client_ports(victim, port)
            await wait_until(lambda: replaced(service, victim), "a new worker")
            done = load.streams_done
            await wait_until(lambda: load.streams_done > done + 6, "streams after the death")
        assert other in await service.wait_serving(2)
        assert load.refused == []
        assert {mishap.port for mishap in load.mishaps} <= held
        assert [event["pid"] for event in service.events("worker_stuck")] == [str(victim)]
        assert not psutil.pid_exists(victim)


async def test_a_crash_loop_shows_in_status_and_the_others_serve(tmp_path, port, upstream):
    hooks: Path = tmp_path / "h"
    config = config_text(port, upstream.base_url)
    async with run_service(tmp_path, config, env=hooked(hooks)) as service:
        victim, other = await service.wait_serving(2)
        (hooks / "die").touch()
        psutil.Process(victim).kill()

        async def verdict() -> str | None:
            return (await service.status()).crash_loop

        sentence = await wait_until(verdict, "the verdict", poll=0.1)
        await wait_until(lambda: any(sentence in status for status in service.heard("STATUS")), "it in STATUS=")
        assert await ask(port) == "".join(text_of(5))
        assert [worker.pid for worker in await service.serving()] == [other]

        (hooks / "die").unlink()
        service.send_signal(signal.SIGHUP)  # which forgives
        await service.wait_serving(2)
        assert await verdict() is None
