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

_REPLAYS: dict[Dialect, tuple[str, ...]] = {
    "openai": ("reasoning_content", "reasoning", "off"),
    "anthropic": ("thinking", "off"),
}
"""Where each dialect has a place for earlier thought, its default first."""


def resolve_translation(
    document: Document, at: Path, dialect: Dialect, section: schema.Provider, preset: Preset | None
) -> Translation:
    """The section's values over the preset's, which hold for the preset's own dialect only, over the defaults.

    `at` is the provider's table.  Raises `ConfigError` for a place that the dialect doesn't have.
    """
    if preset is not None and preset.dialect == dialect:
        base = preset.translation
    else:
        defaults: dict[str, Any] = {"replay_thinking": _REPLAYS[dialect][0]}
        base = Translation(**defaults)
    given = section.translation.given()
    replay = given.get("replay_thinking")
    if replay is not None and replay not in _REPLAYS[dialect]:
        path = (*at, "translation", "replay_thinking")
        places = " or ".join(f'"{place}"' for place in _REPLAYS[dialect])
        close = nearest(replay, _REPLAYS[dialect])
        fix = f': did you mean "{close}"?' if close else ""
        raise document.fault(
            path, f'{key_name(path)} = "{replay}" must be {places} where the dialect is "{dialect}"{fix}'
        )
    return structs.replace(base, **given)
