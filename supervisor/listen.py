"""The listening sockets: opened or adopted before any worker starts, kept for the service's life.

Workers inherit them and accept from the same queue, so no restart or crash of a worker refuses a connection.  All
sockets here are non-blocking and not inheritable.  Calls block (names are resolved, a busy port is waited for):
inside trio, call them in a thread.
"""

import errno
import os
import socket
import stat
import time
from collections.abc import Iterable, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, repeat

from shared.config import Auth, Tls
from shared.config.bind import InheritedFd, Tcp, Unix, is_loopback_host, parse_bind
from shared.errors import StartError
from supervisor.fdnames import bind_of
from supervisor.portowner import port_owner

BACKLOG = 2048
# A killed supervisor's workers hold its port until they have seen the end of their pipe, about two seconds.
PATIENCE = 3.0
_RETRY_EVERY = 0.1
_FIRST_PASSED_FD = 3  # sd_listen_fds(3)
_PASSED_VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


@dataclass(frozen=True)
class Listener:
    """One listening socket.  A host name with several addresses gives several, with the same `bind`."""

    bind: str
    """The configuration's words for it; for an adopted socket, its address."""
    socket: socket.socket
    adopted: bool = False
    """It came from systemd: no configuration opens or closes it."""
    inode: tuple[int, int] | None = None
    """Device and inode of a UNIX socket we made, to remove no file but our own."""

    @property
    def url(self) -> str:
        """Where clients reach it: `http://127.0.0.1:8000` (the real port, had 0 been asked for) or `unix:/path`."""
        return _url(self.socket)


def open_listeners(
    binds: Sequence[str],
    *,
    tcp_user_timeout: float,
    env: MutableMapping[str, str] | None = None,
    pid: int | None = None,
    patience: float = PATIENCE,
) -> list[Listener]:
    """The sockets systemd opened for process `pid` (ours), if it did; else one or more for each of `binds`.

    Those of them that systemd has kept since the last run (`supervisor.fdstore`) are taken from it; what it has kept
    for other binds is closed.

    `tcp_user_timeout` in seconds; a port in use is waited for `patience` seconds.  Raises `StartError` with a
    sentence that says what to do, and then leaves nothing open.
    """
    passed = _take_passed_fds(os.environ if env is None else env, os.getpid() if pid is None else pid)
    given = [fd for fd, bind in passed if bind is None]
    kept = _take_kept([(fd, bind) for fd, bind in passed if bind is not None], () if given else binds, tcp_user_timeout)
    if given:
        return _all_or_nothing(_adopt(fd, None, tcp_user_timeout) for fd in given)
    try:
        missing = [bind for bind in binds if bind not in {listener.bind for listener in kept}]
        return kept + _open_all(missing, tcp_user_timeout, patience)
    except BaseException:
        close_listeners(kept)
        raise


def reopen(
    old: Sequence[Listener], binds: Sequence[str], *, tcp_user_timeout: float, patience: float = 0.0
) -> tuple[list[Listener], list[Listener]]:
    """For a reload: `(listeners, removed)`, where unchanged binds keep their sockets.

    The caller closes `removed` once nobody accepts from them.  Adopted sockets stay whatever `binds` says.  Raises
    `StartError` as `open_listeners` does, with `old` untouched.
    """
    if any(listener.adopted for listener in old):
        return list(old), []
    known = {listener.bind for listener in old}
    opened = _open_all([bind for bind in binds if bind not in known], tcp_user_timeout, patience)
    kept = [listener for listener in old if listener.bind in binds]
    for listener in kept:
        if listener.socket.family != socket.AF_UNIX:
            with suppress(OSError):  # closed meanwhile: the service stops while this runs in a thread
                _set_user_timeout(listener.socket, tcp_user_timeout)
    return kept + opened, [listener for listener in old if listener.bind not in binds]


def refuse_exposed(listeners: Iterable[Listener], auth: Auth) -> None:
    """`StartError` if other machines can reach one of the sockets and `auth` has no keys.

    The configuration's own addresses were checked when it was read; this is about the inherited ones.
    """
    for listener in listeners:
        sock = listener.socket
        if not auth.required and sock.family != socket.AF_UNIX and not is_loopback_host(sock.getsockname()[0]):
            raise StartError(
                f"other machines can reach {listener.bind}, so client keys are needed: set `[auth] keys`, "
                "make one with `kimi-proxy key add NAME`, or let the socket listen on 127.0.0.1"
            )


def close_listeners(listeners: Iterable[Listener], *, keep_files: bool = False) -> None:
    """Close them, and remove the files of the UNIX sockets that we made, if they are still ours."""
    for listener in listeners:
        if listener.inode is not None and not keep_files:
            with suppress(OSError):  # it is gone, or was closed before
                path = listener.socket.getsockname()
                if _inode(path) == listener.inode:
                    os.unlink(path)
        listener.socket.close()


def _all_or_nothing(opening: Iterable[Listener]) -> list[Listener]:
    opened: list[Listener] = []
    try:
        for listener in opening:
            opened.append(listener)
    except BaseException:
        close_listeners(opened)
        raise
    return opened


def _open_all(binds: Sequence[str], tcp_user_timeout: float, patience: float) -> list[Listener]:
    deadline = time.monotonic() + patience

    def opening() -> Iterable[Listener]:
        for bind in dict.fromkeys(binds):
            match parse_bind(bind):
                case Tcp(host, port):
                    yield from _open_tcp(bind, host, port, tcp_user_timeout, deadline)
                case Unix(path):
                    yield _open_unix(bind, str(path))
                case InheritedFd(fd):
                    yield _adopt(fd, bind, tcp_user_timeout)

    return _all_or_nothing(opening())


def _open_tcp(bind: str, host: str, port: int, tcp_user_timeout: float, deadline: float) -> Iterable[Listener]:
    """One listener for every address of `host`; those this machine lacks are passed over, if not all are."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise StartError(f"bind {bind!r}: the host name {host} can't be resolved: {error}") from error
    opened = 0
    absent: OSError | None = None
    for family, _type, _proto, _name, address in dict.fromkeys(found):
        try:
            sock = _bind_tcp(family, address, deadline)
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                absent = error
                continue
            raise StartError(f"bind {bind!r}: {_why(error, str(address[0]), port)}") from error
        _set_tcp_options(sock, tcp_user_timeout)
        opened += 1
        yield Listener(bind, sock)
    if not opened:
        raise StartError(
            f"bind {bind!r}: this machine has no address {host}; use one of its own (`ip address`), "
            "127.0.0.1 for this machine only, or 0.0.0.0 for all"
        ) from absent


def _bind_tcp(family: socket.AddressFamily, address: tuple[object, ...], deadline: float) -> socket.socket:
    while True:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                raise
            time.sleep(_RETRY_EVERY)
        else:
            sock.setblocking(False)
            return sock


def _why(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        owner = port_owner(port)
        by = "another program" if owner is None else f"{owner.name} (pid {owner.pid})"
        return f"port {port} on {host} is in use by {by}; stop that, or set another port in `[server] bind`"
    if error.errno == errno.EACCES:
        return (
            f"not permitted to listen on port {port}; use a port from 1024 up, "
            "or let systemd open it (systemd/kimi-proxy.socket)"
        )
    return f"can't listen on port {port} of {host}: {error.strerror}"


def _open_unix(bind: str, path: str) -> Listener:
    _remove_stale(bind, path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The file takes its mode from the socket's: 0600 from its first moment, without touching the umask.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(path)
        sock.listen(BACKLOG)
        sock.setblocking(False)
        return Listener(bind, sock, inode=_inode(path))
    except OSError as error:
        sock.close()
        raise StartError(f"bind {bind!r}: can't make the socket {path}: {error.strerror or error}") from error


def _remove_stale(bind: str, path: str) -> None:
    """Remove a socket file that nobody listens on; `StartError` for a live one and for any other kind of file."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise StartError(f"bind {bind!r}: {path} exists and is not a socket; remove it or choose another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        with suppress(FileNotFoundError):
            os.unlink(path)
        return
    except BlockingIOError:
        pass  # its queue is full: somebody listens
    except OSError as error:
        raise StartError(f"bind {bind!r}: can't look at {path}: {error.strerror or error}") from error
    raise StartError(f"bind {bind!r}: another program listens on {path}; stop it or choose another path")


def _take_passed_fds(env: MutableMapping[str, str], pid: int) -> list[tuple[int, str | None]]:
    """The descriptors systemd passed to process `pid`, each with the bind that it was kept for, if it was.

    The variables are removed, as children must not see them.
    """
    listen_fds, listen_pid, names = (env.pop(name, "") for name in _PASSED_VARIABLES)
    if not listen_fds.isdecimal() or listen_pid != str(pid):
        return []
    fds = range(_FIRST_PASSED_FD, _FIRST_PASSED_FD + int(listen_fds))
    return [(fd, bind_of(name)) for fd, name in zip(fds, chain(names.split(":"), repeat("")), strict=False)]


def _take_kept(passed: Sequence[tuple[int, str]], binds: Sequence[str], tcp_user_timeout: float) -> list[Listener]:
    """Listeners for `binds` of what systemd has kept; the others are closed, as is a UNIX socket without its file."""
    kept = []
    for fd, bind in passed:
        if bind not in binds:
            os.close(fd)
            continue
        listener = _adopt(fd, bind, tcp_user_timeout)
        if listener.socket.family == socket.AF_UNIX:
            try:
                listener = replace(listener, inode=_inode(listener.socket.getsockname()))
            except OSError:
                listener.socket.close()
                continue
        kept.append(listener)
    return kept


def _adopt(fd: int, bind: str | None, tcp_user_timeout: float) -> Listener:
    """A listener of a descriptor we were born with; `bind` is None when systemd, not the configuration, named it."""
    said = bind if bind is not None else f"descriptor {fd} from LISTEN_FDS"
    fix = "pass a listening TCP or UNIX stream socket"
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise StartError(f"{said} is not an open socket ({error.strerror}); {fix}") from error
    family_known = sock.family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
    listening = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if not (family_known and listening):
        sock.detach()
        raise StartError(f"{said} is not a listening stream socket; {fix}")
    sock.setblocking(False)
    if sock.family != socket.AF_UNIX:
        _set_tcp_options(sock, tcp_user_timeout)
    return Listener(bind if bind is not None else _url(sock).removeprefix("http://"), sock, adopted=bind is None)


def _set_tcp_options(sock: socket.socket, tcp_user_timeout: float) -> None:
    """What accepted connections inherit."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _set_user_timeout(sock, tcp_user_timeout)


def _set_user_timeout(sock: socket.socket, seconds: float) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


def urls(listeners: Iterable[Listener], tls: Tls | None) -> list[str]:
    """Where clients reach each of them: with TLS, which UNIX sockets are without, at `https://…`."""
    found = [listener.url for listener in listeners]
    return [f"https{url.removeprefix('http')}" if tls and url.startswith("http:") else url for url in found]


def _url(sock: socket.socket) -> str:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return "unix:" + (os.fsdecode(name).replace("\0", "@") if isinstance(name, bytes) else name)
    host = f"[{name[0]}]" if sock.family == socket.AF_INET6 else name[0]
    return f"http://{host}:{name[1]}"


def _inode(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino
