"""`kimi-proxy setup`: from nothing to a configuration that Claude Code can be launched with."""

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from shared.config.document import Document
from shared.errors import ControlError, UsageError
from supervisor.cli.configfile import choose_file
from supervisor.cli.inforce import put_in_force, running_service
from supervisor.cli.interrupt import interruptible
from supervisor.cli.launcher.alias import NAME, Shell, file_of, hidden_command, install_alias, is_installed, shell_of
from supervisor.cli.launcher.ask import Prompt
from supervisor.cli.launcher.claude import INSTALL, find_claude
from supervisor.cli.launcher.commit import read_config, refuse_read_only, write_all
from supervisor.cli.launcher.plan import stays, write_plan
from supervisor.cli.launcher.wizard import Wizard


def setup(arguments: argparse.Namespace) -> int:
    """Ask what no flag has answered, try the key, write it and the configuration, and say what to type next.

    Nothing is written before the last answer.
    """
    with interruptible():
        env = dict(os.environ)
        prompt = Prompt(yes=arguments.yes)
        running = running_service()
        path = choose_file(arguments.config, env, running.config_source if running is not None else None)
        refuse_read_only(path)
        text = read_config(path)
        wizard = Wizard(arguments, prompt, path, text, env)
        prompt.say(f"Configuration: {path}{'' if text else ', which will be made'}")
        has_claude = _find_claude(prompt)
        try:
            answers = wizard.ask()
            alias = _ask_alias(arguments.alias, prompt, env)
        except KeyboardInterrupt:
            prompt.say("Nothing was written.")
            raise
        plan = answers.plan
        saved = write_all(
            path,
            plan.provider,
            answers.key,
            in_keyring=arguments.keyring,
            env=env,
            change=lambda text, file, key: write_plan(text, file, replace(plan, key=key)),
        )
        if saved is not None:
            prompt.say(f"\nThe key is in {saved.place}; the configuration only says where.")
        others = stays(Document(text, str(path)).file, plan)
        if others:
            prompt.say(f"As before: {', '.join(others)}, which {path} leads elsewhere.")
        if alias is not None:
            prompt.say(f"The alias {NAME} is in {install_alias(alias, env)}.")
        code = put_in_force(path, running)
        if code == 0:
            option = f" --config {shlex.quote(str(path))}" if arguments.config else ""
            print(_next_steps(option, plan.model, has_claude=has_claude, has_alias=alias is not None))
        return code


def _find_claude(prompt: Prompt) -> bool:
    try:
        claude = find_claude(None, os.environ)
    except ControlError as error:
        prompt.say(f"{error}")
        return False
    prompt.say(f"Claude Code: {claude.found}")
    return True


def _ask_alias(wanted: bool | None, prompt: Prompt, env: Mapping[str, str]) -> Shell | None:
    """The shell that gets the alias; None: it is not wanted, or there."""
    shell = shell_of(env)
    if wanted is False or (wanted is None and (shell is None or not prompt.interactive)):
        return None
    if shell is None:
        raise UsageError("--alias: $SHELL is none of bash, zsh and fish; `kimi-proxy alias --shell SHELL` takes one")
    if wanted or is_installed(shell, env):
        return shell if wanted else None
    other = hidden_command(env)
    hides = f" (it would hide {other})" if other is not None else ""
    question = f"\nInstall the alias `{NAME}` for `kimi-proxy launch` in {file_of(shell, env)}{hides}?"
    return shell if prompt.confirm(question, default=other is None, flag="--alias or --no-alias") else None


def _next_steps(option: str, model: str, *, has_claude: bool, has_alias: bool) -> str:
    steps = [(f"{program()} launch{option}", f"Claude Code on {model}"), (f"{program()} check{option}", "is all well?")]
    if has_alias:
        steps.insert(1, (NAME, "the same, in a new shell"))
    if not has_claude:
        steps.insert(0, (INSTALL, "Claude Code is not here yet"))
    width = max(len(command) for command, _ in steps)
    return "\n".join(["", "Next:", *(f"  {command:{width}}  # {why}" for command, why in steps)])


def program() -> str:
    """What a person types to call this program."""
    if shutil.which("kimi-proxy") is not None:
        return "kimi-proxy"
    script = Path(__file__).resolve().parents[2] / "bin/kimi-proxy"
    return shlex.quote(str(script)) if script.is_file() else f"{shlex.quote(sys.executable)} -m supervisor"
