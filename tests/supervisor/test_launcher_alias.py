"""The alias `kimi` in the files of three shells."""

import subprocess

import pytest

from supervisor import cli
from supervisor.cli.launcher.alias import alias_line, with_block, without_block

LINE = "alias kimi='kimi-proxy launch'"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/bin/bash")
    for name in ("ZDOTDIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("text", ["", "one\n", "one\ntwo", "\n\n", "one\n\n\n"])
def test_the_block_comes_and_goes(text):
    made = with_block(text, LINE)
    assert made.count(LINE) == 1
    assert with_block(made, LINE) == made
    assert with_block(made, "alias kimi=other") == made.replace(LINE, "alias kimi=other")
    assert without_block(made) == (text if not text or text.endswith("\n") else f"{text}\n")


def test_what_stands_around_it_stays():
    made = with_block("one\n", LINE) + "two\n"
    assert with_block(made, "other").replace("other", LINE) == made
    assert without_block(made + "\n" + with_block("", "older")) == "one\ntwo\n"


@pytest.mark.parametrize(
    ("shell", "file"), [("bash", ".bashrc"), ("zsh", ".zshrc"), ("fish", ".config/fish/config.fish")]
)
def test_it_is_installed_once_and_removed(home, capsys, shell, file):
    path = home / file
    assert cli.main(["alias", "--install", "--shell", shell]) == 0
    text = path.read_text()
    assert cli.main(["alias", "--install", "--shell", shell]) == 0
    assert path.read_text() == text
    assert "has the alias already" in capsys.readouterr().err
    assert cli.main(["alias", "--remove", "--shell", shell]) == 0
    assert path.read_text() == ""
    assert cli.main(["alias", "--remove", "--shell", shell]) == 0
    assert "has no alias of ours" in capsys.readouterr().err


def test_a_file_that_is_a_link_stays_one_and_keeps_its_mode(home):
    real = home / "dotfiles"
    real.write_text("export MINE=1\n")
    real.chmod(0o640)
    (home / ".bashrc").symlink_to(real)
    assert cli.main(["alias", "--install"]) == 0
    assert (home / ".bashrc").is_symlink()
    assert real.read_text().startswith("export MINE=1\n\n# >>> kimi-proxy")
    assert real.stat().st_mode & 0o777 == 0o640


def test_a_shell_takes_the_line(home):
    assert cli.main(["alias", "--install"]) == 0
    show = ["bash", "--norc", "-c", "shopt -s expand_aliases; . ~/.bashrc; alias kimi"]
    said = subprocess.run(show, capture_output=True, text=True, check=True).stdout
    assert said.endswith(" launch'\n") or said == f"{LINE}\n"


def test_it_is_printed(home, capsys):
    assert cli.main(["alias", "--print"]) == 0
    assert capsys.readouterr().out.startswith("alias kimi=")
    assert list(home.iterdir()) == []


def test_without_a_terminal_nobody_is_asked(home, monkeypatch, capsys):
    assert cli.main(["alias"]) == 2
    assert "--install" in capsys.readouterr().err
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert cli.main(["alias", "--install"]) == 2
    assert "--shell bash|zsh|fish" in capsys.readouterr().err
    assert list(home.iterdir()) == []


def test_the_command_is_what_leads_here(tmp_path):
    assert alias_line({"PATH": str(tmp_path)}).endswith("bin/kimi-proxy launch'")
    stranger = tmp_path / "kimi-proxy"
    stranger.touch(mode=0o755)
    assert "/bin/kimi-proxy launch" in alias_line({"PATH": str(tmp_path)})
