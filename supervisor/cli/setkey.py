"""`kimi-proxy set-key`: the key of a provider, to a file or the keyring, and never anywhere else."""

import argparse
import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from shared.config import schema
from shared.config.document import Document
from shared.config.faults import hint
from shared.config.presets import PRESETS
from shared.errors import ControlError
from supervisor.cli.configfile import choose_file
from supervisor.cli.inforce import put_in_force, running_service
from supervisor.cli.interrupt import interruptible
from supervisor.cli.launcher.ask import Prompt
from supervisor.cli.launcher.catalogue import OFFERS
from supervisor.cli.launcher.commit import read_config, refuse_read_only, write_all
from supervisor.cli.launcher.keys import ask_key, given_key
from supervisor.cli.launcher.plan import Plan, write_plan, write_provider


def set_key(arguments: argparse.Namespace) -> int:
    """Keep the key, have the configuration name its place, and have a service that runs take it."""
    with interruptible():
        env = dict(os.environ)
        prompt = Prompt()
        provider: str = arguments.provider
        running = running_service()
        path = choose_file(arguments.config, env, running.config_source if running is not None else None)
        refuse_read_only(path)
        file = Document(read_config(path), str(path)).file
        section = file.providers.get(provider)
        _refuse_unknown(provider, file)
        if arguments.key is not None:
            key = given_key(arguments.key, provider, prompt, stdin_flag=f"set-key {provider} -")
        else:
            key = ask_key(provider, prompt, flag=f"set-key {provider} -, which reads it from standard input") or ""
        in_keyring = arguments.keyring or (section is not None and section.api_key_keyring is True)
        saved = write_all(path, provider, key, in_keyring=in_keyring, env=env, change=partial(_change, provider))
        if saved is not None:
            print(f"the key of {provider} is in {saved.place}", file=sys.stderr)
        return put_in_force(path, running)


def _refuse_unknown(provider: str, file: schema.File) -> None:
    """`ControlError` for a provider whose address nobody knows, and for one that has no key."""
    if provider == "echo":
        raise ControlError("echo is built in and has no key")
    if provider not in file.providers and provider not in {**PRESETS, **OFFERS}:
        otherwise = f"`kimi-proxy setup --provider {provider} --base-url URL` makes one"
        known = [*file.providers, *OFFERS]
        raise ControlError(f"there is no provider {provider}: {hint(provider, known, otherwise)}")


def _change(provider: str, text: str, file: schema.File, key: Mapping[str, Any]) -> str:
    offer = OFFERS.get(provider)
    plan = Plan(provider=provider, model=offer.model if offer is not None else "", key=key)
    # The first provider of all: with what `setup` would suggest, so that there is a model to ask for.
    return write_provider(text, file, plan) if file.providers else write_plan(text, file, plan)
