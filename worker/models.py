"""From the model that a client names to the providers that are tried, in order.  Pure."""

from fnmatch import fnmatchcase

from msgspec import Struct

from shared.config import Config, Model

GLOB_CHARS = frozenset("*?[")
DEFAULT = "default"


class Target(Struct, frozen=True):
    """One provider, and what it calls the model."""

    provider: str
    model: str


def resolve(config: Config, asked: str) -> tuple[Target, ...]:
    """The targets for a model name: the first is the one meant, the rest are its fallbacks.  Empty: nobody has it.

    Looked up by exact public name, then `provider/model`, then globs (the most literal first), then `default`.
    """
    model = find_model(config, asked)
    direct = _direct(config, asked)
    if model is not None and (direct is None or model.name == asked):
        return _with_fallbacks(config, model, asked)
    return (direct,) if direct is not None else ()


def find_model(config: Config, asked: str) -> Model | None:
    """The entry of the file that `asked` falls under, if any."""
    for model in config.models:
        if model.name == asked:
            return model
    globs = [model for model in config.models if is_glob(model.name) and fnmatchcase(asked, model.name)]
    if globs:
        return max(globs, key=lambda model: sum(char not in GLOB_CHARS for char in model.name))
    return next((model for model in config.models if model.name == DEFAULT), None)


def public_models(config: Config) -> dict[str, str]:
    """What can be asked for by name → its provider: public names first, then the `provider/model`s behind them."""
    names = {model.name: model.provider for model in config.models if not is_glob(model.name)}
    for model in config.models:
        if model.model is not None:
            names.setdefault(f"{model.provider}/{model.model}", model.provider)
    return names


def display_name(config: Config, name: str) -> str:
    """What a list that people choose from calls a model."""
    return next((model.display_name for model in config.models if model.name == name and model.display_name), name)


def known_names(config: Config) -> str:
    """What to ask for instead of a name that nobody has; for people to read."""
    return ", ".join(list(public_models(config))[:20]) or "provider/model of " + ", ".join(config.providers)


def is_glob(name: str) -> bool:
    """Whether a public name is a pattern."""
    return not GLOB_CHARS.isdisjoint(name)


def _direct(config: Config, asked: str) -> Target | None:
    provider, slash, rest = asked.partition("/")
    return Target(provider, rest) if slash and rest and provider in config.providers else None


def _with_fallbacks(config: Config, model: Model, asked: str) -> tuple[Target, ...]:
    targets = [Target(model.provider, model.model or asked)]
    for name in model.fallbacks:
        # A fallback leads to one target of its own, never to further fallbacks: no loops, no surprises.
        exact = next((entry for entry in config.models if entry.name == name), None)
        target = Target(exact.provider, exact.model or name) if exact is not None else _direct(config, name)
        if target is not None and target not in targets:
            targets.append(target)
    return tuple(targets)
