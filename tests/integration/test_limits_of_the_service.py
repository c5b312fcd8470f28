"""Limits hold for the service as a whole: four workers, some of which are killed, are as exact as one."""

import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import Mapping
from functools import partial

import pytest
import trio
from fakes.bounds import BOUND
from fakes.load import MESSAGES, BrokenOff, Client, chat, message
from fakes.openai_upstream import OpenAIUpstream, marker
from fakes.service import Service, config_text, run_service, wait_until

pytestmark = pytest.mark.integration

SECONDS = float(os.environ.get("KIMI_PROXY_OVERLOAD_SECONDS", "4"))
CLIENTS = 8
PER_MINUTE, BURST = 600, 10


async def outcome(port: int, body: Mapping[str, object], trace: str, **headers: str) -> int:
    """The status of one request, and its body read, if it has an end."""
    async with Client(port) as client:
        response = await client.post(body, headers={"x-request-id": trace, **headers})
        with contextlib.suppress(BrokenOff):
            await response.read()
        return response.status


def four_workers(port: int, upstream: OpenAIUpstream, more: str = "", **provider: object) -> str:
    return config_text(
        port, upstream.base_url, server={"workers": 4}, provider={"backoff_base": 0.0, **provider}, more=more
    )


@pytest.mark.bound(BOUND + SECONDS)
async def test_as_many_as_allowed_under_overload_with_a_worker_killed(tmp_path, port, upstream):
    answered: Counter[int] = Counter()
    waits: list[float] = []
    config = four_workers(port, upstream, requests_per_minute=PER_MINUTE, burst_size=BURST)

    async def keep_asking(end: float) -> None:
        client: Client | None = None
        try:
            while trio.current_time() < end:
                try:
                    client = client or await Client(port).__aenter__()
                    response = await client.post(chat("fake/text-2", "overload", stream=False))
                    await response.read()
                except (BrokenOff, OSError):  # the worker that was killed
                    answered[0] += 1
                    if client is not None:
                        client.close()
                    client = None
                    continue
                answered[response.status] += 1
                if response.status == 429:
                    waits.append(float(response.headers["retry-after-ms"]) / 1000)
                if not client.reuse():
                    client.close()
                    client = None
        finally:
            if client is not None:
                client.close()

    async with run_service(tmp_path, config) as service:
        async with trio.open_nursery() as nursery:
            end = trio.current_time() + SECONDS
            for _ in range(CLIENTS):
                nursery.start_soon(keep_asking, end)
            await trio.sleep(SECONDS / 2)  # any moment will do
            os.kill((await service.worker_pids())[0], signal.SIGKILL)
        rows = upstream.rows("overload")
        window = rows[-1].arrived - rows[0].arrived
        allowed = BURST + PER_MINUTE / 60 * window
        records = await wait_until(
            lambda: len(found := service.records()) >= sum(answered.values()) - answered[0] and found, "all records"
        )
        lost = sum(record["error_type"] == "worker_died" for record in records)
        print(f"{sum(answered.values())} requests in {window:.2f} s: {len(rows)} let in, {allowed:.1f} allowed")
        assert answered[429] > 2 * len(rows), "it was no overload"
        assert len(rows) <= allowed + 1
        assert len(rows) >= allowed - 1 - lost
        assert all(0 < wait <= 60 / PER_MINUTE + 0.001 for wait in waits)
        refused = [record for record in records if record["http_status"] == 429]
        assert {(record["status"], record["error_type"]) for record in refused} == {("failed", "LimitExceeded")}


async def test_what_a_refused_client_is_told(tmp_path, port, upstream):
    config = four_workers(port, upstream, requests_per_minute=1, burst_size=1)
    async with run_service(tmp_path, config), Client(port) as client:
        response = await client.post(chat("fake/text-2"))
        assert response.headers["x-ratelimit-remaining-requests"] == "0"
        assert response.headers["x-ratelimit-reset-requests"] == "1m0s"
        await response.read()
        assert client.reuse()
        response = await client.post(chat("fake/text-2"))
        assert response.status == 429
        assert 55 <= int(response.headers["retry-after"]) <= 60
        assert json.loads(await response.read())["error"]["code"] == "rate_limit_exceeded"
        assert client.reuse()
        response = await client.post(message("fake/text-2"), MESSAGES)
        assert response.status == 429
        assert response.headers["anthropic-ratelimit-requests-limit"] == "1"
        assert json.loads(await response.read())["error"]["type"] == "rate_limit_error"


async def test_each_key_has_limits_of_its_own(tmp_path, port, upstream):
    more = '[auth]\nkeys = ["one", "two"]\n[rate_limiting.per_key]\nrequests_per_minute = 1\nburst_size = 3\n'
    async with run_service(tmp_path, four_workers(port, upstream, more)):
        for key in ("one", "two"):
            body = chat("fake/text-2", stream=False)
            statuses = [await outcome(port, body, marker("key"), authorization=f"Bearer {key}") for _ in range(5)]
            assert statuses == [200] * 3 + [429] * 2


async def test_a_reload_keeps_what_is_used_up(tmp_path, port, upstream):
    config = four_workers(port, upstream, requests_per_minute=1, burst_size=2)
    body = chat("fake/text-2", stream=False)
    async with run_service(tmp_path, config) as service:
        assert [await outcome(port, body, marker("before")) for _ in range(2)] == [200, 200]
        service.write_config(four_workers(port, upstream, requests_per_minute=1, burst_size=50))
        await service.reload()
        assert await outcome(port, body, marker("after")) == 429


async def test_who_waits_gets_his_turn_and_never_more_are_asked_for_than_allowed(tmp_path, port, upstream):
    config = four_workers(port, upstream, "[rate_limiting]\nmax_wait = 10.0\n", max_concurrent=2)
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, upstream.open_requests)
            await trio.sleep(0.002)

    async with run_service(tmp_path, config) as service:
        statuses: list[int] = []

        async def one() -> None:
            statuses.append(await outcome(port, chat("fake/slow-100+text-15", "turn"), marker("turn")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            async with trio.open_nursery() as asking:
                for _ in range(8):
                    asking.start_soon(one)
            nursery.cancel_scope.cancel()
        assert statuses == [200] * 8
        assert most == 2
        assert {record["status"] for record in await service.wait_records(8)} == {"completed"}


async def leave_early(port: int, model: str, *, reset: bool, stream: bool) -> None:
    """Ask, and leave a moment later: while waiting for a place, or in whatever state the stream then is."""
    async with Client(port) as client:
        await client.send_request(chat(model, marker("leave"), stream=stream))
        await trio.sleep(0.05)  # any moment will do
        if reset:
            client.reset()


async def assert_room_for(places: int, port: int, service: Service, upstream: OpenAIUpstream) -> None:
    """As many streams get in as there are places, and not one more."""
    await wait_quiet(service, upstream)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(places):
            client = await stack.enter_async_context(Client(port))
            response = await client.post(chat("fake/slow-20+text-2000", marker("fill")))
            assert response.status == 200
        assert await outcome(port, chat("fake/text-2"), marker("one too many")) == 429
    await wait_quiet(service, upstream)


async def wait_quiet(service: Service, upstream: OpenAIUpstream) -> None:
    async def quiet() -> bool:
        workers = (await service.status()).workers
        return upstream.open_requests == 0 and not any(worker.streams for worker in workers)

    await wait_until(quiet, "the end of all streams")


async def test_places_do_not_leak_on_any_way_out(tmp_path, port, upstream):
    """Answers, failures, a fallback, clients that leave in any phase, a killed worker: each gives its place back."""
    more = (
        '[rate_limiting]\nmax_wait = 0.2\n[models.second]\nprovider = "fake"\nmodel = "status-429"\n'
        'fallbacks = ["fake/text-2"]\n'
    )
    ends = ["text-3", "status-500", "status-400", "reset-after-2", "cut-after-1", "inline-error-2", "malformed"]
    hangs = ["hang-before-headers", "hang-before-first", "hang-after-2", "slow-50+text-500"]
    config = four_workers(port, upstream, more, max_concurrent=3, max_retries=1)
    async with run_service(tmp_path, config) as service:
        async with trio.open_nursery() as nursery:
            for number, end in enumerate(ends * 2):
                nursery.start_soon(outcome, port, chat(f"fake/{end}", stream=number % 2 == 0), marker("end"))
        await assert_room_for(3, port, service, upstream)

        async with trio.open_nursery() as nursery:
            for number, hang in enumerate(hangs * 4):
                nursery.start_soon(
                    partial(leave_early, port, f"fake/{hang}", reset=number % 3 == 0, stream=number % 2 == 0)
                )
        await assert_room_for(3, port, service, upstream)

        assert [await outcome(port, chat("second"), marker("fallback")) for _ in range(4)] == [200] * 4
        await assert_room_for(3, port, service, upstream)

        async with contextlib.AsyncExitStack() as stack:
            for _ in range(3):
                client = await stack.enter_async_context(Client(port))
                await client.post(chat("fake/slow-20+text-2000", marker("killed")))
            for worker in await service.serving():
                os.kill(worker.pid, signal.SIGKILL)
            await wait_until(lambda: upstream.open_requests == 0, "the end of the dead workers' streams")
        await service.wait_serving(4)
        await assert_room_for(3, port, service, upstream)
