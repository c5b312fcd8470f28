"""`kimi-proxy stop`."""

import argparse
import os

from shared.config import Server
from shared.config.locate import load_config
from shared.errors import ConfigError, ControlError
from shared.paths import Paths
from supervisor.cli import background
from supervisor.cli.client import control_paths, request
from supervisor.cli.text import say
from supervisor.control import Status, StatusReply
from supervisor.instance import running_pid

_STATUS_TIMEOUT = 2.0


def stop(_arguments: argparse.Namespace) -> int:
    """Stop the service and wait until it is gone; 0 also when it did not run."""
    paths = control_paths(os.environ)
    pid = running_pid(paths.instance_lock)
    if pid is None:
        say("not running")
        return 0
    while pid is not None:
        stop_running(paths)
        say(f"stopped (pid {pid})")
        before, pid = pid, running_pid(paths.instance_lock)  # another one may have taken over just then
        if pid == before:
            raise ControlError(f"pid {pid} still runs")
    return 0


def stop_running(paths: Paths) -> StatusReply | None:
    """Stop the instance if one runs; returns what it said of itself before, if it answered."""
    pid = running_pid(paths.instance_lock)
    if pid is None:
        return None
    reply: StatusReply | None = None
    try:
        answer = request(paths, Status(), _STATUS_TIMEOUT)
        if isinstance(answer, StatusReply):
            reply = answer
    except ControlError:
        pass  # too busy, or stopping already: the signal reaches it all the same
    background.stop(pid, paths, _graceful_timeout(reply))
    return reply


def _graceful_timeout(reply: StatusReply | None) -> float:
    """As the running configuration has it, as far as that can be read from here."""
    if reply is not None and reply.config_source is not None:
        try:
            return load_config(reply.config_source, os.environ).config.server.graceful_timeout
        except ConfigError:
            pass  # edited since, and broken
    return Server().graceful_timeout
