"""The admin socket: real clients, good and bad."""

import os
import socket
import stat

import pytest
import trio

from shared.errors import StartError
from shared.framing import MAX_FRAME_BYTES, FrameDecoder, frame
from supervisor import admin
from supervisor.admin import MAX_REQUEST_BYTES, AdminSocket, heir_path, serve_admin
from supervisor.control import Cancelled, CancelStale, Done, DumpStacks, Refused, Reload, Status, decode_reply, encode


@pytest.fixture
def path(tmp_path):
    return tmp_path / "admin.sock"


@pytest.fixture
async def served(path, nursery):
    """The path of a served socket that does what it is asked, and the list of what that was."""
    asked = []

    async def answer(request):
        asked.append(request)
        if isinstance(request, Reload):
            await trio.sleep_forever()
        if isinstance(request, CancelStale):
            return Cancelled(["x" * MAX_FRAME_BYTES])
        return Done("it was done")

    admin = AdminSocket(path)
    await nursery.start(serve_admin, admin.sock, answer)
    yield path, asked
    admin.close()


async def exchange(path, data, *, then_close=False):
    """Send `data`; the replies until the far end closes."""
    decoder, replies = FrameDecoder(), []
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(data)
        if then_close:
            await stream.send_eof()
        with trio.fail_after(20):
            while received := await stream.receive_some():
                replies += map(decode_reply, decoder.receive(received))
    return replies


async def test_a_request_gets_its_reply(served):
    path, asked = served
    assert await exchange(path, frame(encode(DumpStacks()))) == [Done("it was done")]
    assert asked == [DumpStacks()]


async def test_an_answer_that_no_frame_takes_is_refused_and_ends_nothing(served):
    path, _ = served
    [reply] = await exchange(path, frame(encode(CancelStale())))
    assert isinstance(reply, Refused)
    assert reply.message.startswith("the answer is too long")
    assert await exchange(path, frame(encode(Status()))) == [Done("it was done")]


async def test_only_the_first_request_of_a_connection_counts(served):
    path, asked = served
    assert len(await exchange(path, frame(encode(Status())) * 3)) == 1
    assert asked == [Status()]


async def test_a_request_may_come_byte_by_byte(served):
    path, _ = served
    decoder = FrameDecoder()
    async with await trio.open_unix_socket(path) as stream:
        for byte in frame(encode(Status())):
            await stream.send_all(bytes([byte]))
            await trio.lowlevel.checkpoint()
        with trio.fail_after(10):
            [reply] = decoder.receive(await stream.receive_some())
    assert decode_reply(reply) == Done("it was done")


@pytest.mark.parametrize(
    "garbage",
    [
        frame(b""),
        frame(b"\xc1"),
        frame(b"\x81\xa4type\xa4Stop"),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        (MAX_REQUEST_BYTES + 1).to_bytes(4, "big"),
        b"\xff" * 100_000,
    ],
    ids=["empty", "not msgpack", "unknown", "http", "oversized", "flood"],
)
async def test_garbage_is_refused_and_harms_nobody(served, garbage):
    path, asked = served
    try:
        replies = await exchange(path, garbage)
    except trio.BrokenResourceError:  # closed with our bytes unread
        replies = []
    assert all(isinstance(reply, Refused) for reply in replies)
    assert asked == []
    assert await exchange(path, frame(encode(Status()))) == [Done("it was done")]


async def test_a_client_that_leaves_early_is_forgotten(served):
    path, asked = served
    (await trio.open_unix_socket(path)).socket.close()
    assert await exchange(path, b"\0\0", then_close=True) == [Refused("no request came")]
    assert await exchange(path, frame(encode(Status()))) == [Done("it was done")]
    assert asked == [Status()]


async def test_a_client_that_says_nothing_is_let_go(served, monkeypatch):
    monkeypatch.setattr(admin, "CLIENT_TIMEOUT", 0.05)
    path, _ = served
    assert await exchange(path, b"\0") == [Refused("no request came")]


async def test_a_slow_answer_holds_up_nobody_else(served):
    path, asked = served
    async with await trio.open_unix_socket(path) as slow:
        await slow.send_all(frame(encode(Reload())))
        for _ in range(100):
            assert await exchange(path, frame(encode(Status()))) == [Done("it was done")]
    assert asked.count(Status()) == 100


def test_the_file_is_for_its_owner_alone(path):
    before = os.umask(0)
    try:
        admin = AdminSocket(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    admin.close()
    assert not path.exists()
    admin.close()


def test_what_a_dead_instance_left_is_replaced(path):
    AdminSocket(path).sock.close()
    AdminSocket(path).close()


def test_a_folder_that_can_not_hold_it_is_a_start_error(tmp_path):
    with pytest.raises(StartError, match="can't be made"):
        AdminSocket(tmp_path / "missing" / "admin.sock")


@pytest.mark.parametrize("elder_lives", [True, False])
def test_an_heir_takes_the_place_in_one_step(path, elder_lives):
    elder, heir = AdminSocket(path), AdminSocket(heir_path(path))
    if elder_lives:
        elder.hand_over(heir_path(path))
    heir.move(path)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    if elder_lives:
        elder.close()  # leaves the heir's
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        heir.sock.accept()[0].close()
    heir.close()
    assert not path.exists()
    elder.sock.close()
