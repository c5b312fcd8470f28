"""`kimi-proxy key`: keys of clients, made, listed, revoked.  The file has their hashes; only `add` ever shows a key."""

import argparse
import os
import secrets
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msgspec import Struct

from shared.clientkeys import check_client_key, fingerprint, hashed, keys_in
from shared.config import is_loopback, parse_bind
from shared.config.document import Document
from shared.config.providers import beside
from shared.errors import ConfigError, ControlError
from supervisor.cli.client import control_paths
from supervisor.cli.configfile import HEAD, change_file, choose_file
from supervisor.cli.inforce import check_change, keys_of, put_in_force, running_service
from supervisor.cli.keytext import add_client, remove_client, remove_key, remove_line
from supervisor.cli.live import ask_sessions
from supervisor.cli.out import show_json
from supervisor.cli.text import say, table
from supervisor.control import StatusReply

PREFIX = "kp-"
SECRET_BYTES = 32
SHORT = 20
"""Characters; somebody might guess a key of fewer."""


IN_CLIENTS, IN_KEYS, IN_ENVIRONMENT = "auth.clients", "auth.keys", "auth.keys_env"


def new_key() -> str:
    """A key that nobody has."""
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


class Entry(Struct, frozen=True, kw_only=True):
    """A key as it is listed."""

    name: str | None
    fingerprint: str
    models: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    burst_size: int | None = None
    max_concurrent: int | None = None
    dashboard: bool = True
    source: str
    """Where it stands: one of the three above, or the path of the `keys_file`."""


def add(arguments: argparse.Namespace) -> int:
    """Make a key, or take one from standard input; it alone is on stdout, and nothing else ever has it again."""
    given = _given_key() if arguments.key is not None else None
    key = given or new_key()
    values: dict[str, Any] = {"key": hashed(key)}
    for name in ("models", "requests_per_minute", "burst_size", "max_concurrent"):
        if (value := getattr(arguments, name)) is not None:
            values[name] = value
    if arguments.no_dashboard:
        values["dashboard"] = False
    running = running_service()
    path = _file(arguments, running)

    def change(text: str) -> str:
        if arguments.name in Document(text, str(path)).file.auth.clients:
            raise ControlError(
                f"{path}: there is a client {arguments.name} already: revoke it first, or choose another name"
            )
        made = add_client(text if text.strip() else HEAD, arguments.name, values)
        check_change(text, made, path)
        return made

    change_file(path, change)
    if given is None:
        print(key, flush=True)
        say(f"the key of {arguments.name} (fingerprint {fingerprint(key)}); it is shown this once")
    else:
        say(f"{arguments.name} has the key with the fingerprint {fingerprint(key)}")
    return put_in_force(path, running)


def list_keys(arguments: argparse.Namespace) -> int:
    """All keys that the configuration has, by name and fingerprint."""
    entries = _entries(_file(arguments, running_service()))
    if arguments.json:
        show_json({"keys": entries})
        return 0
    if not entries:
        say("there are no keys: everybody on this machine may ask; `kimi-proxy key add NAME` makes one")
        return 0
    rows = (
        (
            entry.name or "-",
            entry.fingerprint,
            ", ".join(entry.models) or "all",
            _rate(entry),
            entry.max_concurrent or "-",
            "yes" if entry.dashboard else "no",
            entry.source,
        )
        for entry in entries
    )
    print(table(("NAME", "FINGERPRINT", "MODELS", "REQUESTS", "STREAMS", "DASHBOARD", "FROM"), rows, right=(4,)))
    return 0


def revoke(arguments: argparse.Namespace) -> int:
    """Take a key away: it opens nothing from the moment that the service has read the file, and its streams end."""
    running = running_service()
    path = _file(arguments, running)
    entries = _entries(path)
    wanted = [entry for entry in entries if arguments.which == entry.name] or [
        entry for entry in entries if arguments.which.lower() == entry.fingerprint
    ]
    if not wanted:
        raise ControlError(f"{path}: no client, and no key, is called {arguments.which}; see `kimi-proxy key list`")
    others = [entry for entry in entries if entry not in wanted]
    if not others and running is not None:
        _refuse_open_door(running)
    for entry in wanted:
        if entry.source == IN_ENVIRONMENT:
            raise ControlError(f"{path} takes that key from a variable (keys_env): change it there, and restart")
    for entry in wanted:
        _remove(entry, path)
    streams = _streams(entry.fingerprint for entry in wanted) if running is not None else 0
    code = put_in_force(path, running)
    if code == 0:
        ended = f"; live streams that it had: {streams}, cancelled" if running is not None else ""
        say(f"{arguments.which} is revoked{ended}")
        if not others:
            say("no key is left: everybody on this machine may ask now")
    return code


def _remove(entry: Entry, path: Path) -> None:
    def change(text: str) -> str:
        made = remove_key(text, entry.fingerprint) if entry.name is None else remove_client(text, entry.name)
        check_change(text, made, path)
        return made if made.strip() else HEAD

    def change_lines(text: str) -> str:
        made = remove_line(text, entry.fingerprint)
        if not keys_in(made):
            raise ControlError(f"{entry.source} would hold no key then: take keys_file out of {path} instead")
        return made

    if entry.source in (IN_CLIENTS, IN_KEYS):
        change_file(path, change)
    else:
        change_file(Path(entry.source), change_lines)


def _entries(path: Path) -> list[Entry]:
    """Every key that `path` leads to, once for each place where it stands.

    What else is wrong with the configuration, or missing in this environment, must not keep a key from being revoked.
    """
    if not path.exists():
        return []
    auth = Document(path.read_text("utf-8-sig"), str(path)).file.auth
    entries = [
        Entry(
            name=name,
            fingerprint=fingerprint(client.key),
            models=tuple(client.models or ()),
            requests_per_minute=client.requests_per_minute,
            burst_size=client.burst_size,
            max_concurrent=client.max_concurrent,
            dashboard=client.dashboard,
            source=IN_CLIENTS,
        )
        for name, client in auth.clients.items()
    ]
    places = {IN_KEYS: auth.keys}
    if auth.keys_env is not None:
        places[IN_ENVIRONMENT] = os.environ.get(auth.keys_env, "").replace(",", " ").split()
    if auth.keys_file is not None:
        keys_file = beside(str(path), auth.keys_file)
        places[keys_file] = keys_of(Path(keys_file))
    for place, keys in places.items():
        entries += [Entry(name=None, fingerprint=fingerprint(key), source=place) for key in dict.fromkeys(keys)]
    return entries


def _given_key() -> str:
    key = sys.stdin.readline().strip()
    try:
        check_client_key(key)
    except ConfigError as error:
        raise ControlError(f"the key on standard input {error}") from None
    if len(key) < SHORT:
        say(f"that key has fewer than {SHORT} characters, and might be guessed")
    return key


def _file(arguments: argparse.Namespace, running: StatusReply | None) -> Path:
    return choose_file(arguments.config, os.environ, running.config_source if running is not None else None)


def _refuse_open_door(running: StatusReply) -> None:
    """`ControlError` if other machines reach the service, which would refuse to go on without keys."""
    for url in running.bind:
        scheme, _, address = url.partition("://")
        if scheme in ("http", "https") and not is_loopback(parse_bind(address)):
            raise ControlError(
                f"other machines can reach {url}, so the last key must stay: add another first (nothing was written)"
            )


def _streams(fingerprints: Iterable[str]) -> int:
    """How many live streams the keys have."""
    wanted = set(fingerprints)
    sessions = ask_sessions(control_paths(os.environ)).active.get("sessions", [])
    return sum(session.get("client") in wanted for session in sessions)


def _rate(entry: Entry) -> str:
    rate = f"{entry.requests_per_minute}/min" if entry.requests_per_minute is not None else None
    burst = f"{entry.burst_size} at once" if entry.burst_size is not None else None
    return ", ".join(filter(None, (rate, burst))) or "-"
