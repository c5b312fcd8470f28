"""systemd's journal, spoken to in its own protocol: a line of the log is an entry with its fields beside the text.

    journalctl -u kimi-proxy KIMI_EVENT=STREAM_ERROR KIMI_PROVIDER=kimi -o json

An entry is one datagram to journald's socket: `NAME=value` lines; a value with a line end goes as the name, a line end,
its length as 64 bits in little-endian order, and itself (systemd's JOURNAL_NATIVE_PROTOCOL).  Nothing here waits:
what can't be sent at once goes to stderr, where a prefix such as `<4>` tells journald the priority (sd-daemon(3)).
"""

import os
import re
import socket
import struct
from collections.abc import Mapping
from typing import Any

from shared.stderr import STDERR

SOCKET = "/run/systemd/journal/socket"
PRIORITIES = {"debug": 7, "info": 6, "notice": 5, "warning": 4, "error": 3}
"""Level → syslog's number."""
PREFIX = "KIMI_"
_IDENTIFIER = (b"SYSLOG_IDENTIFIER", b"kimi-proxy")

_MAX_NAME = 64
"""Of a field's name, in characters; journald drops fields with longer ones."""
_MAX_VALUE = 2048
"""Of a field's value, in characters: the text has it whole."""
_MAX_TRACEBACK = 16384
_NOT_IN_NAME = re.compile(r"[^A-Z0-9_]")
# What a client could use to forge a second line, or to talk to the terminal; also what UTF-8 can't say.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_CONTROL_BUT_NEWLINE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# These two have a field of journald's own.
_ELSEWHERE = frozenset({"timestamp", "level"})
_SEND_BUFFER_BYTES = 1 << 20

_field_names: dict[str, bytes] = {}


def encode(text: bytes, level: str, event: Mapping[str, Any]) -> bytes:
    """The datagram of one entry: `text` as its MESSAGE, and a field `KIMI_<NAME>` for each value that is not empty.

    `event` has been redacted already; control characters are escaped as in the text, only a traceback keeps its lines.
    """
    fields = [(b"MESSAGE", text), (b"PRIORITY", b"%d" % PRIORITIES.get(level, PRIORITIES["info"])), _IDENTIFIER]
    for name, value in event.items():
        if value is None or value == "" or (field := _field_name(name)) is None:
            continue
        if value is True or value is False:
            said = "true" if value else "false"
        else:
            said = value if type(value) is str else str(value)
        bound, control = (_MAX_TRACEBACK, _CONTROL_BUT_NEWLINE) if name == "exception" else (_MAX_VALUE, CONTROL)
        if len(said) > bound:
            said = f"{said[: bound // 4]} … {said[-bound * 3 // 4 :]}"
        fields.append((field, control.sub(escape, said).encode()))
    return b"".join(
        b"%s\n%s%s\n" % (name, struct.pack("<Q", len(value)), value) if b"\n" in value else b"%s=%s\n" % (name, value)
        for name, value in fields
    )


def escape(found: re.Match[str]) -> str:
    """A character of `CONTROL` as people can read it."""
    return f"\\u{ord(found[0]):04x}"


def _field_name(name: str) -> bytes | None:
    """`KIMI_` and the name in capitals; None for what is not told."""
    if name in _ELSEWHERE:
        return None
    known = _field_names.get(name)
    if known is None:
        known = (PREFIX + _NOT_IN_NAME.sub("_", name.upper()))[:_MAX_NAME].encode()
        if len(_field_names) < 1024:  # names are the code's own; whatever happens, this does not grow
            _field_names[name] = known
    return known


def is_journal(env: Mapping[str, str]) -> bool:
    """Whether stderr is the journal: `JOURNAL_STREAM` names its device and inode, and is inherited by others, too."""
    device, _, inode = env.get("JOURNAL_STREAM", "").partition(":")
    if not (device.isdecimal() and inode.isdecimal()):
        return False
    try:
        status = os.fstat(STDERR)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (int(device), int(inode))


def priority_prefix(level: str) -> str:
    """What to begin a line on stderr with, so that journald gives it this level; "" where stderr is not the journal."""
    return f"<{PRIORITIES[level]}>" if is_journal(os.environ) else ""


class Journal:
    """This process's way to journald.  `path` is its socket's."""

    def __init__(self, path: str = "") -> None:
        self._path = path or SOCKET
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        # An entry with a long traceback has to fit; the kernel's bound (net.core.wmem_max) holds all the same.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)

    def send(self, entry: bytes) -> bool:
        """Whether journald took it.  Never waits, never raises: it may be busy, restarting, or not there at all; an
        entry may be larger than a datagram can be.
        """
        try:
            # Not connected for good: journald may be restarted.
            self._socket.sendto(entry, self._path)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Later entries are refused."""
        self._socket.close()
