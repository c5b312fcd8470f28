"""Where Claude Code is on this machine, and which version of it.

Looked for, in this order: `--claude` and `$KIMI_PROXY_CLAUDE`, each a path or the name of a command; `claude` and
`claude-code` on the PATH; the places where its installers, npm, node managers and Homebrew put it; npx's cache, and
what npx itself can start without a download.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from shared.errors import ControlError

VARIABLE = "KIMI_PROXY_CLAUDE"
PACKAGE = "@anthropic-ai/claude-code"
INSTALL = f"npm install -g {PACKAGE}"
VERSION_TIMEOUT = 20.0

_COMMANDS = ("claude", "claude-code")
# Below the home; what has a star may stand there several times, and the newest is taken.
_OF_THE_USER = (
    ".claude/local/claude",
    ".claude/local/node_modules/.bin/claude",
    ".local/bin/claude",
    ".npm-global/bin/claude",
    ".npm/bin/claude",
    ".volta/bin/claude",
    ".bun/bin/claude",
    ".local/share/pnpm/claude",
    ".yarn/bin/claude",
    ".nvm/versions/node/*/bin/claude",
    ".local/share/fnm/node-versions/*/installation/bin/claude",
    ".asdf/installs/nodejs/*/bin/claude",
)
_OF_THE_MACHINE = (
    "/usr/local/bin/claude",
    "/usr/bin/claude",
    "/opt/homebrew/bin/claude",
    "/home/linuxbrew/.linuxbrew/bin/claude",
    "/opt/claude-code/bin/claude",
)
_NPX_CACHE = "_npx/*/node_modules/.bin/claude"


class Claude(Struct, frozen=True):
    """Claude Code: the beginning of its command line, an absolute path first, and how it was found, for people."""

    command: tuple[str, ...]
    found: str


class ClaudeNotFoundError(ControlError):
    """There is no Claude Code here, or what was named is none; the message says what to do."""


def find_claude(option: str | None, env: Mapping[str, str], *, machine: tuple[str, ...] = _OF_THE_MACHINE) -> Claude:
    """The first one found; `option` is that of `--claude`.  Starts npx, if nothing else is left to try."""
    for named, by in ((option, "--claude"), (env.get(VARIABLE), f"${VARIABLE}")):
        if named:
            return Claude((_named(named, by, env),), by)
    path = env.get("PATH", os.defpath)
    for name in _COMMANDS:
        if found := shutil.which(name, path=path):
            return Claude((os.path.abspath(found),), f"{name} on the PATH")
    for place in _places(env, machine):
        if _is_program(place):
            return Claude((str(place),), str(place))
    if npx := shutil.which("npx", path=path):
        by_npx = Claude((os.path.abspath(npx), PACKAGE), f"npx {PACKAGE}")
        # Nothing is downloaded unasked: offline npx has what is in its cache, and says so at once if that is nothing.
        if claude_version(by_npx, {**env, "npm_config_offline": "true", "npm_config_yes": "false"}) is not None:
            return by_npx
    raise ClaudeNotFoundError(
        f"Claude Code was not found: install it with `{INSTALL}` (that needs Node.js; more ways: "
        f"https://code.claude.com/docs), or name it by --claude PATH or {VARIABLE}"
    )


def claude_version(claude: Claude, env: Mapping[str, str], timeout: float = VERSION_TIMEOUT) -> str | None:
    """What `--version` says, as in `2.1.197`; None if it does not run, or says no version in `timeout` seconds."""
    try:
        done = subprocess.run(
            [*claude.command, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=dict(env),
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = re.search(r"\d+(\.\d+)+\S*", done.stdout.decode("utf-8", "replace"))
    return said[0] if said and done.returncode == 0 else None


def _named(name: str, by: str, env: Mapping[str, str]) -> str:
    """The absolute path of a program that somebody named."""
    path = Path(name).expanduser() if name.startswith("~") else Path(name)
    if os.sep not in name and not path.exists():
        found = shutil.which(name, path=env.get("PATH", os.defpath))
        if found is None:
            raise ClaudeNotFoundError(f"{by} names {name}, and no such command is on the PATH: correct {by}")
        return os.path.abspath(found)
    if not path.exists():
        raise ClaudeNotFoundError(f"{by} names {name}, which does not exist: correct {by}")
    if not _is_program(path):
        raise ClaudeNotFoundError(f"{by} names {name}, which is no program that may be run: correct {by}")
    return os.path.abspath(path)


def _places(env: Mapping[str, str], machine: tuple[str, ...]) -> Iterator[Path]:
    home = Path(env["HOME"]) if env.get("HOME") else None
    prefix = env.get("npm_config_prefix") or env.get("NPM_CONFIG_PREFIX")
    if prefix:
        yield Path(prefix) / "bin" / "claude"
    if home is not None:
        for pattern in _OF_THE_USER:
            yield from _newest(home, pattern)
        if written := _npm_prefix(home / ".npmrc", home):
            yield written / "bin" / "claude"
    yield from map(Path, machine)
    cache = env.get("npm_config_cache") or (home / ".npm" if home is not None else None)
    if cache is not None:
        yield from _newest(Path(cache), _NPX_CACHE)


def _newest(folder: Path, pattern: str) -> list[Path]:
    if "*" not in pattern:
        return [folder / pattern]
    with suppress(OSError):
        return sorted(folder.glob(pattern), key=lambda path: path.lstat().st_mtime, reverse=True)
    return []


def _npm_prefix(npmrc: Path, home: Path) -> Path | None:
    """The `prefix` that a person has set, as everybody does who installs packages without root."""
    with suppress(OSError):
        found = re.findall(r"(?m)^\s*prefix\s*=\s*(\S+)\s*$", npmrc.read_text(errors="replace"))
        if found:
            return Path(re.sub(r"^(\$\{HOME\}|~)(?=/|$)", lambda _: str(home), found[-1].strip("\"'")))
    return None


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
