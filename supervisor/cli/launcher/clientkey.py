"""A key with which Claude Code may ask a service that wants one.

It is the first that the service knows of: `$KIMI_PROXY_CLIENT_KEY`, `$ANTHROPIC_AUTH_TOKEN`, the one that an earlier
launch has made, one that stands in the configuration as it is.  Else one is made, as `kimi-proxy key add` does it: the
configuration gets its hash, a file in the state folder, which nobody else may read, the key.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from shared.clientkeys import HASHED, check_client_key, hashed
from shared.config import Auth, Config
from shared.config.document import Document
from shared.errors import ConfigError, ControlError
from shared.paths import resolve_paths
from supervisor.cli.client import control_paths, request
from supervisor.cli.configfile import change_file
from supervisor.cli.inforce import RELOAD_TIMEOUT, check_change
from supervisor.cli.key import new_key
from supervisor.cli.keytext import add_client, remove_client
from supervisor.cli.live import misfit
from supervisor.cli.text import say
from supervisor.control import Done, Reload
from supervisor.files import replacement

VARIABLE = "KIMI_PROXY_CLIENT_KEY"
CLIENT = "launcher"
"""What the configuration, logs and limits call it."""
FILE_NAME = "launcher.key"


def key_for(config: Config | None, env: Mapping[str, str]) -> str | None:
    """A key that opens the service which has this configuration; None if it needs none.

    `ControlError` or `ConfigError` if none can be had.  Without a configuration what a variable has is taken as it is.
    """
    if config is None:
        return next((env[name] for name in (VARIABLE, "ANTHROPIC_AUTH_TOKEN") if env.get(name)), None)
    if not config.auth.required:
        return None
    key = find_key(config.auth, env)
    if key is not None:
        return key
    if config.source is None:
        raise ControlError(f"the service asks for a key: put one that it knows into {VARIABLE}")
    try:
        return _make(Path(config.source), env)
    except (ControlError, ConfigError) as error:
        raise ControlError(
            f"{error}\nkimi-proxy: the service asks for a key: have one made by `kimi-proxy key add NAME`, "
            f"and put it into {VARIABLE}"
        ) from error


def find_key(auth: Auth, env: Mapping[str, str]) -> str | None:
    """The first of those that are there already; nothing is made."""
    return next((key for key in _candidates(auth, env) if _fits(key, auth)), None)


def _file(env: Mapping[str, str]) -> Path:
    return resolve_paths(env).state / FILE_NAME


def _candidates(auth: Auth, env: Mapping[str, str]) -> Iterator[str]:
    for name in (VARIABLE, "ANTHROPIC_AUTH_TOKEN"):
        yield env.get(name, "")
    with suppress(OSError, UnicodeDecodeError):
        yield _file(env).read_text().strip()
    yield from auth.keys


def _fits(key: str, auth: Auth) -> bool:
    if not key or key.startswith(HASHED):
        return False
    try:
        check_client_key(key)
    except ConfigError:
        return False
    known = {*map(hashed, auth.keys), *(client.key for client in auth.clients if not client.models)}
    return hashed(key) in known


def _make(path: Path, env: Mapping[str, str]) -> str:
    """The file first: a key that nobody knows does no harm, one that nobody has would have to be revoked."""
    key = new_key()
    file = _file(env)
    try:
        with replacement(file, 0o600) as new:
            new.write_text(f"{key}\n")
    except OSError as error:
        raise ControlError(f"{file}: it can't be written ({error.strerror})") from error

    def change(text: str) -> str:
        # One whose file is gone is of no use to anybody.
        stale = CLIENT in Document(text, str(path)).file.auth.clients
        made = add_client(remove_client(text, CLIENT) if stale else text, CLIENT, {"key": hashed(key)})
        check_change(text, made, path)
        return made

    change_file(path, change)
    reply = request(control_paths(env), Reload(), RELOAD_TIMEOUT)
    if not isinstance(reply, Done):
        raise misfit(reply)
    say(f"the service asks for keys: Claude Code has one of its own now, the client {CLIENT} in {path}")
    return key


def forget_key() -> list[Path]:
    """The files that a reset has to remove."""
    return [path for path in (_file(os.environ),) if path.exists()]
