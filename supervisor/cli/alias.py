"""`kimi-proxy alias`: `kimi` as a short name of `kimi-proxy launch`."""

import argparse
import os
from typing import get_args

from shared.errors import UsageError
from supervisor.cli.launcher.alias import (
    NAME,
    Shell,
    alias_line,
    file_of,
    hidden_command,
    install_alias,
    is_installed,
    remove_alias,
    shell_of,
)
from supervisor.cli.launcher.ask import Prompt
from supervisor.cli.text import say


def alias(arguments: argparse.Namespace) -> int:
    """Install the alias (asking first, if nobody said so), remove it, or print it."""
    env = os.environ
    if arguments.action == "print":
        print(alias_line(env))
        return 0
    shell: Shell | None = arguments.shell or shell_of(env)
    if shell is None:
        raise UsageError(
            f"$SHELL is {env.get('SHELL') or 'not set'}: name yours by --shell {'|'.join(get_args(Shell))}"
        )
    if arguments.action == "remove":
        file = remove_alias(shell, env)
        say(f"{file_of(shell, env)} has no alias of ours" if file is None else f"the alias is out of {file}")
        return 0
    if is_installed(shell, env):
        say(f"{file_of(shell, env)} has the alias already")
        return 0
    if other := hidden_command(env):
        say(f"there is a command {other}, which the alias {NAME} would hide in a terminal")
    question = f"Add the alias {NAME} to {file_of(shell, env)}?"
    if arguments.action != "install" and not Prompt().confirm(question, default=True, flag="--install"):
        return 1
    file = install_alias(shell, env)
    say(f"{file} has the alias {NAME} now; new terminals know it, this one after: source {file}")
    return 0
