"""Live events: what happens in any worker is heard at all of them, whatever becomes of listeners and workers."""

import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import psutil
import pytest
import trio
from fakes import ws
from fakes.load import Client, chat, steady_load
from fakes.openai_upstream import marker
from fakes.service import Service, config_text, wait_until

pytestmark = pytest.mark.integration


@asynccontextmanager
async def listeners(port: int, workers: int = 2) -> AsyncIterator[dict[int, ws.WebSocketClient]]:
    """A listener on each worker; the kernel chooses who accepts.

    They have heard their hello, which the supervisor has answered for: it knows by then that they listen.
    """
    found: dict[int, ws.WebSocketClient] = {}
    async with AsyncExitStack() as stack:
        while len(found) < workers:
            listener = await stack.enter_async_context(ws.listen(port))
            hello = await listener.event()
            if found.setdefault(hello["worker"], listener) is not listener:
                listener.close()
        yield found


async def stream(port: int, model: str, trace: str) -> None:
    async with Client(port) as client:
        response = await client.post(chat(model, marker(trace)), headers={"x-request-id": trace})
        await response.read()


async def test_a_stream_is_seen_from_every_worker(service: Service, port):
    await service.wait_serving(2)
    async with listeners(port) as found, trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(stream, port, "fake/slow-20+text-100", f"seen-{number}")
        for listener in found.values():
            nursery.start_soon(see_all, listener, {f"seen-{number}" for number in range(8)})


async def see_all(listener: ws.WebSocketClient, traces: set[str]) -> None:
    """Each of the streams begins, makes progress and ends, in that order."""
    ids: dict[str, str] = {}
    ended: dict[str, dict[str, Any]] = {}
    moved: set[str] = set()
    while len(ended) < len(traces):
        event = await listener.event()
        match event["type"]:
            case "stream_start":
                assert event["id"] not in ids
                ids[event["id"]] = event["trace"]
                assert (event["provider"], event["model"]) == ("fake", "fake/slow-20+text-100")
            case "progress":
                assert event["active"] == len(event["streams"]) == len(ids) - len(ended)
                assert {stream["id"] for stream in event["streams"]} == set(ids) - set(ended)
                moved |= {stream["id"] for stream in event["streams"] if stream["tokens_per_second"] > 0}
                assert event["tokens"] == sum(stream["tokens"] for stream in event["streams"])
            case "stream_end":
                assert ids[event["id"]] == event["trace"]
                assert (event["status"], event["http_status"], event["retries"]) == ("completed", 200, 0)
                ended[event["id"]] = event
    assert set(ids.values()) == traces
    assert moved == set(ids)
    assert await listener.wait("progress", active=0)
    assert {event["completion"]["source"] for event in ended.values()} == {"provider"}


async def test_hello_knows_the_streams_of_all_workers(service: Service, port):
    await service.wait_serving(2)
    async with steady_load(port, streams=8, rate=0) as load:
        await wait_until(lambda: len(load.traces) >= 8)

        async def open_() -> bool:
            return (await service.status()).totals.active >= 8

        await wait_until(open_, "the streams")
        seen = Counter()
        for _ in range(8):
            async with ws.listen(port) as listener:
                hello = await listener.event()
                seen[hello["worker"]] += 1
                assert len(hello["sessions"]["sessions"]) >= 4  # one may end while the next begins
                assert {session["worker"] for session in hello["sessions"]["sessions"]} <= {1, 2}


async def test_errors_are_told_with_all_that_operators_ask_for(service: Service, port):
    async with ws.listen(port) as listener:
        await listener.event()
        assert await status_of(port, "broken") == 503
        error = await listener.wait("streaming_error", trace="broken")
        assert set(error) == {
            "type",
            "timestamp",
            "id",
            "trace",
            "provider",
            "error_type",
            "retry_count",
            "tokens_received",
            "message",
            "retried",
            "http_status",
        }
        assert (error["provider"], error["http_status"]) == ("fake", 503)
        end = await listener.wait("stream_end", trace="broken")
        assert (end["id"], end["status"], end["error_type"]) == (error["id"], "failed", error["error_type"])
        for number in range(6):
            await status_of(port, f"broken-{number}")
        degraded = await listener.wait("provider_degraded", provider="fake")
        assert degraded["errors"] > 5
        assert degraded["types"] == {"HTTP_503": degraded["errors"]}


async def status_of(port: int, trace: str) -> int:
    """That of an answer by a provider that has none."""
    async with Client(port) as client:
        response = await client.post(chat("fake/status-503"), headers={"x-request-id": trace})
        await response.read()
        return response.status


async def test_a_worker_dies(service: Service, port):
    await service.wait_serving(2)
    async with listeners(port) as found, steady_load(port, streams=16, rate=0) as load:
        await wait_until(lambda: len(load.traces) >= 16)

        async def busy() -> list[Any]:
            return [worker for worker in (await service.status()).workers if worker.streams > 0]

        victim = (await wait_until(busy))[0]
        survivor = next(listener for worker, listener in found.items() if worker != victim.worker)
        psutil.Process(victim.pid).kill()
        await found[victim.worker].wait_eof()
        error = await survivor.wait("streaming_error", error_type="worker_died")
        end = await survivor.wait("stream_end", id=error["id"])
        assert (end["status"], end["error_type"], end["worker"]) == ("failed", "worker_died", victim.worker)
        restarted = await survivor.wait("worker_restarted")
        assert restarted["worker"] == victim.worker
        assert restarted["pid"] in await service.worker_pids()
        assert restarted["reason"]
    async with listeners(port):  # both take listeners again
        pass


async def test_a_reload_that_replaces_workers_sends_listeners_on(service: Service, port, upstream):
    before = set(await service.wait_serving(2))
    async with listeners(port) as found:
        service.write_config("[server\n")
        service.send_signal(signal.SIGHUP)
        for listener in found.values():
            refused = await listener.wait("config_reloaded", ok=False)
            assert f"{service.config_file}:" in refused["error"]
        service.write_config(config_text(port, upstream.base_url, server={"keep_alive_timeout": 33.0}))
        service.send_signal(signal.SIGHUP)
        async with trio.open_nursery() as nursery:
            for listener in found.values():
                nursery.start_soon(closed_with, listener, 1012)

    async def gone() -> bool:  # for no listener did they stay
        return not before & set(await service.worker_pids())

    await wait_until(gone, "the end of the old workers")


async def closed_with(listener: ws.WebSocketClient, code: int) -> None:
    assert (await listener.wait_close()).code == code
    await listener.wait_eof()


async def test_a_key_that_is_taken_away_hears_nothing_more(service: Service, port, upstream):
    async with listeners(port) as found:
        keys = '[auth]\nkeys = ["a-long-and-secret-key"]\n'
        service.write_config(config_text(port, upstream.base_url, more=keys))
        service.send_signal(signal.SIGHUP)
        async with trio.open_nursery() as nursery:
            for listener in found.values():
                nursery.start_soon(closed_with, listener, 1012)
    client = await ws.connect(port)
    with pytest.raises(ws.RefusedError) as refused:
        await client.open()
    client.close()
    assert refused.value.status == 401
    async with ws.listen(port, "/ws?key=a-long-and-secret-key") as listener:
        assert (await listener.event())["type"] == "hello"
    assert "secret-key" not in service.log()


async def test_a_stop_waits_for_no_listener(service: Service, port, upstream):
    service.write_config(config_text(port, upstream.base_url, server={"graceful_timeout": 600.0}))
    await service.reload()
    async with AsyncExitStack() as stack:
        for _ in range(20):
            reads = await stack.enter_async_context(ws.listen(port))
            await reads.event()
            await stack.enter_async_context(ws.listen(port, receive_buffer_bytes=4096))
        service.send_signal(signal.SIGTERM)
        await closed_with(reads, 1001)
        await service.wait_exit()


async def test_two_hundred_listeners_and_some_don_t_read(service: Service, port):
    """All streams are completed, those who read hear of every one of them, and memory stays bounded."""
    await service.wait_serving(2)

    async def rss() -> int:
        return max([psutil.Process(pid).memory_info().rss for pid in await service.worker_pids()])

    ended: list[set[str]] = []
    async with trio.open_nursery() as listening:

        async def listen(reads: bool) -> None:
            async with ws.listen(port, receive_buffer_bytes=4096) as listener:
                await listener.event()
                ends: set[str] = set()
                if reads:
                    ended.append(ends)
                while reads:
                    event = await listener.event()
                    assert event["type"] != "dropped"
                    if event["type"] == "stream_end":
                        ends.add(event["trace"])
                await trio.sleep_forever()

        for number in range(200):
            listening.start_soon(listen, number % 20 != 0)
        await wait_until(lambda: len(ended) == 190, "the listeners")
        before = await rss()
        async with steady_load(port, streams=10, rate=30) as load:
            await wait_until(lambda: load.requests_done >= 60, "the load")
        assert load.mishaps == []
        await service.wait_records(len(load.traces))
        await wait_until(lambda: all(set(load.traces) <= ends for ends in ended), "the ends of all streams")
        assert await rss() - before < 64 * 2**20
        listening.cancel_scope.cancel()
