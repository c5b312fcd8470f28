"""The rows: nothing at all, nginx, kimi-proxy in three ways and its peers, each in front of the mock upstream.

Every starter takes a `Stage`, leaves its process to the stage's exit stack, and returns the row once it has answered a
plain and a streamed request.  It raises `Skipped` where the program isn't installed, `NotReady` where it doesn't serve.
"""

import contextlib
import http.client
import importlib.metadata
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from procs import Cores, start, stop
from wire import Dialect, request_bytes

REPOSITORY = Path(__file__).resolve().parents[2]
LISTENING = Path(__file__).with_name("listeners.py")
LISTENERS, DEAF = 200, 10
KEPT_ENVIRONMENT = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")


class Skipped(Exception):
    """The row's program isn't installed here."""


class NotReady(Exception):
    """The row's program doesn't answer as it should."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a starter needs to know."""

    scratch: Path
    upstream_port: int
    cores: Cores
    stack: contextlib.ExitStack
    kimi_proxy: str | None = None
    litellm: str | None = None
    portkey: str | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A target that is up.  `process` is the root of its process tree, None for the mock upstream itself."""

    name: str
    port: int
    version: str = ""
    process: "subprocess.Popen[bytes] | None" = None
    headers: dict[str, str] = field(default_factory=dict)
    dialect: Dialect = "openai"
    """What it is asked in."""
    peer: bool = False


def direct(stage: Stage) -> Row:
    """The base line: the load generator talks to the mock upstream."""
    return Row(name="direct", port=stage.upstream_port)


def nginx(stage: Stage) -> Row:
    """One nginx worker that buffers nothing and keeps its connections on both sides."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise Skipped("nginx is not installed")
    port = free_port()
    folder = new_folder(stage, "nginx")
    user = f"user {pwd.getpwuid(0).pw_name};\n" if os.geteuid() == 0 else ""
    temporary = "\n".join(
        f"    {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(f"""\
{user}daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
    access_log off;
{temporary}
    keepalive_requests 1000000000;
    upstream mock {{
        server 127.0.0.1:{stage.upstream_port};
        keepalive 512;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{
            proxy_pass http://mock;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
""")
    command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stderr
    return serve(stage, "nginx", command, port, version=said.strip().rpartition("/")[2])


def kimi_proxy(stage: Stage) -> Row:
    """The service as its operators run it, with one worker; the client speaks what the upstream speaks."""
    return service(stage, "kimi-proxy", "openai", installed("kimi-proxy") or "from the checkout")


def translating(stage: Stage) -> Row:
    """The same with an Anthropic client, so that every request, delta and answer is translated."""
    return service(stage, "kimi-proxy, translating", "anthropic", "")


def listened(stage: Stage) -> Row:
    """The same as the first, with listeners for live events, some of whom don't read."""
    row = service(stage, f"kimi-proxy, {LISTENERS} listeners", "openai", "")
    command = [sys.executable, str(LISTENING), f"--port={row.port}", f"--count={LISTENERS}", f"--deaf={DEAF}"]
    process = start(command, stage.cores.load)
    stage.stack.callback(stop, process)
    assert process.stdout is not None
    if not process.stdout.readline():
        raise NotReady(f"{row.name}: it takes no listeners")
    return row


def service(stage: Stage, name: str, dialect: Dialect, version: str) -> Row:
    """A service of its own for clients of one dialect."""
    port = free_port()
    folder = new_folder(stage, name.replace(", ", "-").replace(" ", "-"))
    (folder / "config.toml").write_text(f"""\
[server]
bind = ["127.0.0.1:{port}"]
workers = 1
[providers.mock]
dialect = "openai"
base_url = "http://127.0.0.1:{stage.upstream_port}/v1"
[models.default]
provider = "mock"
""")
    script = REPOSITORY / "bin" / "kimi-proxy"
    if stage.kimi_proxy is not None:
        program = [stage.kimi_proxy]
    elif script.exists():
        program = [str(script)]
    else:
        program = [sys.executable, "-m", "supervisor"]
    folders = {}
    for variable in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY", "LOGS_DIRECTORY"):
        folders[variable] = str(folder / variable.lower())
        Path(folders[variable]).mkdir(mode=0o700)
    folders["PATH"] = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    command = [*program, "run", "--config", str(folder / "config.toml")]
    # The checkout's first start makes its environment.
    return serve(stage, name, command, port, environment=folders, version=version, patience=180.0, dialect=dialect)


def litellm(stage: Stage) -> Row:
    """LiteLLM's proxy with one worker, every model passed on to the mock."""
    given = stage.litellm
    if given is not None and Path(given).is_dir():
        given = str(Path(given) / "bin" / "litellm")
    program = shutil.which(given or "litellm")
    if program is None:
        raise Skipped("litellm is not installed (--litellm takes its venv or its program)")
    port = free_port()
    folder = new_folder(stage, "litellm")
    (folder / "config.yaml").write_text(f"""\
model_list:
  - model_name: "*"
    litellm_params:
      model: "openai/*"
      api_base: "http://127.0.0.1:{stage.upstream_port}/v1"
      api_key: "none"
litellm_settings:
  telemetry: false
""")
    command = [program, "--config", str(folder / "config.yaml"), "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # no row has auth
    }
    version = version_beside(program, "litellm")
    return serve(stage, "litellm", command, port, environment=environment, version=version, patience=120.0, peer=True)


def portkey(stage: Stage) -> Row:
    """Portkey's open-source gateway on node, told by headers where the upstream is."""
    node = shutil.which("node")
    folder = Path(stage.portkey or REPOSITORY / "node_modules/@portkey-ai/gateway")
    server = folder / "build" / "start-server.js" if folder.is_dir() else folder
    if node is None or not server.exists():
        raise Skipped("the Portkey gateway is not installed (--portkey takes the folder of its npm package)")
    port = free_port()
    headers = {
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{stage.upstream_port}/v1",
    }
    command = [node, str(server), f"--port={port}", "--headless"]
    manifest = server.parents[1] / "package.json"
    version = json.loads(manifest.read_text())["version"] if manifest.exists() else ""
    return serve(stage, "portkey", command, port, headers=headers, version=version, patience=60.0, peer=True)


STARTERS: dict[str, Callable[[Stage], Row]] = {
    "direct": direct,
    "nginx": nginx,
    "kimi-proxy": kimi_proxy,
    "translating": translating,
    "listened": listened,
    "litellm": litellm,
    "portkey": portkey,
}


def serve(
    stage: Stage,
    name: str,
    command: list[str],
    port: int,
    *,
    environment: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    version: str = "",
    patience: float = 30.0,
    dialect: Dialect = "openai",
    peer: bool = False,
) -> Row:
    """Start a row's process with a bare environment (no proxy variables, no keys) and wait until it answers."""
    bare = {variable: os.environ[variable] for variable in KEPT_ENVIRONMENT if variable in os.environ}
    log_path = stage.scratch / f"{name}.log"
    with log_path.open("wb") as log:
        process = start(command, stage.cores.target, cwd=REPOSITORY, env=bare | (environment or {}), log=log)
    stage.stack.callback(stop, process)
    row = Row(name=name, port=port, version=version, process=process, headers=headers or {}, dialect=dialect, peer=peer)
    try:
        wait_ready(row, patience)
    except NotReady as error:
        said = log_path.read_text(errors="replace")[-2000:]
        raise NotReady(f"{name}: {error}\n{said}".rstrip()) from None
    return row


def wait_ready(row: Row, patience: float) -> None:
    """Return when a plain and a streamed request were both answered; raises `NotReady` after `patience` seconds."""
    deadline = time.monotonic() + patience
    problem = "it did not answer"
    while time.monotonic() < deadline:
        if row.process is not None and row.process.poll() is not None:
            raise NotReady(f"exited with status {row.process.returncode}")
        try:
            ask(row, "json", False)
            ask(row, "burst-3", True)
            return
        except (OSError, http.client.HTTPException, ValueError) as error:
            problem = f"{type(error).__name__}: {error}"
        time.sleep(0.05)
    raise NotReady(f"not ready after {patience:g} s: {problem}")


def ask(row: Row, model: str, stream: bool) -> None:
    """One request on a connection of its own, read to its end.  Raises `ValueError` unless the answer is 200."""
    with socket.create_connection(("127.0.0.1", row.port), timeout=10.0) as connection:
        connection.sendall(request_bytes(f"127.0.0.1:{row.port}", model, stream, row.headers, row.dialect))
        response = http.client.HTTPResponse(connection, method="POST")
        response.begin()
        body = response.read()
    if response.status != 200:
        raise ValueError(f"status {response.status}: {body[:500].decode('utf-8', 'replace')}")


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def new_folder(stage: Stage, name: str) -> Path:
    """An empty folder of the row's own."""
    folder = stage.scratch / name
    folder.mkdir()
    return folder


def installed(distribution: str) -> str:
    """The version of a distribution in this environment, or nothing."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def version_beside(program: str, distribution: str) -> str:
    """The version of a distribution in the environment that `program` is in."""
    code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    python = Path(program).resolve().parent / "python"
    if not python.exists():
        return ""
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=False).stdout.strip()
