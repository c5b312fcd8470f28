"""The questions of `setup`: provider, address, key, model; each that a flag has answered is left out.

Nothing is written here.  The key and the model are tried before they are taken (`supervisor.cli.launcher.probe`).
"""

import argparse
import tomllib
from collections.abc import Mapping
from pathlib import Path

import tomlkit
from msgspec import Struct
from msgspec.structs import replace

from shared.config import Provider, parse_config
from shared.config.document import Document
from shared.config.faults import hint
from shared.config.presets import PRESETS
from shared.config.providers import usable_presets
from shared.errors import ConfigError, ControlError, UsageError
from supervisor.cli.launcher.ask import Option, Prompt
from supervisor.cli.launcher.catalogue import OFFERS, OTHER, describe, listed
from supervisor.cli.launcher.keys import Known, ask_key, given_key, known_key
from supervisor.cli.launcher.plan import CLAUDE, Plan, led_to, needs_address, write_plan

_ECHO = "echo"
_PLAN = "kimi-code"
_PLAN_KEY = "sk-kimi-"
"""What keys of a Kimi Code plan begin with, which are of no use at Kimi's usual address."""


class Answers(Struct, frozen=True, kw_only=True):
    """What was chosen, and the key that is to be kept; None: the one that is there already, or none."""

    plan: Plan
    key: str | None


class Wizard:
    """See the module."""

    def __init__(
        self, arguments: argparse.Namespace, prompt: Prompt, path: Path, text: str, env: Mapping[str, str]
    ) -> None:
        """`text` is what the configuration at `path` holds; raises `ConfigError` if it is wrong."""
        self._arguments = arguments
        self._prompt = prompt
        self._path = path
        self._text = text
        self._env = env
        self._file = Document(text, str(path)).file

    def ask(self) -> Answers:
        """Ask them; `UsageError` for one that nobody can be asked, `ControlError` if nothing is to be written."""
        arguments = self._arguments
        name = self._provider()
        plan = Plan(
            provider=name, model=arguments.model or "", base_url=self._base_url(name), dialect=arguments.dialect
        )
        key: str | None = None
        if arguments.key is not None:
            key = given_key(arguments.key, name, self._prompt, stdin_flag="--key -")
        known = known_key(self._as_configured(plan), self._env)
        if key is None and name != _ECHO:
            optional = plan.base_url is not None or name not in {**PRESETS, **OFFERS}
            default = known.place or ("none" if optional else None)
            key = ask_key(name, self._prompt, flag="--key -", default=default, safe=True)
        if key is not None and self._belongs_to_plan(plan, key):
            plan = Plan(provider=_PLAN, model=plan.model)
        if key is None and not known.lasting:
            key = known.key
        if not plan.model:
            plan = replace(plan, model=self._model(plan.provider))
        return self._tried(Answers(plan=plan, key=key), known)

    # One question each

    def _provider(self) -> str:
        own = [name for name in self._file.providers if name not in OFFERS]
        names = [*own, *listed()]
        heading, lines = describe(listed())
        options = [Option(name, f"{name}, as you have configured it") for name in own]
        options += [Option(name, line) for name, line in zip(listed(), lines, strict=True)]
        options.append(Option(OTHER, f"{OTHER}: any address that speaks OpenAI's API, or Anthropic's (--dialect)"))
        name: str = self._arguments.provider or self._prompt.choose(
            "Which provider shall answer Claude Code?",
            options,
            heading=heading,
            default=self._usual(names),
            flag="--provider NAME",
        )
        if name == OTHER:
            name = self._prompt.text("A name for it", default="custom", flag="--provider NAME", check=_bad_name)
        if (problem := _bad_name(name)) is not None:
            raise UsageError(f"--provider {name}: {problem}")
        return name

    def _usual(self, names: list[str]) -> str:
        """The one that Claude Code has now, else one whose key is in the environment, else the first of the list."""
        now = led_to(self._file, CLAUDE)
        found = [name for name in usable_presets(self._env) if name in names and name != _ECHO]
        return now[0] if now is not None and now[0] in names else [*found, *listed()][0]

    def _base_url(self, name: str) -> str | None:
        given: str | None = self._arguments.base_url
        if given is not None:
            if (problem := _bad_address(given)) is not None:
                raise UsageError(f"--base-url: {problem}")
            return given
        if not needs_address(name, self._file):
            there = self._file.providers.get(name)
            if there is not None and there.base_url is not None:
                self._prompt.say(f"{name} is at {there.base_url} in your configuration; --base-url changes that.")
            return None
        if not self._prompt.interactive:
            known = [*self._file.providers, *listed()]
            fix = hint(name, known, f"known are {', '.join(known)}")
            raise UsageError(f"nobody knows where {name} is: {fix}; one of your own comes with --base-url URL")
        self._prompt.say(f"\n{name} is not in the list, so its address is needed.")
        question = "Address, as in https://api.example.com/v1"
        return self._prompt.text(question, default=None, flag="--base-url URL", check=_bad_address)

    def _model(self, provider: str) -> str:
        now = led_to(self._file, CLAUDE)
        offer = OFFERS.get(provider)
        default = now[1] if now is not None and now[0] == provider else None
        default = default or (offer.model if offer is not None else None)
        question = f"Model of {provider}"
        return self._prompt.text(question, default=default, flag="--model NAME", safe=True, check=_bad_model)

    def _belongs_to_plan(self, plan: Plan, key: str) -> bool:
        there = self._file.providers.get(plan.provider)
        elsewhere = plan.base_url is not None or (there is not None and there.base_url is not None)
        if not key.startswith(_PLAN_KEY) or elsewhere or plan.provider not in ("kimi", "moonshot"):
            return False
        question = f"That is the key of a Kimi Code plan, which belongs to another address. Set up {_PLAN} instead?"
        return self._prompt.confirm(question, default=True, flag=f"--provider {_PLAN}, or --base-url URL")

    # Trying

    def _tried(self, answers: Answers, known: Known) -> Answers:
        """The answers once the provider has taken them, or the person insists."""
        prompt, provider = self._prompt, self._as_configured(answers.plan)
        if self._arguments.no_check or provider.kind == "echo":
            return answers
        # Here, as httpx takes half a second to import, for which the first question need not wait.
        from supervisor.cli.launcher.probe import probe

        while True:
            prompt.say(f"\nAsking {provider.name} for one token of {answers.plan.model} …")
            found = probe(provider, answers.key or known.key, answers.plan.model)
            if found.ok:
                prompt.say(f"  It answers, after {found.seconds:.1f} s.")
                break
            prompt.say(f"  {found.problem}: {found.fix}.")
            if not prompt.interactive:
                raise ControlError(
                    f"{provider.name} does not answer as it should; nothing was written."
                    " --no-check takes key and model as they are"
                )
            options = [
                Option("key", "key: type another one"),
                Option("model", "model: take another one"),
                Option("again", "again: ask once more"),
                Option("keep", "keep: go on with this"),
                Option("quit", "quit: write nothing"),
            ]
            usual = found.kind if found.kind in ("key", "model") else "again"
            match prompt.choose("What now?", options, default=usual, flag="--no-check"):
                case "key":
                    answers = replace(answers, key=ask_key(provider.name, prompt, flag="--key -"))
                case "model":
                    model = prompt.text("Model", default=answers.plan.model, flag="--model NAME", check=_bad_model)
                    answers = replace(answers, plan=replace(answers.plan, model=model))
                case "keep":
                    break
                case "quit":
                    raise ControlError("nothing was written")
        return answers

    def _as_configured(self, plan: Plan) -> Provider:
        """The provider as the service would have it; whatever else the file says, or lacks, is not for now."""
        made = write_plan(self._text, self._file, replace(plan, model=plan.model or "any"))
        section = {"providers": {plan.provider: tomllib.loads(made)["providers"][plan.provider]}}
        return parse_config(tomlkit.dumps(section), str(self._path), self._env).config.providers[plan.provider]


def _bad_name(name: str) -> str | None:
    try:
        parse_config(f'[providers.{tomlkit.string(name).as_string()}]\nbase_url = "http://localhost"\n')
    except ConfigError:
        return "take at most 64 letters, digits, dots, dashes and underscores"
    return "take another name, as this one stands for those that are not listed" if name == OTHER else None


def _bad_address(url: str) -> str | None:
    try:
        parse_config(f"[providers.any]\nbase_url = {tomlkit.string(url).as_string()}\n")
    except ConfigError as error:
        return str(error).partition("base_url ")[2] or "that is no address"
    return None


def _bad_model(name: str) -> str | None:
    return None if name.isprintable() else "take one of printable characters"
