"""Claude Code's own settings, where they would undo what `launch` tells it.

The `env` of a settings file goes before the environment that Claude Code 2.1 is started in: one that names another
gateway would lead there, with the key that was made for ours.  What `--settings` says on its command line goes before
these files, but not before those of the machine's administrator.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from shared.errors import ControlError
from supervisor.cli.launcher.environment import ANY_KEY, REMOVED
from supervisor.cli.launcher.masked import short_path
from supervisor.cli.text import say

FLAG = "--settings"
MANAGED = Path("/etc/claude-code/managed-settings.json")
TOKEN = "ANTHROPIC_AUTH_TOKEN"


def settings_arguments(told: Mapping[str, str], env: Mapping[str, str], arguments: Sequence[str]) -> list[str]:
    """What has to stand before Claude Code's `arguments`, so that it does in the working folder what it is `told`.

    Nothing, where no settings are in the way.  `ControlError` for those that can't be overruled.
    """
    found = undone(told, env, Path.cwd())
    if not found:
        return []
    names = ", ".join(found)
    if MANAGED in found.values():
        fixed = ", ".join(name for name, file in found.items() if file == MANAGED)
        raise ControlError(f"{MANAGED} sets {fixed}, and Claude Code takes that before what launch tells it")
    files = ", ".join(sorted({short_path(file, env) for file in found.values()}))
    if any(argument.partition("=")[0] == FLAG for argument in arguments):
        say(f"{files} may lead Claude Code elsewhere by {names}, unless your {FLAG} says otherwise")
        return []
    if TOKEN in found and told[TOKEN] != ANY_KEY:
        raise ControlError(
            f"{short_path(found[TOKEN], env)} sets {TOKEN}, and Claude Code takes that before the key of the service,"
            " which has no place on a command line: take it out of `env` there"
        )
    say(f"{files}: this Claude Code gets another {names} than you set there")
    return [FLAG, json.dumps({"env": {name: told.get(name, "") for name in found}})]


def undone(told: Mapping[str, str], env: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """Variables that settings give another value than `told` or, where launch takes them out, any; and the files."""
    home = Path(env.get("CLAUDE_CONFIG_DIR") or Path(env.get("HOME") or os.path.expanduser("~"), ".claude"))
    project = folder / ".claude"
    found: dict[str, Path] = {}
    # Each goes before those that stand before it.
    for file in (home / "settings.json", project / "settings.json", project / "settings.local.json", MANAGED):
        for name, value in _environment(file).items():
            if name in told or name in REMOVED:
                found.pop(name, None)
                if value != told.get(name, ""):
                    found[name] = file
    return found


def _environment(file: Path) -> dict[str, str]:
    """The `env` of a file of settings; empty where there is none that Claude Code could read."""
    try:
        settings = msgspec.json.decode(file.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}
    env = settings.get("env") if isinstance(settings, dict) else None
    return {name: str(value) for name, value in env.items()} if isinstance(env, dict) else {}
