"""`worker.agent.fetch`: what is refused, where a connection goes, and the bounds on what comes back."""

import gzip
import socket
import zlib

import pytest
import trio
from fakes.certificate import client_context, self_signed, server_context
from fakes.file_tools import NoLink
from fakes.upstream import FIN, HANG, LAST_CHUNK, RESET, chunk, head, serve_upstream, whole

from shared.config import Agent
from worker.agent import fetch as module
from worker.agent.errors import ToolError
from worker.agent.fetch import MAX_BYTES, Fetcher, Page, resolve_name
from worker.agent.threads import AbandonedThreads, Threads
from worker.upstream.wire import connect_address

PUBLIC = "93.184.216.34"
HTML = {"content-type": "text/html"}


class Web:
    """Names, and the servers at their addresses: all of them are `upstream`."""

    def __init__(self, upstream, ssl_context=None):
        self.upstream = upstream
        self.names = {"public.test": [PUBLIC]}
        self.resolved = []
        self.connected = []
        self.refuses = set()
        self.threads = Threads(Agent(), AbandonedThreads(NoLink()), "0" * 32)
        self.fetcher = Fetcher(resolve=self.resolve, connect=self.connect, ssl_context=ssl_context)

    def resolve(self, host, port):
        self.resolved.append(host)
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.names[host]

    async def connect(self, address, port):
        self.connected.append((address, port))
        if address in self.refuses:
            raise ConnectionRefusedError(111, "Connection refused")
        return await connect_address("127.0.0.1", self.upstream.port)

    async def get(self, url="http://public.test/page", **options) -> Page:
        return await self.fetcher.get(url, self.threads, **options)

    async def refused(self, url="http://public.test/page", **options) -> str:
        with pytest.raises(ToolError) as caught:
            await self.get(url, **options)
        return str(caught.value)


@pytest.fixture
async def web(upstream):
    return Web(upstream)


# --- hostile URLs: refused, and nothing was ever connected to

HOSTILE = {
    "file:///etc/passwd": "only http:// and https://",
    "gopher://127.0.0.1:70/_x": "only http:// and https://",
    "ftp://public.test/": "only http:// and https://",
    "data:text/html,x": "only http:// and https://",
    "javascript:alert(1)": "only http:// and https://",
    "dict://public.test:11211/": "only http:// and https://",
    "unix:///run/docker.sock": "only http:// and https://",
    "//public.test/": "only http:// and https://",
    "public.test/page": "only http:// and https://",
    "": "only http:// and https://",
    "http:///etc/passwd": "names no host",
    "http:public.test": "names no host",
    "http://:80/": "names no host",
    "http://127.0.0.1/": "this machine",
    "http://127.1.2.3:8080/": "this machine",
    "http://0.0.0.0/": "this machine",
    "http://[::]/": "this machine",
    "http://[::1]/": "this machine",
    "http://[0:0:0:0:0:0:0:1]:8000/": "this machine",
    "http://[::ffff:127.0.0.1]/": "this machine",
    "http://[::ffff:7f00:1]/": "this machine",
    "http://[::127.0.0.1]/": "a reserved range",
    "http://[64:ff9b::7f00:1]/": "this machine",
    "http://[2002:7f00:1::]/": "this machine",
    "http://[fe80::1]/": "a link-local network",
    "http://[fe80::1%25eth0]/": "characters that no name has",
    "http://[fd00::1]/": "a private network",
    "http://169.254.169.254/latest/meta-data/": "a link-local network",
    "http://[::ffff:169.254.169.254]/": "a link-local network",
    "http://10.0.0.1/": "a private network",
    "http://172.16.0.1/": "a private network",
    "http://192.168.1.1/": "a private network",
    "http://100.64.0.1/": "a carrier's private network",
    "http://224.0.0.1/": "a multicast group",
    "http://255.255.255.255/": "a reserved range",
    "http://localhost/": "this machine",
    "http://LOCALHOST:3000/": "this machine",
    "http://localhost./": "this machine",
    "http://x.localhost/": "this machine",
    "https://localhost/": "this machine",
    "http://127。0。0。1/": "this machine",  # ideographic full stops
    "http://１２７.０.０.１/": "no URL",
    "http://127.0.0.1%00.public.test/": "characters that no name has",
    "http://public%2etest/": "characters that no name has",
    "http://0177.0.0.1/": "no URL",
    "http://user:secret@public.test/": "user name or password",
    "http://public.test@127.0.0.1/": "user name or password",
    "http://public.test:80@127.0.0.1/": "user name or password",
    "http://public.test\\@127.0.0.1/": "backslash",
    "http:\\\\127.0.0.1\\": "backslash",
    "http://public.test/\r\nHost: localhost": "control character",
    "http://public.test/a b": "blank",
    "\x00http://public.test/": "control character",
    "http://public.test:0/": "port 0",
    "http://public.test:22/": "port 22",
    "http://public.test:25/": "port 25",
    "http://public.test:6667/": "port 6667",
    "http://public.test:65536/": "no port",
    "http://public.test:99999999999999999999/": "",
    "http://[::1/": "no URL",
    "http://public.test/" + "a" * 5000: "longer than",
    "http://unknown.test/": "can't be resolved",
    f"http://{'a' * 300}.test/": "can't be resolved",
}


@pytest.mark.parametrize(("url", "why"), HOSTILE.items(), ids=[repr(url)[:60] for url in HOSTILE])
async def test_hostile_urls(web, url, why):
    assert why in await web.refused(url)
    assert web.connected == []


# What the system's own resolver takes for an address, though it isn't written as one.
SPELLED = ["2130706433", "0x7f000001", "0x7f.1", "017700000001", "127.1", "127.0.1", "0", "00", "0x0"]


@pytest.mark.parametrize("host", SPELLED)
async def test_addresses_in_disguise(upstream, host):
    web = Web(upstream)
    web.resolve = resolve_name
    web.fetcher = Fetcher(resolve=resolve_name, connect=web.connect)
    assert "this machine" in await web.refused(f"http://{host}:{upstream.port}/")
    assert web.connected == []


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.1.2.3"],
        ["::1"],
        ["fe80::1%2"],
        ["::ffff:192.168.0.1"],
        ["169.254.169.254"],
        [PUBLIC, "127.0.0.1"],
        ["2606:4700:4700::1111", PUBLIC, "fd00::1"],
        [],
    ],
)
async def test_names_that_mean_something_private(web, addresses):
    web.names["public.test"] = addresses
    said = await web.refused()
    assert "public address" in said if addresses else "no address" in said
    assert web.connected == []


async def test_a_name_is_resolved_once_and_what_was_judged_is_connected_to(web):
    answers = [[PUBLIC], ["127.0.0.1"]]
    web.resolve = lambda host, port: answers.pop(0)
    web.fetcher = Fetcher(resolve=web.resolve, connect=web.connect)
    await web.get()
    assert web.connected == [(PUBLIC, 80)]
    assert len(answers) == 1


# --- redirects


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("http://169.254.169.254/latest/meta-data/", "a link-local network"),
        ("http://127.0.0.1:8000/", "this machine"),
        ("//127.0.0.1/", "this machine"),
        ("http://[::1]/", "this machine"),
        ("http://localhost/", "this machine"),
        ("http://rebound.test/", "this machine"),
        ("file:///etc/passwd", "only http://"),
        ("gopher://public.test/", "only http://"),
        ("http://user@public.test/", "user name"),
        ("http://public.test:25/", "port 25"),
        ("/a\\b", "backslash"),
        ("http://[", ""),
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_judged_anew(web, upstream, location, why, status):
    web.names["rebound.test"] = ["127.0.0.1"]
    upstream.script(whole(status, b"", {"location": location}))
    assert why in await web.refused()
    assert web.connected == [(PUBLIC, 80)]


async def test_redirects_are_followed(web, upstream):
    web.names["www.public.test"] = ["93.184.216.35"]
    upstream.script(whole(301, b"moved", {"location": "http://www.public.test:8080/a/?x=1#part"}))
    upstream.script(whole(302, b"", {"location": "../b"}))
    upstream.script(whole(200, b"here", HTML))
    page = await web.get()
    assert page == Page("http://www.public.test:8080/b", "text/html", b"here", False)
    assert web.connected == [(PUBLIC, 80), ("93.184.216.35", 8080), ("93.184.216.35", 8080)]
    assert [request.path for request in upstream.requests] == ["/page", "/a/?x=1", "/b"]
    assert [request.headers["host"] for request in upstream.requests] == ["public.test", *["www.public.test:8080"] * 2]


async def test_redirects_are_bounded(web, upstream):
    upstream.default = [whole(302, b"", {"location": "/again"})]
    assert "redirects more than 5 times" in await web.refused()
    assert len(upstream.requests) == 6


async def test_the_operators_own_endpoint(web, upstream):
    url = f"http://127.0.0.1:{upstream.port}/search?q=x"
    upstream.script(whole(302, b"", {"location": "/there"}))
    upstream.script(whole(200, b"found"))
    assert (await web.get(url, trusted=True)).body == b"found"
    upstream.script(whole(302, b"", {"location": "http://127.0.0.1:9999/"}))
    assert "this machine" in await web.refused(url, trusted=True)


# --- connections


async def test_what_is_sent(web, upstream):
    await web.get("http://PUBLIC.test:8080/p?q=ü#fragment")
    [request] = upstream.requests
    assert (request.method, request.path) == ("GET", "/p?q=%C3%BC")
    assert request.headers["host"] == "public.test:8080"
    assert set(request.headers) == {"host", "user-agent", "accept", "accept-encoding", "connection"}
    await request.closed.wait()


async def test_the_next_address_is_tried(web, upstream):
    web.names["public.test"] = ["2606:4700:4700::1111", PUBLIC]
    web.refuses = {"2606:4700:4700::1111"}
    await web.get()
    assert web.connected == [("2606:4700:4700::1111", 80), (PUBLIC, 80)]
    web.refuses.add(PUBLIC)
    assert "no connection to public.test: Connection refused" in await web.refused()


async def test_both_families_are_tried(web):
    web.names["public.test"] = [*(f"2606:4700:4700::{number}" for number in range(9)), PUBLIC]
    web.refuses = set(web.names["public.test"]) - {PUBLIC}
    await web.get()
    assert web.connected == [("2606:4700:4700::0", 80), (PUBLIC, 80)]


async def test_no_proxy_of_the_environment(web, upstream, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    await web.get()
    assert web.connected == [(PUBLIC, 80)]
    assert upstream.requests[0].path == "/page"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("fetch"), "DNS:public.test")


async def test_tls_is_checked_against_the_name(certificate):
    async with serve_upstream(server_context(certificate)) as upstream:
        web = Web(upstream, client_context(certificate))
        web.names["other.test"] = [PUBLIC]
        upstream.default = [whole(200, b"secret", HTML)]
        assert (await web.get("https://public.test/")).body == b"secret"
        assert web.connected == [(PUBLIC, 443)]
        assert "certificate is not trusted" in await web.refused("https://other.test/")
        assert "certificate is not trusted" in await web.refused(f"https://{PUBLIC}/")
        web = Web(upstream)
        assert "certificate is not trusted" in await web.refused("https://public.test/")
        await upstream.wait_open(0)


# --- what comes back


async def test_bodies_of_every_framing(web, upstream):
    upstream.script(head(200, HTML, chunked=True), chunk(b"one "), chunk(b"two"), LAST_CHUNK)
    upstream.script(head(200, HTML), b"one ", b"two", FIN)
    upstream.script(whole(200, b"one two", HTML))
    for _ in range(3):
        assert await web.get() == Page("http://public.test/page", "text/html", b"one two", False)


@pytest.mark.parametrize("status", [204, 400, 401, 403, 404, 418, 429, 500, 503, 599])
async def test_failures_are_told(web, upstream, status):
    upstream.script(head(status, {"content-length": "0"}))
    if status == 204:
        assert (await web.get()).body == b""
    else:
        assert f"public.test/page answered {status}" in await web.refused("http://public.test/page?key=secret")


async def test_the_query_is_not_repeated_in_errors(web, upstream):
    upstream.script(head(500, {"content-length": "0"}))
    assert "secret" not in await web.refused("http://public.test/page?key=secret")


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda data: zlib.compress(data)[2:-4]),
        ("identity", bytes),
        ("GZip", gzip.compress),
    ],
)
async def test_packed_bodies(web, upstream, encoding, pack):
    data = b"hello " * 20_000
    upstream.script(whole(200, pack(data), {"content-encoding": encoding}))
    assert (await web.get()).body == data


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "compress"])
async def test_packings_that_nobody_asked_for(web, upstream, encoding):
    upstream.script(whole(200, b"x", {"content-encoding": encoding}))
    assert "was not asked for" in await web.refused()


async def test_damaged_packing(web, upstream):
    upstream.script(whole(200, gzip.compress(b"hello")[:10] + b"\xff" * 99, {"content-encoding": "gzip"}))
    assert "damaged" in await web.refused()
    upstream.script(whole(200, b"\xff\xff\xff", {"content-encoding": "gzip"}))
    assert "damaged" in await web.refused()


async def endless(_request, connection):
    while True:
        await connection.send(b"x" * 65536)


async def test_a_body_without_end(web, upstream):
    upstream.script(head(200, HTML), endless)
    page = await web.get()
    assert page.is_cut
    assert len(page.body) == MAX_BYTES
    await upstream.wait_open(0)


async def test_a_bomb(web, upstream):
    bomb = gzip.compress(bytes(300 * 1024 * 1024), 9)
    assert len(bomb) < MAX_BYTES
    upstream.script(whole(200, bomb, {"content-encoding": "gzip"}))
    page = await web.get()
    assert page.is_cut
    assert len(page.body) == MAX_BYTES


async def test_packed_nothing_without_end(web, upstream):
    async def send_nothing(_request, connection):
        deflate = zlib.compressobj(wbits=31)
        while True:
            await connection.send(deflate.compress(b"") + deflate.flush(zlib.Z_FULL_FLUSH) * 10_000)

    upstream.script(head(200, {"content-encoding": "gzip"}), send_nothing)
    page = await web.get()
    assert page.is_cut
    assert page.body == b""


async def test_heads_without_end(web, upstream):
    async def send_headers(_request, connection):
        await connection.send(b"HTTP/1.1 200 X\r\n")
        while True:
            await connection.send(b"x-header: value\r\n" * 100)

    upstream.script(send_headers)
    assert "over the bound" in await web.refused()


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ([RESET], "broke off"),
        ([FIN], "broke off"),
        ([head(200, {"content-length": "10"}), b"half", FIN], "broke off"),
        ([head(200, {"content-length": "10"}), b"half", RESET], "broke off"),
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], "broke off"),
        ([b"HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n"], "broke off"),
    ],
)
async def test_broken_servers(web, upstream, steps, why):
    upstream.script(*steps)
    assert why in await web.refused()
    await upstream.wait_open(0)


async def test_silence_is_bounded(web, upstream):
    upstream.script(HANG)
    assert "did not answer within 0.05 s" in await web.refused(timeout=0.05)
    upstream.script(head(200, HTML), b"x", HANG)
    assert "did not answer within 0.05 s" in await web.refused(timeout=0.05)
    await upstream.wait_open(0)


async def test_an_address_that_never_answers(web, monkeypatch):
    monkeypatch.setattr(module, "CONNECT_TIMEOUT", 0.02)

    async def connect(address, port):
        await trio.sleep_forever()

    web.fetcher = Fetcher(resolve=web.resolve, connect=connect)
    assert "no answer within 0.02 s" in await web.refused()


@pytest.mark.parametrize("steps", [[HANG], [head(200, HTML), b"x", HANG]])
async def test_a_cancel_closes_the_connection(web, upstream, steps):
    upstream.script(*steps)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(web.get)
        request = await upstream.wait_request()
        nursery.cancel_scope.cancel()
    with trio.fail_after(1):
        await request.closed.wait()
        await upstream.wait_open(0)
