"""The alias `kimi` in the file that a shell reads when it starts: a marked block, put in and taken out whole.

# >>> kimi-proxy >>>  `kimi-proxy alias --remove` takes this out
alias kimi='kimi-proxy launch'
# <<< kimi-proxy <<<
"""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from shared.errors import ControlError
from supervisor.cli.configfile import change_file

Shell = Literal["bash", "zsh", "fish"]

NAME = "kimi"
_BEGIN = "# >>> kimi-proxy >>>"
_END = "# <<< kimi-proxy <<<"
_BLOCK = re.compile(rf"(?ms)^\n?{re.escape(_BEGIN)}.*?^{re.escape(_END)}[^\n]*\n?")
_CHECKOUT = Path(__file__).resolve().parents[3]


def shell_of(env: Mapping[str, str]) -> Shell | None:
    """The person's shell, if it is one that is known here."""
    name = Path(env.get("SHELL", "")).name
    return next((shell for shell in get_args(Shell) if shell == name), None)


def file_of(shell: Shell, env: Mapping[str, str]) -> Path:
    """What the shell reads for each terminal."""
    home = Path(env.get("HOME") or os.path.expanduser("~"))
    match shell:
        case "bash":
            return home / ".bashrc"
        case "zsh":
            return Path(env.get("ZDOTDIR") or home) / ".zshrc"
        case "fish":
            return Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "fish" / "config.fish"


def alias_line(env: Mapping[str, str]) -> str:
    """The definition, which all three shells understand."""
    return f"alias {NAME}={shlex.quote(f'{_own_command(env)} launch')}"


def is_installed(shell: Shell, env: Mapping[str, str]) -> bool:
    """Whether the block is there, and says what would be written now."""
    try:
        text = file_of(shell, env).read_text(errors="replace")
    except OSError:
        return False
    return with_block(text, alias_line(env)) == text


def install_alias(shell: Shell, env: Mapping[str, str]) -> Path:
    """Put the block at the end of the shell's file, or in the place of an older one; the file.  `ControlError`."""
    file = file_of(shell, env)
    if not is_installed(shell, env):
        line = alias_line(env)
        change_file(file, lambda text: with_block(text, line))
    return file


def remove_alias(shell: Shell, env: Mapping[str, str]) -> Path | None:
    """Take the block out; the file, or None if it has none.  `ControlError` if it can't be written."""
    file = file_of(shell, env)
    try:
        there = bool(_BLOCK.search(file.read_text(errors="replace")))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ControlError(f"{file}: it can't be read ({error.strerror})") from error
    if not there:
        return None
    change_file(file, without_block)
    return file


def hidden_command(env: Mapping[str, str]) -> str | None:
    """Another program of that name, which the alias would hide: Moonshot's own is called so, too."""
    return shutil.which(NAME, path=env.get("PATH", os.defpath))


def with_block(text: str, line: str) -> str:
    """`text` with the block, once, and otherwise as it was."""
    block = f"{_BEGIN}  `kimi-proxy alias --remove` takes this out\n{line}\n{_END}\n"
    found = _BLOCK.search(text)
    if found:
        gap = "\n" if found[0].startswith("\n") else ""
        return text[: found.start()] + gap + block + _BLOCK.sub("", text[found.end() :])
    if text and not text.endswith("\n"):
        text += "\n"
    return f"{text}\n{block}" if text else block


def without_block(text: str) -> str:
    """`text` as it was before."""
    return _BLOCK.sub("", text)


def _own_command(env: Mapping[str, str]) -> str:
    """How a shell finds this program: by its name, if that leads here, else by its path."""
    script = _CHECKOUT / "bin" / "kimi-proxy"
    ours = script if script.is_file() else Path(sys.executable).with_name("kimi-proxy")
    found = shutil.which("kimi-proxy", path=env.get("PATH", os.defpath))
    if found and (not ours.is_file() or os.path.realpath(found) == os.path.realpath(ours)):
        return "kimi-proxy"
    if ours.is_file():
        return shlex.quote(str(ours))
    return f"{shlex.quote(sys.executable)} -P -m supervisor"
