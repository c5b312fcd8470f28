"""What `setup` makes of the configuration: a provider, and what Claude Code's names for models lead to.  Pure."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from shared.config import schema
from shared.config.models import ANY
from shared.config.presets import PRESETS
from supervisor.cli.launcher.catalogue import OFFERS
from supervisor.cli.launcher.tables import set_table

CLAUDE = "claude-*"
"""Whatever names Claude Code has built in, now and after its next update."""

_PROVIDER = "Written by `kimi-proxy setup`; every key: docs/configuration.md."
_CLAUDE = "Whatever Claude Code asks for."
_ANY = "Every name that nothing else matches."


class Plan(Struct, frozen=True, kw_only=True):
    """What was chosen."""

    provider: str
    model: str
    base_url: str | None = None
    """None: as it is, or the preset's."""
    dialect: str | None = None
    key: Mapping[str, Any] = {}
    """The fields of the provider that name its key (`keystore.Saved`); empty: they stay."""


def needs_address(provider: str, file: schema.File) -> bool:
    """Whether nobody knows where `provider` is."""
    there = file.providers.get(provider)
    known = provider in PRESETS or provider in OFFERS
    return not known and (there is None or there.base_url is None)


def led_to(file: schema.File, name: str) -> tuple[str, str | None] | None:
    """The provider and the model that `name` leads to; None if the file has no such entry."""
    model = file.models.get(name)
    return None if model is None else (model.provider, model.model)


def write_plan(text: str, file: schema.File, plan: Plan) -> str:
    """`text`, which `file` was read from, with what `plan` says; the same text if that is what it has."""
    text = write_provider(text, file, plan)
    before = led_to(file, CLAUDE)
    text = _lead(text, file, plan, CLAUDE, _CLAUDE)
    # One that somebody has led elsewhere on purpose stays.
    if led_to(file, ANY) in (None, before):
        text = _lead(text, file, plan, ANY, _ANY)
    return text


def write_provider(text: str, file: schema.File, plan: Plan) -> str:
    """`text` with the provider alone."""
    values: dict[str, Any] = {}
    offer = OFFERS.get(plan.provider)
    if plan.provider not in file.providers and offer is not None and offer.base_url is not None:
        values = {"base_url": offer.base_url, "dialect": offer.dialect, "normalise": list(offer.normalise)}
    if plan.base_url is not None:
        values["base_url"] = plan.base_url
    if plan.dialect is not None:
        values["dialect"] = plan.dialect
    return set_table(text, ("providers", plan.provider), {**values, **plan.key}, _PROVIDER)


def stays(file: schema.File, plan: Plan) -> list[str]:
    """The names of models that go on leading to another provider or model than the plan's."""
    others = {name: (model.provider, model.model) for name, model in file.models.items() if name != CLAUDE}
    if others.get(ANY) == led_to(file, CLAUDE):
        others.pop(ANY, None)
    return [name for name, target in others.items() if target != (plan.provider, plan.model)]


def _lead(text: str, file: schema.File, plan: Plan, name: str, about: str) -> str:
    values: dict[str, Any] = {"provider": plan.provider, "model": plan.model}
    there = led_to(file, name)
    if there is not None and there != (plan.provider, plan.model):
        values |= {"max_context_size": None, "price": None}  # of the model that it led to
    return set_table(text, ("models", name), values, about)
