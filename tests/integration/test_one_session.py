"""One session is one stream, in whichever of four workers its requests arrive."""

import gc
import itertools
import math
import os
import re
import signal
from dataclasses import dataclass

import pytest
import trio
from fakes.bounds import BOUND
from fakes.load import MESSAGES, Client, chat, message
from fakes.openai_upstream import OpenAIUpstream, Row, marker
from fakes.service import Service, config_text, run_service, wait_until

pytestmark = pytest.mark.integration

PAIRS = int(os.environ.get("KIMI_PROXY_PAIRS", "60"))
AT_ONCE = 4
LONG = "fake/slow-20+text-2000"
BOTH_ALIVE = 0.5


@dataclass
class Pair:
    """Two streams on a key.  Times are trio's."""

    session: str
    older: str
    newer: str
    asked: float = math.inf
    """When the second one was sent."""
    told: bytes = b""
    """What the first one's client got to its end."""


@pytest.fixture
async def four(tmp_path, port, upstream):
    config = config_text(port, upstream.base_url, server={"workers": 4}, provider={"backoff_base": 0.0})
    async with run_service(tmp_path, config) as service:
        yield service


async def play(port: int, pair: Pair) -> None:
    """The second one, on another connection, while the first is being answered."""
    async with Client(port) as first, Client(port) as second:
        headers = {"x-request-id": pair.older, "x-session-id": pair.session}
        response = await first.post(chat(LONG, pair.older), headers=headers)
        assert response.status == 200
        await response.receive()
        pair.asked = trio.current_time()
        await second.send_request(
            chat("fake/text-5", pair.newer, session_id=pair.session), headers={"x-request-id": pair.newer}
        )
        pair.told = await response.read()
        answer = await second.response()
        assert answer.status == 200
        assert (await answer.read()).endswith(b"data: [DONE]\n\n")


async def bystander(port: int, session: str | None, trace: str, end: trio.Event) -> None:
    """A long stream on a key of its own, or on none, that nobody may touch."""
    headers = {"x-request-id": trace} | ({"x-session-id": session} if session else {})
    async with Client(port) as client:
        response = await client.post(chat(LONG, trace), headers=headers)
        while not end.is_set():
            assert await response.receive()


def row_of(upstream: OpenAIUpstream, mark: str) -> Row:
    [row] = upstream.rows(mark)
    return row


def story(service: Service, session: str) -> list[tuple[str, str]]:
    """Event and trace of all that the log says of a session, by time."""
    found = []
    for line in service.log().splitlines():
        if f" session={session} " in f"{line} " and (match := re.match(r"timestamp=(\S+) level=\S+ event=(\S+)", line)):
            trace = re.search(r" trace=(\S+)", line)
            assert trace is not None
            found.append((match[1], match[2], trace[1]))
    return [(event, trace) for _, event, trace in sorted(found)]


@pytest.fixture
def no_pauses():
    """The collector would stop client and upstream, which live in this process, for longer than a cancel takes."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.bound(BOUND + PAIRS)
@pytest.mark.usefixtures("no_pauses")
async def test_a_newer_stream_ends_the_older_one_wherever_it_runs(four, port, upstream):
    pairs = [Pair(f"key-{number}", marker("older"), marker("newer")) for number in range(PAIRS)]
    others = [marker("other") for _ in range(6)]
    end = trio.Event()
    async with trio.open_nursery() as nursery:
        for number, other in enumerate(others):
            nursery.start_soon(bystander, port, other if number % 2 else None, other, end)
        limiter = trio.CapacityLimiter(AT_ONCE)

        async def one(pair: Pair) -> None:
            async with limiter:
                await play(port, pair)

        async with trio.open_nursery() as inner:
            for pair in pairs:
                inner.start_soon(one, pair)
        assert all(row_of(upstream, other).outcome == "open" for other in others)
        end.set()

    records = {record["trace"]: record for record in await four.wait_records(2 * PAIRS + len(others))}
    latencies = []
    for pair in pairs:
        older, newer = row_of(upstream, pair.older), row_of(upstream, pair.newer)
        assert older.outcome == "client_closed"
        assert older.ended - newer.arrived < BOTH_ALIVE
        latencies.append(older.ended - pair.asked)
        record = records[pair.older]
        assert (record["status"], record["error_type"]) == ("cancelled", "registry_new_stream")
        assert record["cancel_latency"] < BOTH_ALIVE
        assert record["completion_source"] == "partial"
        assert records[pair.newer]["status"] == "completed"
        assert b"a newer stream of the same session" in pair.told
        assert b"[DONE]" not in pair.told
        told = [
            (event, trace) for event, trace in story(four, pair.session) if event.startswith(("stream_st", "stream_c"))
        ]
        assert told == [("stream_start", pair.older), ("stream_cancelled", pair.older), ("stream_start", pair.newer)]
    for other in others:
        assert records[other]["error_type"] == "client_disconnect"
    assert len({record["worker"] for record in records.values()}) > 1
    elsewhere = sum(records[pair.older]["worker"] != records[pair.newer]["worker"] for pair in pairs)
    latencies.sort()
    p50, p99 = (latencies[min(int(len(latencies) * share), len(latencies) - 1)] * 1000 for share in (0.5, 0.99))
    print(f"{PAIRS} pairs, {elsewhere} of them in two workers: cancelled after p50 {p50:.1f} ms, p99 {p99:.1f} ms")


async def test_of_a_crowd_on_one_key_one_is_left(four, port, upstream):
    """Twelve at once: eleven are ended, whatever state they are in, and the one that is answered is the last."""
    traces = [marker("crowd") for _ in range(12)]
    done: dict[str, tuple[int, bytes]] = {}

    async def one(trace: str) -> None:
        async with Client(port) as client:
            headers = {"x-request-id": trace, "x-session-id": "crowd"}
            response = await client.post(chat("fake/slow-100+text-60", trace), headers=headers)
            done[trace] = response.status, await response.read()

    async with trio.open_nursery() as nursery:
        for trace in traces:
            nursery.start_soon(one, trace)
    records = {record["trace"]: record for record in await four.wait_records(len(traces))}
    [winner] = [trace for trace in traces if records[trace]["status"] == "completed"]
    assert done[winner][1].endswith(b"data: [DONE]\n\n")
    for trace in set(traces) - {winner}:
        assert records[trace]["error_type"] == "registry_new_stream"
        status, body = done[trace]
        assert status in (200, 409)
        assert b"a newer stream of the same session" in body
    rows = sorted((row for trace in traces for row in upstream.rows(trace)), key=lambda row: row.arrived)
    assert rows[-1].marker == winner
    for earlier, later in itertools.pairwise(rows):
        assert earlier.ended - later.arrived < BOTH_ALIVE


async def test_what_claude_code_calls_a_session_only_groups(four, port, upstream):
    traces = [marker("agents") for _ in range(4)]

    async def one(trace: str) -> None:
        async with Client(port) as client:
            headers = {"x-request-id": trace, "x-claude-code-session-id": "one-for-all"}
            response = await client.post(message("fake/slow-50+text-20", trace), MESSAGES, headers=headers)
            assert b"message_stop" in await response.read()

    async with trio.open_nursery() as nursery:
        for trace in traces:
            nursery.start_soon(one, trace)
    records = await four.wait_records(len(traces))
    assert {(record["status"], record["session"]) for record in records} == {("completed", "one-for-all")}


async def test_allow_is_a_reload_away(four, port, upstream):
    text = four.config_file.read_text()
    four.write_config(text + '[sessions]\non_new_stream = "allow"\n')
    await four.reload()
    first, second = marker("first"), marker("second")
    async with Client(port) as one, Client(port) as two:
        response = await one.post(chat("fake/slow-50+text-50", first), headers={"x-session-id": "s"})
        await response.receive()
        answer = await two.post(chat("fake/text-2", second), headers={"x-session-id": "s"})
        await answer.read()
        assert (await response.read()).endswith(b"data: [DONE]\n\n")
    records = await four.wait_records(2)
    assert {record["status"] for record in records} == {"completed"}


async def test_a_client_that_does_not_read_holds_the_newer_one_up_for_a_moment_only(four, port, upstream):
    older, newer = marker("older"), marker("newer")
    async with Client(port, receive_buffer=4096) as first, Client(port) as second:
        headers = {"x-session-id": "s"}
        await first.send_request(chat("fake/text-100000", older), headers={**headers, "x-request-id": older})
        await wait_until(lambda: upstream.rows(older), "the older one's request")
        await wait_until_stalled(upstream, older)
        asked = trio.current_time()
        answer = await second.post(chat("fake/text-2", newer), headers={**headers, "x-request-id": newer})
        assert (await answer.read()).endswith(b"data: [DONE]\n\n")
    assert row_of(upstream, older).outcome == "client_closed"
    assert row_of(upstream, older).ended - asked < BOTH_ALIVE
    assert row_of(upstream, newer).arrived - asked < 2 * BOTH_ALIVE
    told = [(event, trace) for event, trace in story(four, "s") if event in ("stream_start", "stream_cancelled")]
    assert told == [("stream_start", older), ("stream_cancelled", older), ("stream_start", newer)]


async def wait_until_stalled(upstream: OpenAIUpstream, mark: str) -> None:
    """Until the stream's client, which doesn't read, has brought its upstream to a halt."""
    while True:
        chunks = row_of(upstream, mark).chunks
        await trio.sleep(0.2)
        if 0 < chunks == row_of(upstream, mark).chunks:
            return


async def test_the_death_of_the_older_one_s_worker_lets_the_newer_one_in(four, port, upstream):
    older, newer = marker("older"), marker("newer")
    async with Client(port) as first:
        response = await first.post(chat(LONG, older), headers={"x-request-id": older, "x-session-id": "s"})
        await response.receive()

        async def holder() -> list[int]:
            return [worker.pid for worker in (await four.status()).workers if worker.streams]

        [pid] = await wait_until(holder, "the stream in a worker's status")
        os.kill(pid, signal.SIGKILL)
        await wait_until(lambda: row_of(upstream, older).outcome != "open", "the older one's end")
        async with Client(port) as second:
            answer = await second.post(chat("fake/text-2", newer), headers={"x-request-id": newer, "x-session-id": "s"})
            assert answer.status == 200
            assert (await answer.read()).endswith(b"data: [DONE]\n\n")
    assert (await four.record(older))["error_type"] == "worker_died"
