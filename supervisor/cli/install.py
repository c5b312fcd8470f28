"""`kimi-proxy install-service`: writes the systemd units of this installation, and says what comes next.

It never talks to systemd: what it writes has no effect before a `daemon-reload`.
"""

import argparse
import contextlib
import difflib
import getpass
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import platformdirs
from msgspec import Struct

from shared.config.locate import FILE_NAME, SITE_CONFIG, load_config
from shared.errors import ConfigError, StartError
from supervisor.cli import units
from supervisor.cli.text import say
from supervisor.files import replacement

SYSTEM_UNITS = Path("/etc/systemd/system")
SERVICE, SOCKET = "kimi-proxy.service", "kimi-proxy.socket"
DROP_INS = ("limits.conf", "agent.conf")
_STAMP = ".kimi-proxy-stamp"
"""What bin/bootstrap.sh leaves in an environment that it has made."""
# The user's folders that the service has to find where this command would.
_FOLDERS = ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")


class File(Struct, frozen=True):
    """One to be written.  `seed`: a beginning for the operator, who has changed it wherever it differs."""

    path: Path
    text: str
    seed: bool = False


def install_service(arguments: argparse.Namespace) -> int:
    """Write the units, or show them; 1 if there are others, which only `--force` replaces."""
    kind: units.Kind = arguments.kind or ("system" if os.geteuid() == 0 else "user")
    folder = SYSTEM_UNITS if kind == "system" else _user_config() / "systemd/user"
    if arguments.uninstall:
        return _uninstall(kind, folder, dry_run=arguments.dry_run)
    config = Path(arguments.config).absolute() if arguments.config else _default_config(kind)
    place = _installation(kind, config, _systemd_version())
    files, notes = _files(place, folder, config, named=bool(arguments.config))
    if arguments.dry_run:
        print("\n".join(f"# {file.path}\n{file.text}" for file in files), end="")
        code = 0
    else:
        code = _write(files, force=arguments.force)
    if code == 0:
        for note in [*notes, *_warnings(place)]:
            say(note)
        print(
            _next_steps(kind, [file.path.name for file in files]), file=sys.stderr if arguments.dry_run else sys.stdout
        )
    return code


# What there is


def _installation(kind: units.Kind, config: Path, version: int) -> units.Installation:
    """This one: the checkout that runs, or whatever Python has it."""
    root = Path(__file__).resolve().parents[2]
    program = root / "bin/kimi-proxy"
    environment = {name: os.environ[name] for name in _FOLDERS if kind == "user" and os.environ.get(name)}
    # An environment of a checkout elsewhere, as of one whose folder can't be written.
    if program.is_file() and (root / "pyproject.toml").is_file():
        command: tuple[str, ...] = (str(program),)
        if Path(sys.prefix, _STAMP).is_file() and Path(sys.prefix) != root / ".venv":
            environment["KIMI_PROXY_VENV"] = sys.prefix
        read = [root, Path(sys.prefix)]
    else:
        command = (sys.executable, "-P", "-m", "supervisor")
        read = [Path(sys.prefix), root]
    read += [Path(sys.base_prefix), Path(os.path.realpath(sys.executable)).parents[1], config.parent]
    return units.Installation(
        kind=kind,
        program=command,
        config=str(config),
        systemd=version,
        needs=tuple(dict.fromkeys(map(str, read))),
        environment=environment,
        home=os.path.expanduser("~"),
    )


def _files(place: units.Installation, folder: Path, config: Path, *, named: bool) -> tuple[list[File], list[str]]:
    """What is to be there, and what there is to say about it."""
    notes = []
    files = [File(folder / SERVICE, units.service(_template(SERVICE), place))]
    binds: tuple[str, ...] = ("127.0.0.1:8000",)
    if config.exists() or named:
        try:
            binds = load_config(str(config), os.environ).config.server.bind
        except ConfigError as error:
            if not config.exists():
                raise
            notes.append(f"warning: the service will not start with this configuration: {error}")
    else:
        files.append(File(config, _template(FILE_NAME), seed=True))
    listen = units.listen_streams(binds)
    if listen is None:
        notes.append(f"no {SOCKET}: [server] bind = {', '.join(binds)} is for the service itself to open")
    else:
        files.insert(1, File(folder / SOCKET, units.socket(_template(SOCKET), place, listen)))
    for name in DROP_INS:
        text = units.drop_in(_template(name), place)
        files.append(File(folder / f"{SERVICE}.d" / f"{name}.example", text))
    return files, notes


def _template(name: str) -> str:
    return resources.files("supervisor").joinpath("systemd", name).read_text("utf-8")


def _user_config() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()


def _default_config(kind: units.Kind) -> Path:
    if kind == "system":
        return SITE_CONFIG
    return platformdirs.user_config_path("kimi-proxy", appauthor=False) / FILE_NAME


def _systemd_version() -> int:
    """Of this machine; the newest if there is none, as it may be another machine that the units are for."""
    systemctl = shutil.which("systemctl")
    if systemctl is not None:
        done = subprocess.run([systemctl, "--version"], capture_output=True, text=True, check=False)
        if found := re.match(r"systemd (\d+)", done.stdout):
            return int(found[1])
    say("warning: there is no systemctl here; the units are written for systemd 253 or newer")
    return units.NOTIFY_RELOAD_SINCE


# Warnings


def _warnings(place: units.Installation) -> Iterator[str]:
    program, config = Path(place.program[0]), Path(place.config)
    if place.systemd < units.NOTIFY_RELOAD_SINCE:
        yield (
            f"note: systemd {place.systemd} is older than {units.NOTIFY_RELOAD_SINCE}: the unit is Type=notify, and"
            " `systemctl reload` does not wait for the end of a reload"
        )
    venv = Path(place.environment.get("KIMI_PROXY_VENV", program.parents[1] / ".venv"))
    if len(place.program) == 1 and not (venv / _STAMP).is_file():
        yield f"warning: {venv} is not made yet, and the service may not: run {shlex.quote(str(program))} version first"
    if place.kind != "system":
        return
    for folder in units.hidden(place.needs):
        yield (
            f"warning: {folder} is hidden from a hardened service; the unit opens it to this one, read-only."
            " A place such as /opt/kimi-proxy needs no exception"
        )
        if folder.startswith(("/tmp/", "/var/tmp/")):
            yield f"warning: {folder} is in a folder that is emptied now and then"
    if closed := _closed_to_others([config, program]):
        yield (
            f"warning: {closed} can't be read by the service's user: chmod o+rX it, and keep keys in files of their own"
            " (LoadCredential=)"
        )


def _closed_to_others(paths: list[Path]) -> Path | None:
    """The first of the paths that others may not read.  Folders above them don't count where they are bound anew."""
    for path in paths:
        try:
            mode = path.stat().st_mode
        except OSError:
            continue
        if not mode & stat.S_IROTH:
            return path
    return None


# The files


def _write(files: list[File], *, force: bool) -> int:
    """All of them, or none."""
    changed = []
    for file in files:
        there = _read(file.path)
        if there is None:
            continue
        if there != file.text and not file.seed:
            changed.append(file)
            if not force:
                name = str(file.path)
                lines = difflib.unified_diff(
                    there.splitlines(), file.text.splitlines(), name, f"{name} (new)", lineterm=""
                )
                print("\n".join(lines))
    if changed and not force:
        say(
            f"{len(changed)} of the files differ from what is there; nothing was written. --force replaces them",
            "error",
        )
        return 1
    for file in files:
        there = _read(file.path)
        if there is not None and (file.seed or there == file.text):
            print(f"{file.path}: unchanged")
            continue
        file.path.parent.mkdir(parents=True, exist_ok=True)
        with replacement(file.path) as new:
            new.write_text(file.text, "utf-8")
            new.chmod(0o644)
        print(f"{file.path}: {'written' if there is None else 'replaced'}")
    return 0


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _uninstall(kind: units.Kind, folder: Path, *, dry_run: bool) -> int:
    """Remove what `install_service` has written; configuration, records and drop-ins of others stay."""
    found = False
    for path in (folder / SERVICE, folder / SOCKET):
        text = _read(path)
        if text is not None and not text.startswith(units.MARK):
            say(f"{path} was not written by this command; it stays")
    examples = [folder / f"{SERVICE}.d" / f"{name}.example" for name in DROP_INS]
    # What `enable` has made goes, too: it would point to nothing.
    links = [link for name in (SERVICE, SOCKET) for link in folder.glob(f"*.wants/{name}") if link.is_symlink()]
    for path in [*links, folder / SERVICE, folder / SOCKET, *examples]:
        text = _read(path)
        if text is None or (path not in examples and not text.startswith(units.MARK)):
            continue
        found = True
        if not dry_run:
            path.unlink()
        print(f"{path}: {'would be removed' if dry_run else 'removed'}")
    with contextlib.suppress(OSError):  # there are drop-ins of others, or nothing at all
        if not dry_run:
            (folder / f"{SERVICE}.d").rmdir()
    if not found:
        raise StartError(f"there is nothing to remove in {folder}")
    manager = "systemctl --user" if kind == "user" else "systemctl"
    print(f"\nNext:\n  {manager} stop {SOCKET} {SERVICE}\n  {manager} daemon-reload")
    return 0


def _next_steps(kind: units.Kind, names: list[str]) -> str:
    manager, journal = ("systemctl --user", "journalctl --user") if kind == "user" else ("systemctl", "journalctl")
    sockets = [name for name in (SOCKET,) if name in names]
    steps = [
        (f"{manager} daemon-reload", "systemd reads the units"),
        (f"{manager} enable --now {' '.join([*sockets, SERVICE])}", "now, and at every start of the machine"),
        (f"{manager} status kimi-proxy", "is it well?"),
        (f"{journal} -u kimi-proxy -f", "its log"),
    ]
    if kind == "user":
        steps[2:2] = [
            (f"loginctl enable-linger {shlex.quote(getpass.getuser())}", "without it, it ends when you log out")
        ]
    width = max(len(command) for command, _ in steps)
    after = f"If it runs already: {manager} restart kimi-proxy"
    return "\n".join(["", "Next:", *(f"  {command:{width}}  # {why}" for command, why in steps), "", after])
