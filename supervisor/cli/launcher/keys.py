"""A provider's key as a command takes it: from an argument, from standard input, or from the person at the terminal."""

import sys
from collections.abc import Mapping

from msgspec import Struct

from shared.config import Config, Provider
from shared.errors import ConfigError, ControlError
from shared.keys import resolve_keys
from supervisor.cli.launcher.ask import Prompt
from supervisor.cli.launcher.catalogue import OFFERS
from supervisor.cli.launcher.conceal import conceal
from supervisor.cli.launcher.keystore import bad_key, doubt

STDIN = "-"
_MAX_LINE = 64 * 1024


class Known(Struct, frozen=True, kw_only=True):
    """A key that is there already, and where, in words; None, None: there is none."""

    key: str | None = None
    place: str | None = None
    lasting: bool = True
    """Not so in a variable, which a service that is started from elsewhere does not have."""


def given_key(argument: str, provider: str, prompt: Prompt, *, stdin_flag: str) -> str:
    """The key that `argument` is, or `-` stands for; raises `ControlError` for one that can't be a key."""
    if argument == STDIN:
        key = _line_of_stdin()
        source = "the key on standard input"
    else:
        conceal(argument)
        prompt.say(f"The key is in your shell's history now, and was in `ps`: {stdin_flag} reads it from a pipe.")
        key = argument.strip()
        source = "the key"
    problem = bad_key(key)
    if problem is not None:
        raise ControlError(f"{source} can't be used: {problem}")
    warn(provider, key, prompt)
    return key


def _line_of_stdin() -> str:
    try:
        return sys.stdin.readline(_MAX_LINE).strip() if sys.stdin else ""
    except UnicodeDecodeError:
        raise ControlError("what is on standard input is no text, and no key") from None


def warn(provider: str, key: str, prompt: Prompt) -> None:
    """Say what is odd about `key`, if anything is."""
    odd = doubt(provider, key)
    if odd is not None:
        prompt.say(f"Warning: {odd}.")


def ask_key(provider: str, prompt: Prompt, *, flag: str, default: str | None = None, safe: bool = False) -> str | None:
    """The key that somebody types or pastes; None for the one, if any, that `default` describes."""
    offer = OFFERS.get(provider)
    title = offer.title if offer is not None else provider
    if prompt.interactive and offer is not None and offer.keys_at is not None:
        prompt.say(f"\nKeys for {title}: {offer.keys_at}")
    key = prompt.secret(f"Key for {title}", default=default, flag=flag, safe=safe, check=bad_key)
    if key is not None:
        prompt.say(f"  a key of {len(key)} characters")
        warn(provider, key, prompt)
    return key


def known_key(provider: Provider, env: Mapping[str, str]) -> Known:
    """The key that the configuration and the environment have for `provider`."""
    try:
        key = resolve_keys(Config(providers={provider.name: provider}), env).get(provider.name)
    except ConfigError:
        return Known()
    if key is None:
        return Known()
    if provider.api_key_file is not None:
        return Known(key=key, place=f"the one in {provider.api_key_file}")
    if provider.api_key_keyring:
        return Known(key=key, place="the one in the keyring")
    return Known(key=key, place=f"the one in ${provider.api_key_env}", lasting=False)
