"""Where keys and prompts go: canaries in all of them, a busy time full of faults, and then a look everywhere."""

import hashlib
import json
import os
import secrets
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from fakes import upstream as raw
from fakes.load import MESSAGES, PATH, BrokenOff, Client, chat, message
from fakes.service import Service, config_text, run_service, wait_until
from fakes.upstream import openai_chunk, serve_upstream
from fakes.ws import listen

pytestmark = pytest.mark.integration

# All that a tool could find out about its own process and about others.
PEEP = "env; tr '\\0' '\\n' < /proc/self/environ; tr '\\0' '\\n' < /proc/$PPID/environ; cat /proc/self/cmdline"


def canary() -> str:
    """A key that looks like none: nothing can blank it out by its looks."""
    return "x" + secrets.token_hex(20)


@dataclass
class Secrets:
    """Each with its own canary."""

    environment: str = field(default_factory=canary)
    file: str = field(default_factory=canary)
    credential: str = field(default_factory=canary)
    client: str = field(default_factory=canary)
    stranger: str = field(default_factory=canary)
    """A key of nobody: what a client sends that was mistaken for a key of ours."""
    prompt: str = field(default_factory=canary)

    @property
    def of_providers(self) -> tuple[str, ...]:
        return self.environment, self.file, self.credential


class Upstream:
    """Does what the model's name says, and repeats the key that it was sent wherever it can."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.bodies: list[bytes] = []
        self.heads: list[bytes] = []

    async def answer(self, request: raw.Request, connection: raw.Connection) -> None:
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        self.keys.add(key)
        self.heads.append(request.raw_head)
        self.bodies.append(request.body)
        said = request.json
        error = {"error": {"message": f"Incorrect API key provided: {key}", "type": "auth", "code": None}}
        event = f"data: {json.dumps(error)}\n\n"
        match said["model"]:
            case "refuses":
                said = {**error, "prompt": said["messages"]}
                await connection.send(raw.json_response(said, 401, {"x-ratelimit-limit": "7"}))
            case "fails":
                await connection.send(raw.whole(500, f"<h1>{key}</h1>".encode(), {"content-type": "text/html"}))
            case "redirects":
                await connection.send(raw.whole(302, b"", {"location": f"http://127.0.0.1:1/?key={key}"}))
            case "is-broken":
                await connection.send(f"HTTP/1.1 200 OK\r\n{key}\x00\r\n\r\n".encode())
                connection.reset()
            case "errs-at-once":
                for part in raw.sse_response([event]):
                    await connection.send(part)
            case "errs":
                for part in raw.sse_response([openai_chunk({"content": "so far"}), event]):
                    await connection.send(part)
            case "hangs":
                await connection.send(raw.head(200, {"content-type": "text/event-stream"}, chunked=True))
                await connection.send(raw.chunk(openai_chunk({"content": "so far"})))
                await request.closed.wait()
            case "peeps" if said["messages"][-1]["role"] != "tool":
                call = {"index": 0, "id": "c1", "type": "function"}
                call["function"] = {"name": "Bash", "arguments": json.dumps({"command": PEEP})}
                end = openai_chunk({}, "tool_calls")
                for part in raw.sse_response([openai_chunk({"tool_calls": [call]}), end, "data: [DONE]\n\n"]):
                    await connection.send(part)
            case _ if said.get("stream"):
                for part in raw.openai_stream("well", usage=(1, 1)):
                    await connection.send(part)
            case _:
                await connection.send(raw.json_response(raw.COMPLETION))


FAULTS = ("ok", "refuses", "fails", "redirects", "is-broken", "errs-at-once", "errs")


def configuration(port, upstream, known: Secrets, folder, *, format: str) -> str:
    providers = "".join(
        f"""
[providers.{name}]
base_url = "{upstream.base_url}"
{source}
max_retries = 1
backoff_base = 0.0
"""
        for name, source in (
            ("env", 'api_key_env = "CANARY_API_KEY"'),
            ("file", f'api_key_file = "{folder}/file.key"'),
            ("cred", 'api_key_env = "CRED_API_KEY"'),
        )
    )
    client = hashlib.sha256(known.client.encode()).hexdigest()
    more = f"""
[auth]
keys = ["sha256:{client}"]
[logging]
format = "{format}"
level = "debug"
[agent]
enabled = true
workspace = "{folder}/workspace"
sandbox = "off"
"""
    return config_text(port, more=more + providers)


async def ask(port, known: Secrets, path, body, key: str | None = None) -> bytes:
    """The head and body of the answer, as the client of `known` sees them."""
    with suppress(BrokenOff):
        async with Client(port) as client:
            head = {"authorization": f"Bearer {key or known.client}"}
            response = await client.post(body, path, head)
            return repr(response.headers).encode() + await response.read()
    return b""


async def faults(port, known: Secrets) -> list[bytes]:
    """Everything that can go wrong with a request; what the client was told."""
    told = []
    async with trio.open_nursery() as nursery:

        async def one(path, body, key=None):
            told.append(await ask(port, known, path, body, key))

        for provider in ("env", "file", "cred"):
            for fault in FAULTS:
                for stream in (True, False):
                    nursery.start_soon(one, PATH, chat(f"{provider}/{fault}", known.prompt, stream=stream))
                nursery.start_soon(one, MESSAGES, message(f"{provider}/{fault}", known.prompt))
        nursery.start_soon(one, PATH, chat("env/ok", known.prompt), known.stranger)
        nursery.start_soon(one, PATH, {"model": "env/ok", "messages": known.prompt})
        nursery.start_soon(one, MESSAGES, {"model": "env/ok", "messages": [{"role": known.prompt}]})
        nursery.start_soon(one, "/v1/messages/count_tokens", message("env/ok", known.prompt))
        nursery.start_soon(one, "/api/stream/message", {"message": "look around", "model": "env/peeps"})
        nursery.start_soon(one, PATH, chat("no-such-provider/x", known.prompt))
    return told


async def command(service: Service, *arguments: str) -> bytes:
    done = await trio.run_process(
        [sys.executable, "-m", "supervisor", *arguments],
        env=service.env,
        cwd=service.folder,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    return done.stdout + done.stderr


def process_file(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()


def found(known: Secrets, names: tuple[str, ...], text: bytes) -> list[str]:
    return [name for name in names if getattr(known, name).encode() in text]


ALL = ("environment", "file", "credential", "client", "stranger", "prompt")
KEYS = ALL[:-1]


async def test_no_canary_is_where_it_does_not_belong(tmp_path, port):
    known, upstream_side = Secrets(), Upstream()
    (tmp_path / "workspace").mkdir()
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "cred_api_key").write_text(known.credential)
    (tmp_path / "file.key").write_text(known.file)
    (tmp_path / "file.key").chmod(0o600)
    env = {"CANARY_API_KEY": known.environment, "CREDENTIALS_DIRECTORY": os.fspath(credentials)}
    places: dict[str, bytes] = {}
    async with serve_upstream() as upstream:
        upstream.default = [upstream_side.answer]
        text = configuration(port, upstream, known, tmp_path, format="logfmt")
        async with run_service(tmp_path, text, env=env) as service:
            heard: list[object] = []
            async with trio.open_nursery() as nursery:

                async def hear() -> None:
                    while True:  # its worker dies, too
                        with suppress(EOFError):
                            async with listen(port, authorization=f"Bearer {known.client}") as listener:
                                while True:
                                    heard.append(await listener.event())

                nursery.start_soon(hear)
                await wait_until(lambda: heard, "the first live event")
                told = await faults(port, known)
                service.write_config(text.replace('"logfmt"', '"json"'))
                service.send_signal(signal.SIGHUP)
                await wait_until(lambda: '"event":"reload_done"' in service.log(), "the reload")
                # A dump, and deaths, with a prompt in every worker.
                hanging = chat("env/hangs", known.prompt)
                for _ in range(4):
                    nursery.start_soon(ask, port, known, PATH, hanging)
                await wait_until(lambda: sum(b'"hangs"' in body for body in upstream_side.bodies) == 4, "the streams")
                pids = await service.worker_pids()
                service.send_signal(signal.SIGUSR1)
                await wait_until(lambda: service.log().count("==== end") >= 3, "the dumps")
                for pid in pids:
                    places[f"worker {pid}"] = process_file(pid, "environ") + process_file(pid, "cmdline")
                server = service.fork_server_pid()
                places["fork server"] = process_file(server, "environ")
                places["supervisor's arguments"] = process_file(service.pid, "cmdline")
                os.kill(pids[0], signal.SIGUSR2)  # its last words
                os.kill(pids[0], signal.SIGABRT)
                os.kill(pids[1], signal.SIGKILL)
                await service.wait_serving(2)
                told += await faults(port, known)
                for path in (
                    "/metrics",
                    "/api/status",
                    "/api/sessions/active",
                    "/api/streams?limit=500",
                    "/api/stats",
                    "/api/providers",
                    "/api/export?format=csv",
                    "/api/export?format=json",
                    "/v1/models",
                    "/health",
                ):
                    places[path] = await ask(port, known, path, None)
                    assert places[path], path
                for arguments in (
                    ("status",),
                    ("status", "--json"),
                    ("top", "--once"),
                    ("sessions", "--json"),
                    ("stats", "--json"),
                    ("export",),
                    ("export", "--format", "json"),
                    ("check-config", "--config", os.fspath(service.config_file)),
                ):
                    places["kimi-proxy " + " ".join(arguments)] = await command(service, *arguments)
                nursery.cancel_scope.cancel()
            places["live events"] = json.dumps(heard).encode()
            log = service.log()
        for path in sorted(tmp_path.rglob("*")):
            if path.is_file() and path.parent != credentials and path.name not in ("file.key",):
                places[str(path.relative_to(tmp_path))] = path.read_bytes()

    # The looking was worth it.
    assert upstream_side.keys == set(known.of_providers)
    assert any(known.prompt.encode() in body for body in upstream_side.bodies)
    assert "event=STREAM_ERROR" in log
    assert '"event":"STREAM_ERROR"' in log
    assert "==== stack dump of worker" in log
    assert any(b"Incorrect API key provided: [redacted]" in answer for answer in told)
    peeped = [body for body in upstream_side.bodies if b'"tool"' in body and b"PATH=" in body]
    assert peeped

    # No place has any of them.
    leaks = {name: names for name, text in places.items() if (names := found(known, ALL, text))}
    assert leaks == {}, [line for line in log.splitlines() if known.prompt in line][:3]
    # A client learns no key but its own, which nobody repeats to it either.
    assert {name for answer in told for name in found(known, KEYS, answer)} == set()
    # An upstream learns its own key, in the one header; a program that an agent runs learns none.
    assert {name for body in upstream_side.bodies for name in found(known, KEYS, body)} == set()
    assert {name for head in upstream_side.heads for name in found(known, ("client", "stranger"), head)} == set()
