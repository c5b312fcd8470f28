"""From `[models."<public name>"]` to the models that can be asked for."""

import re
from collections.abc import Container, Mapping

from shared.config import schema
from shared.config.document import Document
from shared.config.faults import hint, key_name, table_name
from shared.config.lines import Path
from shared.config.presets import PRESETS
from shared.config.types import Model, Price, Provider

ANY = "default"
"""The public name that stands for each name nothing else matches."""

_WILDCARDS = frozenset("*?[")


def resolve_models(document: Document, providers: Mapping[str, Provider]) -> tuple[Model, ...]:
    """The file's models in its order; where it has none, those that its providers suggest."""
    models = document.file.models
    if not models:
        return _suggested(providers, everything=not document.file.providers)
    seen: dict[str, str] = {}
    for name in models:
        _check_name(document, ("models", name), name)
        pattern = re.sub(r"\*+", "*", name)
        what = table_name(("models", name))
        if pattern in seen:
            raise document.fault(("models", name), f'{what} matches what "{seen[pattern]}" does: keep one of them')
        seen[pattern] = name
    return tuple(_resolve(document, providers, name, section) for name, section in models.items())


def model_warnings(document: Document) -> list[str]:
    """What is accepted but has no effect."""
    warnings = []
    for name, section in document.file.models.items():
        if section.display_name is not None and not _WILDCARDS.isdisjoint(name):
            path: Path = ("models", name, "display_name")
            warnings.append(f"{document.where(path)}{key_name(path)} has no effect: patterns are in no list of models")
    return warnings


def _resolve(document: Document, providers: Mapping[str, Provider], name: str, section: schema.Model) -> Model:
    at: Path = ("models", name)
    if section.provider not in providers:
        raise document.fault((*at, "provider"), _unknown_provider(at, section.provider, providers))
    if section.model is not None:
        _check_name(document, (*at, "model"), section.model)
    if section.display_name is not None:
        _check_name(document, (*at, "display_name"), section.display_name)
    for index, fallback in enumerate(section.fallbacks):
        if not _leads_somewhere(fallback, document.file.models, providers):
            path = (*at, "fallbacks", index)
            known = [*document.file.models, *(f"{provider}/" for provider in providers)]
            fix = hint(fallback, known, "write provider/model, or the name of another model of this file")
            raise document.fault(path, f"{key_name(path)} leads to no provider that is configured: {fix}")
    return Model(
        name=name,
        provider=section.provider,
        model=section.model,
        display_name=section.display_name,
        fallbacks=tuple(section.fallbacks),
        max_context_size=section.max_context_size,
        price=Price(**section.price.given()) if section.price else None,
    )


def _suggested(providers: Mapping[str, Provider], *, everything: bool) -> tuple[Model, ...]:
    """Without `everything` only `echo`: who names providers asks for `provider/model`."""
    wanted = [name for name in providers if everything or providers[name].kind == "echo"]
    models: dict[str, Model] = {}
    for provider in wanted:
        preset = PRESETS.get(provider)
        if preset is not None:
            model = preset.default_model
            # "openai/gpt-oss-120b" of Groq's would be taken for a model of OpenAI's.
            name = f"{provider}/{model}" if "/" in model else model
            models.setdefault(name, Model(name=name, provider=provider, model=model))
    if everything:
        first = wanted[0]
        models[ANY] = Model(name=ANY, provider=first, model=PRESETS[first].default_model)
    return tuple(models.values())


def _unknown_provider(at: Path, wanted: str, providers: Mapping[str, Provider]) -> str:
    what = f"{table_name(at)} names a provider that is not configured"
    if wanted in PRESETS:
        variables = PRESETS[wanted].key_envs
        key = f" and set {variables[0]}" if variables else ""
        return f"{what}: add a section [providers.{wanted}]{key}"
    return f"{what}: {hint(wanted, providers, 'the configured ones are ' + ', '.join(providers))}"


def _leads_somewhere(target: str, names: Container[str], providers: Mapping[str, Provider]) -> bool:
    """Whether a fallback is `provider/model` or a public name; a glob's match has no name to ask for upstream."""
    provider, _, model = target.partition("/")
    return (bool(model) and provider in providers) or (target in names and _WILDCARDS.isdisjoint(target))


def _check_name(document: Document, path: Path, name: str) -> None:
    if not name or not name.isprintable() or name != name.strip():
        raise document.fault(path, f"{key_name(path)} is no usable name of a model: take one of printable characters")
