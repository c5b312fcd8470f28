"""`kimi-proxy start` and `kimi-proxy restart`."""

import argparse
import os

from shared import VERSION
from shared.errors import ControlError, StartError
from shared.paths import Paths, prepare, resolve_paths
from supervisor.cli import background
from supervisor.cli.client import SYSTEM_RUNTIME, control_paths, request
from supervisor.cli.live import misfit
from supervisor.cli.stop import stop_running
from supervisor.cli.text import say
from supervisor.control import NO_REQUEST, STOPPING, Done, Refused, Status, StatusReply, Upgrade
from supervisor.instance import running_pid

_STATUS_TIMEOUT = 5.0
_UPGRADE_TIMEOUT = 90.0
"""More than the running supervisor waits for the new one (`supervisor.upgrade`), and for its end."""


def start(arguments: argparse.Namespace) -> int:
    """Start the service in the background and say where it serves; 1 if it runs already or gives up."""
    paths = resolve_paths(os.environ)
    prepare(paths)
    pid = running_pid(paths.instance_lock)
    if pid is not None:
        raise StartError(f"already running as pid {pid}; to start it anew: kimi-proxy restart")
    return _start(paths, arguments.config)


def restart(arguments: argparse.Namespace) -> int:
    """Have a new supervisor take over from the one that runs, without refusing a connection or cutting a stream.

    It uses `--config`, or else the file that is in force.  What does not run is started; what does not answer is
    stopped and started.
    """
    paths = control_paths(os.environ)
    system = paths.runtime == SYSTEM_RUNTIME
    if not system:
        prepare(paths)
    config = None if arguments.config is None else os.path.abspath(arguments.config)
    if running_pid(paths.instance_lock) is None:
        return _start(paths, config)
    try:
        request(paths, Status(), _STATUS_TIMEOUT)
        print(_hand_over(paths, config, system=system))
    except _NoAnswerError as error:
        why = f"it can't hand the service over: {error}"
    except ControlError as error:
        if running_pid(paths.instance_lock) is None:
            return _start(paths, config)
        why = str(error)
    else:
        return 0
    if system:
        raise ControlError(f"{why}; use: systemctl restart kimi-proxy")
    say(f"{why}; stopping it and starting it anew")
    before = stop_running(paths)
    return _start(paths, config if config is not None or before is None else before.config_source)


class _NoAnswerError(ControlError):
    """It is of a version that knows no hand-over."""


def _hand_over(paths: Paths, config: str | None, *, system: bool) -> str:
    """What happened, in a sentence; `StartError` with the new supervisor's own if the service goes on as it was."""
    upgrade = Upgrade(
        argv=background.command(elsewhere=system),
        config=config,
        # The system's service lives in an environment, and sees a file system, of its own.
        cwd=None if system else os.getcwd(),
        env=None if system else background.child_environment(os.environ),
    )
    try:
        reply = request(paths, upgrade, _UPGRADE_TIMEOUT)
    except ControlError as error:
        raise StartError(f"{error}; `kimi-proxy status` tells who serves") from error
    if isinstance(reply, Done):
        return reply.message
    if not isinstance(reply, Refused):
        raise misfit(reply)
    if reply.message.startswith(NO_REQUEST):
        raise _NoAnswerError("it is of an older version")
    if reply.message == STOPPING:
        raise StartError("not restarted: the service is stopping, as somebody has asked it to")
    pid = running_pid(paths.instance_lock)
    raise StartError(f"{reply.message}\nkimi-proxy: not restarted; pid {pid} goes on as it was")


def _start(paths: Paths, config: str | None) -> int:
    first = not paths.database.exists()
    pid = background.launch(paths, config, os.environ)
    reply = request(paths, Status(), _STATUS_TIMEOUT)
    if not isinstance(reply, StatusReply):
        raise ControlError(f"pid {pid} runs, but does not tell its status; see {paths.log_file}")
    urls = [url if url.startswith(("http://", "https://", "unix:", "fd://")) else f"http://{url}" for url in reply.bind]
    print(f"kimi-proxy {VERSION} serves {' and '.join(urls)} (pid {pid}); stop it with: kimi-proxy stop")
    if first:
        print(_first_request(reply, urls))
    return 0


def _first_request(reply: StatusReply, urls: list[str]) -> str:
    """Something to paste: a completion where the built-in `echo` answers, else the list of models."""
    url = next((url for url in urls if url.startswith(("http://", "https://"))), None)
    curl = f"curl -N {url}" if url else f"curl -N --unix-socket {urls[0].removeprefix('unix:')} http://localhost"
    if any(provider.name == "echo" for provider in reply.providers):
        body = '{"model": "echo", "stream": true, "messages": [{"role": "user", "content": "Hello"}]}'
        return f"Try it:\n  {curl}/v1/chat/completions -H 'Content-Type: application/json' \\\n    -d '{body}'"
    return f"Try it:\n  {curl}/v1/models"
