"""The names of listening sockets in the service manager's keeping (`supervisor.fdstore`): each tells its `bind`.

sd_pid_notify_with_fds(3) allows no colon and no control character in them, so a bind is quoted as in a URL.
"""

from collections.abc import Mapping
from urllib.parse import quote, unquote

PREFIX = "bind/"
MAX_NAME_BYTES = 255


def name_of(bind: str) -> str | None:
    """The name that a socket for `bind` is kept by; None if it would be too long."""
    name = PREFIX + quote(bind, safe="/.-_[]@")
    return name if len(name) <= MAX_NAME_BYTES else None


def bind_of(name: str) -> str | None:
    """The `bind` that a socket was kept for; None for one that was not kept, but opened by the manager."""
    return unquote(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None


def kept_binds(env: Mapping[str, str]) -> list[str]:
    """Of the sockets that the manager passes to the process with this environment (sd_listen_fds_with_names(3))."""
    binds = map(bind_of, env.get("LISTEN_FDNAMES", "").split(":"))
    return [bind for bind in binds if bind is not None]
