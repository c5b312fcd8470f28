"""A whole worker, but for its process: what it is told on the down pipe, and how it leaves."""

import os
import threading
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
from fakes.gateway import RunningGateway, listen, make_config
from fakes.upstream import HANG, LAST_CHUNK, chunk, head, openai_chunk, serve_upstream

from shared.channel import FrameReader, FrameWriter, open_pipe
from shared.entry import WorkerStart
from shared.messages import CancelStream, Configure, Drain, Stored
from shared.spool import find_spools, read_spool
from worker import main
from worker.link import Link
from worker.streaming import accounting

SSE = head(200, {"content-type": "text/event-stream"}, chunked=True)
HELLO = openai_chunk({"content": "hello world"})
END = openai_chunk({}, "stop") + "data: [DONE]\n\n"


class Guard:
    """Notes the deadlines that would end the process."""

    def __init__(self):
        self.deadlines = []

    def exit_by(self, deadline):
        self.deadlines.append(deadline)


class RunningWorker(RunningGateway):
    """`ended` is set when the worker has left; `spool` is the folder for its records."""

    ended: trio.Event
    guard: Guard
    spool: Path
    stores = True

    def spooled(self):
        return [record for path in find_spools(self.spool) for record in read_spool(path).records]

    async def acknowledge(self):
        """As the supervisor does when its database works."""
        told = 0
        while not self.ended.is_set():
            if self.stores and told < len(self.records):
                told = len(self.records)
                self.command(Stored(told))
            await trio.sleep(0.005)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    """The tests' logging stays as it is."""
    monkeypatch.setattr(main.logs, "configure", lambda *_args, **_context: None)


@asynccontextmanager
async def serve_worker(config):
    """A worker that has said `Ready`; it must have left by itself when the body is done."""
    listener = listen()
    port = listener.getsockname()[1]
    up_read, up_write = open_pipe()
    down_read, down_write = open_pipe()
    spool = TemporaryDirectory()
    start = WorkerStart(
        worker=3, generation=2, supervisor_pid=os.getpid(), config=config, keys={}, spool=f"{spool.name}/spool"
    )
    link, guard = Link(up_write, down_read), Guard()
    worker = main.Worker(start, [listener], link, guard)
    up, down = FrameReader(up_read), FrameWriter(down_write)
    running = None
    try:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                ended = trio.Event()

                async def run():
                    await worker.run()
                    ended.set()

                nursery.start_soon(run)
                [first] = await up.receive()
                assert b"Ready" in first
                running = RunningWorker(worker.gateway, worker.server, port, up, down)
                running.ended, running.guard, running.spool = ended, guard, Path(start.spool)
                nursery.start_soon(running.read_up)
                nursery.start_soon(running.acknowledge)
                yield running
                await ended.wait()
        assert len(running.records) == len(running.started)
        assert not worker.gateway.sessions
        assert not worker.server.connections
        assert worker.gateway.clients.open_connections == 0
    finally:
        if running is not None:
            running.close_clients()
        link.close()
        up.close()
        down.close()
        listener.close()
        spool.cleanup()


async def begin_stream(worker, upstream, *steps):
    """A client that has read the first event."""
    upstream.script(SSE, chunk(HELLO), *steps)
    client = await worker.connect()
    await client.ask()
    await client.head()
    await client.piece()
    return client


async def test_a_configuration_on_the_pipe(upstream):
    async with serve_upstream() as other, serve_worker(make_config(upstream)) as worker:
        worker.command(Configure(make_config(other), {"one": "sk-new"}))
        await worker.wait(lambda: worker.gateway.config.providers["one"].base_url == other.base_url)
        await worker.chat(stream=False)
        assert other.requests[0].headers["authorization"] == "Bearer sk-new"
        worker.command(Drain("shutdown", 0.0))


async def test_a_cancel_on_the_pipe(upstream):
    async with serve_worker(make_config(upstream)) as worker:
        client = await begin_stream(worker, upstream, HANG)
        worker.command(CancelStream("unknown", "admin"))
        worker.command(CancelStream(worker.started[0].id, "registry_new_stream"))
        assert b'"error"' in await client.body()
        record = await worker.wait_record()
        assert (record.error_type, record.start.worker) == ("registry_new_stream", 3)
        worker.command(Drain("shutdown", 0.0))


@pytest.mark.parametrize("mode", ["retire", "shutdown"])
async def test_a_drain_lets_streams_finish(upstream, mode):
    async with serve_worker(make_config(upstream)) as worker:
        go = trio.Event()
        client = await begin_stream(worker, upstream, go, chunk(END), LAST_CHUNK)
        worker.command(Drain(mode, 5.0))
        await worker.wait(lambda: worker.gateway.draining)
        with pytest.raises(OSError, match="refused"):
            await worker.connect()
        go.set()
        assert await client.body() == END.encode()
        if mode == "retire":  # one more request, which is told to go elsewhere
            assert (await client.get("/health"))[0].headers["connection"] == "close"
        await client.wait_eof()
        await worker.ended.wait()
        assert worker.records[0].status == "completed"


async def test_a_shutdown_closes_idle_connections_at_once(upstream):
    async with serve_worker(make_config(upstream)) as worker:
        client = await worker.connect()
        await client.get("/health")
        silent = await worker.connect()
        await worker.wait(lambda: len(worker.server.connections) == 2)
        worker.command(Drain("shutdown", 5.0))
        await client.wait_eof()
        await silent.wait_eof()


async def test_a_retired_worker_closes_idle_connections_after_a_while(upstream, monkeypatch):
    monkeypatch.setattr(main, "RETIRE_LINGER", 0.2)
    async with serve_worker(make_config(upstream)) as worker:
        client = await worker.connect()
        await client.get("/health")
        worker.command(Drain("retire", 5.0))
        await client.wait_eof()


async def test_what_is_left_at_the_deadline_is_cancelled(upstream):
    async with serve_worker(make_config(upstream)) as worker:
        client = await begin_stream(worker, upstream, HANG)
        upstream.script(HANG)
        waiting = await worker.connect()
        await waiting.ask(stream=False)
        await upstream.wait_request(2)
        worker.command(Drain("shutdown", 0.1))
        assert b'"error"' in await client.body()
        assert (await waiting.answer())[0].status == 503
        await client.wait_eof()
        await worker.ended.wait()
        assert {record.error_type for record in worker.records} == {"shutdown"}
        assert len(worker.guard.deadlines) == 1
        assert not worker.spool.exists()


async def test_a_second_drain_replaces_the_deadline(upstream):
    async with serve_worker(make_config(upstream)) as worker:
        client = await begin_stream(worker, upstream, HANG)
        worker.command(Drain("retire", 1000.0))
        worker.command(Drain("shutdown", 0.0))
        assert b'"error"' in await client.body()
        await worker.ended.wait()
        assert worker.guard.deadlines[1] < worker.guard.deadlines[0]


async def test_a_client_that_does_not_read_cannot_hold_a_shutdown(upstream):
    async def flood(_request, connection):
        while not connection.closed.is_set():
            await connection.send(chunk(HELLO * 500))

    async with serve_worker(make_config(upstream)) as worker:
        upstream.script(SSE, flood)
        client = await worker.connect(receive_buffer_bytes=4096)
        await client.ask()
        await worker.wait(lambda: any(c.sending_since is not None for c in worker.server.connections))
        worker.command(Drain("shutdown", 0.0))
        await worker.ended.wait()
        await client.wait_reset()
        assert worker.records[0].error_type == "shutdown"


async def test_a_shutdown_ends_streams_that_drain(upstream):
    config = make_config(upstream, provider={"on_disconnect": "drain"})
    async with serve_worker(config) as worker:
        client = await begin_stream(worker, upstream, HANG)
        client.close()
        await worker.wait(lambda: not worker.server.connections or worker.gateway.sessions.progress() != [])
        worker.command(Drain("shutdown", 0.1))
        await worker.ended.wait()
        assert worker.records[0].status == "cancelled"


@pytest.mark.parametrize("last_words", [b"", b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\xc1"])
async def test_without_its_supervisor_a_worker_drains(upstream, monkeypatch, last_words):
    monkeypatch.setattr(main, "ORPHAN_TIMEOUT", 0.2)
    async with serve_worker(make_config(upstream)) as worker:
        client = await begin_stream(worker, upstream, HANG)
        if last_words:
            os.write(worker.down._fd, last_words)
        else:
            worker.down.close()
        assert b'"error"' in await client.body()
        await worker.ended.wait()
        assert worker.records[0].error_type == "shutdown"
        assert worker.spooled() == worker.records


async def test_without_its_supervisor_the_records_it_has_are_left_in_a_file(upstream, monkeypatch):
    monkeypatch.setattr(main, "ORPHAN_TIMEOUT", 0.5)
    async with serve_worker(make_config(upstream)) as worker:
        await worker.chat(stream=False)
        await worker.wait(lambda: len(worker.records) == 1 and not worker.gateway.link.unstored)
        worker.stores = False
        await worker.chat(stream=False)
        await worker.wait_record(2)
        client = await begin_stream(worker, upstream, chunk(END), LAST_CHUNK)
        worker.down.close()
        await client.body()
        await worker.ended.wait()
        assert [record.status for record in worker.records] == ["completed"] * 3
        assert worker.spooled() == worker.records[1:]


async def test_what_the_supervisor_does_not_store_in_time_is_left_in_a_file(upstream, monkeypatch):
    monkeypatch.setattr(main, "STORE_TIMEOUT", 0.2)
    async with serve_worker(make_config(upstream)) as worker:
        worker.stores = False
        await worker.chat(stream=False)
        await worker.wait_record()
        worker.command(Drain("shutdown", 0.0))
        await worker.ended.wait()
        assert worker.spooled() == worker.records


async def test_a_worker_that_leaves_asks_whether_its_records_are_stored(upstream, monkeypatch):
    monkeypatch.setattr(main, "STORE_TIMEOUT", 1000.0)
    async with serve_worker(make_config(upstream)) as worker:
        worker.stores = False
        await worker.chat(stream=False)
        await worker.wait_record()
        beats = len(worker.beats)
        worker.command(Drain("shutdown", 0.0))
        await worker.wait(lambda: len(worker.beats) > beats + 5)
        worker.stores = True
        await worker.ended.wait()
        assert not worker.spool.exists()


async def test_a_count_that_takes_long_does_not_keep_a_record_from_an_orphan_s_file(upstream, monkeypatch):
    monkeypatch.setattr(main, "ORPHAN_TIMEOUT", 0.0)
    monkeypatch.setattr(main, "ORPHAN_COUNT_SLACK", 0.2)
    counting = threading.Event()

    def count_for_ever(*_):
        counting.wait(10)
        return 0

    monkeypatch.setattr(accounting, "count_tokens", count_for_ever)
    monkeypatch.setattr(accounting, "INLINE_CHARS", 0)
    async with serve_worker(make_config(upstream)) as worker:
        await begin_stream(worker, upstream, HANG)
        worker.down.close()
        await worker.ended.wait()
        counting.set()
        [record] = worker.spooled()
        assert record.completion.count > 0
        assert (record.prompt.source, record.completion.source) == ("partial", "partial")
