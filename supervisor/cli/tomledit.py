"""Edits of TOML that keep its layout, and are read back: what is made must mean what was meant.  Pure."""

import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from shared.errors import ConfigError


def edited(text: str, edit: Callable[[Any], None]) -> Iterator[str]:
    """`text` after `edit` of its document; nothing for layouts that can't be changed so."""
    try:
        document = tomlkit.parse(text)
        edit(document)
        yield tomlkit.dumps(document)
    except (TOMLKitError, AttributeError, KeyError, TypeError, ValueError):
        return


def first_that_means(
    wanted: dict[str, Any],
    place: str,
    *texts: Iterator[str],
    read: Callable[[str], dict[str, Any]] = tomllib.loads,
) -> str:
    """The first of `texts` that is read as `wanted`; `ConfigError` that names `place` if none is."""
    for made in (made for source in texts for made in source):
        try:
            if read(made) == wanted:
                return made
        except tomllib.TOMLDecodeError:
            continue
    raise ConfigError(f"{place} is written in a way that only a person can change: edit the file by hand")
