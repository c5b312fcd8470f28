import os
import time

from fakes.descriptors import no_descriptors_left
from fakes.gateway import make_config, serve_gateway
from fakes.upstream import HANG, chunk, head, openai_chunk, serve_upstream

from worker.clock import rss_bytes

SSE = head(200, {"content-type": "text/event-stream"}, chunked=True)
HELLO = openai_chunk({"content": "hello world"})


async def test_beats_tell_how_far_streams_have_come():
    async with serve_upstream() as upstream, serve_gateway(make_config(upstream)) as gateway:
        upstream.script(SSE, chunk(HELLO * 10), HANG)
        client = await gateway.connect()
        await client.ask()
        await client.head()
        await gateway.wait(lambda: bool(gateway.beats and gateway.beats[-1].progress))
        beat = gateway.beats[-1]
        assert (beat.streams, beat.connections, beat.dropped) == (1, 1, 0)
        assert beat.rss_bytes > 1_000_000
        [progress] = beat.progress
        assert progress.id == gateway.started[0].id
        assert progress.received_bytes == len(HELLO * 10)
        assert 10 <= progress.tokens <= 40


async def test_a_pause_of_the_process_is_no_silence_of_the_upstream():
    """What waits in the sockets is read before anybody is called overdue, and the beat tells of the pause."""
    async with serve_upstream() as upstream:
        config = make_config(upstream, provider={"chunk_timeout": 0.4})
        async with serve_gateway(config) as gateway:
            connections = []

            async def remember(_request, connection):
                connections.append(connection)

            upstream.script(SSE, chunk(HELLO), remember, HANG)
            client = await gateway.connect()
            await client.ask()
            await client.head()
            await client.piece()
            await gateway.wait(lambda: bool(connections))
            os.write(connections[0].socket.fileno(), chunk(HELLO))
            time.sleep(0.8)  # noqa: ASYNC251  the loop stands still: that is the point
            assert await client.piece() == HELLO.encode()
            os.write(connections[0].socket.fileno(), chunk(openai_chunk({}, "stop") + "data: [DONE]\n\n"))
            assert (await client.body()).endswith(b"[DONE]\n\n")
            assert (await gateway.wait_record()).status == "completed"
            await gateway.wait(lambda: any(beat.lag > 0.5 for beat in gateway.beats))


def test_rss():
    assert 1_000_000 < rss_bytes() < 1 << 40
    with no_descriptors_left():  # the beat goes on
        assert 1_000_000 < rss_bytes() < 1 << 40
