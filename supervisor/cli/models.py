"""`kimi-proxy models`: the names that can be asked for, and those that a provider itself has."""

import argparse
import os

from msgspec import Struct

from shared.config import Config, Price
from shared.config.faults import hint
from shared.config.locate import load_config
from shared.errors import ControlError
from shared.keys import resolve_keys
from shared.routing import Target, find_model, resolve
from supervisor.cli.configfile import choose_file
from supervisor.cli.inforce import running_service
from supervisor.cli.launcher.catalogue import OFFERS
from supervisor.cli.launcher.checkup import claude_targets
from supervisor.cli.launcher.environment import FAMILIES
from supervisor.cli.launcher.upstream_models import upstream_models
from supervisor.cli.out import show_json
from supervisor.cli.text import say, table

ANY_PROVIDER = ""
"""What `--upstream` without a name stands for: the provider that answers Claude Code."""


class Listed(Struct, frozen=True, kw_only=True):
    """A name of the configuration, and where it leads."""

    name: str
    provider: str
    upstream_model: str | None
    """None: the name as it was asked for."""
    context: int | None
    """Tokens; from the configuration, else as published."""
    price: Price | None
    """US dollars per million tokens; likewise."""
    published: bool
    """Context or price are not the configuration's own."""
    claude_code: bool
    """Claude Code's requests come here."""
    fallbacks: list[str]


def models(arguments: argparse.Namespace) -> int:
    """List the models of the configuration, or with `--upstream` those of a provider, which is asked for them."""
    running = running_service()
    path = choose_file(arguments.config, os.environ, running.config_source if running is not None else None)
    config = load_config(str(path) if path.exists() else arguments.config, os.environ).config
    if arguments.upstream is not None:
        return _upstream(config, arguments.upstream, as_json=arguments.json)
    rows = listed(config)
    if arguments.json:
        show_json({"models": rows, "providers": list(config.providers)})
        return 0
    if rows:
        print(
            table(
                ("", "MODEL", "PROVIDER", "UPSTREAM MODEL", "CONTEXT", "$ IN", "$ OUT"),
                (
                    (
                        "*" if row.claude_code else "",
                        row.name,
                        row.provider,
                        row.upstream_model or "as asked",
                        _context(row.context),
                        _dollars(row.price.input if row.price else None),
                        _dollars(row.price.output if row.price else None),
                    )
                    for row in rows
                ),
                right=(4, 5, 6),
            )
        )
    if any(row.claude_code for row in rows):
        say("* answers Claude Code; US dollars per million tokens, as published where the configuration has no price")
    else:
        say("none of them answers Claude Code: kimi-proxy provider NAME has one do that")
    say(f"also PROVIDER/MODEL of {', '.join(config.providers)}; a provider's own list: kimi-proxy models --upstream")
    return 0


def listed(config: Config) -> list[Listed]:
    """The names of the configuration in its order, patterns included."""
    for_claude = {entry.name for name in FAMILIES if (entry := find_model(config, name)) is not None}
    rows = []
    for model in config.models:
        target = resolve(config, model.name)[0]
        known = model.model is not None and _is_offered(target)
        offer = OFFERS[target.provider] if known else None
        price = target.price
        if price is None and offer is not None and offer.price is not None:
            price = Price(input=offer.price[0], output=offer.price[1])
        context = target.context_size or (offer.context if offer is not None else None)
        rows.append(
            Listed(
                name=model.name,
                provider=model.provider,
                upstream_model=model.model,
                context=context,
                price=price,
                published=(price, context) != (target.price, target.context_size),
                claude_code=model.name in for_claude,
                fallbacks=list(model.fallbacks),
            )
        )
    return rows


def _is_offered(target: Target) -> bool:
    return target.provider in OFFERS and OFFERS[target.provider].model == target.model


def _upstream(config: Config, name: str, *, as_json: bool) -> int:
    targets = claude_targets(config)
    name = name or (targets[0].provider if targets else next(iter(config.providers)))
    if name not in config.providers:
        raise ControlError(
            f"there is no provider {name}: {hint(name, config.providers, 'there are ' + ', '.join(config.providers))}"
        )
    provider = config.providers[name]
    key = resolve_keys(Config(providers={name: provider}), os.environ).get(name)
    found = upstream_models(provider, key)
    if as_json:
        show_json({"provider": name, "models": found})
        return 0
    for model in found:
        print(model)
    say(f"{len(found)} of {name}; ask for one as {name}/MODEL, or: kimi-proxy provider {name} --model MODEL")
    return 0


def _context(tokens: int | None) -> str:
    return "?" if tokens is None else f"{tokens:,}"


def _dollars(price: float | None) -> str:
    return "?" if price is None else f"{price:.2f}"
