"""The secret that logins of the dashboard are sealed with: made once, kept in the state folder."""

import os
import secrets
from pathlib import Path

from shared.errors import StartError
from supervisor.files import replacement

SECRET_BYTES = 32


def load_login_secret(path: Path) -> bytes:
    """The secret in `path`, which is made if it is not there, or is not one that only this user can read.

    `StartError` if that fails.  Removing the file while the service is stopped ends all logins.
    """
    try:
        return _read(path) or _make(path)
    except OSError as error:
        raise StartError(f"{path}: the secret of logins can't be kept there ({error.strerror})") from error


def _read(path: Path) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        is_private = not os.fstat(fd).st_mode & 0o077
        secret = os.read(fd, SECRET_BYTES + 1)
    finally:
        os.close(fd)
    return secret if is_private and len(secret) == SECRET_BYTES else None


def _make(path: Path) -> bytes:
    secret = secrets.token_bytes(SECRET_BYTES)
    with replacement(path, 0o600) as new:
        new.write_bytes(secret)
    return secret
