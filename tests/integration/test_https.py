"""The service over https: real clients, and certificates that are renewed under its streams."""

import contextlib
import os
import shutil
import signal
import ssl
import subprocess
from collections import Counter
from pathlib import Path

import anthropic
import httpx
import openai
import pytest
import trio
from fakes.certificate import client_context, self_signed
from fakes.http2_client import connect_http2, connect_tls
from fakes.load import chat
from fakes.openai_upstream import marker, text_of
from fakes.service import Service, config_text, run_service, wait_until, watch_over
from msgspec import json

pytestmark = pytest.mark.integration
CHAT = "/v1/chat/completions"


def tls(certificate: Path) -> str:
    return f'[server.tls]\ncert = "{certificate}"\nkey = "{certificate}"\n'


@pytest.fixture
def certificate(tmp_path):
    both = self_signed(tmp_path)
    both.chmod(0o600)
    return both


@pytest.fixture
def workers():
    return 2


@pytest.fixture
async def https(tmp_path, port, upstream, certificate, workers):
    """The service, at https alone."""
    config = config_text(
        port, upstream.base_url, server={"workers": workers}, provider={"backoff_base": 0.0}, more=tls(certificate)
    )
    async with run_service(tmp_path, config) as service:
        yield service


def curl(*arguments: str) -> str:
    return subprocess.run(["curl", "-sS", *arguments], check=True, capture_output=True, text=True, timeout=10).stdout


async def test_real_clients(https: Service, port, upstream, certificate):
    url, context = f"https://127.0.0.1:{port}", client_context(certificate)
    assert (await https.status()).bind == [url]
    assert url in https.log()

    def sdks(http2: bool) -> None:
        settings = {"verify": context, "http2": http2, "http1": not http2}
        with httpx.Client(**settings) as http, anthropic.DefaultHttpxClient(**settings) as other_http:
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, http_client=http)
            messages = [{"role": "user", "content": "hello"}]
            with client.chat.completions.create(model="fake/text-12", messages=messages, stream=True) as stream:
                assert "".join(part.choices[0].delta.content or "" for part in stream) == "".join(text_of(12))
            whole = client.chat.completions.create(model="fake/text-12", messages=messages)
            assert whole.choices[0].message.content == "".join(text_of(12))
            other = anthropic.Anthropic(base_url=url, api_key="any", max_retries=0, http_client=other_http)
            with other.messages.stream(model="fake/text-12", messages=messages, max_tokens=99) as answer:
                assert answer.get_final_text() == "".join(text_of(12))
            mark = marker("left")
            # A client that is closed in the middle of a stream; over HTTP/2 httpx tells of that alone.
            headers = {"x-request-id": mark}
            stream = client.chat.completions.create(
                model="fake/slow-40+text-400", messages=messages, stream=True, extra_headers=headers
            )
            next(iter(stream))
        marks.append(mark)

    marks: list[str] = []
    for http2 in (False, True):
        await trio.to_thread.run_sync(sdks, http2)
    for mark in marks:
        record = await https.record(mark)
        assert (record["status"], record["error_type"]) == ("cancelled", "client_disconnect")
        assert record["cancel_latency"] < 0.5
    await wait_until(lambda: upstream.log[-1].outcome == "client_closed", "the upstream's connection closed")

    if shutil.which("curl") is not None:
        asked = json.encode(chat("fake/text-12")).decode()
        for version, said in (("--http1.1", "1.1"), ("--http2", "2")):
            posted = ["-H", "content-type: application/json", "-d", asked, "-w", "%{http_version}", url + CHAT]
            answer = await trio.to_thread.run_sync(curl, version, "--cacert", str(certificate), *posted)
            assert answer.endswith(f"data: [DONE]\n\n{said}")
        refused = await trio.to_thread.run_sync(curl, f"http://127.0.0.1:{port}/v1/models")
        assert "this port speaks https" in refused


@pytest.mark.parametrize("workers", [1])  # another one may keep what it has of connections to the upstream
async def test_twenty_streams_on_one_connection_leave_nothing_behind(https: Service, port, certificate):
    async def descriptors() -> Counter[str]:
        found: Counter[str] = Counter()
        for pid in await https.worker_pids():
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    found[os.readlink(f"/proc/{pid}/fd/{fd}").partition(":")[0]] += 1
        return found

    for turn in range(2):
        async with connect_http2(port, client_context(certificate)) as client:
            ids = [
                await client.request("POST", CHAT, json.encode(chat("fake/slow-100+text-30", f"{turn}-{number}")))
                for number in range(20)
            ]
            for id in ids:
                status, body = await client.answer(id)
                assert status == 200
                assert body.count(b'"content":') >= 30
            assert len(set(client.order[:60])) > 10
        async with connect_http2(port, client_context(certificate)) as client:
            for _ in ids:
                await client.request("POST", CHAT, json.encode(chat("fake/slow-40+text-400")))
            await client.wait(lambda: len(client.heads) == 20)
        await https.wait_records(40 * (turn + 1))

        async def no_connections() -> bool:
            return not sum(worker.connections for worker in (await https.status()).workers)

        await wait_until(no_connections, "all connections gone")
        if turn == 0:
            before = await descriptors()
    assert await descriptors() == before


async def test_a_renewed_certificate_and_a_broken_one(https: Service, port, upstream, certificate, tmp_path):
    pids = await https.wait_serving(2)
    old, folder = client_context(certificate), tmp_path / "new"
    folder.mkdir()
    new = client_context(self_signed(folder))

    async def served_by(context: ssl.SSLContext) -> bool:
        try:
            stream = await connect_tls(port, context)
        except trio.BrokenResourceError:
            return False
        stream.transport_stream.socket.close()
        return True

    async with connect_http2(port, old) as client:
        running = await client.request("POST", CHAT, json.encode(chat("fake/slow-20+text-60")))
        await client.head(running)

        # Half of a renewal: the key of one, the certificate of the other.
        certificate.write_text(certificate.with_name("key.pem").read_text() + (folder / "cert.pem").read_text())
        await https.reload()
        [failed] = https.events("reload_failed")
        assert str(certificate) in failed["error"]
        assert "does not belong to the first certificate" in failed["error"]
        assert (await https.status()).config_error == failed["error"]
        assert await served_by(client_context(certificate.with_name("cert.pem")))
        certificate.unlink()
        await https.reload()
        assert f"{certificate} can't be read" in https.events("reload_failed")[1]["error"]
        # A worker that is born now has what the others have.
        os.kill(pids[0], signal.SIGKILL)
        await wait_until(lambda: len(https.events("worker_ready")) == 3, "the next worker")
        for _ in range(6):
            assert await served_by(client_context(certificate.with_name("cert.pem")))

        # The other half arrives.
        certificate.write_bytes((folder / "both.pem").read_bytes())
        certificate.chmod(0o644)
        await https.reload()
        assert https.reloads()[-1] == "reload_done"
        assert any("every user of this machine" in event["message"] for event in https.events("config_warning"))
        for _ in range(6):
            await wait_until(lambda: served_by(new), "the new certificate")
        assert not await served_by(client_context(certificate.with_name("cert.pem")))
        if not client.is_over:  # its worker is not the one that was killed
            assert b"data: [DONE]" in (await client.answer(running))[1]
        assert (await https.status()).config_error is None
    workers = [worker.pid for worker in (await https.status()).workers]
    assert pids[1] in workers, "no worker was replaced for a certificate"


async def test_a_start_without_a_certificate_says_what_to_do(tmp_path, port):
    missing = tmp_path / "none.pem"
    service = Service(tmp_path, config_text(port, more=tls(missing)))
    async with watch_over(service, stop=False):
        service.launch()
        assert await service.wait_exit() == 1
        assert (
            f"[server.tls] cert: {missing} can't be read (No such file or directory): correct the path" in service.log()
        )
        assert "Traceback" not in service.log()
