"""nginx, HAProxy and Caddy, each with the file in docs/examples, and other ports, in front of a service.

with run_proxy("nginx", folder, service_port) as front:
    ... ask 127.0.0.1:front.port, or https://127.0.0.1:front.tls_port with front.certificate ...
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes.certificate import self_signed
from fakes.service import free_port

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
NAMES = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg", "caddy": "Caddyfile"}
TIMEOUT = 15.0
SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
"""Debian keeps servers where not everybody's PATH leads."""


@dataclass(frozen=True)
class Front:
    """A running proxy."""

    name: str
    port: int
    """Where it speaks HTTP/1.1 without TLS, which its example does not."""
    tls_port: int | None
    """Where it speaks what its example does; None for Caddy, which would ask a certificate authority for one."""
    certificate: Path


def config_of(name: str, changes: Mapping[str, str]) -> str:
    """The example, with each of `changes` made; each must have something to change."""
    text = (EXAMPLES / NAMES[name]).read_text()
    for old, new in changes.items():
        assert old in text, f"{NAMES[name]} has no {old!r}"
        text = text.replace(old, new)
    return text


def _nginx(folder: Path, service: int, front: Front, patience: str) -> tuple[str, list[str]]:
    text = config_of(
        "nginx",
        {
            "worker_processes auto;": f"worker_processes 1; daemon off; pid {folder}/pid; error_log stderr notice;",
            "worker_rlimit_nofile 65536;": "",
            "worker_connections 16384;": "worker_connections 512;",
            "http {\n": f"http {{ access_log off; {_temporary(folder)}\n",
            "127.0.0.1:8000": f"127.0.0.1:{service}",
            "listen 443 ssl http2;": f"listen 127.0.0.1:{front.tls_port} ssl http2; listen 127.0.0.1:{front.port};",
            "/etc/nginx/gateway.pem": str(front.certificate),
            "/etc/nginx/gateway.key": str(front.certificate),
            "proxy_read_timeout 600s;": f"proxy_read_timeout {patience};",
        },
    )
    return text, ["-e", "stderr", "-p", str(folder), "-c", str(folder / NAMES["nginx"])]


def _temporary(folder: Path) -> str:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)


def _haproxy(folder: Path, service: int, front: Front, patience: str) -> tuple[str, list[str]]:
    text = config_of(
        "haproxy",
        {
            "maxconn 20000": "maxconn 200",
            "127.0.0.1:8000": f"127.0.0.1:{service}",
            "bind :443 ssl crt /etc/haproxy/gateway.pem": f"bind 127.0.0.1:{front.port}\n"
            f"    bind 127.0.0.1:{front.tls_port} ssl crt {front.certificate}",
            "timeout server 600s": f"timeout server {patience}",
        },
    )
    return text, ["-db", "-f", str(folder / NAMES["haproxy"])]


def _caddy(folder: Path, service: int, front: Front, _patience: str) -> tuple[str, list[str]]:
    text = config_of(
        "caddy",
        {
            "gateway.example.com {": "{\n\tadmin off\n\tauto_https off\n}\n\n"
            f"http://:{front.port} {{\n\tbind 127.0.0.1",
            "127.0.0.1:8000": f"127.0.0.1:{service}",
        },
    )
    return text, ["run", "--adapter", "caddyfile", "--config", str(folder / NAMES["caddy"])]


def require_proxy(name: str) -> str:
    """Where the program is; skips the test where it is not installed."""
    program = shutil.which(name, path=SEARCH)
    if program is None:
        pytest.skip(f"{name} is not installed (Debian: apt install {name})")
    return program


@contextlib.contextmanager
def run_proxy(name: str, folder: Path, service: int, *, patience: str = "600s") -> Iterator[Front]:
    """The proxy `name` in front of the service's port; skips the test where it is not installed.

    `patience` is how long it waits for a service that says nothing; Caddy waits for ever.
    """
    program = require_proxy(name)
    front = Front(name, free_port(), None if name == "caddy" else free_port(), self_signed(folder))
    text, options = {"nginx": _nginx, "haproxy": _haproxy, "caddy": _caddy}[name](folder, service, front, patience)
    (folder / NAMES[name]).write_text(text)
    env = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd=folder
        )
    try:
        deadline = time.monotonic() + TIMEOUT
        while not _answers(front.port):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, f"{name} does not listen"
            time.sleep(0.02)
        yield front
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False
