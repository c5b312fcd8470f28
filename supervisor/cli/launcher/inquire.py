"""One HTTP request, to its end or to the reason why there was no answer, in words for a person."""

import errno
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Literal

import httpx
import trio
from msgspec import Struct

from shared.proxies import proxy_for

Step = Literal["DNS", "TCP", "TLS", "HTTP"]
"""Of the way to an answer, in their order; of an address there is no DNS, of `http:` no TLS."""
NetworkKind = Literal["dns", "connect", "tls", "proxy", "timeout", "broken"]

MAX_BODY_BYTES = 1024 * 1024
_TIDY = 0.5
_NO_WAY = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL}
_RESOLVER_SILENT = {socket.EAI_AGAIN, socket.EAI_FAIL}


class Answer(Struct, frozen=True, kw_only=True):
    """A response, whatever its status.  Names of headers are in lower case; a larger body is cut."""

    status: int
    headers: dict[str, str]
    body: bytes


class Failure(Struct, frozen=True, kw_only=True):
    """Why there is no answer: a clause each, without a full stop."""

    kind: NetworkKind
    problem: str
    fix: str


class Outcome(Struct, frozen=True, kw_only=True):
    """What came of a request; exactly one of `answer` and `failure` is there."""

    answer: Answer | None = None
    failure: Failure | None = None
    passed: tuple[Step, ...] = ()
    seconds: float = 0.0


class Inquiry(Struct, frozen=True, kw_only=True):
    """A request to make.  `direct`: past the proxies of the environment; `uds`: through this UNIX socket."""

    url: str
    method: str = "POST"
    headers: Mapping[str, str] = {}
    body: bytes = b""
    direct: bool = False
    uds: str | None = None
    ssl_context: ssl.SSLContext | None = None


def inquire(asked: Inquiry, timeout: float) -> Outcome:
    """Make the request, within `timeout` seconds in all, and follow no redirect.

    Blocks, and raises nothing but `KeyboardInterrupt`, after which no connection is left.
    """
    run = _Run(asked, timeout)
    # Signal handlers of all kinds raise in this thread, which trio's own would not survive.
    thread = threading.Thread(target=trio.run, args=[run.main], daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:
        run.cancel()
        thread.join(_TIDY)
        raise
    assert run.outcome is not None
    return run.outcome


class _Run:
    """A request in a thread of its own."""

    def __init__(self, asked: Inquiry, timeout: float) -> None:
        self.outcome: Outcome | None = None
        self._asked = asked
        self._timeout = timeout
        self._scope = trio.CancelScope()
        self._token: trio.lowlevel.TrioToken | None = None

    async def main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with self._scope:
            self.outcome = await _inquire(self._asked, self._timeout)

    def cancel(self) -> None:
        """From another thread."""
        if self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._scope.cancel)


async def _inquire(asked: Inquiry, timeout: float) -> Outcome:
    began = time.monotonic()
    proxy = None if asked.direct or asked.uds else proxy_for(httpx.URL(asked.url))
    way = _Way(asked, proxy)
    failure: Failure | None = None
    answer: Answer | None = None
    # httpx bounds each step, and tidies up when one takes too long, as it does not when it is cancelled in a handshake.
    with trio.move_on_after(timeout + _TIDY):
        try:
            answer = await _exchange(asked, proxy, way, timeout)
        except httpx.TimeoutException:
            failure = way.too_slow(timeout)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ImportError, ValueError) as error:
            failure = way.explain(error)
    if answer is None and failure is None:
        failure = way.too_slow(timeout)
    return Outcome(answer=answer, failure=failure, passed=tuple(way.passed), seconds=time.monotonic() - began)


async def _exchange(asked: Inquiry, proxy: str | None, way: "_Way", timeout: float) -> Answer:
    transport = httpx.AsyncHTTPTransport(
        verify=asked.ssl_context or httpx.create_ssl_context(), proxy=proxy, uds=asked.uds, trust_env=False
    )
    headers = [(name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in
               asked.headers.items()]  # fmt: skip
    async with httpx.AsyncClient(transport=transport, timeout=timeout) as client:
        request = client.build_request(asked.method, asked.url, headers=headers, content=asked.body or None)
        request.extensions["trace"] = way.trace
        response = await client.send(request, stream=True)
        try:
            body = b""
            async for data in response.aiter_raw():
                body += data
                if len(body) > MAX_BODY_BYTES:
                    break
        finally:
            await response.aclose()
    heads = {name.lower(): value for name, value in response.headers.items()}
    return Answer(status=response.status_code, headers=heads, body=body[:MAX_BODY_BYTES])


class _Way:
    """How far a request has come, and what to say of its failure there."""

    def __init__(self, asked: Inquiry, proxy: str | None) -> None:
        url = httpx.URL(asked.url)
        self.passed: list[Step] = []
        self._proxy = httpx.URL(proxy) if proxy else None
        self._place = asked.uds or url.netloc.decode("ascii")
        self._host = self._proxy.host if self._proxy else url.host
        self._named = asked.uds is None and not _is_address(self._host)

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """httpcore's `trace` extension."""
        match event.partition(".")[2]:
            case "connect_tcp.complete" | "connect_unix_socket.complete":
                self._pass("DNS") if self._named else None
                self._pass("TCP")
            case "start_tls.complete":
                self._pass("TLS")
            case "receive_response_headers.complete":
                self._pass("HTTP")

    def _pass(self, step: Step) -> None:
        if step not in self.passed:
            self.passed.append(step)

    def too_slow(self, timeout: float) -> Failure:
        """The time was up."""
        wait = f"within {timeout:g} s"
        if "TCP" not in self.passed:
            return Failure(
                kind="timeout",
                problem=f"{self._whom()} can't be reached {wait}",
                fix=f"look at the network connection{self._through()}: a firewall may drop what is sent",
            )
        what = "answered only in part" if "HTTP" in self.passed else "took the request, but did not answer"
        return Failure(
            kind="timeout",
            problem=f"{self._place} {what} {wait}",
            fix="try again, or another model: this one is overloaded, or thinks for long",
        )

    def explain(self, error: Exception) -> Failure:
        """The sentence for what was raised."""
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, ssl.SSLError):
                return self._tls(cause)
            if isinstance(cause, socket.gaierror):
                return self._dns(cause)
        if isinstance(error, httpx.ProxyError | ImportError | ValueError) and self._proxy is not None:
            return Failure(
                kind="proxy",
                problem=f"the proxy {self._whom()} refuses: {_words(error)}",
                fix="correct HTTPS_PROXY, HTTP_PROXY or ALL_PROXY in the environment, or name the host in NO_PROXY",
            )
        system = next((cause for cause in causes if isinstance(cause, OSError) and cause.errno), None)
        if "TCP" not in self.passed:
            return self._connect(system, error)
        return Failure(
            kind="broken",
            problem=f"{self._place} broke off before its answer was whole ({_words(system or error)})",
            fix="correct base_url (is it http where https belongs?), or try again",
        )

    def _dns(self, error: socket.gaierror) -> Failure:
        if error.errno in _RESOLVER_SILENT:
            return Failure(
                kind="dns",
                problem=f"the name {self._host} can't be looked up: there is no network, or no name server answers",
                fix="connect this machine to the network, or see /etc/resolv.conf",
            )
        return Failure(
            kind="dns",
            problem=f"there is no host {self._host} ({error.strerror or error})",
            fix=f"correct {self._setting()}, or the name server in /etc/resolv.conf",
        )

    def _connect(self, system: OSError | None, error: Exception) -> Failure:
        if system is not None and system.errno == errno.ECONNREFUSED:
            return Failure(
                kind="connect",
                problem=f"{self._whom()} refuses the connection: nothing listens there",
                fix=f"correct {self._setting()}, or start what should listen there",
            )
        if system is not None and system.errno in _NO_WAY:
            return Failure(
                kind="connect",
                problem=f"there is no way to {self._whom()} ({_words(system)})",
                fix="connect this machine to the network",
            )
        return Failure(
            kind="connect",
            problem=f"{self._whom()} can't be reached ({_words(system or error)})",
            fix=f"correct {self._setting()}, or look at the network connection",
        )

    def _tls(self, error: ssl.SSLError) -> Failure:
        if isinstance(error, ssl.SSLCertVerificationError):
            return Failure(
                kind="tls",
                problem=f"{self._place} has a certificate that is not to be trusted ({error.verify_message})",
                fix="see that the clock is right; if the network has a certificate of its own, name its file in"
                " SSL_CERT_FILE",
            )
        return Failure(
            kind="tls",
            problem=f"{self._place} does not speak TLS as it should ({_reason(error)})",
            fix="correct base_url (is it https where http belongs?), or look for what is between, such as a proxy",
        )

    def _whom(self) -> str:
        if self._proxy is None:
            return self._place
        return f"the proxy {self._proxy.host}:{self._proxy.port or ''}".rstrip(":")

    def _through(self) -> str:
        return " and at the proxy" if self._proxy is not None else ""

    def _setting(self) -> str:
        return "HTTPS_PROXY, HTTP_PROXY or ALL_PROXY in the environment" if self._proxy is not None else "base_url"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and all that led to it."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions


def _words(error: BaseException) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".")


def _reason(error: ssl.SSLError) -> str:
    return error.reason.replace("_", " ").lower() if error.reason else _words(error)


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return True
    return False
