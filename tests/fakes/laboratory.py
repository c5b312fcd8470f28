"""A scene's service in front of upstreams that misbehave: `fakes.rogue_upstream`, and servers that are not even that.

    rows = Rows()

    @rows.deed
    async def stalls(call: Call) -> None:
        await call.play(call.begin("one ", "two "), HANG)

    @rows.row("stalls in mid-stream", saw="…", kept="…")
    async def test_it_stalls(lab: Lab) -> None:
        for got in await lab.ask("stalls", by="hasty"):
            got.must_break("ReadTimeout")

The providers come with the setup of these rows, or, in a scene with another one, by a reload.  They are:

    rogue, rogue-claude    the rogue, asked in OpenAI's dialect or in Anthropic's, with one retry at once
    hasty, hasty-claude    the same with a short `chunk_timeout`, and no retry
    curt, curt-claude      the same with a short `first_byte_timeout`, and no retry
    refusing               nobody listens                    full           its queue of connections is full
    nowhere                a name that does not exist        deaf           accepts no TLS handshake, nor refuses it
    selfsigned, othername, expired                           TLS with such a certificate
    early                  answers 413 before it has read the request, and hangs up
"""

import json
import shutil
import socket
import subprocess
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from fakes import upstream as raw
from fakes.answers import DIALECTS, Dialect, Got, ask_all, close_clients
from fakes.certificate import COMMAND, self_signed, server_context
from fakes.faults import Stage, fault
from fakes.rogue_upstream import Deed, Rogue, serve_rogue
from fakes.scene import Scene, Setup
from fakes.service import Service, wait_until
from fakes.upstream import Step

HASTY = {"chunk_timeout": 0.4, "max_retries": 0}
CURT = {"first_byte_timeout": 0.3, "max_retries": 0}
CONNECT_TIMEOUT = 0.3
"""Of those with whom no connection comes about."""


@dataclass(frozen=True)
class Ports:
    """The sockets of a service's upstreams, for as long as the service is there."""

    sockets: Mapping[str, socket.socket]
    certificates: Mapping[str, Path]
    fillers: list[socket.socket] = field(default_factory=list)

    def url(self, name: str, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.sockets[name].getsockname()[1]}/v1"

    def close(self) -> None:
        for sock in (*self.sockets.values(), *self.fillers):
            sock.close()


_ports: weakref.WeakKeyDictionary[Service, Ports] = weakref.WeakKeyDictionary()


def install(service: Service) -> None:
    """Add the providers to the configuration, and trust the certificates but one."""
    ports = _open_ports(service.folder)
    _ports[service] = ports
    weakref.finalize(service, ports.close)
    bundle = service.folder / "trusted.pem"
    bundle.write_text("".join(path.read_text() for name, path in ports.certificates.items() if name != "selfsigned"))
    service.env["SSL_CERT_FILE"] = str(bundle)
    service.write_config(service.config_file.read_text() + _providers(ports))


@contextmanager
def installed(service: Service) -> Iterator[None]:
    """The same for a service that is not launched yet; afterwards it has no upstreams any more."""
    install(service)
    try:
        yield
    finally:
        _ports[service].close()


SETUP = Setup(around=installed)


def _open_ports(folder: Path) -> Ports:
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command makes the certificates")
    certificates = {"selfsigned": "IP:127.0.0.1", "othername": "DNS:other.example"}
    files = {}
    for name, of in certificates.items():
        (folder / name).mkdir()
        files[name] = self_signed(folder / name, of)
    files["expired"] = _expired(folder)
    sockets = {
        name: socket.create_server(("127.0.0.1", 0), backlog=0 if name == "full" else 128)
        for name in ("rogue", "early", "deaf", "full", *files)
    }
    sockets["refusing"] = socket.socket()
    sockets["refusing"].bind(("127.0.0.1", 0))
    fillers = []
    for _ in range(4):
        fillers.append(socket.socket())
        fillers[-1].setblocking(False)
        fillers[-1].connect_ex(sockets["full"].getsockname())
    return Ports(sockets, files, fillers)


def _expired(folder: Path) -> Path:
    """A certificate whose time was over before it began."""
    key, request, certificate, both = (folder / f"expired-{name}.pem" for name in ("key", "request", "cert", "both"))
    words = [word for word in COMMAND.replace("CN=fake", "CN=expired").split() if word not in ("-x509", "-days", "2")]
    subprocess.run([*words, "-new", "-keyout", str(key), "-out", str(request)], check=True, capture_output=True)
    names = folder / "expired-names"
    names.write_text("subjectAltName=IP:127.0.0.1")
    sign = ["openssl", "x509", "-req", "-days", "-1", "-in", str(request), "-signkey", str(key), "-extfile", str(names)]
    subprocess.run([*sign, "-out", str(certificate)], check=True, capture_output=True)
    both.write_text(key.read_text() + certificate.read_text())
    return both


def _providers(ports: Ports) -> str:
    text = "\n"
    for name, more in (("rogue", {}), ("hasty", HASTY), ("curt", CURT)):
        text += _provider(name, ports.url("rogue"), **more)
        text += _provider(f"{name}-claude", ports.url("rogue"), dialect="anthropic", **more)
    for name in ("refusing", "early"):
        text += _provider(name, ports.url(name))
    text += _provider("nowhere", "http://nobody.invalid/v1")
    text += _provider("full", ports.url("full"), connect_timeout=CONNECT_TIMEOUT)
    text += _provider("deaf", ports.url("deaf", "https"), connect_timeout=CONNECT_TIMEOUT)
    return text + "".join(_provider(name, ports.url(name, "https")) for name in ports.certificates)


def _provider(name: str, base_url: str, **more: object) -> str:
    values = {"base_url": base_url, "dialect": "openai", "max_retries": 1, "backoff_base": 0.0, **more}
    return "\n".join([f"[providers.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""])


@dataclass(frozen=True)
class Lab:
    """See the module."""

    scene: Scene
    rogue: Rogue
    ports: Ports

    async def ask(
        self,
        *deeds: str,
        by: str = "rogue",
        stream: bool | None = True,
        clients: tuple[Dialect, ...] = DIALECTS,
        upstreams: tuple[Dialect, ...] = DIALECTS,
    ) -> list[Got]:
        """For each deed, clients of both dialects ask the rogue in both, all at once; `stream` None: both ways."""
        names: dict[Dialect, str] = {"openai": by, "anthropic": f"{by}-claude"}
        providers = {dialect: names[dialect] for dialect in upstreams}
        streams = (True, False) if stream is None else (stream,)
        service, port = self.scene.service, self.scene.port
        gots: list[Got] = []

        async def one(deed: str) -> None:
            gots.extend(await ask_all(service, port, deed, providers, clients=clients, stream=streams))

        async with trio.open_nursery() as nursery:
            for deed in deeds:
                nursery.start_soon(one, deed)
        return gots

    async def ask_provider(self, name: str) -> list[Got]:
        """Clients of both dialects ask one of the others."""
        return await ask_all(self.scene.service, self.scene.port, "any", {"openai": name})

    @asynccontextmanager
    async def serve(self, name: str, handler: Any) -> AsyncIterator[None]:
        """Let a handler of trio streams serve one of the sockets."""
        async with trio.open_nursery() as nursery:
            copy = trio.socket.from_stdlib_socket(self.ports.sockets[name].dup())
            nursery.start_soon(trio.serve_listeners, handler, [trio.SocketListener(copy)])
            yield
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def serve_tls(self, name: str) -> AsyncIterator[None]:
        """A TLS server that nobody should talk to."""
        context = server_context(self.ports.certificates[name])

        async def handler(stream: trio.SocketStream) -> None:
            try:
                tls = trio.SSLStream(stream, context, server_side=True)
                await tls.do_handshake()
                await tls.receive_some()
            except trio.BrokenResourceError:
                pass
            finally:
                stream.socket.close()

        async with self.serve(name, handler):
            yield


class Rows(dict[str, Deed]):
    """The deeds of the rogue in one file of rows, and the decorators of both."""

    def deed(self, act: Deed) -> Deed:
        """What the rogue does when it is asked for the model of this name."""
        self[act.__name__] = act  # type: ignore[attr-defined]
        return act

    def row(
        self, name: str, *, saw: str, kept: str
    ) -> Callable[[Callable[[Lab], Awaitable[None]]], Callable[[Stage], None]]:
        """A row of the catalogue that is played in a lab, with no load beside it."""

        def decorate(test: Callable[[Lab], Awaitable[None]]) -> Callable[[Stage], None]:
            async def inject(scene: Scene) -> None:
                async with open_lab(scene, self) as lab:
                    try:
                        await test(lab)
                    finally:
                        close_clients()

            inject.__name__, inject.__doc__, inject.__module__ = test.__name__, test.__doc__, test.__module__
            return fault(name, family="Upstreams", saw=saw, kept=kept, setup=SETUP, load=0, lasting=True)(inject)

        return decorate


def pause(seconds: float) -> Step:
    """A step: nothing for so long."""

    async def step(_request: raw.Request, _connection: raw.Connection) -> None:
        await trio.sleep(seconds)

    return step


async def answer_early(stream: trio.SocketStream) -> None:
    """A handler: 413 for a head, and the end."""
    with closing(stream.socket):
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some(100)
        body = json.dumps({"error": {"message": "too much", "type": "invalid_request_error"}}).encode()
        headers = {"content-type": "application/json", "connection": "close"}
        await stream.send_all(raw.whole(413, body, headers))
        await trio.sleep(0.05)


@asynccontextmanager
async def open_lab(scene: Scene, deeds: Mapping[str, Deed]) -> AsyncIterator[Lab]:
    """A lab whose rogue does these deeds.

    On leaving, the gateway must have let go of every request to it, and the service must answer others as before.
    """
    service = scene.service
    if service not in _ports:
        install(service)
        await service.reload()
    elif "[providers.rogue]" not in service.config_file.read_text():  # another row has written it anew
        service.write_config(service.config_file.read_text() + _providers(_ports[service]))
        await service.reload()
    ports = _ports[service]
    async with serve_rogue(deeds, ports.sockets["rogue"]) as rogue:
        yield Lab(scene, rogue, ports)
        scene.injected()
        await wait_until(lambda: rogue.busy == 0, "the end of all requests to the rogue")
        await scene.recovered()
