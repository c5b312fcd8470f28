"""From `[auth]` to the keys of clients, and to the clients that have one of their own."""

import re
from collections.abc import Mapping

import msgspec

from shared.clientkeys import check_client_key, hashed
from shared.config import schema
from shared.config.document import Document
from shared.config.faults import hint, key_name, table_name
from shared.config.limits import client_limit
from shared.config.lines import Path
from shared.config.providers import check_file_name, check_variable
from shared.config.types import Auth, Client, Model, Provider
from shared.errors import ConfigError

MAX_PATTERN_CHARS = 512
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_WILDCARDS = frozenset("*?[")
_AT: Path = ("auth", "clients")


def resolve_auth(document: Document, env: Mapping[str, str]) -> Auth:
    """All keys but those in `keys_file`, which `with_more_keys` adds."""
    section = document.file.auth
    at: Path = ("auth", "keys")
    for index, key in enumerate(section.keys):
        _check_key(document, (*at, index), key_name((*at, index)), key)
    check_variable(document, ("auth", "keys_env"), section.keys_env)
    check_file_name(document, ("auth", "keys_file"), section.keys_file)
    keys = list(section.keys)
    if section.keys_env is not None:
        path: Path = ("auth", "keys_env")
        found = env.get(section.keys_env, "").replace(",", " ").split()
        if not found:
            raise document.fault(path, f"{key_name(path)} names {section.keys_env}, which is not set: set it to a key")
        for key in found:
            _check_key(document, path, f"a key in {section.keys_env}", key)
        keys += found
    auth = Auth(tuple(dict.fromkeys(keys)))
    return msgspec.structs.replace(auth, clients=_clients(document, auth))


def with_more_keys(auth: Auth, keys: list[str]) -> Auth:
    """`auth` with keys of elsewhere; raises `ConfigError` with half a sentence if one is a client's."""
    known = {client.key: client.name for client in auth.clients}
    for key in keys:
        if name := known.get(hashed(key)):
            raise ConfigError(f"holds the key of {table_name((*_AT, name))}, too: remove it from one of them")
    return msgspec.structs.replace(auth, keys=tuple(dict.fromkeys((*auth.keys, *keys))))


def auth_warnings(document: Document, models: tuple[Model, ...], providers: Mapping[str, Provider]) -> list[str]:
    """What is accepted but has no effect: names of models that nobody has."""
    names = {model.name for model in models}
    if "default" in names or any(not _WILDCARDS.isdisjoint(name) for name in names):
        return []
    warnings = []
    for client, section in document.file.auth.clients.items():
        for index, model in enumerate(section.models or ()):
            known = model in names or model.partition("/")[0] in providers
            if not known and _WILDCARDS.isdisjoint(model):
                path = (*_AT, client, "models", index)
                fix = hint(model, names, "no model has that name")
                warnings.append(f"{document.where(path)}{key_name(path)} has no effect: {fix}")
    return warnings


def _clients(document: Document, auth: Auth) -> tuple[Client, ...]:
    owners = {hashed(key): "[auth] keys" for key in auth.keys}
    clients = []
    for name, section in document.file.auth.clients.items():
        at: Path = (*_AT, name)
        client = _client(document, at, name, section)
        if owner := owners.get(client.key):
            raise document.fault((*at, "key"), f"{table_name(at)} has the same key as {owner}: give it one of its own")
        owners[client.key] = table_name(at)
        clients.append(client)
    return tuple(clients)


def _client(document: Document, at: Path, name: str, section: schema.Client) -> Client:
    if not _NAME.fullmatch(name):
        raise document.fault(
            at, f"{table_name(at)} is not a usable name: take at most 64 letters, digits, dots, dashes and underscores"
        )
    _check_key(document, (*at, "key"), key_name((*at, "key")), section.key)
    if section.models is not None:
        _check_models(document, (*at, "models"), section.models)
    return Client(
        name=name,
        key=hashed(section.key),
        models=tuple(dict.fromkeys(section.models or ())),
        rate_limit=client_limit(document, at, section),
        max_concurrent=section.max_concurrent,
        dashboard=section.dashboard,
    )


def _check_models(document: Document, path: Path, models: list[str]) -> None:
    if not models:  # "none" and "no rule" look alike, and are the opposite of each other
        raise document.fault(path, f"{key_name(path)} is empty: name a model or a pattern, or leave it out for all")
    for index, model in enumerate(models):
        if not model or not model.isprintable() or len(model) > MAX_PATTERN_CHARS:
            entry = (*path, index)
            raise document.fault(entry, f'{key_name(entry)} must be the name of a model, or a pattern as in "claude-*"')


def _check_key(document: Document, path: Path, what: str, key: str) -> None:
    try:
        check_client_key(key)
    except ConfigError as error:
        raise document.fault(path, f"{what} {error}") from None
