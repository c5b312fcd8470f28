"""From the model that a client names to the providers that are tried, in order.  Pure: for those who serve, and for
the commands that tell people where a name leads."""

from fnmatch import fnmatchcase

from msgspec import Struct

from shared.config import Config, Model, Price

GLOB_CHARS = frozenset("*?[")
DEFAULT = "default"


class Target(Struct, frozen=True):
    """One provider, and what it calls the model."""

    provider: str
    model: str
    price: Price | None = None
    context_size: int | None = None
    """How many tokens fit into its context, where the configuration tells."""


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
        return max(globs, key=_literals)
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


def is_glob(name: str) -> bool:
    """Whether a public name is a pattern."""
    return not GLOB_CHARS.isdisjoint(name)


def _direct(config: Config, asked: str) -> Target | None:
    provider, slash, rest = asked.partition("/")
    return _target(config, provider, rest) if slash and rest and provider in config.providers else None


def _target(config: Config, provider: str, name: str, entry: Model | None = None) -> Target:
    """What `entry` leads to.  What it does not tell about the model, another entry for the same one may."""
    told = [
        model
        for model in config.models
        if model.provider == provider and (model.price is not None or model.max_context_size is not None)
    ]
    if not told:
        return Target(provider, name)
    # The entry that leads here, then those that name the provider's model, then patterns that its name matches.
    exact = [model for model in told if (model.model or model.name) == name]
    globs = [model for model in told if model.model is None and is_glob(model.name) and fnmatchcase(name, model.name)]
    entries = [*([entry] if entry else []), *exact, *sorted(globs, key=_literals, reverse=True)]
    return Target(
        provider,
        name,
        next((model.price for model in entries if model.price is not None), None),
        next((model.max_context_size for model in entries if model.max_context_size is not None), None),
    )


def _literals(model: Model) -> int:
    """How many characters of a pattern stand for themselves."""
    return sum(char not in GLOB_CHARS for char in model.name)


def _with_fallbacks(config: Config, model: Model, asked: str) -> tuple[Target, ...]:
    targets = [_target(config, model.provider, model.model or asked, model)]
    for name in model.fallbacks:
        # A fallback leads to one target of its own, never to further fallbacks: no loops, no surprises.
        exact = next((entry for entry in config.models if entry.name == name), None)
        if exact is not None:
            target: Target | None = _target(config, exact.provider, exact.model or name, exact)
        else:
            target = _direct(config, name)
        if target is not None and all((target.provider, target.model) != (t.provider, t.model) for t in targets):
            targets.append(target)
    return tuple(targets)
