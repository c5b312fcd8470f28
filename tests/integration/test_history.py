"""The history of a real run: sums are those of the rows, files come back as they went, whichever worker answers."""

import csv
import io
import json
import os
import random
import signal
import sqlite3
import time
from collections import Counter, defaultdict
from contextlib import closing

import psutil
import pytest
import trio
from fakes.anthropic_upstream import serve_anthropic
from fakes.history import many_records, write_history
from fakes.load import MESSAGES, PATH, BrokenOff, Client, chat, message
from fakes.service import config_text, run_service, wait_until

from shared.history.columns import COLUMNS, FLAGS
from supervisor import schema

pytestmark = pytest.mark.integration

PRICES = """
[health]
max_errors = 10000

[models."priced-*"]
provider = "fake"
model = "text-20"
fallbacks = ["claude-priced"]
max_context_size = 131072
price = { input = 2.0, output = 8.0, cache_read = 0.5 }

[models.slow]
provider = "fake"
model = "slow-50+text-500"
price = { input = 2.0, output = 8.0 }

[models.broken]
provider = "fake"
model = "status-500"
fallbacks = ["claude-priced"]

[models.claude-priced]
provider = "claude"
model = "text-10+cached"
price = { input = 3.0, output = 15.0, cache_read = 0.3, cache_write = 3.75 }
"""
ASKED = ("priced-a", "priced-b", "slow", "broken", "claude-priced", "fake/text-5+cached", "fake/reset-after-3")
CLIENTS, EACH = 12, 10


@pytest.fixture
async def run(tmp_path, port, upstream):
    """A service with three workers that has answered, lost and cancelled streams; they are all in the database."""
    async with serve_anthropic() as anthropic:
        config = config_text(
            port,
            upstream.base_url,
            anthropic=anthropic.base_url,
            server={"workers": 3},
            provider={"backoff_base": 0.0, "max_retries": 1},
            more=PRICES,
        )
        async with run_service(tmp_path, config) as service:
            await live(service, port)
            yield service


async def live(service, port):
    rnd = random.Random(11)

    async def client(number):
        for turn in range(EACH):
            model, stream, dialect = rnd.choice(ASKED), rnd.random() < 0.7, rnd.random() < 0.5
            body, path = (chat, PATH) if dialect else (message, MESSAGES)
            patience = 0.1 + rnd.random() / 2 if model == "slow" else 20.0
            headers = {"x-request-id": f"live-{number}-{turn}"}
            if rnd.random() < 0.5:
                headers["x-session-id"] = rnd.choice(["=2+2", 'a "b", c', f"s{number}"])
            try:
                async with Client(port) as connection:
                    with trio.move_on_after(patience):
                        await (await connection.post(body(model, stream=stream), path, headers=headers)).read()
            except BrokenOff:
                pass  # its worker was killed, or the answer broke off

    async def kill():
        await wait_until(lambda: len(service.records()) > CLIENTS, "some streams")
        victim = rnd.choice(await service.worker_pids())
        os.kill(victim, signal.SIGKILL)
        await wait_until(lambda: not psutil.pid_exists(victim), "its end")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill)
        for number in range(CLIENTS):
            nursery.start_soon(client, number)

    async def settled():
        totals = (await service.status()).totals
        return totals.active == 0 and len(service.records()) == totals.started

    await wait_until(settled, "all records")


async def get(port, path, status=200):
    """The body of an answer, from whichever worker accepts."""
    async with Client(port) as client:
        await client.send_request(None, path)
        response = await client.response()
        body = await response.read()
        assert response.status == status, body
        return body


async def told(port, path):
    return json.loads(await get(port, path))


def newest_first(service):
    records = service.records()
    for record in records:
        record |= {flag: bool(record[flag]) for flag in FLAGS}
    return sorted(records, key=lambda record: -record["started"])


def total(records, name):
    return sum(record[name] or 0 for record in records)


def check_sums(sums, records):
    status = Counter(record["status"] for record in records)
    assert sums["streams"] == len(records)
    assert [sums[name] for name in ("completed", "cancelled", "failed")] == [
        status[name] for name in ("completed", "cancelled", "failed")
    ]
    for name in ("retries", "prompt_tokens", "completion_tokens", "cache_read", "cache_write"):
        assert sums[name] == total(records, name), name
    assert sums["priced"] == sum(record["cost"] is not None for record in records)
    assert (sums["cost"] or 0) == pytest.approx(total(records, "cost"))


async def test_the_history_is_what_was(run, port):
    records = newest_first(run)
    found = await told(port, "/api/stats")
    check_sums(found["totals"], records)
    live = (await run.status()).totals
    assert found["totals"]["streams"] == live.started
    assert found["totals"]["completion_tokens"] == live.completion_tokens

    for by, column in (("provider", "provider"), ("model", "model"), ("session", "session"), ("status", "status")):
        grouped = defaultdict(list)
        for record in records:
            grouped[record[column]].append(record)
        if by == "session":
            grouped.pop(None)
        groups = (await told(port, f"/api/stats?by={by}"))["groups"]
        assert {group["key"] for group in groups} == set(grouped)
        for group in groups:
            check_sums(group, grouped[group["key"]])
    for by in ("hour", "day", "time&bucket=5m"):
        groups = (await told(port, f"/api/stats?by={by}"))["groups"]
        assert sum(group["streams"] for group in groups) == len(records)
        assert sum(group["cost"] or 0 for group in groups) == pytest.approx(total(records, "cost"))

    providers = (await told(port, "/api/providers"))["providers"]
    assert {provider["provider"] for provider in providers} == {"fake", "claude"}
    for provider in providers:
        own = [record for record in records if record["provider"] == provider["provider"]]
        check_sums(provider, own)
        assert provider["errors"] == Counter(record["error_type"] for record in own if record["status"] == "failed")

    pages, cursor = [], ""
    while cursor is not None:
        page = await told(port, f"/api/streams?limit=17{cursor and '&cursor=' + cursor}")
        pages += page["streams"]
        cursor = page["next"]
    assert pages == records
    assert await told(port, f"/api/streams/{records[3]['id']}") == records[3]

    head, *lines = csv.reader(io.StringIO((await get(port, "/api/export")).decode(), newline=""), strict=True)
    assert tuple(head) == COLUMNS
    rows = [dict(zip(head, line, strict=True)) for line in lines]
    assert [row["id"] for row in rows] == [record["id"] for record in records]
    assert sum(float(row["cost"] or 0) for row in rows) == pytest.approx(total(records, "cost"))
    assert {row["session"] for row in rows if row["session"][:1] in ("'", "=")} <= {"'=2+2"}
    assert await told(port, "/api/export?format=json") == records
    failed = await told(port, "/api/export?format=json&status=failed")
    assert failed == [record for record in records if record["status"] == "failed"]


async def test_streams_cost_what_their_tokens_cost(run):
    prices = {"text-20": (2.0, 8.0), "slow-50+text-500": (2.0, 8.0)}
    output = {"priced-a": 8.0, "priced-b": 8.0, "slow": 8.0, "claude-priced": 15.0}
    records = run.records()
    seen = set()
    for record in records:
        prompt, completion = record["prompt_tokens"] or 0, record["completion_tokens"] or 0
        name = record["upstream_model"]
        if record["error_type"] == "worker_died":  # what was heard of the answer, for the price of the first target
            price = output.get(record["model"])
            assert record["cost"] == (None if price is None else pytest.approx(completion * price / 1e6))
        elif record["provider"] == "claude":
            read, written = record["cache_read"] or 0, record["cache_write"] or 0
            plain = prompt - read - written
            assert record["cost"] == pytest.approx(
                (plain * 3.0 + read * 0.3 + written * 3.75 + completion * 15.0) / 1e6
            )
            seen.add("cached" if read and written else "plain")
        elif name in prices:
            price, output_price = prices[name]
            assert record["cost"] == pytest.approx((prompt * price + completion * output_price) / 1e6)
            seen.add(f"{record['status']} {name}")
            if record["status"] == "cancelled" and completion:
                # A short answer may have told its usage before its client left.
                assert record["completion_source"] == "partial" or name == "text-20"
                assert record["cost"] > 0
        else:
            assert record["cost"] is None
    assert {"cached", "completed text-20", "cancelled slow-50+text-500"} <= seen
    contexts = {record["model"][:6]: record["context_size"] for record in records}
    assert (contexts["priced"], contexts["slow"]) == (131_072, None)


async def test_an_older_database_is_taken_over(tmp_path, port):
    """A start upgrades it, keeps what it holds, and what is too old goes."""
    path = tmp_path / "s" / "sessions.db"
    with closing(sqlite3.connect(write_history(path, many_records(50)), isolation_level=None)) as connection:
        connection.execute("DROP INDEX streams_session")
        connection.execute("DROP TABLE conversations")
        for column in COLUMNS[23:]:
            connection.execute(f"ALTER TABLE streams DROP COLUMN {column}")
        connection.execute("PRAGMA user_version = 1")
        before = connection.execute("SELECT id, started FROM streams").fetchall()
    oldest = sorted(started for _, started in before)[20]
    async with run_service(tmp_path, config_text(port, more="[storage]\nkeep_days = 36500")) as service:
        found = await told(port, "/api/streams?limit=1000")
        assert {stream["id"] for stream in found["streams"]} == {id for id, _ in before}
        assert all(stream["cost"] is None for stream in found["streams"])
        assert (await told(port, "/api/stats?since=0"))["totals"]["streams"] == 50
        async with Client(port) as client:
            await (await client.post(chat("echo"), headers={"x-request-id": "new"})).read()
        await service.record("new")
        await service.stop()

        days = int((time.time() - oldest) / 86_400)
        kept = {id for id, started in before if started >= time.time() - days * 86_400}
        assert 0 < len(kept) < 50
        service.write_config(config_text(port, more=f"[storage]\nkeep_days = {days}"))
        service.launch()
        await service.wait_ready()
        await wait_until(lambda: len(service.records()) <= len(kept) + 1, "the end of the old ones")
        newest, *found = (await told(port, "/api/streams?limit=1000"))["streams"]
        assert newest["trace"] == "new"
        assert {stream["id"] for stream in found} == kept
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)


async def test_a_locked_database_is_read_all_the_same(tmp_path, port):
    async with run_service(tmp_path, config_text(port)) as service:
        async with Client(port) as client:
            await (await client.post(chat("echo"))).read()
        await service.wait_records(1)
        with service.locked_database():
            assert (await told(port, "/api/stats"))["totals"]["streams"] == 1
