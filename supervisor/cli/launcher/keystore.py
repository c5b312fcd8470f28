"""Where the keys of providers are kept: a file for its owner alone beside the configuration, or the user's keyring.

    config.toml       [providers.kimi] api_key_file = "keys/kimi"
    keys/             0700
    keys/kimi         0600, one line

The configuration has the reference, which `save_key` returns; the key itself is in no text that is made here.
"""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from shared import keyring
from shared.config import schema
from shared.config.providers import beside
from shared.errors import ControlError
from supervisor.cli.launcher.catalogue import OFFERS
from supervisor.files import replacement

FOLDER = "keys"
FIELDS = ("api_key_env", "api_key_file", "api_key_keyring")
"""Of `[providers.<name>]`: the ways to name a key, of which a section may have one."""

_VISIBLE = re.compile(r"[\x21-\x7e]+")


class Saved(Struct, frozen=True, kw_only=True):
    """What `[providers.<name>]` has to say, None for what must not be there, and where the key is now, in words."""

    values: dict[str, Any]
    place: str


def bad_key(key: str) -> str | None:
    """Why `key` can't be one, as a clause that does not repeat it; None if it can."""
    if not key:
        return "it is empty: paste the key"
    if not key.isascii():
        return "it has characters that are no ASCII: copy the key again, and nothing around it"
    if not _VISIBLE.fullmatch(key):
        return "it has blanks, line ends or control characters in it: copy the key again, and nothing around it"
    return None


def doubt(provider: str, key: str) -> str | None:
    """What is odd about the beginning of `key`, as a sentence that does not repeat it; None if nothing is."""
    offer = OFFERS.get(provider)
    if offer is None or not offer.key_prefixes or key.startswith(offer.key_prefixes):
        return None
    others = [
        other.title
        for other in OFFERS.values()
        if len(max(other.key_prefixes, key=len, default="")) > 3 and key.startswith(other.key_prefixes)
    ]
    like = f"; this looks like one of {others[0]}" if others else ""
    return f"keys of {offer.title} begin with {' or '.join(offer.key_prefixes)}{like}"


def save_key(
    provider: str,
    key: str,
    *,
    config: Path,
    in_keyring: bool = False,
    section: schema.Provider | None = None,
    env: Mapping[str, str] | None = None,
) -> Saved:
    """Keep `key`, in the keyring or in a file, and say how the configuration refers to it.

    `section` is what the configuration has about the provider: a file that it names already is the one that is written.
    `ControlError` for a key that can't be one and for a folder that can't be written, `ConfigError` for a keyring that
    does not take it.
    """
    problem = bad_key(key)
    if problem is not None:
        raise ControlError(f"that key can't be used: {problem}")
    if in_keyring:
        keyring.store(provider, key, os.environ if env is None else env)
        return Saved(values=_only("api_key_keyring", True), place="the keyring")
    path = key_file(provider, config, section)
    _write(path, key)
    named = section.api_key_file if section is not None and section.api_key_file is not None else f"{FOLDER}/{provider}"
    return Saved(values=_only("api_key_file", named), place=str(path))


def delete_key(provider: str, *, config: Path, in_keyring: bool = False, env: Mapping[str, str] | None = None) -> bool:
    """Forget the key that `save_key` has kept; whether there was a file of it.  The configuration is not changed."""
    if in_keyring:
        keyring.clear(provider, os.environ if env is None else env)
    path = config.parent / FOLDER / provider
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ControlError(f"{path}: it can't be removed ({error.strerror})") from error
    with suppress(OSError):  # other keys are in it
        path.parent.rmdir()
    return True


def key_file(provider: str, config: Path, section: schema.Provider | None = None) -> Path:
    """The file that holds, or is to hold, the key of `provider`."""
    named = section.api_key_file if section is not None else None
    return Path(beside(str(config), named if named is not None else f"{FOLDER}/{provider}"))


def _only(field: str, value: Any) -> dict[str, Any]:
    return {name: value if name == field else None for name in FIELDS}


def _write(path: Path, key: str) -> None:
    real = Path(os.path.realpath(path))
    try:
        real.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacement(real, 0o600) as new:
            new.chmod(0o600)
            new.write_text(f"{key}\n", "ascii")
    except OSError as error:
        raise ControlError(
            f"{real}: the key can't be written there ({error.strerror or error}): make the folder writable, or name"
            " another configuration by --config"
        ) from error
