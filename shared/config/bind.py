"""Where the service listens: the forms of `[server] bind`, and which of them strangers can reach.

host:port     127.0.0.1:8000, localhost:8000, 0.0.0.0:8000      port 0: any free one
[v6]:port     [::1]:8000
unix:/path    a UNIX stream socket
fd://N        a listening socket that was inherited, as from systemd
"""

import ipaddress
import os
import re

from msgspec import Struct

from shared.errors import ConfigError

MAX_UNIX_PATH_BYTES = 107
"""What `sockaddr_un.sun_path` holds beside its final NUL (unix(7))."""

_FORMS = "write it as 127.0.0.1:8000, [::1]:8000, unix:/path or fd://N"
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")
_LOOKS_LIKE_IPV4 = re.compile(r"[0-9.]+")
_DIGITS = re.compile(r"[0-9]{1,9}")
_FIRST_INHERITED_FD = 3  # 0 to 2 are stdin, stdout and stderr (sd_listen_fds(3))


class Tcp(Struct, frozen=True, tag=True):
    """An IPv4 or IPv6 address (without brackets) or a host name, and a port."""

    host: str
    port: int


class Unix(Struct, frozen=True, tag=True):
    """An absolute path of at most `MAX_UNIX_PATH_BYTES`."""

    path: str


class InheritedFd(Struct, frozen=True, tag=True):
    """The number of a descriptor that is already bound and listening."""

    fd: int


Bind = Tcp | Unix | InheritedFd


def parse_bind(text: str) -> Bind:
    """One value of `bind`; raises `ConfigError` with half a sentence that the caller puts file and key before."""
    if text.startswith("unix:"):
        return _parse_unix(text.removeprefix("unix:"))
    if text.startswith("fd://"):
        number = text.removeprefix("fd://")
        if not _DIGITS.fullmatch(number) or int(number) < _FIRST_INHERITED_FD:
            raise ConfigError(f"names no inherited descriptor: fd:// takes a number from {_FIRST_INHERITED_FD} up")
        return InheritedFd(int(number))
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ConfigError(f"has no port: {_FORMS}")
    return Tcp(_parse_host(host), _parse_port(port))


def is_loopback(bind: Bind) -> bool:
    """Whether only this machine can reach `bind`.

    True for every inherited descriptor, whose address isn't in the configuration: who made it answers for it.
    """
    return not isinstance(bind, Tcp) or is_loopback_host(bind.host)


def is_loopback_host(host: str) -> bool:
    """Whether a host name or an address without brackets means this machine."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _parse_unix(path: str) -> Unix:
    if not path.startswith("/") or path.endswith("/"):
        raise ConfigError("names no socket: unix: takes the absolute path of a file, as in unix:/run/proxy.sock")
    if not path.isprintable():
        raise ConfigError("holds a character that has no place in a path")
    path = "/" + path.lstrip("/")
    length = len(os.fsencode(path))
    if length > MAX_UNIX_PATH_BYTES:
        raise ConfigError(f"is {length} bytes long and a UNIX socket's path at most {MAX_UNIX_PATH_BYTES}: shorten it")
    return Unix(path)


def _parse_host(host: str) -> str:
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise ConfigError("has no IPv6 address between its brackets: write it as [::1]:8000") from None
    if not host or host == "*":
        raise ConfigError("names no host: write 127.0.0.1 for this machine only, 0.0.0.0 for every address")
    if ":" in host:
        raise ConfigError("has more than one colon: an IPv6 address stands in brackets, as in [::1]:8000")
    if _LOOKS_LIKE_IPV4.fullmatch(host):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ConfigError(f"has no valid IPv4 address: {_FORMS}") from None
    if not _HOST_NAME.fullmatch(host):
        raise ConfigError(f"has no valid host: {_FORMS}")
    return host


def _parse_port(port: str) -> int:
    if not _DIGITS.fullmatch(port) or int(port) > 65535:
        raise ConfigError("has no valid port: it is a number from 0 to 65535")
    return int(port)
