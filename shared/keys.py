"""The providers' keys: looked up when a configuration is loaded, kept in memory, never logged.

A variable `KIMI_API_KEY` of the provider `kimi` is looked for in the environment, then among systemd's credentials
(`$CREDENTIALS_DIRECTORY`) as the file `KIMI_API_KEY`, `kimi_api_key` or `<provider>_api_key`.
"""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from shared.config.presets import PRESETS
from shared.config.types import Config, Provider
from shared.errors import ConfigError

_MAX_KEY_BYTES = 64 * 1024
_SENDABLE = re.compile(r"[\x20-\x7e\xa0-\xff]+")  # what an HTTP header's value holds, RFC 9110 section 5.5


def resolve_keys(config: Config, env: Mapping[str, str]) -> dict[str, str]:
    """Provider → key, for those that send one; raises `ConfigError` for a key that is named and can't be had."""
    keys = {}
    for name, provider in config.providers.items():
        key = _resolve(provider, env)
        if key is not None:
            keys[name] = key
    return keys


def _resolve(provider: Provider, env: Mapping[str, str]) -> str | None:
    folder = Path(env["CREDENTIALS_DIRECTORY"]) if env.get("CREDENTIALS_DIRECTORY") else None
    if provider.api_key_file is not None:
        path = Path(provider.api_key_file)
        data = _read(provider, path, private=not _is_inside(path, folder))
        if data is None:
            raise ConfigError(
                f"{_who(provider)}: there is no file {path}: create it with the key, or correct api_key_file"
            )
        return _checked(provider, data, str(path))
    if provider.api_key_env is None:
        return None
    variables = _variables(provider, provider.api_key_env)
    for variable in variables:
        if env.get(variable, "").strip():
            return _checked(provider, env[variable], variable)
    if folder is not None:
        for name in (*variables, *map(str.lower, variables), f"{provider.name}_api_key"):
            data = _read(provider, folder / name, private=False)
            if data is not None:
                return _checked(provider, data, f"the credential {name}")
    if provider.api_key_optional:
        return None
    state = "empty" if any(variable in env for variable in variables) else "not set"
    raise ConfigError(
        f"{_who(provider)}: {' or '.join(variables)} is {state}: export it, provide the credential"
        f" {provider.name}_api_key (systemd's LoadCredential=), set api_key_file in [providers.{provider.name}],"
        " or remove that section"
    )


def _variables(provider: Provider, named: str) -> tuple[str, ...]:
    """The variable that the configuration names, and all of the preset's, where it is one of these."""
    preset = PRESETS.get(provider.name)
    others = preset.key_envs if preset is not None and named in preset.key_envs else ()
    return tuple(dict.fromkeys((named, *others)))


def _read(provider: Provider, path: Path, *, private: bool) -> str | None:
    """The text of a key's file, None where there is none; `private`: nobody but its owner may read it."""
    try:
        # O_NONBLOCK: opening a FIFO must not wait for its writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{_who(provider)}: the key's file {path} can't be read ({error.strerror})") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{_who(provider)}: {path} is not a regular file: name the file that holds the key")
        if private and status.st_mode & 0o077:
            raise ConfigError(
                f"{_who(provider)}: the key's file {path} can be read by others"
                f" (mode {stat.S_IMODE(status.st_mode):04o}): chmod 600 it"
            )
        return os.read(fd, _MAX_KEY_BYTES).decode("utf-8", "replace")
    finally:
        os.close(fd)


def _checked(provider: Provider, text: str, place: str) -> str:
    """The key without the blanks around it; errors don't repeat it."""
    key = text.strip()
    if not key:
        raise ConfigError(f"{_who(provider)}: {place} is empty: put the key into it")
    if not _SENDABLE.fullmatch(key):
        raise ConfigError(f"{_who(provider)}: {place} has a character that no key may hold: copy the key again")
    return key


def _is_inside(path: Path, folder: Path | None) -> bool:
    return folder is not None and path.resolve().is_relative_to(folder.resolve())


def _who(provider: Provider) -> str:
    return f"provider {provider.name}"
