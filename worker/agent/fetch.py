"""Pages of the public web for a model, which may have been told by a page what to ask for.

    get ── for the URL and each redirect: check ─▶ resolve ─▶ judge every address ─▶ connect to one of those ─▶ GET

What holds for every step, redirects included:

* `http` and `https`, no user name or password, the ports of `_may_use`.
* A name is resolved once, and the addresses that were judged are the ones that are connected to: whatever the name
  means a moment later is never looked up.  A name of which one address is not public is refused whole.
* Certificates are checked against the name in the URL, not against the address.
* No proxy.  One in the environment would resolve the name for itself, and what it finds could not be judged; on a
  machine that reaches the web through a proxy only there is no fetching.
* No cookies, no keys, no `Referer`: nothing of one fetch goes into another.
* Bounds on time, redirects, header bytes, body bytes as they come and as they are unpacked.
"""

import ipaddress
import re
import socket
import ssl
import zlib
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from itertools import zip_longest

import httpx
import trio
from msgspec import Struct

from shared import VERSION
from worker.agent.errors import ToolError
from worker.agent.public_address import why_not_public
from worker.agent.threads import Threads
from worker.upstream.connection import Connection
from worker.upstream.http1 import request_head
from worker.upstream.pool import Origin
from worker.upstream.wire import TcpWire, TlsWire, Wire, connect_address, default_ssl_context

TIMEOUT = 30.0
CONNECT_TIMEOUT = 5.0
"""For one address."""
MAX_ADDRESSES = 4
MAX_REDIRECTS = 5
MAX_BYTES = 2 * 1024 * 1024
"""Of a body, packed and unpacked; what is behind is not read."""
MAX_URL_CHARS = 4096
READ_SIZE = 64 * 1024

_PORTS = {"http": 80, "https": 443}
# Ports above 1023 that serve something else, of the list that browsers block (https://fetch.spec.whatwg.org/#port-blocking):
# a request line could be taken for a command there.
_OTHER_SERVICES = frozenset(
    (1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, *range(6665, 6670), 6679, 6697, 10080)
)
# A name or an address.  A `%` in it, of an encoded character or a scope, every resolver reads in its own way.
_HOST = re.compile(rb"[0-9A-Za-z_.:-]+")
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = (
    ("user-agent", f"kimi-proxy/{VERSION}"),
    ("accept", "text/html, application/xhtml+xml, text/*;q=0.9, application/json;q=0.9, */*;q=0.5"),
    ("accept-encoding", "gzip, deflate"),
    ("connection", "close"),
)

Resolve = Callable[[str, int], Sequence[str]]
"""The addresses of a name, best first.  It blocks, and raises `OSError`."""
Connect = Callable[[str, int], Awaitable[socket.socket]]
"""To an address.  Raises `OSError`."""


class Page(Struct, frozen=True):
    """A successful answer."""

    url: str
    """Where it was found, after redirects."""
    content_type: str
    body: bytes
    is_cut: bool
    """There is more of it."""


def resolve_name(host: str, port: int) -> list[str]:
    """As the system resolves it; see `Resolve`."""
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Fetcher:
    """The way out.  Tests give it names and connections of their own."""

    def __init__(
        self,
        *,
        resolve: Resolve = resolve_name,
        connect: Connect = connect_address,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._resolve = resolve
        self._connect = connect
        self._ssl_context = ssl_context

    async def get(self, url: str, threads: Threads, *, trusted: bool = False, timeout: float = TIMEOUT) -> Page:
        """The page at `url`; `ToolError` says why there is none.  Cancelled, it leaves no socket behind.

        `trusted`: the operator has chosen this URL, so its own scheme, host and port may be any; where it redirects to
        is judged all the same.
        """
        try:
            with trio.fail_after(timeout):
                return await self._follow(url, threads, trusted=trusted)
        except trio.TooSlowError:
            raise ToolError(f"{_named(url)} did not answer within {timeout:g} s") from None

    async def _follow(self, url: str, threads: Threads, *, trusted: bool) -> Page:
        asked = _parse(url)
        trusted_origin = _origin(asked) if trusted else None
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._ask(asked, threads, is_trusted=_origin(asked) == trusted_origin)
            if isinstance(answer, Page):
                return answer
            asked = answer
        raise ToolError(f"{_named(url)} redirects more than {MAX_REDIRECTS} times")

    async def _ask(self, url: httpx.URL, threads: Threads, *, is_trusted: bool) -> Page | httpx.URL:
        """The page, or where it has moved to."""
        origin = _origin(url)
        if not is_trusted and not _may_use(origin.port):
            raise ToolError(f"port {origin.port} is not for web pages: 80, 443 and most from 1024 up are")
        addresses = await self._addresses(origin, threads, is_trusted=is_trusted)
        connection = Connection(await self._wire(origin, addresses), origin, read_size=READ_SIZE)
        try:
            return await _exchange(connection, url)
        except httpx.HTTPError as error:
            raise ToolError(f"{_where(origin)} broke off: {error or type(error).__name__}") from None
        finally:
            connection.close()

    async def _addresses(self, origin: Origin, threads: Threads, *, is_trusted: bool) -> Sequence[str]:
        host = origin.host
        if _is_address(host):
            found: Sequence[str] = [host]
        elif _is_localhost(host) and not is_trusted:
            raise _refused(host, "this machine")
        else:
            try:
                found = await threads.run(self._resolve, host, origin.port)
            except (OSError, UnicodeError) as error:
                reason = getattr(error, "strerror", None) or error
                raise ToolError(f"the name {host} can't be resolved: {reason}") from None
        if not found:
            raise ToolError(f"the name {host} has no address")
        if not is_trusted:
            for address in found:
                if (kind := why_not_public(address)) is not None:
                    raise _refused(host, kind, None if address == host else address)
        return _alternating(found)[:MAX_ADDRESSES]

    async def _wire(self, origin: Origin, addresses: Sequence[str]) -> Wire:
        """A connection to the first of the addresses that takes one."""
        problem = ""
        for address in addresses:
            try:
                with trio.fail_after(CONNECT_TIMEOUT):
                    tcp = TcpWire(await self._connect(address, origin.port))
            except trio.TooSlowError:
                problem = f"no answer within {CONNECT_TIMEOUT:g} s"
                continue
            except OSError as error:
                problem = error.strerror or str(error)
                continue
            if origin.scheme == "http":
                return tcp
            tls = TlsWire(tcp, self._ssl_context or default_ssl_context(), origin.host)
            try:
                await tls.handshake()
            except httpx.ConnectError as error:
                tcp.close()
                raise ToolError(f"{_where(origin)}: {error}") from None
            except BaseException:
                tcp.close()
                raise
            return tls
        raise ToolError(f"no connection to {_where(origin)}: {problem}")


# --- what may be asked for


def _parse(url: str) -> httpx.URL:
    """`url`, if it can mean one thing only."""
    _check_text(url)
    try:
        parsed = httpx.URL(url)
        host = parsed.raw_host
    except (httpx.InvalidURL, UnicodeError, ValueError) as error:
        raise ToolError(f"this is no URL: {error}") from None
    if parsed.scheme not in _PORTS:
        raise ToolError(f"only http:// and https:// can be fetched, not {parsed.scheme or 'a path'}")
    if not host:
        raise ToolError("the URL names no host")
    if not _HOST.fullmatch(host):
        raise ToolError("the URL's host holds characters that no name has")
    if parsed.port is not None and parsed.port > 65535:
        raise ToolError(f"there is no port {parsed.port}")
    if parsed.userinfo or "@" in parsed.netloc.decode("ascii", "replace"):
        raise ToolError("the URL holds a user name or password; those are never sent")
    return parsed.copy_with(fragment=None)


def _check_text(url: str) -> None:
    if len(url) > MAX_URL_CHARS:
        raise ToolError(f"the URL is longer than {MAX_URL_CHARS} characters")
    # Browsers read a backslash as a slash and drop line breaks, others do neither: such URLs are made to confuse.
    if any(char <= " " or char in "\\\x7f" for char in url):
        raise ToolError("the URL holds a backslash, a blank or a control character: write it percent-encoded")


def _origin(url: httpx.URL) -> Origin:
    return Origin(url.scheme, url.raw_host.decode("ascii"), _PORTS[url.scheme] if url.port is None else url.port)


def _may_use(port: int) -> bool:
    """Below 1024 there are the web's own two and services of other kinds; above, pages of any kind live."""
    return port in _PORTS.values() or (port >= 1024 and port not in _OTHER_SERVICES)


def _is_localhost(host: str) -> bool:
    """RFC 6761, 6.3: whatever a resolver says."""
    name = host.lower().rstrip(".")
    return name == "localhost" or name.endswith(".localhost")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _alternating(addresses: Sequence[str]) -> list[str]:
    """IPv6 and IPv4 in turn, the first one first: of networks with both, one may lead nowhere (RFC 8305, section 4)."""
    first = ":" in addresses[0]
    families = [[one for one in addresses if (":" in one) is kind] for kind in (first, not first)]
    return [one for pair in zip_longest(*families) for one in pair if one is not None]


def _refused(host: str, kind: str, address: str | None = None) -> ToolError:
    means = f"means {address}, which is" if address else "is"
    return ToolError(f"{host} {means} no public address but {kind}: only pages of the public web can be fetched")


# --- the exchange


async def _exchange(connection: Connection, url: httpx.URL) -> Page | httpx.URL:
    """The page, or where it has moved to."""
    host = url.netloc.decode("ascii")
    request = httpx.Request("GET", url, headers=[("host", host), *_HEADERS])
    ahead = await connection.ask(request_head(request))
    reader = connection.reader
    headers = httpx.Headers(reader.headers)
    if reader.status in _REDIRECTS and (location := headers.get("location")):
        return _moved(url, location)
    if not 200 <= reader.status < 300:
        raise ToolError(f"{_named(str(url))} answered {reader.status}{_phrase(reader.status)}")
    body, is_cut = await _read(connection, ahead, headers.get("content-encoding", ""))
    return Page(str(url), headers.get("content-type", ""), body, is_cut)


def _moved(url: httpx.URL, location: str) -> httpx.URL:
    _check_text(location)
    try:
        return _parse(str(url.join(location)))
    except httpx.InvalidURL as error:
        raise ToolError(f"{_named(str(url))} redirects to what is no URL: {error}") from None


async def _read(connection: Connection, ahead: bytes, encoding: str) -> tuple[bytes, bool]:
    """The body, unpacked, and whether there is more of it than that."""
    unpack = _unpacker(encoding)
    body = bytearray()
    taken = 0
    data = ahead
    while True:
        if not data and not (data := await connection.receive()):
            return bytes(body), False
        taken += len(data)
        body += unpack(data, MAX_BYTES + 1 - len(body))
        data = b""
        if len(body) > MAX_BYTES:
            return bytes(body[:MAX_BYTES]), True
        if taken > MAX_BYTES:  # blocks that unpack to nothing
            return bytes(body), True


def _unpacker(encoding: str) -> Callable[[bytes, int], bytes]:
    """From bytes, and how many may come of them, to what they hold; what is beyond the end is passed over."""
    match encoding.strip().lower():
        case "" | "identity":
            return lambda data, most: data[:most]
        case "gzip" | "x-gzip" | "deflate":
            return _Inflater().feed
        case _:
            raise ToolError(f"the page is packed in a way that was not asked for: {encoding[:100]}")


class _Inflater:
    """gzip, zlib, and the bare deflate that some servers send in its place."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
        self._begun = False

    def feed(self, data: bytes, most: int) -> bytes:
        """At most `most` bytes; then the rest is lost, as nobody wants more."""
        try:
            out = self._inflate.decompress(data, most)
        except zlib.error as error:
            if self._begun:
                raise ToolError(f"the page is packed, and damaged: {error}") from None
            self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            self._begun = True
            return self.feed(data, most)
        self._begun = True
        return out


# --- words


def _phrase(status: int) -> str:
    try:
        return f" {HTTPStatus(status).phrase}"
    except ValueError:
        return ""


def _named(url: str) -> str:
    """A URL in an error: without its query, where keys are."""
    return url.partition("?")[0].partition("#")[0][:200]


def _where(origin: Origin) -> str:
    return origin.host if origin.port in _PORTS.values() else f"{origin.host}, port {origin.port}"
