"""`kimi-proxy provider`: who answers Claude Code, and a change of that."""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from msgspec import Struct

from shared.config import Config, schema
from shared.config.document import Document
from shared.config.faults import hint
from shared.config.locate import load_config
from shared.config.presets import PRESETS
from shared.config.providers import usable_presets
from shared.errors import ConfigError, ControlError, UsageError
from shared.keys import resolve_keys
from supervisor.cli.configfile import HEAD, change_file, choose_file
from supervisor.cli.inforce import check_change, put_in_force, running_service
from supervisor.cli.launcher.catalogue import OFFERS
from supervisor.cli.launcher.checkup import claude_targets
from supervisor.cli.launcher.plan import CLAUDE, Plan, led_to, stays, write_plan
from supervisor.cli.out import show_json
from supervisor.cli.text import say, table
from supervisor.control import StatusReply

KeyState = Literal["yes", "in the service", "missing", "none needed"]


class Shown(Struct, frozen=True, kw_only=True):
    """A provider as it is listed."""

    name: str
    claude_code: bool
    """It is the first that Claude Code's requests go to."""
    models: list[str]
    """Those that Claude Code's requests may reach."""
    key: KeyState
    base_url: str | None


def provider(arguments: argparse.Namespace) -> int:
    """Show the providers and which of them answers Claude Code, or have another one do that."""
    return _show(arguments) if arguments.name is None else _switch(arguments)


def _show(arguments: argparse.Namespace) -> int:
    if arguments.model is not None:
        raise UsageError(
            "--model is the model of a provider: name that, too, as in: kimi-proxy provider NAME --model M"
        )
    running = running_service()
    path = _file(arguments, running)
    config = load_config(str(path) if path.exists() else arguments.config, os.environ).config
    targets = claude_targets(config)
    first = targets[0].provider if targets else None
    rows = [
        Shown(
            name=one.name,
            claude_code=one.name == first,
            models=[target.model for target in targets if target.provider == one.name],
            key=_key_state(config, one.name, running),
            base_url=one.base_url or None,
        )
        for one in config.providers.values()
    ]
    if arguments.json:
        show_json({"providers": rows})
        return 0
    cells = (
        ("*" if row.claude_code else "", row.name, ", ".join(row.models) or "-", row.key, row.base_url or "built in")
        for row in rows
    )
    print(table(("", "PROVIDER", "MODEL", "KEY", "URL"), cells))
    if first is None:
        say("no provider answers Claude Code: kimi-proxy provider NAME has one do that")
    else:
        others = [name for name in config.providers if name != first]
        say(f"{first} (*) answers Claude Code; another: kimi-proxy provider {others[0] if others else 'NAME'}")
    return 0


def _switch(arguments: argparse.Namespace) -> int:
    name = arguments.name
    running = running_service()
    path = _file(arguments, running)
    before: tuple[str, str | None] | None = None
    left: list[str] = []
    plan = Plan(provider=name, model="")

    def change(text: str) -> str:
        nonlocal before, left, plan
        file = Document(text, str(path)).file
        _refuse_unknown(name, list(file.providers), path)
        before = led_to(file, CLAUDE)
        plan = Plan(provider=name, model=arguments.model or _model(name, file.models.values(), path))
        made = write_plan(text if text.strip() else HEAD, file, plan)
        check_change(text, made, path)
        left = stays(file, plan)
        return made

    change_file(path, change)
    if before == (name, plan.model):
        say(f"{name} answers Claude Code already, with {plan.model}")
    else:
        say(f"Claude Code is answered by {name} now, with {plan.model}")
    if left:
        say(f"as before: {', '.join(left)}, which {path} leads elsewhere")
    config = load_config(str(path), os.environ).config
    if _key_state(config, name, running) == "missing":
        say(f"its key is missing: kimi-proxy set-key {name}")
    return put_in_force(path, running)


def _file(arguments: argparse.Namespace, running: StatusReply | None) -> Path:
    return choose_file(arguments.config, os.environ, running.config_source if running is not None else None)


def _refuse_unknown(name: str, configured: list[str], path: Path) -> None:
    """A provider that is known by name needs no section, if only its key is there."""
    if name in configured or name == "echo" or (name in PRESETS and name in usable_presets(os.environ)):
        return
    if name in PRESETS or name in OFFERS:
        raise ControlError(f"{name} is not set up yet: kimi-proxy setup --provider {name}")
    known = dict.fromkeys([*configured, *OFFERS])
    fix = hint(name, known, f"there are {', '.join(configured) or 'none'} in {path}; kimi-proxy setup adds one")
    raise ControlError(f"there is no provider {name}: {fix}")


def _model(name: str, models: Iterable[schema.Model], path: Path) -> str:
    """The model that the file has for that provider, else the one that is suggested."""
    for model in models:
        if model.provider == name and model.model is not None:
            return model.model
    if name in OFFERS:
        return OFFERS[name].model
    raise UsageError(f"nobody knows which model of {name} you mean: say it by --model; {path} has none of it")


def _key_state(config: Config, name: str, running: StatusReply | None) -> KeyState:
    try:
        found = resolve_keys(Config(providers={name: config.providers[name]}), os.environ)
    except ConfigError:
        served = running.providers if running is not None else []
        return "in the service" if any(one.name == name and one.has_key for one in served) else "missing"
    return "yes" if name in found else "none needed"
