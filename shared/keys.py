"""The keys for providers, ChatKit and TLS: looked up when a configuration is loaded, kept in memory, never logged.

A variable `KIMI_API_KEY` of the provider `kimi` is looked for in the environment, then among systemd's credentials
(`$CREDENTIALS_DIRECTORY`) as the file `KIMI_API_KEY`, `kimi_api_key` or `<provider>_api_key`.  Where the configuration
says so, it is in a file, or in the user's keyring, instead.
"""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from shared import keyring
from shared.certificate import TLS, read_certificate
from shared.config.presets import PRESETS
from shared.config.types import ChatKit, Config, Provider
from shared.errors import ConfigError

CHATKIT = "[chatkit]"
"""The key of `[chatkit]` among the others'; no provider can have this name."""

_MAX_KEY_BYTES = 64 * 1024
_SENDABLE = re.compile(r"[\x20-\x7e\xa0-\xff]+")  # what an HTTP header's value holds, RFC 9110 section 5.5


class _Wanted(Struct, frozen=True, kw_only=True):
    """A key that the configuration names, and how to speak of it."""

    who: str
    section: str
    credential: str
    variables: tuple[str, ...]
    file: str | None
    optional: bool
    keyring: str | None = None
    """The name that the user's keyring knows it by."""


def resolve_keys(config: Config, env: Mapping[str, str]) -> dict[str, str]:
    """Provider, `CHATKIT` or `TLS` → key, for those that have one; raises `ConfigError` for one that can't be had."""
    wanted = {name: _of_provider(provider) for name, provider in config.providers.items()}
    if config.chatkit.workflow is not None:
        wanted[CHATKIT] = _of_chatkit(config.chatkit)
    found = {name: _resolve(one, env) for name, one in wanted.items()}
    keys = {name: key for name, key in found.items() if key is not None}
    if config.server.tls is not None:
        keys[TLS] = read_certificate(config.server.tls)
    return keys


def key_variables(config: Config) -> frozenset[str]:
    """The names of variables in which keys may be looked for, of this configuration and of all presets."""
    named = {provider.api_key_env for provider in config.providers.values()} | {config.chatkit.api_key_env}
    return frozenset({*filter(None, named), *(name for preset in PRESETS.values() for name in preset.key_envs)})


def _of_provider(provider: Provider) -> _Wanted:
    """Variables: the one that the configuration names, and all of the preset's, where it is one of these."""
    named = provider.api_key_env
    preset = PRESETS.get(provider.name)
    others = preset.key_envs if preset is not None and named in preset.key_envs else ()
    return _Wanted(
        who=f"provider {provider.name}",
        section=f"[providers.{provider.name}]",
        credential=f"{provider.name}_api_key",
        variables=tuple(dict.fromkeys((named, *others))) if named is not None else (),
        file=provider.api_key_file,
        optional=provider.api_key_optional,
        keyring=provider.name if provider.api_key_keyring else None,
    )


def _of_chatkit(chatkit: ChatKit) -> _Wanted:
    return _Wanted(
        who="ChatKit",
        section="[chatkit]",
        credential="chatkit_api_key",
        variables=(chatkit.api_key_env,) if chatkit.api_key_env is not None else (),
        file=chatkit.api_key_file,
        optional=chatkit.api_key_optional,
    )


def _resolve(wanted: _Wanted, env: Mapping[str, str]) -> str | None:
    folder = Path(env["CREDENTIALS_DIRECTORY"]) if env.get("CREDENTIALS_DIRECTORY") else None
    if wanted.file is not None:
        path = Path(wanted.file)
        data = _read(wanted, path, private=not _is_inside(path, folder))
        if data is None:
            raise ConfigError(f"{wanted.who}: there is no file {path}: create it with the key, or correct api_key_file")
        return _checked(wanted, data, str(path))
    if wanted.keyring is not None:
        return _from_keyring(wanted, wanted.keyring, env)
    if not wanted.variables:
        return None
    for variable in wanted.variables:
        if env.get(variable, "").strip():
            return _checked(wanted, env[variable], variable)
    if folder is not None:
        for name in (*wanted.variables, *map(str.lower, wanted.variables), wanted.credential):
            data = _read(wanted, folder / name, private=False)
            if data is not None:
                return _checked(wanted, data, f"the credential {name}")
    if wanted.optional:
        return None
    state = "empty" if any(variable in env for variable in wanted.variables) else "not set"
    raise ConfigError(
        f"{wanted.who}: {' or '.join(wanted.variables)} is {state}: export it, provide the credential"
        f" {wanted.credential} (systemd's LoadCredential=), set api_key_file in {wanted.section},"
        " or remove that section"
    )


def _from_keyring(wanted: _Wanted, name: str, env: Mapping[str, str]) -> str:
    try:
        key = keyring.look_up(name, env)
    except ConfigError as error:
        raise ConfigError(f"{wanted.who}: {error}, or name the key in another way than by api_key_keyring") from None
    if key is None:
        raise ConfigError(f"{wanted.who}: the keyring has no key for it: kimi-proxy set-key {name} --keyring")
    return _checked(wanted, key, "the key in the keyring")


def _read(wanted: _Wanted, path: Path, *, private: bool) -> str | None:
    """The text of a key's file, None where there is none; `private`: nobody but its owner may read it."""
    try:
        # O_NONBLOCK: opening a FIFO must not wait for its writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{wanted.who}: the key's file {path} can't be read ({error.strerror})") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{wanted.who}: {path} is not a regular file: name the file that holds the key")
        if private and status.st_mode & 0o077:
            raise ConfigError(
                f"{wanted.who}: the key's file {path} can be read by others"
                f" (mode {stat.S_IMODE(status.st_mode):04o}): chmod 600 it"
            )
        return os.read(fd, _MAX_KEY_BYTES).decode("utf-8", "replace")
    finally:
        os.close(fd)


def _checked(wanted: _Wanted, text: str, place: str) -> str:
    """The key without the blanks around it; errors don't repeat it."""
    key = text.strip()
    if not key:
        raise ConfigError(f"{wanted.who}: {place} is empty: put the key into it")
    if not _SENDABLE.fullmatch(key):
        raise ConfigError(f"{wanted.who}: {place} has a character that no key may hold: copy the key again")
    return key


def _is_inside(path: Path, folder: Path | None) -> bool:
    return folder is not None and path.resolve().is_relative_to(folder.resolve())
