"""A self-signed certificate, for 127.0.0.1 if not said otherwise, made by the openssl command."""

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from shared.config import Tls
from worker.upstream.wire import heed_cuts

COMMAND = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=fake"


def self_signed(folder: Path, name: str = "IP:127.0.0.1", *, days: int = 2) -> Path:
    """A file with the key and the certificate for `name`; skips the test where there is no openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command makes the certificate")
    key, cert, both = folder / "key.pem", folder / "cert.pem", folder / "both.pem"
    command = [*COMMAND.split(), "-addext", f"subjectAltName={name}", "-keyout", str(key), "-out", str(cert)]
    command += ["-days", str(days)]
    subprocess.run(command, check=True, capture_output=True)
    both.write_text(key.read_text() + cert.read_text())
    return both


def tls_of(both: Path, *, http2: bool = True) -> Tls:
    """The configuration that serves with it."""
    return Tls(cert=str(both), key=str(both), http2=http2)


def server_context(certificate: Path) -> ssl.SSLContext:
    """What a server needs to serve with it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def client_context(certificate: Path) -> ssl.SSLContext:
    """What a client needs to trust it, and nothing else."""
    context = ssl.create_default_context(cafile=certificate)
    heed_cuts(context)
    return context
