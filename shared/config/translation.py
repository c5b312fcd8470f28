"""From `[providers.<name>.translation]` to what a provider understands of a request in the other dialect."""

from typing import Any

from msgspec import structs

from shared.config import schema
from shared.config.document import Document
from shared.config.faults import key_name, nearest
from shared.config.lines import Path
from shared.config.presets import Preset
from shared.config.types import Translation
from shared.records import Dialect

_PLACES: dict[str, dict[Dialect, tuple[str, ...]]] = {
    "replay_thinking": {"openai": ("reasoning_content", "reasoning", "off"), "anthropic": ("thinking", "off")},
    "web_search": {"openai": ("off", "builtin", "plugin"), "anthropic": ("off", "tool")},
}
"""What only one of the dialects has a place for, its default first."""


def resolve_translation(
    document: Document, at: Path, dialect: Dialect, section: schema.Provider, preset: Preset | None
) -> Translation:
    """The section's values over the preset's, which hold for the preset's own dialect only, over the defaults.

    `at` is the provider's table.  Raises `ConfigError` for a place that the dialect doesn't have.
    """
    if preset is not None and preset.dialect == dialect:
        base = preset.translation
    else:
        defaults: dict[str, Any] = {key: places[dialect][0] for key, places in _PLACES.items()}
        base = Translation(**defaults)
    given = section.translation.given()
    for key, places in _PLACES.items():
        value = given.get(key)
        if value is not None and value not in places[dialect]:
            path = (*at, "translation", key)
            known = " or ".join(f'"{place}"' for place in places[dialect])
            close = nearest(value, places[dialect])
            fix = f': did you mean "{close}"?' if close else ""
            raise document.fault(
                path, f'{key_name(path)} = "{value}" must be {known} where the dialect is "{dialect}"{fix}'
            )
    return structs.replace(base, **given)
