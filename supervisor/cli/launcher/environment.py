"""What Claude Code gets told by its environment: where to ask, with which key, for which models.  Pure.

Claude Code 2.1 asks for the model `ANTHROPIC_MODEL`; it has names of its own for others, which `/model`, subagents and
its small errands use, and each has a variable: `ANTHROPIC_DEFAULT_<OPUS|SONNET|HAIKU|FABLE>_MODEL`.
`ANTHROPIC_SMALL_FAST_MODEL` is what older versions read for the small errands.
"""

from collections.abc import Mapping

from msgspec import Struct

from shared.config import Config, Model
from shared.config.presets import PRESETS
from shared.errors import ControlError
from shared.routing import find_model, is_glob, public_models, resolve

ANY_KEY = "kimi-proxy"
"""For a service that asks for none: without one Claude Code would ask the person to log in."""

# What Claude Code calls its families by itself; it is asked for none of the others unless somebody says so.
_OPUS, _SONNET, _HAIKU = "claude-opus-4-8", "claude-sonnet-4-6", "claude-haiku-4-5"
FAMILIES = (_SONNET, _OPUS, _HAIKU)
# Names that stand for one of the families, or for two of them by turns.
_ALIASES = frozenset({"opus", "sonnet", "haiku", "opusplan", "opus[1m]", "sonnet[1m]"})
# They would lead past us, or make Claude Code ask whether a key that is not ours is to be used.
REMOVED = (
    "ANTHROPIC_API_KEY",
    "CLAUDE_CODE_USE_ANTHROPIC_AWS",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_FOUNDRY",
    "CLAUDE_CODE_USE_GATEWAY",
    "CLAUDE_CODE_USE_MANTLE",
    "CLAUDE_CODE_USE_VERTEX",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_CODE_SUBAGENT_MODEL",
    "ANTHROPIC_UNIX_SOCKET",
)
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_NO_PROXIES = ("no_proxy", "NO_PROXY")
# As much as Claude Code takes for granted of a model that it does not know.
_USUAL_CONTEXT = 200_000


class Models(Struct, frozen=True, kw_only=True):
    """The names that Claude Code asks for, each of which the service knows."""

    main: str
    opus: str
    sonnet: str
    haiku: str
    context_size: int | None = None
    """How many tokens fit into the main one, where the configuration tells."""


def choose_models(config: Config | None, asked: str | None) -> Models:
    """The names to ask for, of which `asked`, if given, is the main one.

    They are those that lead where the configuration sends Claude Code's own, and tell what answers, as far as a name
    can: `claude-kimi-k2.6` falls under `claude-*` as `claude-sonnet-4-6` does, and keeps its fallbacks.  Without a
    configuration they are Claude Code's own.  `ControlError` if the service has no model for Claude Code.
    """
    if config is None:
        return Models(main=asked or _SONNET, opus=_OPUS, sonnet=_SONNET, haiku=_HAIKU)
    opus, sonnet, haiku = (_name(config, family) for family in (_OPUS, _SONNET, _HAIKU))
    if asked is not None:
        if asked in _ALIASES:
            _need(config, sonnet or opus or haiku)
        elif not resolve(config, asked):
            raise ControlError(f"no model is called {asked}; there are {_known(config)}")
        else:
            # A family with an entry of its own keeps it: small errands need no large model.
            own = find_model(config, _HAIKU) is not find_model(config, _SONNET)
            return _models(config, asked, opus=asked, sonnet=asked, haiku=(haiku if own else None) or asked)
    main = _need(config, sonnet or opus or haiku)
    return _models(config, asked or main, opus=opus or main, sonnet=sonnet or main, haiku=haiku or main)


def claude_environment(env: Mapping[str, str], url: str, key: str | None, models: Models) -> dict[str, str]:
    """The environment of Claude Code: `env`, and what leads it to the service at `url`."""
    made = {name: value for name, value in env.items() if name not in REMOVED}
    made |= told(url, key, models)
    if models.context_size is not None and models.context_size < _USUAL_CONTEXT:
        made.setdefault("CLAUDE_CODE_AUTO_COMPACT_WINDOW", str(models.context_size))
    if any(env.get(name) for name in _PROXIES):
        host = url.partition("://")[2].rpartition(":")[0].strip("[]")
        for name in _NO_PROXIES:
            before = env.get(name) or env.get(name.swapcase()) or ""
            made[name] = before if before == "*" else ",".join(filter(None, (before, host)))
    return made


def told(url: str, key: str | None, models: Models) -> dict[str, str]:
    """The variables that lead Claude Code to the service at `url`, whatever else is in its environment."""
    return {
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_AUTH_TOKEN": key or ANY_KEY,
        "ANTHROPIC_MODEL": models.main,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": models.opus,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": models.sonnet,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": models.haiku,
        "ANTHROPIC_DEFAULT_FABLE_MODEL": models.opus,
        "ANTHROPIC_SMALL_FAST_MODEL": models.haiku,
    }


def _models(config: Config, main: str, *, opus: str, sonnet: str, haiku: str) -> Models:
    targets = resolve(config, sonnet if main in _ALIASES else main)
    size = targets[0].context_size if targets else None
    return Models(main=main, opus=opus, sonnet=sonnet, haiku=haiku, context_size=size)


def _name(config: Config, family: str) -> str | None:
    """The name to ask for in the place of `family`; None if the service knows neither."""
    targets = resolve(config, family)
    if not targets:
        return None
    entry = find_model(config, family)
    if entry is None or entry.name == family:
        return family
    if entry.model is None:
        # The name goes upstream as it is, and only Anthropic's own service knows this one.
        preset = PRESETS.get(entry.provider)
        if preset is None or preset.dialect == "anthropic":
            return family
        return f"{entry.provider}/{preset.default_model}"
    for name in _names_under(entry, entry.model):
        if resolve(config, name) == targets and name not in _ALIASES:
            return name
    return family


def _names_under(entry: Model, model: str) -> list[str]:
    """Names that fall under the entry, perhaps, and have the model's in them."""
    if not is_glob(entry.name):
        return [model]
    filled = entry.name.replace("*", model) if entry.name.count("*") == 1 else model
    return [filled] if not is_glob(filled) and not model.startswith("claude") else []


def _need(config: Config, name: str | None) -> str:
    if name is None:
        raise ControlError(
            "the configuration has no model for Claude Code: run `kimi-proxy setup`, add a section "
            f'[models."claude-*"], or name one by --model; there are {_known(config)}'
        )
    return name


def _known(config: Config) -> str:
    names = list(public_models(config))[:20]
    return ", ".join(names) or "provider/model of " + ", ".join(config.providers)
