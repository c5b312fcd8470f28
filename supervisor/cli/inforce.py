"""A change of the configuration: whether the service would take it, and having it do so."""

import os
from pathlib import Path

from shared.clientkeys import keys_in
from shared.config import parse_config
from shared.config.auth import with_more_keys
from shared.errors import ConfigError
from supervisor.cli.client import NotRunningError, control_paths, request
from supervisor.cli.live import ask_status, misfit
from supervisor.cli.text import say
from supervisor.control import Done, Reload, StatusReply

RELOAD_TIMEOUT = 120.0
"""Seconds; as `kimi-proxy reload`."""


def running_service() -> StatusReply | None:
    """What the service says of itself; None if there is none."""
    try:
        return ask_status(control_paths(os.environ))
    except NotRunningError:
        return None


def check_change(old: str, new: str, path: Path) -> None:
    """`ConfigError` if `new` is wrong in a way that `old` is not: the service would refuse it."""
    try:
        parsed = parse_config(new, str(path), os.environ)
        if parsed.auth_keys_file is not None:
            with_more_keys(parsed.config.auth, keys_of(Path(parsed.auth_keys_file)))
    except ConfigError as error:
        try:
            parse_config(old, str(path), os.environ)
        except ConfigError as older:
            if str(older) == str(error):
                return
        raise ConfigError(f"{error} (nothing was written)") from None


def put_in_force(path: Path, running: StatusReply | None) -> int:
    """Have the service read `path` again; 1 if it refuses that."""
    if running is None:
        say(f"{path} is written; the service does not run")
        return 0
    if running.config_source is not None and not _is_same(Path(running.config_source), path):
        say(f"{path} is written, but the service that runs reads {running.config_source}: it was not told")
        return 0
    paths = control_paths(os.environ)
    reply = request(paths, Reload(), RELOAD_TIMEOUT)
    if not isinstance(reply, Done):
        say(f"{path} is written, but the service refuses it, and goes on as before: {misfit(reply)}", "error")
        return 1
    source = ask_status(paths).config_source
    if source is None or not _is_same(Path(source), path):
        say(
            f"{path} is written, but the service that runs does not look there: restart it with --config {path}",
            "error",
        )
        return 1
    say(f"the service was told: {reply.message}")
    return 0


def keys_of(path: Path) -> list[str]:
    """The keys of a `keys_file`, unchecked."""
    return [key for _, key in keys_in(path.read_text("utf-8-sig"))]


def _is_same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
