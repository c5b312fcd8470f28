import fcntl
import os

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from shared.channel import PROMPT_READS, FrameReader, FrameWriter, open_pipe
from shared.errors import FrameError
from shared.framing import frame


@pytest.fixture
def small_pipe():
    """One page: full after 4096 bytes."""
    return open_pipe(4096)


@pytest.fixture
def ends(small_pipe):
    reader, writer = FrameReader(small_pipe[0]), FrameWriter(small_pipe[1], max_pending_bytes=100_000)
    yield reader, writer
    reader.close()
    writer.close()


def fill(fd):
    """Make the pipe full; how many bytes it took."""
    written = 0
    while True:
        try:
            written += os.write(fd, bytes(4096))
        except BlockingIOError:
            return written


def test_the_pipe_is_non_blocking_and_not_inherited():
    read_fd, write_fd = open_pipe(65536)
    try:
        for fd in (read_fd, write_fd):
            assert not os.get_blocking(fd)
            assert not os.get_inheritable(fd)
        assert fcntl.fcntl(write_fd, fcntl.F_GETPIPE_SZ) == 65536
    finally:
        os.close(read_fd)
        os.close(write_fd)


def test_a_capacity_out_of_reach_still_gives_a_pipe():
    for fd in open_pipe(2**31 - 1):
        os.close(fd)


async def test_an_unqueued_frame_is_in_the_pipe_at_once(ends):
    reader, writer = ends
    writer.send_nowait(b"one")
    writer.send_nowait(b"")
    assert writer.pending_bytes == 0
    assert reader.receive_available_nowait() == [b"one", b""]
    assert reader.receive_available_nowait() == []


@given(st.lists(st.integers(min_value=0, max_value=20_000), min_size=1, max_size=20))
def test_lossless_frames_arrive_whole_and_in_order(sizes):
    payloads = [bytes([index]) * size for index, size in enumerate(sizes)]

    async def main():
        read_fd, write_fd = open_pipe(4096)
        reader, writer = FrameReader(read_fd), FrameWriter(write_fd)
        received = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.run)
            for payload in payloads:
                writer.send_nowait(payload)
            while len(received) < len(payloads):
                received += await reader.receive()
            await writer.wait_flushed()
            assert writer.pending_bytes == 0
            assert writer.dropped == 0
            writer.close()
            assert await reader.receive() == []
            reader.close()
        assert received == payloads

    trio.run(main)


async def test_a_frame_of_megabytes_passes(ends, nursery):
    reader, writer = ends
    nursery.start_soon(writer.run)
    payload = os.urandom(3_000_000)
    writer.send_nowait(payload)
    assert await reader.receive() == [payload]


async def test_congestion_and_relief(ends, nursery):
    reader, writer = ends
    for _ in range(11):
        writer.send_nowait(bytes(10_000))
    assert writer.congested
    nursery.start_soon(writer.run)
    received = []
    while len(received) < 11:
        received += await reader.receive()
    await writer.wait_flushed()
    assert not writer.congested
    nursery.cancel_scope.cancel()


async def test_every_waiter_learns_of_the_flush(ends):
    reader, writer = ends
    writer.send_nowait(bytes(10_000))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.wait_flushed)
        nursery.start_soon(writer.wait_flushed)
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as inner:
            inner.start_soon(writer.run)
            assert await reader.receive() == [bytes(10_000)]
            await writer.wait_flushed()
            inner.cancel_scope.cancel()


async def test_progress_is_dropped_whole_when_the_pipe_is_full_or_frames_wait(ends, small_pipe):
    reader, writer = ends
    assert writer.send_or_drop_nowait(bytes(4000))
    assert not writer.send_or_drop_nowait(bytes(200))
    assert (writer.dropped, writer.pending_bytes) == (1, 0)
    writer.send_nowait(b"x" * 200)
    assert writer.pending_bytes == 204
    assert reader.receive_available_nowait() == [bytes(4000)]
    # The pipe has room now, but overtaking is not allowed.
    assert not writer.send_or_drop_nowait(b"late")
    assert writer.dropped == 2
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        assert await reader.receive() == [b"x" * 200]
        await writer.wait_flushed()
        nursery.cancel_scope.cancel()
    assert writer.send_or_drop_nowait(b"again")
    assert reader.receive_available_nowait() == [b"again"]


async def test_progress_that_fits_in_part_is_sent_to_its_end(ends, nursery):
    reader, writer = ends
    nursery.start_soon(writer.run)
    assert writer.send_or_drop_nowait(b"p" * 9000)
    assert writer.pending_bytes > 0
    assert await reader.receive() == [b"p" * 9000]
    assert writer.dropped == 0


async def test_a_reader_that_left_breaks_the_writer_quietly(small_pipe):
    read_fd, write_fd = small_pipe
    writer = FrameWriter(write_fd)
    fill(write_fd)
    writer.send_nowait(b"queued")
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.run)
            nursery.start_soon(writer.wait_flushed)
            await wait_all_tasks_blocked()
            os.close(read_fd)
    assert writer.broken
    assert (writer.pending_bytes, writer.dropped) == (0, 1)
    writer.send_nowait(b"later")
    assert not writer.send_or_drop_nowait(b"later")
    assert writer.dropped == 3
    writer.close()


async def test_a_send_finds_out_itself_that_the_reader_left(small_pipe):
    os.close(small_pipe[0])
    writer = FrameWriter(small_pipe[1])
    writer.send_nowait(b"x")
    assert writer.broken
    assert writer.dropped == 1
    await writer.run()
    writer.close()
    writer.close()


async def test_closing_wakes_both_ends(small_pipe):
    reader, writer = FrameReader(small_pipe[0]), FrameWriter(small_pipe[1])
    fill(small_pipe[1])
    writer.send_nowait(b"queued")
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.run)
            await wait_all_tasks_blocked()
            writer.close()
    assert writer.dropped == 1
    writer.send_nowait(b"x")
    assert writer.dropped == 2

    other_read, other_write = open_pipe()
    waiting = FrameReader(other_read)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait():
                with pytest.raises(trio.ClosedResourceError):
                    await waiting.receive()

            await wait_all_tasks_blocked()
            waiting.close()
    os.close(other_write)
    reader.close()


async def test_a_cancelled_receive_loses_nothing(ends, small_pipe):
    reader, _ = ends
    data = frame(b"first") + frame(b"second")
    os.write(small_pipe[1], data[:7])
    with trio.move_on_after(0):
        await reader.receive()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.receive)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    os.write(small_pipe[1], data[7:])
    assert await reader.receive() == [b"first", b"second"]


async def test_eof_inside_a_frame_ends_like_any_other(small_pipe):
    reader = FrameReader(small_pipe[0])
    os.write(small_pipe[1], frame(b"whole") + frame(b"torn")[:-2])
    os.close(small_pipe[1])
    assert await reader.receive() == [b"whole"]
    assert await reader.receive() == []
    assert reader.receive_available_nowait() == []
    reader.close()


async def test_garbage_comes_after_the_good_frames(ends, small_pipe):
    reader, _ = ends
    os.write(small_pipe[1], frame(b"good") + b"\xff" * 20)
    assert await reader.receive() == [b"good"]
    # At once, though nothing more comes.
    for _ in range(2):
        with pytest.raises(FrameError):
            await reader.receive()
    with pytest.raises(FrameError):
        reader.receive_available_nowait()


async def test_the_last_words_of_a_dead_peer():
    read_fd, write_fd = open_pipe()
    reader = FrameReader(read_fd)
    payloads = [bytes([number % 256]) * 5000 for number in range(150)]  # more than one read
    for payload in payloads:
        os.write(write_fd, frame(payload))
    os.write(write_fd, frame(b"torn")[:5])
    os.close(write_fd)
    assert reader.receive_available_nowait() == payloads
    reader.close()


async def read_promptly(reader, writer, times):
    """Frames one by one, each read when it is sent."""
    began = trio.current_time()
    for _ in range(times):
        writer.send_nowait(b"0")
        assert await reader.receive() == [b"0"]
    assert trio.current_time() == pytest.approx(began)


async def test_lingering_makes_one_wake_up_of_many_frames(autojump_clock):
    read_fd, write_fd = open_pipe()
    reader, writer = FrameReader(read_fd, linger=0.05), FrameWriter(write_fd)
    await read_promptly(reader, writer, PROMPT_READS)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send():
            for number in range(1, 5):
                writer.send_nowait(b"%d" % number)
                await trio.sleep(0.01)

        assert await reader.receive() == [b"1", b"2", b"3", b"4"]
    reader.close()
    writer.close()


async def test_one_that_says_little_is_heard_at_once(autojump_clock):
    read_fd, write_fd = open_pipe()
    reader, writer = FrameReader(read_fd, linger=0.05), FrameWriter(write_fd)
    for reads in (PROMPT_READS, 1, 3, PROMPT_READS):
        await read_promptly(reader, writer, reads)
        await trio.sleep(0.05 * reads)  # what they cost
    await read_promptly(reader, writer, PROMPT_READS)
    writer.send_nowait(b"1")
    with trio.move_on_after(0.049) as waiting:
        await reader.receive()
    assert waiting.cancelled_caught
    assert await reader.receive() == [b"1"]
    reader.close()
    writer.close()


async def test_what_is_on_its_way():
    read_fd, write_fd = open_pipe()
    reader, writer = FrameReader(read_fd), FrameWriter(write_fd)
    assert (reader.unread_bytes, writer.unread_bytes) == (0, 0)
    writer.send_nowait(b"x" * 6)
    assert (reader.unread_bytes, writer.unread_bytes) == (10, 10)
    for _ in range(3):
        writer.send_nowait(b"y" * 1024 * 1024)  # more than the pipe holds
    assert writer.unread_bytes == 10 + 3 * (1024 * 1024 + 4)
    assert reader.unread_bytes + writer.pending_bytes == writer.unread_bytes
    reader.receive_available_nowait()
    assert reader.unread_bytes == 0
    assert writer.unread_bytes == writer.pending_bytes
    reader.close()
    writer.close()
    assert (reader.unread_bytes, writer.unread_bytes) == (0, 0)
