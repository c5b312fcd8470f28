"""Where the configuration file is, and the way from it to a `Config`: the one module here that looks at files."""

import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec
import platformdirs
from msgspec import Struct

from shared.clientkeys import check_client_key, keys_in
from shared.config.auth import with_more_keys
from shared.config.parse import Parsed, parse_config
from shared.config.types import Agent, Config
from shared.errors import ConfigError

FILE_NAME = "config.toml"
SITE_CONFIG = Path("/etc/kimi-proxy") / FILE_NAME
ENV_NAME = "KIMI_PROXY_CONFIG"
MAX_BYTES = 1024 * 1024
"""Of a configuration file; a larger one is something else."""


class Loaded(Struct, frozen=True, kw_only=True):
    """A configuration in its resolved form, and `path`, the file it came from; None for the built-in one."""

    config: Config
    warnings: tuple[str, ...] = ()
    path: Path | None = None


def find_config(option: str | None, env: Mapping[str, str]) -> Path | None:
    """The configuration file, absolute: the first of `option`, `$KIMI_PROXY_CONFIG`, `./config.toml`, the user's and
    the system's; None if there is none.

    One that is named must exist: `ConfigError` otherwise.
    """
    for named, by in ((option, "--config"), (env.get(ENV_NAME), f"${ENV_NAME}")):
        if named:
            path = Path(named).absolute()
            _check_exists(path, by)
            return path
    user = platformdirs.user_config_path("kimi-proxy", appauthor=False) / FILE_NAME
    for path in (Path.cwd() / FILE_NAME, user, SITE_CONFIG):
        try:
            if not stat.S_ISDIR(path.stat().st_mode):
                return path
        except PermissionError:
            # Homes are closed to a service (systemd's ProtectHome=); but whoever closed the system's own folder did
            # not mean the service to run without its configuration.
            if path == SITE_CONFIG:
                return path
        except OSError:
            continue
    return None


def load_config(option: str | None, env: Mapping[str, str]) -> Loaded:
    """Find, read and parse the configuration, or make the built-in one; raises `ConfigError` with one sentence."""
    path = find_config(option, env)
    if path is None:
        return Loaded(config=parse_config("", None, env).config)
    text = _read_text(path)
    if not text.strip():
        # Most likely somebody is writing it at this moment; the built-in configuration would be a surprise.
        raise ConfigError(f"{path}: the file is empty; remove it to run with the built-in configuration")
    parsed = parse_config(text, str(path), env)
    config, warnings = parsed.config, parsed.warnings
    if parsed.auth_keys_file is not None:
        keys_file = Path(parsed.auth_keys_file)
        keys = _read_client_keys(keys_file)
        try:
            config = msgspec.structs.replace(config, auth=with_more_keys(config.auth, keys))
        except ConfigError as error:
            raise ConfigError(f"{keys_file}: the file that [auth] keys_file names {error}") from None
    if config.agent.enabled:
        config = msgspec.structs.replace(config, agent=_placed(config.agent, parsed))
        files = [path, *(Path(name) for name in _key_files(config, parsed))]
        warnings = (*warnings, *_agent_warnings(config.agent, path, files))
    return Loaded(config=config, warnings=warnings, path=path)


def _check_exists(path: Path, by: str) -> None:
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file, but {by} names it: create it or correct {by}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: the file that {by} names can't be reached ({reason})") from None
    if is_folder:
        raise ConfigError(f"{path}: {by} names a folder: name the file in it, as in {path / FILE_NAME}")


def _read_text(path: Path) -> str:
    """The file as text, without a byte order mark."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        fix = f"let uid {os.geteuid()} read it" if isinstance(error, PermissionError) else "correct its path"
        raise ConfigError(f"{path}: the file can't be read ({error.strerror}): {fix}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: the file is larger than {MAX_BYTES} bytes, which no configuration is")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: this is not UTF-8 text: save the file in that encoding") from None


def _read_client_keys(path: Path) -> list[str]:
    keys = keys_in(_read_text(path))
    for number, key in keys:
        try:
            check_client_key(key)
        except ConfigError as error:
            raise ConfigError(f"{path}:{number}: a client key {error}") from None
    if not keys:
        raise ConfigError(f"{path}: the file that [auth] keys_file names holds no key: write one a line into it")
    return [key for _, key in keys]


def _placed(agent: Agent, parsed: Parsed) -> Agent:
    """The agent with absolute paths, of what is there."""
    what, at = "[agent] workspace", parsed.workspace_at
    workspace = _real(agent.workspace, f"{at}{what}")
    if not workspace.is_dir():
        raise ConfigError(f"{at}{what} is a file: name the folder that the agent's tools may use")
    if workspace == Path(workspace.anchor):
        raise ConfigError(f"{at}{what} is all of this machine: name a folder in it")
    if not os.access(workspace, os.R_OK | os.X_OK):
        raise ConfigError(f"{at}{what} can't be read: let uid {os.geteuid()} read it, or name another folder")
    tools_file = None
    if agent.tools_file is not None:
        what, at = "[agent] tools_file", parsed.tools_file_at
        file = _real(agent.tools_file, f"{at}{what}")
        if not file.is_file():
            raise ConfigError(f"{at}{what} is no file: name the Python file that holds the tools")
        tools_file = str(file)
    return msgspec.structs.replace(agent, workspace=str(workspace), tools_file=tools_file)


def _real(name: str, what: str) -> Path:
    """An existing path without symbolic links, `~` as the home of this user; `what` begins the sentence otherwise."""
    try:
        return Path(name).expanduser().resolve(strict=True)
    except FileNotFoundError:
        raise ConfigError(f"{what} names {name}, which does not exist: create it, or correct the path") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead to each other, or no home
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{what} names {name}, which can't be reached ({reason})") from None


def _key_files(config: Config, parsed: Parsed) -> list[str]:
    named = [parsed.auth_keys_file, config.chatkit.api_key_file]
    named += [provider.api_key_file for provider in config.providers.values()]
    return [name for name in named if name is not None]


def _agent_warnings(agent: Agent, path: Path, files: list[Path]) -> list[str]:
    """What is unwise, or can't work, on this machine; `files` are not meant for the agent."""
    warnings = [
        f"{path}: {file} is in [agent] workspace, where the agent may read and change it: move one of them"
        for file in files
        if file.resolve().is_relative_to(agent.workspace)
    ]
    if agent.sandbox == "required" and shutil.which("bwrap") is None:
        warnings.append(f'{path}: [agent] sandbox = "required" without bubblewrap: Bash runs nothing; install bwrap')
    return warnings
