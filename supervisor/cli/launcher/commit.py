"""Writing what was answered: the key and the configuration, both or neither, and no interrupt in between."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from shared import keyring
from shared.config import schema
from shared.config.document import Document
from shared.errors import ConfigError, ControlError
from supervisor.cli.configfile import HEAD, change_file
from supervisor.cli.inforce import check_change
from supervisor.cli.interrupt import held
from supervisor.cli.launcher.keystore import Saved, key_file, save_key
from supervisor.files import replacement


def read_config(path: Path) -> str:
    """The text of the configuration, "" where there is none; raises `ControlError`."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise ControlError(f"{path}: this is not UTF-8 text: save the file in that encoding") from error
    except OSError as error:
        raise ControlError(f"{path}: it can't be read ({error.strerror})") from error


def refuse_read_only(path: Path) -> None:
    """`ControlError` if nothing can be written beside `path`: better before the questions than after them."""
    folder = Path(os.path.realpath(path)).parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ControlError(
            f"{folder} can't be written, and {path} is to stand there: make it writable, or name another file by"
            " --config PATH"
        )


def write_all(
    path: Path,
    provider: str,
    key: str | None,
    *,
    in_keyring: bool,
    env: Mapping[str, str],
    change: Callable[[str, schema.File, Mapping[str, Any]], str],
) -> Saved | None:
    """Keep `key`, if there is one, and write what `change` makes of the configuration; where the key is now.

    `change` gets the text, what was read from it, and the fields of the provider that name the key (none: they stay).
    Whatever is raised, all is as it was before.
    """
    section = Document(read_config(path), str(path)).file.providers.get(provider)

    def write(saved: Saved | None) -> None:
        def changed(text: str) -> str:
            file = Document(text, str(path)).file
            made = change(text if text.strip() else HEAD, file, saved.values if saved is not None else {})
            check_change(text, made, path)
            return made

        change_file(path, changed)

    if key is not None and in_keyring:
        # Its service may ask for a password, and be given up with Ctrl-C; so this is not held back.
        with _restored_in_keyring(provider, env):
            saved = save_key(provider, key, config=path, in_keyring=True, env=env)
            with held():
                write(saved)
        return saved
    with held():
        if key is None:
            write(None)
            return None
        with _restored(key_file(provider, path, section)):
            saved = save_key(provider, key, config=path, section=section)
            write(saved)
        return saved


@contextmanager
def _restored(path: Path) -> Iterator[None]:
    """On an exception `path` holds what it held before."""
    real = Path(os.path.realpath(path))
    before: bytes | None = None
    with suppress(OSError):
        before = real.read_bytes()
    there = {folder for folder in (real.parent, *real.parent.parents) if folder.exists()}
    try:
        yield
    except BaseException:
        with suppress(OSError):
            if before is None:
                real.unlink(missing_ok=True)
                for folder in (real.parent, *real.parent.parents):
                    if folder in there:
                        break
                    folder.rmdir()
            elif real.read_bytes() != before:
                with replacement(real, 0o600) as new:
                    new.chmod(0o600)
                    new.write_bytes(before)
        raise


@contextmanager
def _restored_in_keyring(provider: str, env: Mapping[str, str]) -> Iterator[None]:
    before = keyring.look_up(provider, env)
    try:
        yield
    except BaseException:
        with suppress(ConfigError):
            if before is None:
                keyring.clear(provider, env)
            else:
                keyring.store(provider, before.strip(), env)
        raise
