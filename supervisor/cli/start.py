"""`kimi-proxy start` and `kimi-proxy restart`."""

import argparse
import os

from shared import VERSION
from shared.errors import ControlError, StartError
from shared.paths import Paths, prepare, resolve_paths
from supervisor.cli import background
from supervisor.cli.client import SYSTEM_RUNTIME, control_paths, request
from supervisor.cli.stop import stop_running
from supervisor.control import Status, StatusReply
from supervisor.instance import running_pid

_STATUS_TIMEOUT = 5.0


def start(arguments: argparse.Namespace) -> int:
    """Start the service in the background and say where it serves; 1 if it runs already or gives up."""
    paths = resolve_paths(os.environ)
    prepare(paths)
    pid = running_pid(paths.instance_lock)
    if pid is not None:
        raise StartError(f"already running as pid {pid}; to start it anew: kimi-proxy restart")
    return _start(paths, arguments.config)


def restart(arguments: argparse.Namespace) -> int:
    """Stop the service if it runs, and start it with `--config`, or else with the file that it had used."""
    paths = control_paths(os.environ)
    if paths.runtime == SYSTEM_RUNTIME:
        raise ControlError("the service runs under systemd; use: systemctl restart kimi-proxy")
    prepare(paths)
    before = stop_running(paths)
    config = arguments.config
    if config is None and before is not None:
        config = before.config_source
    return _start(paths, config)


def _start(paths: Paths, config: str | None) -> int:
    first = not paths.database.exists()
    pid = background.launch(paths, config, os.environ)
    reply = request(paths, Status(), _STATUS_TIMEOUT)
    if not isinstance(reply, StatusReply):
        raise ControlError(f"pid {pid} runs, but does not tell its status; see {paths.log_file}")
    urls = [url if url.startswith(("http://", "unix:", "fd://")) else f"http://{url}" for url in reply.bind]
    print(f"kimi-proxy {VERSION} serves {' and '.join(urls)} (pid {pid}); stop it with: kimi-proxy stop")
    if first:
        print(_first_request(reply, urls))
    return 0


def _first_request(reply: StatusReply, urls: list[str]) -> str:
    """Something to paste: a completion where the built-in `echo` answers, else the list of models."""
    url = next((url for url in urls if url.startswith("http://")), None)
    curl = f"curl -N {url}" if url else f"curl -N --unix-socket {urls[0].removeprefix('unix:')} http://localhost"
    if any(provider.name == "echo" for provider in reply.providers):
        body = '{"model": "echo", "stream": true, "messages": [{"role": "user", "content": "Hello"}]}'
        return f"Try it:\n  {curl}/v1/chat/completions -H 'Content-Type: application/json' \\\n    -d '{body}'"
    return f"Try it:\n  {curl}/v1/models"
