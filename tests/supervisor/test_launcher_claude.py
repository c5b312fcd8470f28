"""Finding Claude Code, with programs of the test's own."""

import os

import pytest

from supervisor.cli.launcher.claude import Claude, ClaudeNotFoundError, claude_version, find_claude


@pytest.fixture
def env(tmp_path):
    (tmp_path / "bin").mkdir()
    return {"HOME": str(tmp_path / "home"), "PATH": str(tmp_path / "bin")}


def program(path, says="2.1.197 (Claude Code)", code=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\necho "{says}"\nexit {code}\n')
    path.chmod(0o755)
    return path


def find(env, option=None):
    return find_claude(option, env, machine=())


def test_the_first_place_wins(env, tmp_path):
    home = tmp_path / "home"
    places = [
        program(home / ".npm/_npx/0123/node_modules/.bin/claude"),
        program(home / ".nvm/versions/node/v22.1.0/bin/claude"),
        program(home / ".local/bin/claude"),
        program(home / ".claude/local/claude"),
        program(tmp_path / "bin/claude-code"),
        program(tmp_path / "bin/claude"),
    ]
    while places:
        assert find(env).command == (str(places[-1]),)
        places.pop().unlink()
    with pytest.raises(ClaudeNotFoundError, match="npm install -g @anthropic-ai/claude-code"):
        find(env)


def test_the_newest_of_several_is_taken(env, tmp_path):
    versions = tmp_path / "home/.nvm/versions/node"
    new, old = program(versions / "v9.0.0/bin/claude"), program(versions / "v22.1.0/bin/claude")
    os.utime(old, (1, 1))
    assert find(env).command == (str(new),)


def test_where_npm_installs_without_root(env, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.npmrc").write_text("fund=false\nprefix=${HOME}/packages\n")
    packaged = program(tmp_path / "home/packages/bin/claude")
    assert find(env).command == (str(packaged),)
    other = program(tmp_path / "elsewhere/bin/claude")
    assert find(env | {"npm_config_prefix": str(tmp_path / "elsewhere")}).command == (str(other),)


def test_what_is_named_goes_before_all(env, tmp_path, monkeypatch):
    program(tmp_path / "bin/claude")
    mine, other = program(tmp_path / "mine"), program(tmp_path / "bin/other")
    assert find(env, str(mine)).command == (str(mine),)
    assert find(env | {"KIMI_PROXY_CLAUDE": str(mine)}).command == (str(mine),)
    assert find(env | {"KIMI_PROXY_CLAUDE": str(mine)}, "other").command == (str(other),)
    monkeypatch.chdir(tmp_path)
    assert find(env, "./mine").command == find(env, "mine").command == (str(mine),)


@pytest.mark.parametrize(
    ("name", "why"),
    [("/no/such", "does not exist"), ("nobody", "no such command is on the PATH"), ("file", "no program")],
)
def test_what_is_named_must_be_there(env, tmp_path, monkeypatch, name, why):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    program(tmp_path / "bin/claude")
    with pytest.raises(ClaudeNotFoundError, match=f"--claude names {name}.*{why}"):
        find(env, name)
    with pytest.raises(ClaudeNotFoundError, match=f"KIMI_PROXY_CLAUDE names {name}.*{why}"):
        find(env | {"KIMI_PROXY_CLAUDE": name})


def test_npx_is_used_if_it_has_it_without_a_download(env, tmp_path):
    npx = program(tmp_path / "bin/npx", says="$npm_config_offline $*: 2.0.1")
    assert find(env).command == (str(npx), "@anthropic-ai/claude-code")
    program(tmp_path / "bin/npx", says="npm error ENOTCACHED 1.2", code=1)
    with pytest.raises(ClaudeNotFoundError):
        find(env)


def test_its_version(env, tmp_path):
    def version(*command):
        return claude_version(Claude(command, "here"), env)

    assert version(str(program(tmp_path / "good"))) == "2.1.197"
    assert version(str(program(tmp_path / "bad", code=1))) is None
    assert version(str(program(tmp_path / "other", says="hello"))) is None
    assert version(str(tmp_path / "none")) is None
