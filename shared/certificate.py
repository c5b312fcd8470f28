"""The certificate of `[server.tls]`: read and checked by the supervisor, handed to the workers as it was read.

A worker that is started between two reloads, when a renewal has replaced one of the files and not yet the other, so
serves what all others serve.
"""

import base64
import os
import re
import ssl
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from shared.config.types import Tls
from shared.errors import ConfigError

TLS = "[server.tls]"
"""Its place among the keys of `shared.keys`: as PEM, the certificates and their key."""
_MAX_BYTES = 1024 * 1024
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n.+?\r?\n-----END \1-----", re.DOTALL)
# Those of Mozilla's "intermediate" list for TLS 1.2 that HTTP/2 allows, too (RFC 9113, appendix A).
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_TO_READ = "let the service's user read it"


def read_certificate(tls: Tls) -> str:
    """The certificates and their key as one text of PEM.

    `ConfigError` that names the file and what to do with it, if they can't be served with.
    """
    certificates = _blocks(_read("cert", tls.cert), "CERTIFICATE")
    if not certificates:
        raise ConfigError(f"[server.tls] cert: {tls.cert} holds no certificate: it has to be a file of PEM")
    keys = _blocks(_read("key", tls.key), "PRIVATE KEY")
    if not keys:
        raise ConfigError(f"[server.tls] key: {tls.key} holds no private key: it has to be a file of PEM")
    pem = b"\n".join([*certificates, keys[0], b""]).decode("ascii", "replace")
    try:
        server_context(pem, http2=tls.http2)
    except _Locked:
        raise ConfigError(
            f"[server.tls] key: {tls.key} is locked with a password: "
            f"store it without one, `openssl pkey -in {tls.key} -out key.pem`"
        ) from None
    except ssl.SSLError as error:
        raise ConfigError(_why(tls, error)) from None
    return pem


def server_context(pem: str, *, http2: bool) -> ssl.SSLContext:
    """What `read_certificate` gave, ready to serve with; `ssl.SSLError` or `OSError` if that is not possible."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    # No tickets: workers don't share their keys, so that resumption would fail as often as not, and a key that lives
    # as long as its worker would open all that was ever said with its tickets.  What OpenSSL remembers of TLS 1.2
    # without them, at most 20,480 sessions or 17 MB, the ssl module can't switch off.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
    with _as_file(pem) as path:  # the ssl module takes it from files alone
        context.load_cert_chain(path, password=_no_password)
    return context


def certificate_warnings(tls: Tls | None, keys: Mapping[str, str], now: float | None = None) -> list[str]:
    """What is doubtful about what is served with, in sentences; `now` in epoch seconds."""
    if tls is None:
        return []
    now = time.time() if now is None else now
    warnings = []
    with suppress(ValueError, IndexError, StopIteration):  # not as we know them; OpenSSL has accepted it
        begins, ends = _validity(_blocks(keys[TLS].encode(), "CERTIFICATE")[0])
        if now > ends:
            warnings.append(f"[server.tls] cert: {tls.cert} expired on {_date(ends)}: clients refuse it; renew it")
        elif now < begins:
            warnings.append(f"[server.tls] cert: {tls.cert} is not valid before {_date(begins)}: clients refuse it")
    with suppress(OSError):
        if os.stat(tls.key).st_mode & (stat.S_IROTH | stat.S_IWOTH):
            warnings.append(f"[server.tls] key: every user of this machine can read or write {tls.key}: chmod 600 it")
    return warnings


def _read(name: str, path: str) -> bytes:
    try:
        # O_NONBLOCK: opening a FIFO must not wait for its writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        fix = "correct the path" if isinstance(error, FileNotFoundError) else _TO_READ
        raise ConfigError(f"[server.tls] {name}: {path} can't be read ({error.strerror}): {fix}") from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ConfigError(f"[server.tls] {name}: {path} is not a regular file: name the file of PEM")
        return os.read(fd, _MAX_BYTES)
    finally:
        os.close(fd)


def _blocks(data: bytes, kind: str) -> list[bytes]:
    """Those of a PEM file that are of a kind, `RSA PRIVATE KEY` among the `PRIVATE KEY`s."""
    return [match[0] for match in _BLOCK.finditer(data) if match[1].decode().endswith(kind)]


class _Locked(Exception):
    """The key can't be read without a password."""


def _no_password() -> str:
    raise _Locked


def _why(tls: Tls, error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return (
            f"[server.tls] key: {tls.key} does not belong to the first certificate of {tls.cert}: "
            "name the two that were made together, and put the server's certificate before those that vouch for it"
        )
    return f"[server.tls]: {tls.cert} and {tls.key} can't be served with: {error.reason or error}"


@contextmanager
def _as_file(text: str) -> Iterator[str]:
    """A path of a file in memory."""
    with open(os.memfd_create("certificate", os.MFD_CLOEXEC), "wb", buffering=0) as file:
        file.write(text.encode())
        yield f"/proc/self/fd/{file.fileno()}"


def _validity(pem: bytes) -> tuple[float, float]:
    """From when to when a certificate is valid, in epoch seconds (RFC 5280, 4.1)."""
    der = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    _, certificate = next(_elements(der))
    _, signed = next(_elements(certificate))
    elements = [value for tag, value in _elements(signed) if tag != 0xA0]  # which only a version of 1 leaves out
    begins, ends = (_epoch(tag, value) for tag, value in _elements(elements[3]))  # after serial, algorithm, issuer
    return begins, ends


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The tags and contents of a sequence (X.690, 8.1)."""
    at = 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(der[at : at + size], "big")
            at += size
        yield tag, der[at : at + length]
        at += length


def _epoch(tag: int, value: bytes) -> float:
    text = value.decode("ascii")
    if tag == 0x17:  # UTCTime: two digits of the year, the century follows from them
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _date(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%d")
