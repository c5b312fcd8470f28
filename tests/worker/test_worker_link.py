import os

import pytest
from fakes.streams import make_record, make_start
from structlog.testing import capture_logs

from shared.channel import FrameReader, FrameWriter, open_pipe
from shared.framing import frame
from shared.messages import CancelStream, Drain, Ready, Stored, StreamEnded, StreamStarted, decode_up, encode
from shared.spool import find_spools, read_spool
from worker.link import Link


@pytest.fixture
def ends():
    up_read, up_write = open_pipe()
    down_read, down_write = open_pipe()
    link = Link(up_write, down_read)
    reader, writer = FrameReader(up_read), FrameWriter(down_write)
    yield link, reader, writer, down_write
    link.close()
    reader.close()
    writer.close()


async def test_messages_both_ways(ends):
    link, reader, writer, _ = ends
    link.send(Ready(pid=1, generation=2))
    assert [decode_up(payload) for payload in await reader.receive()] == [Ready(pid=1, generation=2)]
    writer.send_nowait(encode(Drain("retire", 5.0)))
    writer.send_nowait(encode(CancelStream("s1", "admin")))
    assert await link.receive() == [Drain("retire", 5.0), CancelStream("s1", "admin")]


async def test_the_end_of_the_pipe(ends):
    link, _, writer, _ = ends
    writer.close()
    assert await link.receive() == []


@pytest.mark.parametrize(
    "garbage", [b"\xff\xff\xff\xff", frame(b"nonsense"), frame(encode(Ready(pid=1, generation=1)))]
)
async def test_garbage_is_an_end(ends, garbage):
    link, _, _, fd = ends
    os.write(fd, garbage)
    assert await link.receive() == []


def test_closing_twice(ends):
    ends[0].close()
    ends[0].close()


def ended(*ids):
    return [StreamEnded(make_record(id)) for id in ids]


def spooled(folder):
    return [record.start.id for path in find_spools(folder) for record in read_spool(path).records]


def test_records_are_kept_until_they_are_stored(ends, tmp_path):
    link = ends[0]
    for message in (Ready(pid=1, generation=1), StreamStarted(make_start("a")), *ended("a", "b", "c", "d")):
        link.send(message)
    assert link.unstored == 4
    link.take_stored(Stored(1))
    link.take_stored(Stored(3))
    link.take_stored(Stored(3))
    assert link.unstored == 1
    link.spool(tmp_path)
    assert spooled(tmp_path) == ["d"]


def test_records_of_a_broken_pipe_are_kept_too(ends, tmp_path):
    link, reader, _, _ = ends
    reader.close()
    for message in ended("a", "b"):
        link.send(message)
    link.spool(tmp_path)
    assert spooled(tmp_path) == ["a", "b"]


def test_the_oldest_go_when_there_are_too_many(ends, tmp_path, monkeypatch):
    monkeypatch.setattr("worker.link.MAX_UNSTORED", 2)
    link = ends[0]
    for message in ended("a", "b", "c", "d"):
        link.send(message)
    assert link.unstored == 2
    link.take_stored(Stored(1))
    assert link.unstored == 2
    link.take_stored(Stored(3))
    link.spool(tmp_path)
    assert spooled(tmp_path) == ["d"]


def test_without_unstored_records_there_is_no_file(ends, tmp_path):
    link = ends[0]
    link.send(*ended("a"))
    link.take_stored(Stored(1))
    link.spool(tmp_path / "spool")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_no_file_is_no_crash(ends, tmp_path):
    link = ends[0]
    link.send(*ended("a"))
    (tmp_path / "file").touch()
    with capture_logs() as logs:
        link.spool(tmp_path / "file")
        link.spool(tmp_path / "spool")
    assert [(entry["event"], entry["count"]) for entry in logs] == [("records_not_spooled", 1), ("records_spooled", 1)]
