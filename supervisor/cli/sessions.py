"""`kimi-proxy sessions`: the live streams of all workers, and an end to some of them."""

import argparse
import os

from shared.errors import ControlError
from supervisor.cli.client import control_paths, request
from supervisor.cli.live import TIMEOUT, LiveStream, ask_sessions, live_streams, misfit
from supervisor.cli.out import show_json
from supervisor.cli.text import duration, say, table
from supervisor.control import Cancelled, CancelSession, CancelStale


def sessions(arguments: argparse.Namespace) -> int:
    """Show the live streams, or as the JSON that `GET /api/sessions/active` answers with."""
    reply = ask_sessions(control_paths(os.environ))
    if arguments.json:
        show_json(reply.active)
        return 0
    streams = live_streams(reply)
    if streams:
        print(render(streams))
    else:
        say("no live streams")
    return 0


def cancel(arguments: argparse.Namespace) -> int:
    """Cancel one stream, those of a session, or all that are stuck; the ids of what was cancelled on stdout.

    1 if there is no such stream or session; none that is stuck is fine.
    """
    message = CancelStale(arguments.idle) if arguments.stale else CancelSession(arguments.id)
    reply = request(control_paths(os.environ), message, TIMEOUT)
    match reply:
        case Cancelled(ids=[]) if arguments.stale:
            say(f"no stream has been idle for {arguments.idle:g} s")
        case Cancelled(ids=[]):
            raise ControlError(
                f"no live stream or session is called {arguments.id!r}; `kimi-proxy sessions` shows those there are"
            )
        case Cancelled(ids=ids):
            print("\n".join(ids))
        case _:
            raise misfit(reply)
    return 0


def render(streams: list[LiveStream]) -> str:
    """The streams as a table."""
    return table(
        ("ID", "SESSION", "PROVIDER", "MODEL", "WORKER", "AGE", "TOKENS", "TOKENS/S"),
        (
            (
                stream.id,
                stream.session or "",
                stream.provider,
                stream.model,
                stream.worker,
                duration(stream.age),
                stream.tokens,
                f"{stream.tokens_per_second:.1f}",
            )
            for stream in streams
        ),
        right=(4, 6, 7),
    )
