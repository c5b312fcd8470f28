"""Addresses that are taken, and sockets of the service that are deleted, flooded or spoken to in garbage."""

import contextlib
import os
import signal
import socket

import pytest
import trio
from fakes.faults import fault
from fakes.load import is_refused
from fakes.scene import Scene
from fakes.service import free_port, wait_until

from shared.framing import frame
from supervisor.control import Status, encode

pytestmark = pytest.mark.integration

NOTHING = "nothing"


@fault(
    "the address is in use when the service starts",
    family="Listening",
    saw="–",
    kept="exit code 1 and one sentence that names the address; no process",
    load=0,
    lasting=True,
)
async def test_an_address_in_use_at_the_start(scene: Scene) -> None:
    service = scene.service
    await scene.stop()
    log = len(service.log())
    with socket.create_server(("127.0.0.1", scene.port)):
        service.launch()
        assert await service.wait_exit() == 1
    said = [line for line in service.log()[log:].splitlines() if not line.startswith("timestamp=")]
    assert len(said) == 1
    assert f"{scene.port}" in said[0]
    assert "is in use" in said[0]
    await wait_until(lambda: not service.processes(), "no processes")
    scene.injected()
    service.launch()
    await service.wait_ready()
    await scene.recovered()


@fault(
    "SIGHUP with an address that is in use",
    family="Listening",
    saw=NOTHING,
    kept="the addresses in force; status and log name the one in use",
    lasting=True,
)
async def test_an_address_in_use_at_a_reload(scene: Scene) -> None:
    service = scene.service
    before = await service.wait_serving(2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        service.write_config(scene.config(port=port))
        await service.reload()
        error = (await service.status()).config_error
        assert error is not None
        assert f"port {port}" in error
        assert all([await scene.fresh(dialect) for dialect in ("openai", "anthropic")])
    service.write_config(scene.config())
    scene.injected()
    service.send_signal(signal.SIGHUP)
    await scene.recovered()
    await scene.settle()
    assert scene.not_completed == [], scene.told
    assert await service.worker_pids() == before


@fault(
    "SIGHUP with another address, and back",
    family="Listening",
    saw="open streams were completed; the address that was left was refused",
    kept="a record `completed` for every stream",
    load=0,
)
async def test_another_address(scene: Scene) -> None:
    service, old, new = scene.service, scene.port, free_port()
    slow = [scene.begin("fake/slow-25+text-20"), scene.begin("claude/slow-25+text-20", "anthropic")]
    for asked in slow:
        await asked.wait_bytes()
    service.write_config(scene.config(port=new))
    await service.reload()
    await wait_until(lambda: is_refused(old), "the old address refused")
    scene.port = new
    assert (await service.status()).bind == [f"http://127.0.0.1:{new}"]
    assert all([await scene.fresh(dialect) for dialect in ("openai", "anthropic")])
    scene.port = old
    service.write_config(scene.config())
    scene.injected()
    await service.reload()
    await scene.recovered()
    assert {(await asked.wait()).outcome for asked in slow} == {"completed"}
    await wait_until(lambda: is_refused(new), "the new address refused")


async def admin(scene: Scene, data: bytes, *, end: bool = True) -> bytes:
    """Say something to the admin socket; all that it answers."""
    async with await trio.open_unix_socket(os.fspath(scene.service.paths.admin_socket)) as stream:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(data)
            if end:
                await stream.send_eof()
        answer = b""
        with contextlib.suppress(trio.BrokenResourceError):
            while more := await stream.receive_some():
                answer += more
        return answer


@fault(
    "garbage, a frame of 4 GB and half a request on the admin socket",
    family="Listening",
    saw=NOTHING,
    kept="everything; the admin socket answers with a refusal",
)
async def test_garbage_on_the_admin_socket(scene: Scene) -> None:
    request = frame(encode(Status()))
    scene.injected()
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 200_000, frame(b"\xc1garbage"), request[:-1], b""):
        answer = await admin(scene, data)
        assert b"StatusReply" not in answer
    assert b"StatusReply" in await admin(scene, request)
    await scene.recovered()
    await scene.settle()
    assert scene.not_completed == [], scene.told


@fault(
    "300 connections to the admin socket that say nothing",
    family="Listening",
    saw=NOTHING,
    kept="everything; status is answered meanwhile",
)
async def test_a_flooded_admin_socket(scene: Scene) -> None:
    path = os.fspath(scene.service.paths.admin_socket)
    async with contextlib.AsyncExitStack() as stack:
        scene.injected()
        for _ in range(300):
            await stack.enter_async_context(await trio.open_unix_socket(path))
        await scene.recovered()
        await scene.completed_more()
    await scene.settle()
    assert scene.not_completed == [], scene.told
