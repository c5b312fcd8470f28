"""`kimi-proxy install-service`: what it writes, shows, refuses and removes."""

import os
import stat
import sys
from pathlib import Path

import pytest

from shared.config import parse_config
from supervisor.cli import install, main, units

ROOT = Path(__file__).parents[2]
NAMES = ["kimi-proxy.service", "kimi-proxy.service.d", "kimi-proxy.socket"]


class Machine:
    """Folders of its own in the place of the system's and the user's."""

    def __init__(self, folder: Path, capsys) -> None:
        self.units = folder / "etc/systemd/system"
        self.config = folder / "etc/kimi-proxy/config.toml"
        self.home = folder / "home"
        self._capsys = capsys

    def run(self, *options: str) -> tuple[int, str, str]:
        code = main(["install-service", *options])
        said = self._capsys.readouterr()
        return code, said.out, said.err

    @property
    def service(self) -> Path:
        return self.units / "kimi-proxy.service"


@pytest.fixture
def machine(tmp_path, monkeypatch, capsys):
    machine = Machine(tmp_path, capsys)
    monkeypatch.setattr(install, "SYSTEM_UNITS", machine.units)
    monkeypatch.setattr(install, "SITE_CONFIG", machine.config)
    monkeypatch.setattr(install, "_systemd_version", lambda: 255)
    monkeypatch.setenv("HOME", str(machine.home))
    for name in install._FOLDERS:
        monkeypatch.delenv(name, raising=False)
    return machine


def test_everything_is_written_and_what_is_next_is_said(machine):
    os.umask(os.umask(0o022) | 0o077)  # a strict umask does not make units unreadable
    code, out, _ = machine.run("--system")
    assert code == 0
    assert sorted(os.listdir(machine.units)) == NAMES
    assert sorted(os.listdir(machine.units / "kimi-proxy.service.d")) == ["agent.conf.example", "limits.conf.example"]
    assert stat.S_IMODE(machine.service.stat().st_mode) == 0o644
    text = machine.service.read_text()
    assert f"ExecStart={ROOT}/bin/kimi-proxy run --config {machine.config}\n" in text.replace('"', "")
    assert "Type=notify-reload" in text
    parse_config(machine.config.read_text(), None, {})
    for command in (
        "systemctl daemon-reload",
        "systemctl enable --now kimi-proxy.socket kimi-proxy.service",
        "systemctl status kimi-proxy",
        "journalctl -u kimi-proxy -f",
    ):
        assert f"  {command} " in out
    assert f"{machine.service}: written" in out


def test_a_dry_run_writes_nothing(machine):
    code, out, err = machine.run("--system", "--dry-run")
    assert code == 0
    assert not machine.units.exists()
    assert not machine.config.exists()
    assert f"# {machine.service}\n{units.MARK}" in out
    assert f"# {machine.config}\n" in out
    assert "daemon-reload" in err


def test_the_second_time_there_is_nothing_to_do(machine):
    machine.run("--system")
    machine.config.write_text("# mine\n[server]\nworkers = 3\n")
    code, out, _ = machine.run("--system")
    assert code == 0
    assert out.count(": unchanged\n") == 4
    assert machine.config.read_text().startswith("# mine")


def test_another_unit_is_shown_and_only_replaced_by_force(machine):
    machine.run("--system")
    mine = machine.service.read_text().replace("WatchdogSec=30", "WatchdogSec=60")
    machine.service.write_text(mine)
    (machine.units / "kimi-proxy.socket").unlink()
    code, out, err = machine.run("--system")
    assert code == 1
    assert "-WatchdogSec=60\n+WatchdogSec=30\n" in out
    assert "--force" in err
    assert machine.service.read_text() == mine
    assert not (machine.units / "kimi-proxy.socket").exists()  # all or nothing
    code, out, _ = machine.run("--system", "--force")
    assert code == 0
    assert f"{machine.service}: replaced" in out
    assert "WatchdogSec=30" in machine.service.read_text()
    assert os.listdir(machine.units / "kimi-proxy.service.d").sort() is None
    assert not [name for name in os.listdir(machine.units) if name.endswith(".new")]


def test_a_user_s_own(machine):
    code, out, _ = machine.run("--user")
    assert code == 0
    folder = machine.home / ".config/systemd/user"
    assert sorted(os.listdir(folder)) == NAMES
    assert "--config %h/.config/kimi-proxy/config.toml\n" in (folder / "kimi-proxy.service").read_text()
    assert (machine.home / ".config/kimi-proxy/config.toml").exists()
    assert "systemctl --user enable --now" in out
    assert "loginctl enable-linger" in out
    assert not machine.units.exists()


def test_the_configuration_says_what_the_socket_opens(machine, tmp_path):
    config = tmp_path / "my config.toml"
    config.write_text('[server]\nbind = ["127.0.0.1:1234", "[::1]:1234"]\n')
    assert machine.run("--system", "--config", str(config))[0] == 0
    socket = (machine.units / "kimi-proxy.socket").read_text()
    assert "ListenStream=127.0.0.1:1234\nListenStream=[::1]:1234\nBindIPv6Only=ipv6-only\n" in socket
    assert f'--config "{config}"' in machine.service.read_text()
    assert not machine.config.exists()


def test_a_bind_that_no_socket_unit_can_open(machine, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text('[server]\nbind = "127.0.0.1:0"\n')
    code, out, err = machine.run("--system", "--config", str(config))
    assert code == 0
    assert not (machine.units / "kimi-proxy.socket").exists()
    assert "enable --now kimi-proxy.service" in out
    assert "no kimi-proxy.socket: [server] bind = 127.0.0.1:0" in err


def test_a_broken_configuration_is_told_and_a_missing_one_refused(machine, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("[server]\nwokers = 2\n")
    code, _, err = machine.run("--system", "--config", str(config))
    assert code == 0
    assert "will not start with this configuration" in err
    assert 'did you mean "workers"' in err
    code, _, err = machine.run("--system", "--config", str(tmp_path / "none.toml"), "--force")
    assert code == 1
    assert "there is no such file" in err


def test_without_permission_it_says_where(machine, monkeypatch):
    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied", str(machine.units))

    monkeypatch.setattr(Path, "mkdir", refuse)
    code, _, err = machine.run("--system")
    assert code == 1
    assert f"{machine.units}: Permission denied" in err


def test_an_old_systemd_is_told_of(machine, monkeypatch):
    monkeypatch.setattr(install, "_systemd_version", lambda: 252)
    _, _, err = machine.run("--system")
    assert "systemd 252 is older than 253" in err
    assert "Type=notify\n" in machine.service.read_text()


def test_hidden_places_are_opened_and_warned_of(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(units, "_HIDDEN_BY_PROTECT_HOME", (str(tmp_path),))
    config = tmp_path / "cfg/config.toml"
    config.parent.mkdir()
    config.write_text("[server]\nworkers = 2\n")
    config.chmod(0o600)
    _, _, err = machine.run("--system", "--config", str(config))
    assert f"BindReadOnlyPaths={config.parent}\n" in machine.service.read_text()
    assert f"warning: {config} can't be read by the service's user" in err


def test_an_installed_package_is_run_by_its_python(machine, monkeypatch, tmp_path):
    monkeypatch.setattr(install, "__file__", str(tmp_path / "lib/site-packages/supervisor/cli/install.py"))
    machine.run("--system")
    text = machine.service.read_text()
    assert f"ExecStart={sys.executable} -P -m supervisor run --config" in text


def test_uninstalling_leaves_what_is_not_ours(machine):
    machine.run("--system")
    wants = machine.units / "multi-user.target.wants"
    wants.mkdir()
    (wants / "kimi-proxy.service").symlink_to(machine.service)
    (machine.units / "kimi-proxy.service.d/limits.conf").write_text("[Service]\n")
    (machine.units / "kimi-proxy.socket").write_text("[Socket]\nListenStream=1\n")
    code, out, _ = machine.run("--system", "--uninstall", "--dry-run")
    assert "would be removed" in out
    assert machine.service.exists()
    code, out, err = machine.run("--system", "--uninstall")
    assert code == 0
    assert "systemctl daemon-reload" in out
    assert f"{machine.units}/kimi-proxy.socket was not written by this command" in err
    assert os.listdir(wants) == []
    assert sorted(os.listdir(machine.units)) == ["kimi-proxy.service.d", "kimi-proxy.socket", "multi-user.target.wants"]
    assert os.listdir(machine.units / "kimi-proxy.service.d") == ["limits.conf"]
    assert machine.config.exists()
    (machine.units / "kimi-proxy.service.d/limits.conf").unlink()
    code, _, err = machine.run("--system", "--uninstall")
    assert code == 1
    assert "nothing to remove" in err
    assert not (machine.units / "kimi-proxy.service.d").exists()
