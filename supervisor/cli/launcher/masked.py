"""A provider's key as people may see it: little of it, and where it is from."""

from collections.abc import Mapping
from pathlib import Path

from shared.config import Provider
from shared.config.presets import PRESETS

_SHOWN_OF = 12
"""A shorter key is not shown at all."""


def masked(key: str) -> str:
    """The first four and the last two characters, and a mark that does not tell how many are between."""
    return f"{key[:4]}…{key[-2:]}" if len(key) >= _SHOWN_OF else "…"


def key_source(provider: Provider, env: Mapping[str, str]) -> str:
    """Where `shared.keys.resolve_keys` has found its key, in words."""
    if provider.api_key_file is not None:
        return short_path(provider.api_key_file, env)
    if provider.api_key_keyring:
        return "the keyring"
    preset = PRESETS.get(provider.name)
    named = (provider.api_key_env or "", *(preset.key_envs if preset is not None else ()))
    return next((f"${name}" for name in named if env.get(name, "").strip()), "systemd's credentials")


def short_path(path: str | Path, env: Mapping[str, str]) -> str:
    """`path` with `~` for the home, as people write it."""
    home = env.get("HOME", "").rstrip("/")
    text = str(path)
    return f"~{text[len(home) :]}" if home and text.startswith(f"{home}/") else text
