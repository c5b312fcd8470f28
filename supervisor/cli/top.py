"""`kimi-proxy top`: the service live on the whole screen, looked at once a second."""

import argparse
import os
import shutil
import sys
import time
from contextlib import suppress

from shared.errors import ControlError
from shared.paths import Paths
from supervisor.cli.client import control_paths
from supervisor.cli.interrupt import interruptible
from supervisor.cli.layout import render, unpainted
from supervisor.cli.live import LiveStream, ask_sessions, ask_status, live_streams
from supervisor.cli.terminal import Screen, painted, wants_colours
from supervisor.control import StatusReply

EVERY = 1.0
# For one that hangs: the screen says so, and goes on asking.
_TIMEOUT = 2.0
_UNBOUNDED = (10_000, 10_000)


def top(arguments: argparse.Namespace) -> int:
    """Show the service until `q` or Ctrl-C; one frame only with `once`, or where there is no terminal.

    0 however it was ended; `ControlError` if there is no service at the beginning.  One that goes away later is
    waited for.
    """
    paths = control_paths(os.environ)
    status, streams = _look(paths)
    paint = painted if wants_colours(sys.stdout) else unpainted
    if arguments.once or not sys.stdout.isatty():
        print("\n".join(render(status, streams, *shutil.get_terminal_size(_UNBOUNDED), paint)))
        return 0
    with suppress(KeyboardInterrupt), interruptible(), Screen() as screen:
        note: str | None = None
        while True:
            look_at = time.monotonic() + EVERY
            while (remaining := look_at - time.monotonic()) > 0:
                screen.show(render(status, streams, *screen.size, paint, note))
                if screen.wait(remaining) == "quit":
                    return 0
            try:
                status, streams = _look(paths)
                note = None
            except ControlError as error:
                note = str(error)
    return 0


def _look(paths: Paths) -> tuple[StatusReply, list[LiveStream]]:
    return ask_status(paths, _TIMEOUT), live_streams(ask_sessions(paths, _TIMEOUT))
