"""The service as a background process: launched and waited for until it is ready, or stopped and waited for."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from shared.errors import ControlError, StartError
from shared.paths import Paths
from supervisor.cli.interrupt import held
from supervisor.cli.text import duration, say
from supervisor.instance import running_pid

READY_TIMEOUT = 60.0
_KILL_AFTER = 10.0
_SILENT = 1.0
_REMIND_EVERY = 5.0
_STATUS_AFTER = 3.0
_MAX_NOTIFICATION_BYTES = 4096
# The first of systemd's descriptors is 3, and who gets them has to be told its own pid (sd_listen_fds(3)).
_PASS_LISTENER = 'exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'
_SOURCE_TREE = Path(__file__).resolve().parents[2]
# What a service manager told this process about itself must not reach the service we start.
_NOT_PASSED_ON = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


def launch(
    paths: Paths,
    config: str | None,
    env: Mapping[str, str],
    timeout: float = READY_TIMEOUT,
    *,
    listener: socket.socket | None = None,
    on_born: Callable[[int], None] | None = None,
) -> int:
    """Start `run` in a session of its own, its output appended to the log, and return its pid once it is ready.

    `listener`: a listening socket, which is all that it serves at, as one of systemd's; the caller closes it.
    `on_born` is told the pid as soon as there is one, which no interrupt can prevent.

    Raises `StartError` with the service's own words when it gives up, or when `timeout` seconds were not enough; it
    is then stopped.  So it is when this process is interrupted.
    """
    argv = [*command(), *(["--config", config] if config else [])]
    if listener is not None:
        argv = ["/bin/sh", "-c", _PASS_LISTENER, "sh", *argv]
    process: subprocess.Popen[bytes] | None = None
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications:
        notifications.bind("")  # the kernel chooses an abstract address (unix(7), autobind)
        notifications.setblocking(False)
        address = "@" + notifications.getsockname()[1:].decode()
        log = os.open(paths.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            log_start = os.fstat(log).st_size
            # An interrupt inside of Popen would leave a child that nobody knows of.
            with held():
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL if listener is None else listener.fileno(),
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env=child_environment(env) | {"NOTIFY_SOCKET": address},
                )
                if on_born is not None:
                    on_born(process.pid)
            if not _wait_ready(process, notifications, timeout):
                raise StartError(f"it was not ready within {duration(timeout)} and was stopped; see {paths.log_file}")
        except BaseException:
            if process is not None:
                with held():
                    _end(process)
            raise
        finally:
            os.close(log)
        if process.returncode is not None:
            raise StartError(_last_words(paths.log_file, log_start, process.returncode))
        process.returncode = 0  # a daemon now, which outlives us: keeps Popen from warning that nobody waits for it
        return process.pid


def child_environment(env: Mapping[str, str]) -> dict[str, str]:
    """What a service that we start gets of our environment."""
    return {name: value for name, value in env.items() if name not in _NOT_PASSED_ON}


def stop(pid: int, paths: Paths, graceful_timeout: float) -> None:
    """Send SIGTERM to the instance `pid` and wait until it is gone, saying so on stderr when that takes a while.

    An interrupt (Ctrl-C) sends the second SIGTERM, which ends the remaining streams; the next one propagates.
    Raises `ControlError` if the process may not be signalled, or outlives its `graceful_timeout` by 10 s.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if running_pid(paths.instance_lock) != pid:  # it ended, and its number may be another's by now
            return
        _send_sigterm(pidfd, pid)
        hurried = False
        while True:
            try:
                gone = _wait_gone(pidfd, pid, graceful_timeout + _KILL_AFTER)
                break
            except KeyboardInterrupt:
                if hurried:
                    raise
                hurried = True
                say("ending the remaining streams now; Ctrl-C again to leave it alone")
                _send_sigterm(pidfd, pid)
        if not gone:
            raise ControlError(
                f"pid {pid} still runs after {duration(graceful_timeout + _KILL_AFTER)}; `kimi-proxy dump-stacks` "
                f"shows why, `kill -9 {pid}` ends it"
            )
    finally:
        os.close(pidfd)


def command(*, elsewhere: bool = False) -> list[str]:
    """The command line of `run`, with Python as a child needs it to find the modules we were found as.

    `elsewhere`: the child begins in another folder than this process is in.
    """
    # -P: the folder we are called from is never a source of modules, unless it is a source tree used uninstalled.
    options = [] if Path.cwd() == _SOURCE_TREE and not elsewhere else ["-P"]
    return [sys.executable, *options, "-m", "supervisor", "run"]


def _send_sigterm(pidfd: int, pid: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise ControlError(f"not permitted to stop pid {pid}; use the user it runs as, or sudo") from error


def _wait_gone(pidfd: int, pid: int, timeout: float) -> bool:
    """Whether the process ended within `timeout` seconds; tells a person who has to wait."""
    began = time.monotonic()
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    remind = _SILENT
    while (elapsed := time.monotonic() - began) < timeout:
        if elapsed >= remind:
            say(
                f"waiting for the streams of pid {pid} to end: {duration(elapsed)} of at most {duration(timeout)} "
                "(Ctrl-C ends them now)"
            )
            remind += _REMIND_EVERY
        if poll.poll(1000 * max(0.0, min(remind, timeout) - elapsed)):
            return True
    return False


def _wait_ready(process: "subprocess.Popen[bytes]", notifications: socket.socket, timeout: float) -> bool:
    """True when the service said READY=1, or ended (`returncode` is set then); False when time ran out.

    What it says of its start is passed on to a person who has to wait for it.
    """
    began = time.monotonic()
    deadline = began + timeout
    poll = select.poll()
    poll.register(notifications, select.POLLIN)
    pidfd = os.pidfd_open(process.pid)
    try:
        poll.register(pidfd, select.POLLIN)
        while (remaining := deadline - time.monotonic()) > 0:
            readable = {fd for fd, _ in poll.poll(1000 * remaining)}
            for name, value in _assignments(notifications):
                if name == "STATUS" and time.monotonic() - began >= _STATUS_AFTER:
                    say(value)
                if (name, value) == ("READY", "1"):
                    return True
            if pidfd in readable:
                process.wait()
                return True
        return False
    finally:
        os.close(pidfd)


def _assignments(notifications: socket.socket) -> Iterator[tuple[str, str]]:
    """All that has arrived, in order (sd_notify(3))."""
    with suppress(BlockingIOError):
        while True:
            message = notifications.recv(_MAX_NOTIFICATION_BYTES).decode("utf-8", "replace")
            for line in message.splitlines():
                name, _, value = line.partition("=")
                yield name, value


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Polite, then deadline, then force."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_KILL_AFTER)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _last_words(log: Path, start: int, returncode: int) -> str:
    """Why the service gave up: its own sentence if it left one, else the end of what it wrote."""
    with log.open("rb") as file:
        file.seek(start)
        lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith("kimi-proxy: "):
            return line.removeprefix("kimi-proxy: ")
    how = f"was killed by {signal.Signals(-returncode).name}" if returncode < 0 else f"ended with code {returncode}"
    return "\n".join([f"the service {how} before it was ready; the end of {log}:", *lines[-10:]])
