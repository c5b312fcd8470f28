"""From `[proxy]`, `[rate_limiting]` and `[providers.<name>]` to complete providers.

Each value comes from the first of: `[providers.<name>]`, the `[proxy]` globals, the preset, the built-in default.
"""

import posixpath
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from shared.config import schema
from shared.config.document import Document
from shared.config.faults import hint, key_name, table_name
from shared.config.limits import provider_limit
from shared.config.lines import Path
from shared.config.presets import PRESETS, Preset
from shared.config.translation import resolve_translation
from shared.config.types import Provider

# A name becomes a metrics label, a part of `provider/model` and of a file's name: no slash, no leading dot.
_PROVIDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token, RFC 9110 section 5.6.2
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]*")
# What frames a message, or names its target, is the HTTP client's to say.
_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer"})
_NOT_OF_A_PROVIDER = ("key_envs", "default_model", "translation")  # fields that only a preset has, or in another form
_IN_ANOTHER_FORM = ("base_url", "normalise", "translation", "requests_per_minute", "burst_size")
_KEY_SOURCES = ("api_key_env", "api_key_file", "api_key_keyring")
_DIALECT_PATHS = ("/chat/completions", "/messages")


def resolve_providers(document: Document, env: Mapping[str, str]) -> dict[str, Provider]:
    """The file's providers, or, where it has none, those whose key is in `env` and `echo`."""
    sections = document.file.providers or {name: schema.Provider() for name in usable_presets(env)}
    return {name: _resolve(document, env, name, section) for name, section in sections.items()}


def usable_presets(env: Mapping[str, str]) -> list[str]:
    """The presets that `env` holds a key for, in their order, and `echo`, which needs none."""
    return [
        name
        for name, preset in PRESETS.items()
        if preset.kind == "echo" or any(env.get(variable, "").strip() for variable in preset.key_envs)
    ]


def provider_warnings(document: Document) -> list[str]:
    """What is accepted but has no effect."""
    warnings = []
    known = {*PRESETS, *document.file.providers}
    for name in document.file.proxy.timeouts:
        if name not in known:
            path = ("proxy", "timeouts", name)
            fix = hint(name, known, "there is no provider of that name")
            warnings.append(f"{document.where(path)}{key_name(path)} has no effect: {fix}")
    return warnings


def beside(source: str | None, path: str) -> str:
    """A file that the configuration names: relative to the configuration's own folder."""
    return posixpath.join(posixpath.dirname(source or ""), path)


def check_variable(document: Document, path: Path, name: str | None) -> None:
    """That `name`, if there is one, can be an environment variable's; its value isn't repeated, as it may be a key."""
    if name is not None and not _VARIABLE.fullmatch(name):
        raise document.fault(
            path,
            f"{key_name(path)} must be the name of an environment variable, as in KIMI_API_KEY, not the key itself",
        )


def check_file_name(document: Document, path: Path, name: str | None) -> None:
    """That `name`, if there is one, can be a file's."""
    if name is not None and (not name or not name.isprintable()):
        raise document.fault(path, f"{key_name(path)} must be the path of a file")


def _resolve(document: Document, env: Mapping[str, str], name: str, section: schema.Provider) -> Provider:
    at: Path = ("providers", name)
    if not _PROVIDER_NAME.fullmatch(name):
        raise document.fault(
            at, f"{table_name(at)} is not a usable name: take at most 64 letters, digits, dots, dashes and underscores"
        )
    preset = PRESETS.get(name)
    values: dict[str, Any] = {
        **_preset_values(preset),
        **_proxy_values(document.file.proxy, name),
        **section.given(without=_IN_ANOTHER_FORM),
    }
    if "backoff_base" in values:  # a longer first pause than the default bound was hardly meant to be cut
        values.setdefault("max_backoff", max(values["backoff_base"], 4.0))
    if section.base_url is not None:
        values |= {"kind": "http", "base_url": _base_url(document, (*at, "base_url"), section.base_url)}
    elif preset is None:
        fix = hint(name, PRESETS, f'add base_url = "https://…/v1" to {table_name(at)}')
        raise document.fault(at, f"{table_name(at)} has no base_url and is no provider that is known by name: {fix}")
    elif preset.kind == "http" and section.dialect not in (None, preset.dialect):
        raise document.fault(
            (*at, "dialect"), f'{table_name(at)} speaks "{preset.dialect}" at its usual address: add its other base_url'
        )
    _check_headers(document, at, section.headers or {})
    values |= _key_source(document, env, at, section, preset)
    if section.normalise is not None:
        values["normalise"] = tuple(dict.fromkeys(section.normalise))
    values["translation"] = resolve_translation(document, at, values.get("dialect", "openai"), section, preset)
    return Provider(name=name, rate_limit=provider_limit(document, at, section), **values)


def _preset_values(preset: Preset | None) -> dict[str, Any]:
    if preset is None:
        return {}
    values = msgspec.structs.asdict(preset)
    return {key: value for key, value in values.items() if value is not None and key not in _NOT_OF_A_PROVIDER}


def _proxy_values(proxy: schema.Proxy, name: str) -> dict[str, Any]:
    values = {
        "first_byte_timeout": proxy.timeouts.get(name, proxy.stream_timeout),
        "chunk_timeout": proxy.streaming.chunk_timeout,
        "max_retries": proxy.max_retries,
        "backoff_base": proxy.retry_delay,
    }
    return {key: value for key, value in values.items() if value is not None} | proxy.retry.given()


def _key_source(
    document: Document, env: Mapping[str, str], at: Path, section: schema.Provider, preset: Preset | None
) -> dict[str, Any]:
    check_variable(document, (*at, "api_key_env"), section.api_key_env)
    check_file_name(document, (*at, "api_key_file"), section.api_key_file)
    named = [name for name in _KEY_SOURCES if getattr(section, name)]
    if len(named) > 1:
        raise document.fault((*at, named[1]), f"{table_name(at)} has both {named[0]} and {named[1]}: keep one of them")
    if section.api_key_file is not None:
        return {"api_key_file": beside(document.source, section.api_key_file)}
    if named or preset is None or not preset.key_envs:
        return {}
    found = [variable for variable in preset.key_envs if env.get(variable, "").strip()]
    # At another address than the usual one, such as a local stand-in, perhaps no key is needed.
    return {"api_key_env": (found or preset.key_envs)[0], "api_key_optional": section.base_url is not None}


def check_url(document: Document, path: Path, url: str) -> str:
    """`url` without a trailing slash; the value isn't repeated in errors, as it may hold a password."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or not url.isascii() or " " in url:
        raise document.fault(path, f'{key_name(path)} must be an address such as "https://api.example.com/v1"')
    if parts.username is not None or parts.password is not None:
        raise document.fault(
            path, f"{key_name(path)} holds a user name or password: take them out, api_key_env is for keys"
        )
    if "?" in url or "#" in url:
        raise document.fault(path, f"{key_name(path)} must end with its path: leave out what begins with ? or #")
    return url.rstrip("/")


def _base_url(document: Document, path: Path, url: str) -> str:
    url = check_url(document, path, url)
    for ending in _DIALECT_PATHS:
        if url.endswith(ending):
            raise document.fault(path, f"{key_name(path)} must not end with {ending}: that is added to it")
    return url


def _check_headers(document: Document, at: Path, headers: dict[str, str]) -> None:
    for name, value in headers.items():
        path = (*at, "headers", name)
        if not _HEADER_NAME.fullmatch(name):
            raise document.fault(path, f"{key_name(path)} is not the name of an HTTP header: rename it")
        if name.lower() in _OWN_HEADERS:
            raise document.fault(path, f"{key_name(path)} is set by the proxy itself: leave it out")
        if not _HEADER_VALUE.fullmatch(value):
            raise document.fault(path, f"{key_name(path)} has a character that no HTTP header may hold: remove it")
