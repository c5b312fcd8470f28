"""`kimi-proxy reset`: what goes, what stays, and that nothing goes unasked."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.service import free_port
from fakes.terminal import Terminal

from supervisor import cli
from supervisor.cli.launcher.alias import file_of, install_alias

ROOT = Path(__file__).parents[2]
CONFIG = """\
[providers.kimi]
api_key_file = "keys/kimi"
[providers.mine]
base_url = "http://127.0.0.1:9/v1"
api_key_file = "other/key"
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home that was set up, and used, by somebody with bash."""
    for name in ("STATE", "RUNTIME", "LOGS"):
        monkeypatch.setenv(f"{name}_DIRECTORY", str(tmp_path / name.lower()))
        (tmp_path / name.lower()).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "cfg"))
    for name in ("KIMI_PROXY_CONFIG", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    folder = tmp_path / "cfg/kimi-proxy"
    for name in ("keys", "other"):
        (folder / name).mkdir(parents=True)
    (folder / "config.toml").write_text(CONFIG)
    for name in ("keys/kimi", "keys/groq", "keys/notes.txt", "other/key"):
        (folder / name).write_text("sk-1\n")
    (tmp_path / ".bashrc").write_text("# mine\n")
    install_alias("bash", os.environ)
    (tmp_path / "state/launcher.key").write_text("kp-1\n")
    for name in ("sessions.db", "sessions.db-wal", "login.secret"):
        (tmp_path / "state" / name).write_text("x")
    (tmp_path / "state/spool").mkdir()
    (tmp_path / "logs/kimi-proxy.log").write_text("x")
    return tmp_path


@pytest.fixture
def reset(capsys):
    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["reset", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def files(home: Path) -> set[str]:
    return {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}


OURS = {"cfg/kimi-proxy/config.toml", "cfg/kimi-proxy/keys/kimi", "cfg/kimi-proxy/keys/groq", "state/launcher.key"}
RECORDS = {"state/sessions.db", "state/sessions.db-wal", "state/login.secret", "logs/kimi-proxy.log"}


def test_all_but_the_history_goes(home, reset):
    before = files(home)
    code, out, err = reset("--yes")
    assert (code, out) == (0, "")
    assert before - files(home) == OURS
    assert (home / ".bashrc").read_text() == "# mine\n"
    for name in OURS:
        assert str(home / name) in err
    assert f"the alias in {home}/.bashrc" in err
    assert re.search(r"history .*sessions.db stays; --history", err)
    assert "setup begins anew" in err
    code, _, err = reset("--yes")
    assert (code, "nothing to remove" in err) == (0, True)


def test_with_the_history(home, reset):
    before = files(home)
    assert reset("--yes", "--history")[0] == 0
    assert before - files(home) == OURS | RECORDS
    assert not (home / "state/spool").exists()


def test_nobody_to_ask(home, reset):
    before = files(home)
    code, _, err = reset()
    assert code == 2
    assert "--yes" in err
    assert files(home) == before


def test_the_alias_of_other_shells(home, reset):
    for shell in ("zsh", "fish"):
        install_alias(shell, os.environ)
    assert reset("--yes")[0] == 0
    for shell in ("bash", "zsh", "fish"):
        assert "kimi" not in file_of(shell, os.environ).read_text()


def test_a_stranger_s_config_toml_is_not_ours(home, reset):
    stranger = home / "work/config.toml"
    stranger.write_text('title = "A site"\n')
    code, _, err = reset("--yes")
    assert (code, "is no configuration of kimi-proxy" in err) == (1, True)
    assert stranger.exists()
    assert (home / "cfg/kimi-proxy/config.toml").exists()
    assert reset("--yes", "--config", str(stranger))[0] == 0
    assert not stranger.exists()
    assert (home / "cfg/kimi-proxy/config.toml").exists()


def test_a_broken_one_of_the_user_s_own_goes_too(home, reset):
    (home / "cfg/kimi-proxy/config.toml").write_text("[broken")
    assert reset("--yes")[0] == 0
    assert not OURS & files(home)


def test_what_can_not_be_removed_is_named_and_the_rest_goes(home, reset, monkeypatch):
    real = Path.unlink

    def unlink(path, missing_ok=False):
        if path.name == "kimi":
            raise PermissionError(13, "Permission denied", str(path))
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    code, _, err = reset("--yes")
    assert code == 1
    assert "keys/kimi: it can't be removed (Permission denied)" in err
    assert OURS & files(home) == {"cfg/kimi-proxy/keys/kimi"}


def test_a_service_that_runs_is_stopped(home, reset):
    config = home / "cfg/kimi-proxy/config.toml"
    config.write_text(f'[server]\nbind = "127.0.0.1:{free_port()}"\nworkers = 1\n[providers.echo]\n')
    for path in (home / "state").glob("sessions.db*"):
        path.unlink()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "supervisor", "start"], env=environment, check=True, capture_output=True)
    try:
        code, _, err = reset("--yes", "--history")
        assert code == 0, err
        assert re.search(r"the service that runs \(pid \d+\): it is stopped", err)
        assert not (OURS | RECORDS) & files(home)
    finally:
        subprocess.run([sys.executable, "-m", "supervisor", "stop"], env=environment, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("typed", "code", "gone"), [(b"y\n", 0, True), (b"n\n", 1, False), (b"\n", 1, False), (b"\x03", 130, False)]
)
def test_a_person_is_asked(home, typed, code, gone):
    with Terminal(120, 30) as terminal:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = terminal.run([sys.executable, "-m", "supervisor", "reset"], environment)
        terminal.wait(lambda: "[y/N]" in terminal.text)
        terminal.type(typed)
        terminal.wait(lambda: process.poll() is not None)
        assert "Traceback" not in terminal.received
    assert process.returncode == code
    assert bool(OURS & files(home)) != gone
