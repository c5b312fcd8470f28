"""The systemd units of one installation, made from those in systemd/: pure text.

A template is a unit that works as it stands for /opt/kimi-proxy.  A line is replaced or left out; a comment goes with
the line below it.  What a template does not have is an error of this module's tests, not of its callers.
"""

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from shared.config.bind import InheritedFd, Tcp, Unix, parse_bind
from shared.errors import StartError

Kind = Literal["system", "user"]
MARK = "# Written by `kimi-proxy install-service`"
NOTIFY_RELOAD_SINCE = 253
"""The version of systemd that knows `Type=notify-reload`."""

# What systemd --user has no right to: users, mounts, devices, capabilities, filters of the network.  Its services live
# in the user's own folders, as everything that the user starts does.
_NOT_FOR_USERS = """
    After Wants DynamicUser StateDirectory StateDirectoryMode RuntimeDirectory RuntimeDirectoryMode LogsDirectory
    LogsDirectoryMode LoadCredential LoadCredentialEncrypted ProtectSystem ProtectHome PrivateTmp PrivateMounts
    PrivateDevices PrivateUsers ProtectProc ProcSubset ProtectClock ProtectControlGroups ProtectHostname
    ProtectKernelLogs ProtectKernelModules ProtectKernelTunables RemoveIPC CapabilityBoundingSet AmbientCapabilities
    IPAddressDeny IPAddressAllow IOWeight
"""
_UNQUOTED = re.compile(r"[A-Za-z0-9_@%+=:,./~-]+")
_ASSIGNMENT = re.compile(r"#?([A-Za-z]+)=")
# Where the hardened unit sees nothing, and what hides it.
_HIDDEN_BY_PROTECT_HOME = ("/home", "/root", "/run/user")
_HIDDEN_BY_PRIVATE_TMP = ("/tmp", "/var/tmp")


class Installation(Struct, frozen=True, kw_only=True):
    """What the units have to say about this machine.  All paths are absolute."""

    kind: Kind
    program: tuple[str, ...]
    """The command, up to `run`."""
    config: str
    systemd: int
    """Its version."""
    needs: tuple[str, ...] = ()
    """Folders that the service reads, beside the system's own."""
    environment: Mapping[str, str] = {}
    home: str | None = None
    """The user's, which a user's unit calls `%h`."""


def service(template: str, place: Installation) -> str:
    """kimi-proxy.service."""
    text = _of_kind(template, place.kind)
    command = [*place.program, "run", "--config", place.config]
    text = _replace(text, "ExecStart", f"ExecStart={_command(command, place)}")
    variables = [f"Environment={_word(f'{name}={value}', place)}" for name, value in place.environment.items()]
    text = _replace(text, "#Environment", *variables)
    if place.systemd < NOTIFY_RELOAD_SINCE:
        text = _replace(
            text,
            "Type",
            f"# systemd {place.systemd} has no notify-reload (it came with {NOTIFY_RELOAD_SINCE}): `reload` does not"
            " wait for the reload's end.",
            "Type=notify",
            "ExecReload=/bin/kill -HUP $MAINPID",
        )
    if place.kind == "user":
        text = _replace(text, "WantedBy", "WantedBy=default.target")
    else:
        homes = hidden(place.needs, _HIDDEN_BY_PROTECT_HOME)
        if homes:
            text = _replace(
                text, "ProtectHome", "# Homes are empty, but for:", "ProtectHome=tmpfs", *_bound(homes, place)
            )
        if folders := hidden(place.needs, _HIDDEN_BY_PRIVATE_TMP):
            text = _replace(text, "PrivateTmp", "PrivateTmp=yes", *_bound(folders, place))
    return _marked(text, place, "kimi-proxy")


def socket(template: str, place: Installation, listen: Sequence[str]) -> str:
    """kimi-proxy.socket, with these `ListenStream=`s."""
    streams = [f"ListenStream={_plain(stream)}" for stream in listen]  # no list of words: it knows no quotes
    if any(stream.startswith("[") for stream in listen):
        streams.append("BindIPv6Only=ipv6-only")  # as the service itself does it
    text = _replace(template, "ListenStream", *streams)
    return _marked(_drop(text, {"#ListenStream"}), place, "kimi-proxy.socket")


def drop_in(template: str, place: Installation) -> str:
    """An example of a drop-in."""
    text = _of_kind(template, place.kind)
    if place.kind == "user":
        text = text.replace("/etc/systemd/system/", "~/.config/systemd/user/").replace(
            "systemctl ", "systemctl --user "
        )
    return text


def listen_streams(binds: Iterable[str]) -> tuple[str, ...] | None:
    """What `[server] bind` is to a socket unit; None if it can't say that (`fd://`, port 0, a name of a host)."""
    streams = []
    for bind in map(parse_bind, binds):
        match bind:
            case Unix(path):
                streams.append(path)
            case Tcp(host, port) if port and (host == "localhost" or re.fullmatch(r"[0-9.]+|[0-9a-fA-F:.]*:.*", host)):
                address = "127.0.0.1" if host == "localhost" else host
                streams.append(f"[{address}]:{port}" if ":" in address else f"{address}:{port}")
            case Tcp() | InheritedFd():
                return None
    return tuple(streams)


def hidden(
    paths: Iterable[str], folders: Sequence[str] = (*_HIDDEN_BY_PROTECT_HOME, *_HIDDEN_BY_PRIVATE_TMP)
) -> list[str]:
    """Those that lie in `folders`, without what lies in another of them."""
    there = sorted({path for path in paths if any(_is_in(path, folder) for folder in folders)})
    return [path for path in there if not any(_is_in(path, other) for other in there if other != path)]


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _bound(paths: Iterable[str], place: Installation) -> list[str]:
    # A colon would begin the place where the folder is to appear.
    return [f"BindReadOnlyPaths={_word(path, place).replace(':', chr(92) + ':')}" for path in paths]


# The texts


def _of_kind(template: str, kind: Kind) -> str:
    names = _NOT_FOR_USERS.split() if kind == "user" else ()
    return _drop(template, {*names, *(f"#{name}" for name in names)})


def _marked(text: str, place: Installation, unit: str) -> str:
    """With a head of our own: the template's is about how to install it."""
    manager = "systemctl --user" if place.kind == "user" else "systemctl"
    head = f"{MARK}, which replaces it: changes belong in a drop-in,\n# `{manager} edit {unit}`.\n\n"
    return head + text[text.index("[Unit]") :]


def _drop(text: str, keys: Container[str]) -> str:
    """Without the assignments to `keys`, and the comments that stand right above them.  `#Key` is a commented one."""
    kept: list[str] = []
    for line in text.splitlines():
        if _key(line) in keys:
            while kept and kept[-1].startswith("#") and not _ASSIGNMENT.match(kept[-1]):
                kept.pop()
        else:
            kept.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)) + "\n"


def _replace(text: str, key: str, *lines: str) -> str:
    """With `lines` where `key` is assigned first, in the place of its comment, too, if they bring one."""
    kept = text.splitlines()
    at = next(number for number, line in enumerate(kept) if _key(line) == key)
    begin = at
    if not lines or lines[0].startswith("#"):
        while begin and kept[begin - 1].startswith("#") and not _ASSIGNMENT.match(kept[begin - 1]):
            begin -= 1
    kept[begin : at + 1] = lines
    return "\n".join(kept) + "\n"


def _key(line: str) -> str:
    """`Key` of `Key=…`, `#Key` of `#Key=…`, "" of anything else."""
    found = _ASSIGNMENT.match(line)
    return found[0].removesuffix("=") if found else ""


def _command(words: Sequence[str], place: Installation) -> str:
    """A command line.  `:` in front: no variables, so that a `$` in a path is one."""
    line = " ".join(_word(word, place) for word in words)
    return f":{line}" if any("$" in word for word in words) else line


def _word(word: str, place: Installation) -> str:
    """One word of a setting, as systemd.syntax(7) quotes it; `%` begins a specifier."""
    word = _plain(word)
    if (
        place.kind == "user"
        and place.home
        and place.home != "/"
        and _is_in(word, home := place.home.replace("%", "%%"))
    ):
        word = f"%h{word[len(home) :]}"
    if _UNQUOTED.fullmatch(word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _plain(text: str) -> str:
    """A value that systemd takes as it stands, but for specifiers."""
    if not text.isprintable():
        raise StartError(f"{text!r} has a character that no unit file may hold: use another path")
    return text.replace("%", "%%")
