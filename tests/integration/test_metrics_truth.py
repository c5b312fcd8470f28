"""`/metrics` under load and worker deaths: it never goes down, and in the end it says what the records say."""

import itertools
import os
import random
import signal
from collections import Counter

import psutil
import pytest
import trio
from fakes.load import BrokenOff, Client, chat
from fakes.openai_upstream import PROMPT_TOKENS
from fakes.prometheus import Exposition, parse
from fakes.service import wait_until

pytestmark = pytest.mark.integration

WORDS = 6
COMPLETED = f"text-{WORDS}"
MODELS = (COMPLETED, COMPLETED, "slow-50+text-60", "usage-none+text-9", "status-500", "status-429", "reset-after-3")
CLIENTS = 12
SCRAPES = 100
KILLS = 3


async def scrape(client: Client) -> Exposition:
    """What the worker at the other end of this connection answers; `BrokenOff` if it dies."""
    response = await client.post(None, "/metrics")
    body = await response.read()
    assert response.status == 200, body
    client.reuse()
    return parse(body)


async def test_the_numbers_under_load_and_deaths(service, port, upstream):
    rnd = random.Random(11)
    seen: list[Exposition] = []
    killed = 0
    over = False

    async def keep_asking(number: int) -> None:
        for turn in itertools.count():
            if over:
                return
            trace = f"truth-{number}-{turn}"
            model, patience = rnd.choice(MODELS), rnd.choice((0.05, 5, 5, 5))
            # A reset before an answer's first byte, on a connection that was used before, is none of the attempts.
            stream = rnd.random() < 0.7 or model.startswith("reset")
            try:
                async with Client(port) as client:
                    with trio.move_on_after(patience):
                        body = chat(f"fake/{model}", trace, stream=stream)
                        response = await client.post(body, headers={"x-request-id": trace})
                        await response.read()
            except BrokenOff:
                pass  # its worker was killed

    async def keep_scraping() -> None:
        nonlocal over
        while len(seen) < SCRAPES or killed < KILLS:
            with trio.move_on_after(10.0):
                try:
                    async with Client(port) as client:
                        seen.append(await scrape(client))
                except BrokenOff:
                    continue
            await trio.sleep(0.02)
        over = True

    async def hurt() -> None:
        nonlocal killed
        for _ in range(KILLS):
            ended = len(service.records())
            await wait_until(lambda ended=ended: len(service.records()) > ended + 15, "some streams")
            victim = max((await service.status()).workers, key=lambda worker: worker.streams).pid
            os.kill(victim, signal.SIGKILL)
            await wait_until(lambda victim=victim: not psutil.pid_exists(victim), "its end")
            await service.wait_serving(2)
            killed += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hurt)
        nursery.start_soon(keep_scraping)
        for number in range(CLIENTS):
            nursery.start_soon(keep_asking, number)

    for before, after in itertools.pairwise(seen):
        for sample, value in before.counters().items():
            assert after.samples[sample] >= value, sample
    assert seen[-1].value("kimi_proxy_worker_restarts_total") == KILLS

    # What every worker says, now that all is quiet, is the same, and what the records say.
    await wait_until(lambda: settled(service), "no open streams")
    totals = (await service.status()).totals
    records = await service.wait_records(totals.started)
    said = await from_every_worker(service, port)
    assert len(said) == 2
    [now, *others] = said.values()
    for other in others:
        assert other.counters() == now.counters()

    outcomes = Counter((record["provider"], record["status"], record["error_type"] or "") for record in records)
    assert now.by("kimi_proxy_streams_total", "provider", "status", "error_type") == outcomes
    assert {"worker_died", "client_disconnect", "HTTPStatusError"} <= {error_type for _, _, error_type in outcomes}
    for type, column in (("input", "prompt"), ("output", "completion")):
        tokens: Counter[tuple[str, ...]] = Counter()
        for record in records:
            if record[f"{column}_source"] is not None:
                tokens[record[f"{column}_source"],] += record[f"{column}_tokens"]
        counted = now.by("kimi_proxy_tokens_total", "source", type=type)
        assert Counter(counted) == tokens
        assert now.sum("gen_ai_client_token_usage_sum", gen_ai_token_type=type) == tokens.total()
    assert now.sum("kimi_proxy_retries_total") == sum(record["retries"] for record in records)
    assert now.sum("gen_ai_client_operation_duration_seconds_count") == len(records)
    first = [record for record in records if record["first_byte"] is not None and record["streaming"]]
    assert now.sum("gen_ai_server_time_to_first_token_seconds_count") == len(first)
    late = [record for record in records if record["cancel_latency"] is not None]
    assert now.sum("kimi_proxy_cancel_latency_seconds_count") == len(late)
    assert now.value("kimi_proxy_store_buffered_records") == 0
    assert now.value("kimi_proxy_streams_active", provider="fake") == 0

    # The upstream has seen the same: each request once for each attempt, and its own counts for what it answered.
    requests = Counter(row.marker for row in upstream.log)
    for record in records:
        if record["status"] == "cancelled" or record["error_type"] == "worker_died":
            assert requests[record["trace"]] <= 1 + 2  # [proxy] max_retries
        else:
            assert requests[record["trace"]] == 1 + record["retries"], record
    whole = [row for row in upstream.log if row.model == COMPLETED and row.outcome == "completed"]
    done = {record["trace"] for record in records if record["status"] == "completed"}
    told = [record for record in records if record["completion_source"] == "provider" and record["trace"] in done]
    short = [record for record in told if record["upstream_model"] == COMPLETED]
    assert {record["trace"] for record in short} <= {row.marker for row in whole}
    assert {(record["prompt_tokens"], record["completion_tokens"]) for record in short} == {(PROMPT_TOKENS, WORDS)}
    refused = sum(row.model in ("status-500", "status-429") for row in upstream.log)
    assert 0 < now.sum("kimi_proxy_upstream_errors_total", error_type="HTTPStatusError") <= refused


async def settled(service) -> bool:
    status = await service.status()
    return status.totals.active == 0 and status.storage.buffered == 0


async def from_every_worker(service, port: int) -> dict[int, Exposition]:
    """What each worker answers, by its pid: as many connections as it takes to reach all of them."""
    found: dict[int, Exposition] = {}
    pids = await service.worker_pids()
    for _ in range(200):
        if len(found) == len(pids):
            break
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask_one, port, pids, found)
    return found


async def ask_one(port: int, pids: list[int], found: dict[int, Exposition]) -> None:
    async with Client(port) as client:
        said = await scrape(client)
        for pid in pids:
            if any(
                connection.raddr and connection.raddr.port == client.port
                for connection in psutil.Process(pid).net_connections("tcp")
            ):
                found[pid] = said
