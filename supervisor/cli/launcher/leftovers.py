"""What `setup`, `launch` and their like have left on this machine, each thing with the way to remove it."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import get_args

from msgspec import Struct

from shared import keyring
from shared.config.document import Document
from shared.config.schema import File
from shared.errors import ConfigError, ControlError
from shared.paths import Paths, resolve_paths
from supervisor.cli.launcher.alias import Shell, file_of, remove_alias, without_block
from supervisor.cli.launcher.catalogue import OFFERS
from supervisor.cli.launcher.clientkey import forget_key
from supervisor.cli.launcher.keystore import FOLDER, key_file
from supervisor.cli.stop import stop_running
from supervisor.control import StatusReply


class Leftover(Struct, frozen=True):
    """`text` says what it is, and where; `remove` raises `KimiProxyError` or `OSError` if it can't."""

    text: str
    remove: Callable[[], object]
    whole: bool = True
    """No interrupt may come in between."""


def find_leftovers(
    config: Path, env: Mapping[str, str], running: StatusReply | None, *, named: bool, history: bool
) -> list[Leftover]:
    """All of it, in the order in which it is to be removed.

    `running`: the service of these folders, if it runs.  `config`: the configuration, which need not be there; one that
    somebody has not `named` has to be ours, else `ControlError`.  `history`: the records, too, for which the service
    must not run.
    """
    paths = resolve_paths(env)
    found = [*_service(config, env, running, history=history), *_config(config, env, named=named)]
    found += [Leftover(f"the key of launches, {path}", path.unlink) for path in forget_key()]
    found += _aliases(env)
    return [*found, *(_records(paths) if history else ())]


def _service(config: Path, env: Mapping[str, str], running: StatusReply | None, *, history: bool) -> Iterator[Leftover]:
    if running is None:
        return
    paths = resolve_paths(env)
    source = running.config_source
    if source is None or os.path.realpath(source) == os.path.realpath(config):
        yield Leftover(
            f"the service that runs (pid {running.pid}): it is stopped", lambda: stop_running(paths), whole=False
        )
    elif history:
        raise ControlError(
            f"the service (pid {running.pid}) writes the history, with the configuration {source}: stop it with "
            "kimi-proxy stop, or leave --history out"
        )


def _config(config: Path, env: Mapping[str, str], *, named: bool) -> Iterator[Leftover]:
    file = File()
    if os.path.lexists(config):
        try:
            file = Document(config.read_text("utf-8-sig"), str(config)).file
        except (ConfigError, UnicodeDecodeError, OSError) as error:
            # Many programs have a config.toml in the folder they are used in.
            if not named and config.parent == Path.cwd():
                raise ControlError(
                    f"{config} is no configuration of kimi-proxy, or a broken one ({error}): if it is to be removed, "
                    "name it by --config"
                ) from None
        yield Leftover(f"the configuration {config}", config.unlink)
    for provider, section in file.providers.items():
        if section.api_key_keyring:
            clear = _clearing(provider, env)
            yield Leftover(f"the key of {provider} in the keyring", clear)
    folder = config.parent / FOLDER
    files = {key_file(name, config, section) for name, section in file.providers.items()}
    files |= {folder / name for name in OFFERS}
    for path in sorted(path for path in files if path.parent == folder and os.path.lexists(path)):
        yield Leftover(f"the key {path}", _removing_key(path))


def _clearing(provider: str, env: Mapping[str, str]) -> Callable[[], None]:
    return lambda: keyring.clear(provider, env)


def _removing_key(path: Path) -> Callable[[], None]:
    def remove() -> None:
        path.unlink()
        with suppress(OSError):  # others are in it
            path.parent.rmdir()

    return remove


def _aliases(env: Mapping[str, str]) -> Iterator[Leftover]:
    for shell in get_args(Shell):
        path = file_of(shell, env)
        with suppress(OSError):
            text = path.read_text(errors="replace")
            if without_block(text) != text:
                yield Leftover(f"the alias in {path}", _removing_alias(shell, env))


def _removing_alias(shell: Shell, env: Mapping[str, str]) -> Callable[[], object]:
    return lambda: remove_alias(shell, env)


def _records(paths: Paths) -> Iterator[Leftover]:
    database = paths.database
    for path in (database, *(database.with_name(f"{database.name}-{end}") for end in ("wal", "shm"))):
        if path.exists():
            yield Leftover(f"the history {path}", _removing(path))
    if paths.spool.is_dir():
        yield Leftover(f"what waits to be added to it, {paths.spool}", lambda: shutil.rmtree(paths.spool))
    for what, path in (("the secret of logins", paths.login_secret), ("the log", paths.log_file)):
        if path.exists():
            yield Leftover(f"{what} {path}", _removing(path))


def _removing(path: Path) -> Callable[[], None]:
    # SQLite may have removed its own by then, as the service stopped.
    return lambda: path.unlink(missing_ok=True)
