"""The systemd units: what `systemd-analyze` says of them, and what they and the program must agree on."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from shared.config import Server
from supervisor.cli import units
from supervisor.cli.client import SYSTEM_RUNTIME
from supervisor.fleet import UNKILLABLE
from supervisor.listen import BACKLOG
from supervisor.main import STORE_TIMEOUT
from supervisor.plan import KILL_GRACE

UNITS = Path(__file__).parents[1] / "systemd"
SERVICE = UNITS / "kimi-proxy.service"
SOCKET = UNITS / "kimi-proxy.socket"
AGENT = UNITS / "agent.conf"
LIMITS = UNITS / "limits.conf"
NOTIFY_RELOAD_SINCE = 253
MAX_EXPOSURE = 11
"""In tenths of systemd's points, of 100: the unit says what is left, and why."""


class Unit(configparser.RawConfigParser):
    """A unit file; of a setting that is repeated the last one counts."""

    def __init__(self, path: Path) -> None:
        super().__init__(delimiters=("=",), comment_prefixes=("#",), strict=False, interpolation=None)
        self.optionxform = str
        self.read(path)


def systemd_version() -> int:
    """Of `systemd-analyze`; skips the test where there is none."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    said = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=True).stdout
    return int(re.search(r"systemd (\d+)", said)[1])


@pytest.fixture
def installed(tmp_path):
    """Copies of the units whose program exists, as `verify` looks for it."""
    service = re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={shutil.which('true')}", SERVICE.read_text())
    if (version := systemd_version()) < NOTIFY_RELOAD_SINCE:
        # An older systemd knows all of the unit but its type: the rest can be looked at all the same.
        assert "\nType=notify-reload\n" in service, version
        service = service.replace("\nType=notify-reload\n", "\nType=notify\n")
    (tmp_path / SERVICE.name).write_text(service)
    shutil.copy(SOCKET, tmp_path)
    return tmp_path


def analyze(*arguments: str) -> str:
    """What `systemd-analyze` says; it must succeed."""
    done = subprocess.run(
        ["systemd-analyze", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_verify_finds_nothing(installed):
    said = analyze("verify", "--man=no", str(installed / SERVICE.name), str(installed / SOCKET.name))
    # It also looks at what the units refer to, which is the machine's and none of our business.
    assert not [line for line in said.splitlines() if "kimi-proxy" in line]


@pytest.mark.parametrize("example", [AGENT, LIMITS], ids=lambda path: path.stem)
def test_verify_finds_nothing_with_a_drop_in(installed, example):
    folder = installed / f"{SERVICE.name}.d"
    folder.mkdir()
    # With all that it has commented out, too.
    text = re.sub(r"(?m)^#(?=[A-Z][A-Za-z]+=)", "", example.read_text())
    (folder / example.name).write_text(text)
    said = analyze("verify", "--man=no", str(installed / SERVICE.name))
    assert not [line for line in said.splitlines() if "kimi-proxy" in line]


@pytest.mark.parametrize("kind", ["system", "user"])
@pytest.mark.parametrize("folder", ["opt/kimi-proxy", "the 100% proxy;$HOME"])
def test_verify_finds_nothing_in_generated_units(tmp_path, monkeypatch, kind, folder):
    program = tmp_path / folder / "bin/kimi-proxy"
    program.parent.mkdir(parents=True)
    program.symlink_to(shutil.which("true"))
    place = units.Installation(
        kind=kind,
        program=(str(program),),
        config=str(tmp_path / folder / "config.toml"),
        systemd=systemd_version(),
        needs=(str(program.parents[1]), "/root/a b:c"),
        environment={"KIMI_PROXY_VENV": str(tmp_path / folder)},
    )
    generated = tmp_path / "units"
    drop_ins = generated / f"{SERVICE.name}.d"
    drop_ins.mkdir(parents=True)
    (generated / SERVICE.name).write_text(units.service(SERVICE.read_text(), place))
    (generated / SOCKET.name).write_text(units.socket(SOCKET.read_text(), place, ["[::1]:80", "/run/the proxy.sock"]))
    for example in (AGENT, LIMITS):
        (drop_ins / example.name).write_text(units.drop_in(example.read_text(), place))
    # A user's systemd wants a folder of its own.
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    manager = ("--user",) if kind == "user" else ()
    said = analyze(*manager, "verify", "--man=no", str(generated / SERVICE.name), str(generated / SOCKET.name))
    assert not [line for line in said.splitlines() if "kimi-proxy" in line]


def test_the_service_is_hardly_exposed(installed):
    said = analyze(
        "security", "--offline=true", f"--threshold={MAX_EXPOSURE}", "--no-pager", str(installed / SERVICE.name)
    )
    assert "Overall exposure level" in said
    # Each line that is left has its reason in the unit.
    left = re.findall(r"(?m)^✗ (\w+)=", said)
    assert left
    for name in left:
        assert re.search(rf"(?m)^# .*\b{name}\b", SERVICE.read_text()), name


def test_type_and_signals_are_those_of_the_service_contract():
    service = Unit(SERVICE)["Service"]
    assert service["Type"] == "notify-reload"
    assert service["NotifyAccess"] == "main"
    assert service["KillMode"] == "control-group"
    # SIGHUP is what notify-reload sends unless told otherwise.
    assert "ReloadSignal" not in service
    assert "ExecReload" not in service


def test_a_stop_has_the_time_that_it_may_take():
    longest = Server().graceful_timeout + KILL_GRACE + UNKILLABLE + STORE_TIMEOUT
    assert int(Unit(SERVICE)["Service"]["TimeoutStopSec"]) > longest


def test_the_program_and_the_folders_are_where_they_are_looked_for():
    service = Unit(SERVICE)["Service"]
    program, *arguments = service["ExecStart"].split()
    assert program == "/opt/kimi-proxy/bin/kimi-proxy"
    assert arguments[0] == "run"
    assert Path("/run", service["RuntimeDirectory"]) == SYSTEM_RUNTIME
    # `shared.paths.prepare` wants all three, and without them falls back to a home that is closed here.
    assert {"StateDirectory", "LogsDirectory"} <= set(service)


def test_the_socket_is_as_the_service_would_open_it():
    socket = Unit(SOCKET)["Socket"]
    assert socket["ListenStream"] == Server().bind[0]
    assert int(socket["Backlog"]) == BACKLOG
    assert socket["NoDelay"] == "yes"
