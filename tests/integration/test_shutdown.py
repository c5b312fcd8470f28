"""SIGTERM and SIGINT: streams may finish, the rest ends legally, the exit code is 0."""

import json
import signal

import pytest
from fakes.load import PATH, BrokenOff, Client, Response, chat, events, is_refused, said
from fakes.openai_upstream import marker, text_of
from fakes.service import Service, config_text, run_service, wait_until

pytestmark = pytest.mark.integration
LONG = "fake/slow-20+text-2000"


async def begin(client: Client, model: str, mark: str) -> Response:
    """A stream whose first bytes have come."""
    response = await client.post(chat(model, mark), headers={"x-request-id": mark})
    assert b"data: " in await response.receive()
    return response


async def stopping(service: Service, port: int) -> None:
    await wait_until(lambda: service.heard("STOPPING"), "STOPPING=1")
    await wait_until(lambda: is_refused(port), "a refused connection")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_streams_finish_and_new_connections_are_refused(tmp_path, port, upstream, signum):
    config = config_text(port, upstream.base_url, server={"graceful_timeout": 30.0})
    mark = marker("finishes")
    async with run_service(tmp_path, config) as service, Client(port) as client:
        response = await begin(client, "fake/slow-20+text-40", mark)
        if signum == signal.SIGINT:
            service.signal_group(signum)  # as ^C in a terminal, which the workers get as well
        else:
            service.send_signal(signum)
        await stopping(service, port)
        assert (await service.status()).state == "draining"
        body = await response.read()
        assert said(body) == "".join(text_of(40))
        assert list(events(body))[-1] == "[DONE]"
        assert await service.wait_exit() == 0
        assert (await service.record(mark))["status"] == "completed"


async def test_the_rest_is_cancelled_legally(tmp_path, port, upstream):
    config = config_text(port, upstream.base_url, server={"graceful_timeout": 0.5})
    marks = {name: marker(name) for name in ("streaming", "silent", "waiting", "whole")}
    async with run_service(tmp_path, config) as service, Client(port) as a, Client(port) as b:
        streaming = await begin(a, LONG, marks["streaming"])
        silent = await begin(b, "fake/hang-after-3", marks["silent"])
        async with Client(port) as c, Client(port) as d:
            await c.send_request(
                chat("fake/hang-before-headers", marks["waiting"]), headers={"x-request-id": marks["waiting"]}
            )
            await d.send_request(
                chat("fake/hang-before-first", marks["whole"], stream=False), headers={"x-request-id": marks["whole"]}
            )
            await wait_until(lambda: all(upstream.rows(mark) for mark in marks.values()), "all requests upstream")
            service.send_signal(signal.SIGTERM)
            for response in (streaming, silent):
                body = await response.read()  # which has its proper end
                assert b"[DONE]" not in body
                assert list(events(body))[-1]["error"]["type"] == "service_unavailable_error"
            for client in (c, d):
                response = await client.response()
                assert response.status == 503
                assert json.loads(await response.read())["error"]["type"] == "service_unavailable_error"
        assert await service.wait_exit() == 0
        for name, mark in marks.items():
            record = await service.record(mark)
            assert (record["status"], record["error_type"]) == ("cancelled", "shutdown"), name
            [row] = upstream.rows(mark)
            await wait_until(lambda row=row: row.outcome == "client_closed", f"{name}: closed upstream")


async def test_idle_connections_do_not_hold_it_up(tmp_path, port, upstream):
    config = config_text(port, upstream.base_url, server={"graceful_timeout": 600.0})
    async with run_service(tmp_path, config) as service, Client(port) as fresh, Client(port) as used:
        response = await used.post(chat("fake/text-3", stream=False))
        await response.read()
        assert used.reuse()
        service.send_signal(signal.SIGTERM)
        assert await service.wait_exit() == 0
        for client in (fresh, used):
            with pytest.raises(BrokenOff):
                await client.post(chat("fake/text-3"))


async def test_a_request_that_is_still_arriving_is_answered(tmp_path, port, upstream):
    config = config_text(port, upstream.base_url, server={"graceful_timeout": 30.0})
    async with run_service(tmp_path, config) as service, Client(port) as client:
        body = json.dumps(chat("fake/text-3", "late", stream=False)).encode()
        head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        await client.socket.send(head + body[:10])

        async def connected() -> bool:
            return any(worker.connections for worker in (await service.status()).workers)

        await wait_until(connected, "the connection in a worker's beat")
        service.send_signal(signal.SIGTERM)
        await stopping(service, port)
        await client.socket.send(body[10:])
        answer = b""
        while data := await client.socket.recv(65536):
            answer += data
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer
        assert await service.wait_exit() == 0
