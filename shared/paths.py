"""The folders and files of one running instance.

systemd names the folders (`StateDirectory=` and its siblings); without it they are the user's own.  Two instances
whose folders differ have nothing in common and run side by side.
"""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import platformdirs
from msgspec import Struct

from shared.config.bind import MAX_UNIX_PATH_BYTES
from shared.errors import StartError

_APP = "kimi-proxy"


class Paths(Struct, frozen=True, kw_only=True):
    """Absolute folders, which `prepare` makes, and the files in them."""

    state: Path
    runtime: Path
    logs: Path

    @property
    def database(self) -> Path:
        """The records; deleting it while the service is stopped is a valid reset."""
        return self.state / "sessions.db"

    @property
    def spool(self) -> Path:
        """Records that workers could not hand over, waiting to be imported (`shared.spool`)."""
        return self.state / "spool"

    @property
    def login_secret(self) -> Path:
        """What logins of the dashboard are sealed with; deleting it while the service is stopped ends them all."""
        return self.state / "login.secret"

    @property
    def admin_socket(self) -> Path:
        """The UNIX socket of `supervisor.control`."""
        return self.runtime / "admin.sock"

    @property
    def instance_lock(self) -> Path:
        """Locked and holding the supervisor's pid for as long as it lives."""
        return self.runtime / "supervisor.lock"

    @property
    def log_file(self) -> Path:
        """Where a supervisor that was sent to the background writes its log."""
        return self.logs / "kimi-proxy.log"


def resolve_paths(env: Mapping[str, str]) -> Paths:
    """The folders that `env` names, each falling back to the user's own by itself; touches no disk."""
    with warnings.catch_warnings():
        # Without XDG_RUNTIME_DIR platformdirs picks a folder in the temporary one, and says so on stderr.
        warnings.simplefilter("ignore")
        return Paths(
            state=_named(env, "STATE_DIRECTORY") or platformdirs.user_state_path(_APP, appauthor=False),
            runtime=_named(env, "RUNTIME_DIRECTORY") or platformdirs.user_runtime_path(_APP, appauthor=False),
            logs=_named(env, "LOGS_DIRECTORY") or platformdirs.user_log_path(_APP, appauthor=False),
        )


def prepare(paths: Paths) -> None:
    """Make the folders, closed to others, and see that they can be written; raises `StartError` with the fix."""
    length = len(os.fsencode(paths.admin_socket))
    if length > MAX_UNIX_PATH_BYTES:
        raise StartError(
            f"the admin socket's path {paths.admin_socket} has {length} bytes and a UNIX socket at most"
            f" {MAX_UNIX_PATH_BYTES}: set RUNTIME_DIRECTORY to a shorter folder"
        )
    for variable, folder in (
        ("STATE_DIRECTORY", paths.state),
        ("RUNTIME_DIRECTORY", paths.runtime),
        ("LOGS_DIRECTORY", paths.logs),
    ):
        fix = f"make it writable or set {variable} to another folder"
        try:
            _make(folder)
            owner = folder.stat().st_uid
        except FileExistsError:
            raise StartError(f"{folder} is not a folder: set {variable} to one") from None
        except OSError as error:
            raise StartError(f"the folder {folder} can't be made ({error.strerror}): {fix}") from None
        # access(2) rather than a trial file: it knows read-only mounts too, and leaves nothing behind.
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StartError(f"the folder {folder} can't be written: {fix}")
        # The fallback of the runtime folder lies where anybody may have made it before us.
        if folder == paths.runtime and owner not in (0, os.geteuid()):
            raise StartError(f"the folder {folder} belongs to another user: set {variable} to one of your own")


def _make(folder: Path) -> None:
    """Closed to others, as are the folders above that aren't there yet: platformdirs takes no open runtime folder."""
    if not folder.parent.exists():
        _make(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)


def _named(env: Mapping[str, str], variable: str) -> Path | None:
    """The first of the colon-separated folders in `variable` (systemd.exec(5)), absolute."""
    first = env.get(variable, "").partition(":")[0]
    return Path(first).absolute() if first else None
