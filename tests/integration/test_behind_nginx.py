"""The service behind nginx, HAProxy and Caddy, each with the configuration that docs/examples has for it."""

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from functools import partial

import pytest
import trio
from fakes.certificate import client_context, self_signed
from fakes.http2_client import connect_http2
from fakes.load import BrokenOff, Client, chat, said, steady_load
from fakes.openai_upstream import marker, text_of
from fakes.proxies import EXAMPLES, NAMES, require_proxy, run_proxy
from fakes.service import config_text, run_service, wait_until
from fakes.ws import listen

pytestmark = pytest.mark.integration

CONFIG = """
[proxy.streaming]
ping_interval = 0.2
"""
PATIENCE = "2s"
"""The proxies' with a silent gateway."""
SILENCE = 2.5


@pytest.fixture(scope="module", params=list(NAMES))
def front(request, tmp_path_factory, shared):
    """One proxy after the other, in front of the same service."""
    with run_proxy(request.param, tmp_path_factory.mktemp(request.param), shared.port, patience=PATIENCE) as front:
        yield front


async def test_a_stream_arrives_chunk_by_chunk(front, shared):
    mark = marker("chunks")
    async with Client(front.port) as client:
        response = await client.post(chat("fake/text-8+slow-20", mark))
        assert response.headers["content-type"].startswith("text/event-stream")
        first = await response.receive()
        [row] = shared.openai.rows(mark)
        assert row.outcome == "open"  # the answer is not finished, and yet some of it is here
        body = first + await response.read()
        assert said(body) == "".join(text_of(8))
        assert body.endswith(b"data: [DONE]\n\n")
        # The connection goes on.
        assert client.reuse()
        response = await client.post(chat("fake/text-3", stream=False))
        assert response.status == 200
        await response.read()


async def test_over_tls_and_http2(front, shared):
    if front.tls_port is None:
        pytest.skip("Caddy's example gets its certificate from an authority")
    mark = marker("http2")
    context = client_context(front.certificate)
    body = json.dumps(chat("fake/text-400+slow-20", mark)).encode()
    async with connect_http2(front.tls_port, context) as client:
        id = await client.request("POST", "/v1/chat/completions", body, content_type="application/json")
        assert (await client.head(id))[0] == 200
        await client.until(id, b"data: ")
        [row] = shared.openai.rows(mark)
        assert row.outcome == "open"
        # A stream that is reset is given up; the connection goes on.
        await client.reset(id)
        await wait_until(lambda: row.outcome == "client_closed", "the end of the upstream's connection")
        status, answer = await client.answer(await client.request("GET", "/health"))
        assert (status, json.loads(answer)["status"]) == (200, "ok")


@pytest.mark.parametrize("model", ["fake/text-400+slow-20", "fake/hang-before-headers"])
async def test_a_client_that_leaves_is_gone_upstream_too(front, shared, model):
    mark = marker("abort")
    async with Client(front.port) as client:
        await client.send_request(chat(model, mark))
        if "hang" not in model:
            await (await client.response()).receive()
        rows = await wait_until(lambda: shared.openai.rows(mark), "the request upstream")
    await wait_until(lambda: rows[0].outcome == "client_closed", "the end of the upstream's connection", timeout=3.0)


async def test_silence_is_bridged_by_pings(front, shared):
    mark = marker("silence")
    async with Client(front.port) as client:
        response = await client.post(chat("fake/text-9+hang-after-3", mark))
        body = b""
        until = trio.current_time() + SILENCE
        while trio.current_time() < until or body.count(b": ping\n\n") < 5:
            data = await response.receive()
            assert data, f"{front.name} has ended the stream: {body!r}"
            body += data
        assert said(body) == "".join(text_of(9))[: len(said(body))]
        [row] = shared.openai.rows(mark)
        assert row.outcome == "open"


async def test_a_long_prompt_passes_and_a_longer_one_does_not(front):
    async with Client(front.port) as client:
        response = await client.post(chat("fake/text-3", "word " * 400_000, stream=False))
        assert response.status == 200
        await response.read()
    too_long = 32 * 1024 * 1024 + 1
    async with Client(front.port) as client, trio.open_nursery() as nursery:
        head = f"host: localhost\r\ncontent-type: application/json\r\ncontent-length: {too_long}"
        await client._send(f"POST /v1/messages HTTP/1.1\r\n{head}\r\n\r\n".encode())

        async def send_body() -> None:
            # Caddy, like other servers in Go, may want to see some of the body before it says that it won't have it.
            with suppress(BrokenOff):
                await client._send(b"x" * (too_long if front.name == "caddy" else 1000))

        nursery.start_soon(send_body)
        answer = b""
        with trio.fail_after(10):
            while not answer.endswith(b"}"):
                answer += await client.socket.recv(65536)
        nursery.cancel_scope.cancel()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.split()[1] == b"413"
        assert b"application/json" in head.lower()
        error = json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])
        assert error["error"]["type"] == "request_too_large"


async def test_live_events_come_through_a_websocket(front, shared):
    async with listen(front.port) as listener:
        async with Client(front.port) as client:
            response = await client.post(chat("fake/text-3"))
            await response.read()
        ended = await listener.wait("stream_end", status="completed")
        assert ended["provider"] == "fake"


async def test_the_dashboard_and_errors_come_through(front):
    async with Client(front.port) as client:
        response = await client.post(None, "/")
        assert response.headers["content-type"].startswith("text/html")
        assert b"</html>" in await response.read()
        assert client.reuse()
        response = await client.post(chat("fake/status-429"))
        assert (response.status, response.headers["retry-after"]) == (429, "7")
        assert [json.loads(await response.read())["error"]["message"]]


async def test_by_a_foreign_name_the_gateway_wants_keys(front):
    async with Client(front.port) as client:
        response = await client.post(chat("fake/text-3"), headers={"host": "gateway.example.com"})
        assert response.status == 403
        assert json.loads(await response.read())["error"]["code"] == "bad_host"


async def test_a_roll_of_all_workers_behind_it_loses_nothing(front, shared):
    if front.name == "nginx":
        pytest.skip("nginx has the next test, which is harder")
    service = shared.service
    before = await service.wait_serving(2)
    async with steady_load(front.port, streams=5, rate=20, words=8) as load:
        await wait_until(lambda: load.streams_done >= 2, "streams")
        text = service.config_file.read_text()
        [number] = re.findall(r"max_header_bytes = (\d+)", text) or [65536]
        text = re.sub(r"max_header_bytes = .*\n", "", text)
        text = text.replace("[server]\n", f"[server]\nmax_header_bytes = {int(number) - 1}\n")
        service.write_config(text)
        await service.reload()
        await wait_until(partial(_has_rolled, service, set(before)), "a roll of all workers")
        done = load.streams_done
        await wait_until(lambda: load.streams_done >= done + 5, "streams of the new workers")
    assert load.mishaps == []


async def _has_rolled(service, before):
    workers = await service.serving()
    return len(workers) == 2 and before.isdisjoint(worker.pid for worker in workers)


async def test_an_upgrade_behind_nginx_loses_nothing(tmp_path, port, upstream):
    """Of the clients' requests: the connections that nginx keeps to the gateway end and begin meanwhile."""
    (tmp_path / "nginx").mkdir()
    async with run_service(tmp_path, config_text(port, upstream.base_url), stop=False) as service:
        with run_proxy("nginx", tmp_path / "nginx", port) as front:
            async with steady_load(front.port, streams=10, rate=40, words=10) as load:
                await wait_until(lambda: load.streams_done >= 5, "streams")
                await _command(service, "restart")
                assert (await service.status()).pid != service.pid
                done = load.streams_done
                await wait_until(lambda: load.streams_done >= done + 15, "streams of the new supervisor")
            assert load.mishaps == []
        await _command(service, "stop")
        await wait_until(lambda: not service.processes(), "all processes gone")


async def _command(service, name):
    await trio.run_process(
        [sys.executable, "-m", "supervisor", name],
        env=service.env,
        cwd=service.folder,
        capture_stdout=True,
        capture_stderr=True,
    )


@pytest.mark.parametrize("name", list(NAMES))
def test_the_examples_are_valid_as_they_stand(name, tmp_path):
    program = require_proxy(name)
    path = EXAMPLES / NAMES[name]
    if name == "caddy":
        command = [program, "validate", "--adapter", "caddyfile", "--config", str(path)]
    else:
        both = str(self_signed(tmp_path))
        text = path.read_text()
        for there in ("/etc/nginx/gateway.pem", "/etc/nginx/gateway.key", "/etc/haproxy/gateway.pem"):
            text = text.replace(there, both)
        path = tmp_path / NAMES[name]
        path.write_text(text)
        command = {
            "nginx": [program, "-t", "-e", "stderr", "-g", f"pid {tmp_path}/pid;", "-c", str(path)],
            "haproxy": [program, "-c", "-f", str(path)],
        }[name]
    env = {**os.environ, "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warn" not in (done.stdout + done.stderr).lower().replace("warning: ignoring", ""), done.stderr
