"""`kimi-proxy check-config`."""

import argparse
import os

from shared.certificate import certificate_warnings
from shared.config import Config
from shared.config.locate import load_config
from shared.keys import resolve_keys
from supervisor.cli.text import say, table


def check_config(arguments: argparse.Namespace) -> int:
    """Tell where the configuration is and what it means; 1 with file, line and key if it is wrong."""
    loaded = load_config(arguments.config, os.environ)
    keys = resolve_keys(loaded.config, os.environ)
    for warning in (*loaded.warnings, *certificate_warnings(loaded.config.server.tls, keys)):
        say(f"warning: {warning}")
    print(f"{loaded.path or 'the built-in configuration'}: OK")
    print(_summary(loaded.config, keys))
    return 0


def _summary(config: Config, keys: dict[str, str]) -> str:
    providers = table(
        ("PROVIDER", "DIALECT", "KEY", "URL"),
        (
            (
                provider.name,
                provider.dialect,
                _key(provider.name in keys, provider.api_key_env),
                provider.base_url or "built in",
            )
            for provider in config.providers.values()
        ),
    )
    models = table(
        ("MODEL", "PROVIDER", "UPSTREAM MODEL", "FALLBACKS"),
        (
            (model.name, model.provider, model.model or "as asked", ", ".join(model.fallbacks))
            for model in config.models
        ),
    )
    bind = f"serves {', '.join(config.server.bind)} with {config.server.workers} workers"
    return "\n\n".join([bind, providers, *([models] if config.models else [])])


def _key(known: bool, variable: str | None) -> str:
    if known:
        return "yes"
    return f"{variable} is not set" if variable else "none needed"
