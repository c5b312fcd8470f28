"""`kimi-proxy reload` and `kimi-proxy dump-stacks`: what SIGHUP and SIGUSR1 do, with an answer."""

import argparse
import os
import signal

from shared.errors import ControlError
from shared.paths import Paths
from supervisor.cli.client import NotRunningError, control_paths, request
from supervisor.cli.live import misfit
from supervisor.cli.logs import where_the_log_is
from supervisor.cli.text import say
from supervisor.control import Done, DumpStacks, Reload, Request
from supervisor.instance import running_pid

# Both outlast what they wait for: rolling workers one by one; a worker whose loop is blocked.
_RELOAD_TIMEOUT = 120.0
_DUMP_TIMEOUT = 15.0


def reload(_arguments: argparse.Namespace) -> int:
    """Have the configuration read again; 1 if it was refused, and the one before it stays in force."""
    return _tell(control_paths(os.environ), Reload(), _RELOAD_TIMEOUT)


def dump_stacks(_arguments: argparse.Namespace) -> int:
    """Have every process write its stacks; a supervisor that doesn't answer gets the signal instead."""
    paths = control_paths(os.environ)
    try:
        code = _tell(paths, DumpStacks(), _DUMP_TIMEOUT)
    except NotRunningError:
        raise
    except ControlError:
        pid = running_pid(paths.instance_lock)
        if pid is None:
            raise
        os.kill(pid, signal.SIGUSR1)
        say(f"pid {pid} does not answer; it was sent SIGUSR1")
        code = 0
    say(f"the stacks are in {where_the_log_is(paths)}")
    return code


def _tell(paths: Paths, message: Request, timeout: float) -> int:
    reply = request(paths, message, timeout)
    if not isinstance(reply, Done):
        raise misfit(reply)
    print(reply.message)
    return 0
