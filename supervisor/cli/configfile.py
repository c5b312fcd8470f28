"""The configuration file as a command changes it: the right one, by one command at a time, whole or not at all."""

import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from shared.config.locate import ENV_NAME, FILE_NAME, find_config
from shared.errors import ControlError
from supervisor.files import replacement

HEAD = "# The configuration of kimi-proxy.\n"
"""Of a file that is made here; one that has nothing in it would be taken for one that is being written."""


def choose_file(option: str | None, env: Mapping[str, str], served: str | None) -> Path:
    """The file to change: the one that is named, else the running service's (`served`), else the first one found.

    Where there is none, the user's own, which does not exist yet.  `ConfigError` if the file can't be reached.
    """
    named = option or env.get(ENV_NAME)
    if named and not os.path.lexists(named):
        return Path(named).absolute()
    if not named and served is not None:
        return Path(served)
    found = find_config(option, env)
    return found or platformdirs.user_config_path("kimi-proxy", appauthor=False) / FILE_NAME


def change_file(path: Path, change: Callable[[str], str]) -> None:
    """Write what `change` makes of the text of `path`, "" where there is no file; what it raises leaves all as it was.

    Owner and mode stay; a new file is for its owner alone.  A symbolic link stays one: what it leads to is changed.
    `ControlError` if the file can't be read or written.
    """
    real = Path(os.path.realpath(path))
    try:
        real.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(real.parent):
            status, text = _read(real)
            made = change(text)
            _refuse_unwritable(real, exists=status is not None)
            mode = 0o600 if status is None else stat.S_IMODE(status.st_mode)
            with replacement(real, 0o600) as new:
                if status is not None and (new.stat().st_uid, new.stat().st_gid) != (status.st_uid, status.st_gid):
                    os.chown(new, status.st_uid, status.st_gid)
                new.write_bytes(made.encode())
                new.chmod(mode)
    except PermissionError as error:
        raise ControlError(
            f"{real}: not permitted to write it ({error.strerror}); use the user that it belongs to, or sudo"
        ) from error
    except UnicodeDecodeError as error:
        raise ControlError(f"{real}: this is not UTF-8 text: save the file in that encoding") from error
    except OSError as error:
        raise ControlError(f"{real}: it can't be written ({error.strerror or error})") from error


def _read(path: Path) -> tuple[os.stat_result | None, str]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None, ""
    if not stat.S_ISREG(status.st_mode):
        raise ControlError(f"{path} is no ordinary file: only such a one can be changed")
    return status, path.read_bytes().decode()


def _refuse_unwritable(path: Path, *, exists: bool) -> None:
    # Replacing a file asks for no right to write it, only for one to write its folder.
    if exists and not os.access(path, os.W_OK):
        raise ControlError(f"{path} is not yours to write: use the user that it belongs to, or sudo")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ControlError(
            f"{path.parent} can't be written, and a new version of {path.name} would have to stand there"
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One command at a time in a folder, which is what is locked: the file is another one after each change."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
