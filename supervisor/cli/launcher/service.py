"""The service for as long as Claude Code needs it: the one that runs, or else one that launches start and stop.

Launches know of each other by two files in the runtime folder, on which the kernel lets go of a lock when its holder
dies:

    launch.lock     held by the one that looks, starts or stops; names the service that a launch has started
    launch.users    held in common by all launches; whoever gets it alone was the last

So two launches at once start one service, the last one to end stops it, and a service that somebody else has started
is left alone, as is one that was restarted meanwhile: that is another process, which no launch has started.
"""

import errno
import fcntl
import os
import select
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import platformdirs
from msgspec import Struct

from shared.config import Config, default_config, parse_bind
from shared.config.bind import Tcp
from shared.config.locate import ENV_NAME, FILE_NAME, Loaded, find_config, load_config
from shared.errors import ConfigError, ControlError, StartError
from shared.paths import Paths, prepare, resolve_paths
from supervisor.cli import background
from supervisor.cli.client import control_paths
from supervisor.cli.interrupt import Held
from supervisor.cli.live import ask_sessions, ask_status
from supervisor.cli.text import say
from supervisor.control import StatusReply
from supervisor.instance import running_pid
from supervisor.listen import BACKLOG, close_listeners, open_listeners
from supervisor.portowner import port_owner

LOOPBACK = "127.0.0.1"
_SCHEMES = ("http://", "https://", "unix:", "fd://")
_POLL = 0.02
_SETTLE = 2.0
"""How long the streams of a client that has just gone may take to be closed."""
_HURRY = 10.0
_GIVE_UP = 20.0


class Running(Struct, frozen=True, kw_only=True):
    """A service that can be used now."""

    url: str
    """Where clients of this machine reach it, as in `http://127.0.0.1:8000`."""
    pid: int
    config: Config | None
    """By which it serves; None if that can't be read from here."""
    started_by_us: bool
    """By this launch or another one, so that the last of them stops it."""


@contextmanager
def ensure_service(option: str | None, env: Mapping[str, str], kept: Held) -> Iterator[Running]:
    """The service while the block lasts; afterwards nothing runs that did not run before, unless somebody uses it.

    `option` is that of `--config`.  Signals are `kept`: they interrupt the wait for a service that starts, which is
    stopped then, and nothing else.  `ConfigError`, `StartError` and `ControlError` say what is wrong.
    """
    own = resolve_paths(env)
    paths = control_paths(env)
    if paths.runtime != own.runtime:  # the system's, in whose folders launches have no business
        yield _described(ask_status(paths), option, env, started=False)
        return
    prepare(own)
    with ExitStack() as stack:
        launches = stack.enter_context(_Launches(own, kept))
        try:
            reply = _use_or_start(launches, option, env, kept)
            running = _described(reply, option, env, started=launches.started == reply.pid)
            launches.unlock()
            yield running
        finally:
            launches.leave()


class _Launches:
    """What this launch knows and holds of the two files; closing them lets go of both."""

    def __init__(self, paths: Paths, kept: Held) -> None:
        self._paths = paths
        self._gate = self._users = -1
        try:
            self._gate = _open(paths.runtime / "launch.lock")
            self._users = _open(paths.runtime / "launch.users")
            with kept.let():  # while another one starts a service, or stops one
                fcntl.flock(self._gate, fcntl.LOCK_EX)
            fcntl.flock(self._users, fcntl.LOCK_SH)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "_Launches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for fd in (self._gate, self._users):
            if fd >= 0:
                os.close(fd)
        self._gate = self._users = -1

    @property
    def paths(self) -> Paths:
        return self._paths

    @property
    def started(self) -> int | None:
        """The pid of the service that a launch has started and that still runs."""
        named = os.pread(self._gate, 100, 0).decode("ascii", "replace").split()
        pid = running_pid(self._paths.instance_lock)
        return pid if pid is not None and named == [str(pid), _birth(pid)] else None

    def note(self, pid: int) -> None:
        """A launch has started `pid`, which need not be ready yet."""
        os.ftruncate(self._gate, 0)
        os.pwrite(self._gate, f"{pid} {_birth(pid)}\n".encode(), 0)

    def unlock(self) -> None:
        """Let others look."""
        fcntl.flock(self._gate, fcntl.LOCK_UN)

    def leave(self) -> None:
        """Stop what launches have started, unless it is used by another one, or by anybody else."""
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        fcntl.flock(self._users, fcntl.LOCK_UN)
        with suppress(BlockingIOError):
            fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            pid = self.started
            if pid is None:
                return
            if count := _wait_unused(self._paths):
                many = f"{count} stream{'s' if count != 1 else ''}"
                _tell(f"{many} of others go on, so the service does, too; stop it with: kimi-proxy stop")
            elif _end(pid, self._paths):
                os.ftruncate(self._gate, 0)


def _use_or_start(launches: _Launches, option: str | None, env: Mapping[str, str], kept: Held) -> StatusReply:
    deadline = time.monotonic() + background.READY_TIMEOUT
    while (pid := running_pid(launches.paths.instance_lock)) is not None:
        with kept.let():
            try:
                reply = ask_status(launches.paths)
            except ControlError:  # it is starting or stopping
                reply = None
            if reply is not None and reply.state in ("running", "reloading"):
                return reply
            if time.monotonic() > deadline:
                raise ControlError(
                    f"pid {pid} neither serves nor ends; `kimi-proxy status` and `kimi-proxy logs` tell more"
                )
            _wait_gone(pid, _POLL)
    loaded = load_meant(option, env)
    with ExitStack() as stack:
        listener = _other_port(loaded.config)
        if listener is not None:
            stack.enter_context(listener)
        source = None if loaded.path is None else str(loaded.path)
        with kept.let():
            try:
                background.launch(launches.paths, source, env, listener=listener, on_born=launches.note)
            except StartError:
                if running_pid(launches.paths.instance_lock) is None:
                    raise  # else somebody else was faster
            return ask_status(launches.paths)


def failed_streams(env: Mapping[str, str]) -> int:
    """How many the service has had since it began; 0 if it can't be asked."""
    try:
        return ask_status(control_paths(env)).totals.failed
    except ControlError:
        return 0


def load_meant(option: str | None, env: Mapping[str, str]) -> Loaded:
    """The configuration of a service that is to be started.

    A launch happens in any folder, and many have a `config.toml` of another program: if it is none of ours, and the
    user has one of their own, that is meant.
    """
    try:
        return load_config(option, env)
    except ConfigError as error:
        found = find_config(option, env)
        if option or env.get(ENV_NAME) or found is None or found.parent != Path.cwd():
            raise
        own = platformdirs.user_config_path("kimi-proxy", appauthor=False) / FILE_NAME
        if not own.is_file():
            raise ConfigError(
                f"{error}\nkimi-proxy: if that file is another program's, name yours by --config PATH"
            ) from None
        say(f"{found} is not used, as it is no configuration of kimi-proxy; {own} is")
        return load_config(str(own), env)


def _other_port(config: Config) -> socket.socket | None:
    """A listening socket on a free port of this machine if one of the configured ones is taken; None if they are free.

    `StartError` if it can't be had for another reason.
    """
    for bind in config.server.bind:
        address = parse_bind(bind)
        if not isinstance(address, Tcp) or address.port == 0:
            continue
        try:
            close_listeners(open_listeners([bind], tcp_user_timeout=1.0, env={}, patience=0.0))
        except StartError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EADDRINUSE:
                raise
            owner = port_owner(address.port)
            by = "another program" if owner is None else f"{owner.name} (pid {owner.pid})"
            sock = socket.create_server((LOOPBACK, 0), backlog=BACKLOG)
            say(f"port {address.port} is in use by {by}, so the service takes port {sock.getsockname()[1]} this time")
            return sock
    return None


def _described(reply: StatusReply, option: str | None, env: Mapping[str, str], *, started: bool) -> Running:
    if option is not None and not _is_same(option, reply.config_source):
        raise ControlError(
            f"a service runs already (pid {reply.pid}), with {reply.config_source or 'the built-in configuration'}: "
            "stop it with `kimi-proxy stop`, or leave --config out"
        )
    config: Config | None
    try:
        config = load_config(reply.config_source, env).config if reply.config_source else default_config(env)
    except ConfigError as error:
        say(f"{error}; the service goes on with what it has read before")
        config = None
    return Running(url=local_url(reply.bind), pid=reply.pid, config=config, started_by_us=started)


def local_url(urls: list[str]) -> str:
    """The one of them that Claude Code can use; `ControlError` if there is none."""
    plain = [url if url.startswith(_SCHEMES) else f"http://{url}" for url in urls]
    for scheme in ("http", "https"):
        for url in plain:
            parts = urlsplit(url)
            if parts.scheme == scheme:
                host = {"0.0.0.0": LOOPBACK, "::": "[::1]"}.get(parts.hostname or "")
                return urlunsplit(parts._replace(netloc=f"{host}:{parts.port}")) if host else url
    raise ControlError(
        f"the service listens at {', '.join(urls)} only, where Claude Code can't reach it: "
        f'add "{LOOPBACK}:8000" to `[server] bind`'
    )


def _wait_unused(paths: Paths) -> int:
    """How many live streams there are, once those that are just being closed are gone."""
    deadline = time.monotonic() + _SETTLE
    while True:
        try:
            count = len(ask_sessions(paths).active.get("sessions", []))
        except ControlError:
            return 0
        if not count or time.monotonic() > deadline:
            return count
        time.sleep(_POLL)


def _end(pid: int, paths: Paths) -> bool:
    """Stop a service that nobody uses, and wait until it is gone; a second signal hurries one that hesitates."""
    for signum, timeout in ((signal.SIGTERM, _HURRY), (signal.SIGTERM, _GIVE_UP)):
        with suppress(ProcessLookupError):
            if running_pid(paths.instance_lock) == pid:
                os.kill(pid, signum)
        if _wait_gone(pid, timeout):
            _wait_session_gone(pid)
            return True
    _tell(f"the service (pid {pid}) does not end; `kimi-proxy dump-stacks` shows why, `kill -9 {pid}` ends it")
    return False


def _wait_gone(pid: int, timeout: float) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], timeout)[0])
    finally:
        os.close(pidfd)


def _wait_session_gone(session: int) -> None:
    """Wait for what the service has forked: the fork server ends when it finds nobody left, a moment later."""
    deadline = time.monotonic() + _SETTLE
    while time.monotonic() < deadline and session in map(_session_of, Path("/proc").glob("[0-9]*/stat")):
        time.sleep(_POLL)


def _session_of(stat: Path) -> int | None:
    with suppress(OSError):
        state, _parent, _group, session, *_ = stat.read_text(errors="replace").rpartition(")")[2].split()
        return int(session) if state != "Z" else None
    return None


def _birth(pid: int) -> str:
    """When the process began, in the kernel's ticks: with it a number is never taken for another process's."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return "-"


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(f"the lock file {path} can't be opened: {error.strerror}") from error


def _is_same(one: str, other: str | None) -> bool:
    return other is not None and os.path.realpath(one) == os.path.realpath(other)


def _tell(message: str) -> None:
    with suppress(OSError):  # the terminal may be gone
        say(message)
