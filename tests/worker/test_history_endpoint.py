"""The history over HTTP: a real database, a real connection, and a worker between them."""

import csv
import io
import json
import sqlite3
import threading
import time
from contextlib import asynccontextmanager, closing

import pytest
import trio
from fakes.gateway import make_config, serve_gateway
from fakes.history import NOW, PROVIDERS, many_records, write_history

from shared.config import Auth
from shared.history.columns import COLUMNS
from shared.messages import Health
from supervisor import schema
from worker import history
from worker.endpoints import history as endpoint
from worker.history import History

RECORDS = many_records(250)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_history(tmp_path_factory.mktemp("history") / "sessions.db", RECORDS)


@pytest.fixture(autouse=True)
def _now(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: NOW)


@asynccontextmanager
async def serve(path, **config):
    async with serve_gateway(make_config(**config)) as gateway:
        gateway.gateway.history = History(str(path))
        yield gateway


async def get(gateway, path, **headers):
    client = await gateway.connect()
    return await client.get(path, **headers)


async def told(gateway, path):
    head, body = await get(gateway, path)
    assert head.status == 200, body
    assert head.headers["content-type"] == "application/json"
    return json.loads(body)


async def message(gateway, path, status, **headers):
    head, body = await get(gateway, path, **headers)
    assert head.status == status, body
    return json.loads(body)["error"]["message"]


def newest_first():
    rows = [dict(zip(COLUMNS, schema.row(record), strict=True)) for record in RECORDS]
    return sorted(rows[::-1], key=lambda row: -row["started"])


# Streams


async def test_pages_of_streams(path):
    async with serve(path) as gateway:
        page = await told(gateway, "/api/streams")
        assert page["streams"] == newest_first()[:100]
        found, cursor = page["streams"], page["next"]
        while cursor:
            page = await told(gateway, f"/api/streams?limit=70&cursor={cursor}")
            found += page["streams"]
            cursor = page["next"]
    assert found == newest_first()


async def test_filtered_streams(path):
    async with serve(path) as gateway:
        query = "provider=kimi&status=failed&status=cancelled&since=2d&limit=1000"
        page = await told(gateway, f"/api/streams?{query}")
    wanted = [
        row
        for row in newest_first()
        if row["provider"] == "kimi" and row["status"] != "completed" and row["started"] >= NOW - 2 * 86_400
    ]
    assert wanted
    assert page == {"streams": wanted, "next": None}


async def test_one_stream(path):
    async with serve(path) as gateway:
        wanted = newest_first()[17]
        assert await told(gateway, f"/api/streams/{wanted['id']}") == wanted
        assert "no record of a stream 'nobody'" in await message(gateway, "/api/streams/nobody", 404)
        assert "no record" in await message(gateway, "/api/streams/", 404)


# Sums


async def test_totals_and_groups(path):
    async with serve(path) as gateway:
        found = await told(gateway, "/api/stats?by=provider")
        totals = (await told(gateway, "/api/stats"))["totals"]
        days = await told(gateway, "/api/stats?by=day")
        chart = await told(gateway, "/api/stats?by=time&since=2h&bucket=10m")
    rows = newest_first()
    assert found["totals"] == totals
    assert totals["streams"] == len(rows)
    assert totals["cost"] == pytest.approx(sum(row["cost"] or 0 for row in rows))
    assert {group["key"] for group in found["groups"]} == set(PROVIDERS)
    assert sum(group["prompt_tokens"] for group in found["groups"]) == totals["prompt_tokens"]
    assert [group["key"] for group in days["groups"]] == ["2025-11-18", "2025-11-19", "2025-11-20", "2025-11-21"]
    assert (chart["by"], chart["bucket"], chart["since"], chart["until"]) == ("time", 600, NOW - 7200, None)
    assert all(group["key"] % 600 == 0 for group in chart["groups"])
    assert chart["totals"]["streams"] == sum(group["streams"] for group in chart["groups"])


async def test_providers(path):
    async with serve(path) as gateway:
        found = await told(gateway, "/api/providers")
        everything = await told(gateway, "/api/providers?since=30d")
    assert found["since"] == NOW - 86_400
    for answer, since in ((found, NOW - 86_400), (everything, NOW - 30 * 86_400)):
        for provider in answer["providers"]:
            rows = [
                row for row in newest_first() if row["provider"] == provider["provider"] and row["started"] >= since
            ]
            assert provider["streams"] == len(rows)
            assert sum(provider["errors"].values()) == provider["failed"]


async def test_a_provider_without_streams_is_there_too(path, upstream):
    async with serve_gateway(make_config(upstream)) as gateway:
        gateway.gateway.history = History(str(path))
        gateway.gateway.health.take(Health(degraded=("one",)))
        providers = (await told(gateway, "/api/providers"))["providers"]
    assert {provider["provider"] for provider in providers} == {*PROVIDERS, "one"}
    [idle] = [provider for provider in providers if provider["provider"] == "one"]
    assert (idle["streams"], idle["cost"], idle["errors"], idle["first_byte_p50"]) == (0, None, {}, None)
    assert {provider["health"] for provider in providers if provider is not idle} == {"healthy"}
    assert idle["health"] == "degraded"


# Files


async def test_csv(path):
    async with serve(path) as gateway:
        head, body = await get(gateway, "/api/export")
    assert head.status == 200
    assert head.headers["content-type"].startswith("text/csv")
    assert head.headers["content-disposition"].startswith('attachment; filename="kimi-proxy-')
    assert head.headers["content-disposition"].endswith('.csv"')
    assert head.headers["cache-control"] == "no-store"
    first, *lines = csv.reader(io.StringIO(body.decode(), newline=""), strict=True)
    assert tuple(first) == COLUMNS
    assert [line[0] for line in lines] == [row["id"] for row in newest_first()]
    for line, row in zip(lines, newest_first(), strict=True):
        cells = dict(zip(COLUMNS, line, strict=True))
        assert cells["cost"] == ("" if row["cost"] is None else repr(row["cost"]))
        assert cells["session"].removeprefix("'") == (row["session"] or "")
        assert not cells["session"].startswith("=")
        assert not cells["upstream_model"].startswith("-")


async def test_json_in_pieces(path, monkeypatch):
    monkeypatch.setattr(endpoint, "PIECE_ROWS", 40)
    async with serve(path) as gateway:
        head, body = await get(gateway, "/api/export?format=json")
        none = await get(gateway, "/api/export?format=json&provider=nobody")
    assert head.headers["content-type"] == "application/json"
    assert head.headers["content-disposition"].endswith('.json"')
    assert json.loads(body) == newest_first()
    assert json.loads(none[1]) == []


async def test_an_export_ends_where_it_began(path, monkeypatch, tmp_path):
    """Streams that begin while it is written are no part of it, or it might never end."""
    monkeypatch.setattr(endpoint, "PIECE_ROWS", 40)
    async with serve(path) as gateway:
        _, body = await get(gateway, f"/api/export?format=json&until={NOW - 3600}&status=completed")
        monkeypatch.setattr(time, "time", lambda: NOW - 7200)
        _, until_now = await get(gateway, "/api/export?format=json")
    wanted = [row for row in newest_first() if row["started"] < NOW - 3600 and row["status"] == "completed"]
    assert json.loads(body) == wanted
    assert json.loads(until_now) == [row for row in newest_first() if row["started"] < NOW - 7200]


async def test_an_export_of_the_time_before_all_is_empty(path):
    async with serve(path) as gateway:
        _, body = await get(gateway, "/api/export?until=0")
    assert body.decode() == ",".join(COLUMNS) + "\r\n"


async def test_an_export_lets_others_go_on(path, monkeypatch):
    """Lines are written on the event loop, which must not be away for as long as a stream's listener would notice."""
    async with serve(path) as gateway:
        reads = []
        read = gateway.gateway.history.read

        async def reading(*queries):
            [rows] = await read(*queries)
            reads.append(len(rows))
            return [rows]

        monkeypatch.setattr(gateway.gateway.history, "read", reading)
        await get(gateway, "/api/export")
    assert reads == [101, 101, 50]


async def test_head_of_an_export(path):
    async with serve(path) as gateway:
        client = await gateway.connect()
        await client.request("HEAD", "/api/export")
        head = await client.head()
        assert (head.status, head.headers["content-type"][:8]) == (200, "text/csv")


# What goes wrong


@pytest.mark.parametrize(
    ("path_", "said"),
    [
        ("/api/streams?limit=0", "`limit`: a number from 1 to 1000 is needed"),
        ("/api/streams?cursor=x", "`cursor`: needed is `next`"),
        ("/api/streams?provder=x", "did you mean `provider`?"),
        ("/api/stats?by=cost", "`by`: needed is provider or model"),
        ("/api/stats?since=yesterday", "`since`: needed are epoch seconds"),
        ("/api/providers?limit=3", "`limit`: there is no such parameter"),
        ("/api/export?format=xml", "`format`: needed is csv or json, not 'xml'"),
        ("/api/streams?" + "&".join("model=x" for _ in range(300)), "at most 200 parameters"),
    ],
)
async def test_a_wrong_question_is_told_what_is_wrong(path, path_, said):
    async with serve(path) as gateway:
        assert said in await message(gateway, path_, 400)


async def test_errors_are_in_the_dialect_of_the_caller(path):
    async with serve(path) as gateway:
        _, body = await get(gateway, "/api/stats?by=x", anthropic_version="2023-06-01")
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    assert json.loads(body)["type"] == "error"


async def test_without_a_database_there_is_nothing(tmp_path):
    async with serve(tmp_path / "none.db") as gateway:
        assert await told(gateway, "/api/streams") == {"streams": [], "next": None}
        assert (await told(gateway, "/api/stats?by=day"))["groups"] == []
        assert (await told(gateway, "/api/stats"))["totals"]["streams"] == 0
        assert (await told(gateway, "/api/providers"))["providers"] == []
        _, body = await get(gateway, "/api/export")
        assert body.decode() == ",".join(COLUMNS) + "\r\n"


async def test_a_database_that_can_not_be_read_is_503(tmp_path):
    path = tmp_path / "sessions.db"
    path.write_bytes(b"garbage " * 1000)
    async with serve(path) as gateway:
        for route in ("/api/streams", "/api/streams/x", "/api/stats", "/api/providers", "/api/export"):
            assert "the history can't be read" in await message(gateway, route, 503)
        head, body = await get(gateway, "/api/streams", anthropic_version="2023-06-01")
        assert (head.status, json.loads(body)["type"]) == (503, "error")


async def test_a_key_is_needed_where_there_are_keys(path):
    async with serve(path, auth=Auth(keys=("secret",))) as gateway:
        for route in ("/api/streams", "/api/streams/x", "/api/stats", "/api/providers", "/api/export"):
            assert "a valid key" in await message(gateway, route, 401)
        head, _ = await get(gateway, "/api/streams", authorization="Bearer secret")
        assert head.status == 200


class SlowReads:
    """Stands before `history.read`: queries wait until they are let go, or given up."""

    def __init__(self, monkeypatch):
        self.begun = 0
        self.given_up = 0
        self.go_on = threading.Event()
        self._read = history.read
        monkeypatch.setattr(history, "read", self)

    def __call__(self, path, *queries, stopped):
        self.begun += 1
        while not self.go_on.wait(0.005):
            if stopped():
                self.given_up += 1
                return [[] for _ in queries]
        return self._read(path, *queries, stopped=stopped)


@pytest.fixture
def slow(monkeypatch):
    reads = SlowReads(monkeypatch)
    yield reads
    reads.go_on.set()


@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_a_client_that_leaves_ends_its_query(path, slow, leave):
    async with serve(path) as gateway:
        client = await gateway.connect()
        await client.request("GET", "/api/stats?by=day")
        await gateway.wait(lambda: slow.begun)
        getattr(client, leave)()
        await gateway.wait(lambda: slow.given_up)
        await gateway.wait(lambda: not gateway.server.connections)


async def test_queries_wait_for_each_other_and_for_nothing_else(path, slow):
    async with serve(path) as gateway, trio.open_nursery() as nursery:
        for _ in range(history.MAX_QUERIES + 2):
            nursery.start_soon(get, gateway, "/api/streams")
        await gateway.wait(lambda: slow.begun == history.MAX_QUERIES)
        head, _ = await get(gateway, "/health")
        assert head.status == 200
        assert slow.begun == history.MAX_QUERIES
        slow.go_on.set()


async def test_a_query_has_a_deadline(path, slow, monkeypatch):
    monkeypatch.setattr(history, "QUERY_TIMEOUT", 0.01)
    async with serve(path) as gateway:
        client = await gateway.connect()
        head, body = await client.get("/api/stats")
        assert (head.status, head.headers["retry-after"]) == (503, "5")
        assert b"the query took more than 0.01 s: ask for less" in body
        await gateway.wait(lambda: slow.given_up)


async def test_a_client_that_leaves_an_export_ends_it(path, monkeypatch):
    monkeypatch.setattr(endpoint, "PIECE_ROWS", 10)
    async with serve(path) as gateway:
        client = await gateway.connect()
        reads = []
        read = gateway.gateway.history.read

        async def reading(*queries):
            reads.append(queries)
            if len(reads) == 3:
                client.reset()
                await trio.sleep_forever()
            return await read(*queries)

        monkeypatch.setattr(gateway.gateway.history, "read", reading)
        await client.request("GET", "/api/export")
        await gateway.wait(lambda: len(reads) == 3)
        await gateway.wait(lambda: not gateway.server.connections)
        assert len(reads) == 3


async def test_an_export_that_breaks_has_no_proper_end(path, monkeypatch, tmp_path):
    monkeypatch.setattr(endpoint, "PIECE_ROWS", 10)
    async with serve(path) as gateway:
        client = await gateway.connect()
        read = gateway.gateway.history.read
        garbage = tmp_path / "garbage.db"
        garbage.write_bytes(b"garbage " * 1000)

        async def once(*queries):
            rows = await read(*queries)
            gateway.gateway.history._path = str(garbage)
            return rows

        monkeypatch.setattr(gateway.gateway.history, "read", once)
        await client.request("GET", "/api/export?format=json")
        assert (await client.head()).status == 200
        with pytest.raises((EOFError, trio.BrokenResourceError)):
            await client.body()


async def test_no_reader_holds_up_a_writer(tmp_path, monkeypatch):
    """Between two pieces of an export the write-ahead log can be emptied, however slow its client is."""
    monkeypatch.setattr(endpoint, "PIECE_ROWS", 10)
    path = write_history(tmp_path / "sessions.db", RECORDS)
    async with serve(path) as gateway:
        client = await gateway.connect()
        read = gateway.gateway.history.read
        reached, go_on = trio.Event(), trio.Event()

        async def reading(*queries):
            rows = await read(*queries)
            reached.set()
            await go_on.wait()
            return rows

        monkeypatch.setattr(gateway.gateway.history, "read", reading)
        await client.request("GET", "/api/export")
        await reached.wait()
        write_history(path, many_records(5, seed=9))
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        go_on.set()
        head, body = await client.answer()
        assert head.status == 200
        assert len(body.splitlines()) > len(RECORDS)
