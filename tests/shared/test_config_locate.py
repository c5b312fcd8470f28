"""`shared.config.locate`: which file is read, and what is said when it can't be."""

import os
from pathlib import Path

import pytest

from shared.config import find_config, load_config, locate
from shared.errors import ConfigError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, an empty user and an empty system."""
    for folder in ("work", "user", "site"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(locate, "SITE_CONFIG", tmp_path / "site" / "config.toml")
    return tmp_path


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_order(home: Path):
    assert find_config(None, {}) is None
    site = write(home / "site" / "config.toml")
    assert find_config(None, {}) == site
    user = write(home / "user" / "kimi-proxy" / "config.toml")
    assert find_config(None, {}) == user
    here = write(home / "work" / "config.toml")
    assert find_config(None, {}) == here
    named = write(home / "work" / "named.toml")
    assert find_config(None, {"KIMI_PROXY_CONFIG": "named.toml"}) == named
    option = write(home / "option.toml")
    assert find_config("../option.toml", {"KIMI_PROXY_CONFIG": "named.toml"}).resolve() == option
    assert find_config("", {"KIMI_PROXY_CONFIG": ""}) == here


def test_a_folder_is_no_configuration(home: Path):
    (home / "work" / "config.toml").mkdir()
    assert find_config(None, {}) is None


def test_without_a_file_the_built_in_one_holds(home: Path):
    loaded = load_config(None, {})
    assert loaded.path is None
    assert list(loaded.config.providers) == ["echo"]


def test_loads_with_path_source_and_warnings(home: Path):
    path = write(home / "work" / "config.toml", "\ufeff[proxy.timeouts]\nnobody = 1\n")
    loaded = load_config(None, {})
    assert loaded.path == path
    assert loaded.config.source == str(path)
    assert loaded.warnings[0].startswith(f"{path}:2: ")


def test_errors_name_the_file_and_the_line(home: Path):
    path = write(home / "work" / "config.toml", "[server]\nworkers = 0\n")
    with pytest.raises(ConfigError, match=rf"^{path}:2: \[server\] workers"):
        load_config(None, {})


@pytest.mark.parametrize("by", ["--config", "$KIMI_PROXY_CONFIG"])
def test_a_named_file_must_exist(home: Path, by: str):
    option, env = ("no.toml", {}) if by == "--config" else (None, {"KIMI_PROXY_CONFIG": "no.toml"})
    with pytest.raises(ConfigError) as caught:
        load_config(option, env)
    assert str(caught.value).startswith(f"{home}/work/no.toml: there is no such file, but {by} names it")


def test_a_named_folder_is_refused(home: Path):
    with pytest.raises(ConfigError, match="names a folder"):
        load_config(str(home), {})


def test_a_path_below_a_file_is_refused(home: Path):
    write(home / "work" / "file")
    with pytest.raises(ConfigError, match=r"can't be reached \(Not a directory\)"):
        load_config("file/config.toml", {})


def test_a_path_with_a_nul_is_refused(home: Path):
    with pytest.raises(ConfigError, match="can't be reached"):
        load_config("a\0b", {})


def test_bytes_that_are_not_utf_8_are_refused_with_their_line(home: Path):
    path = home / "work" / "config.toml"
    path.write_bytes(b"[server]\n# \xff\n")
    with pytest.raises(ConfigError, match=rf"^{path}:2: this is not UTF-8"):
        load_config(None, {})


def test_an_endless_file_is_refused(home: Path):
    with pytest.raises(ConfigError, match="larger than"):
        load_config("/dev/zero", {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_refused(home: Path):
    write(home / "work" / "config.toml").chmod(0)
    with pytest.raises(ConfigError, match=r"can't be read \(Permission denied\): let uid"):
        load_config(None, {})


def test_a_file_that_the_kernel_refuses_to_read_is_refused(home: Path):
    # Address 0 of our own memory is never mapped: reading it is EIO, also for root.
    with pytest.raises(ConfigError, match=r"^/proc/self/mem: the file can't be read \(Input/output error\)"):
        load_config("/proc/self/mem", {})


def test_client_keys_come_from_a_file_too(home: Path):
    write(home / "etc" / "clients", "# people\none\n\n  two  \n")
    path = write(home / "etc" / "config.toml", '[auth]\nkeys = ["zero", "one"]\nkeys_file = "clients"\n')
    assert load_config(str(path), {}).config.auth.keys == ("zero", "one", "two")


@pytest.mark.parametrize(
    ("text", "word"), [("# none\n", "holds no key"), ("good\nbad key\n", "clients:2: a client key")]
)
def test_a_bad_file_of_client_keys_is_refused(home: Path, text: str, word: str):
    write(home / "etc" / "clients", text)
    path = write(home / "etc" / "config.toml", '[auth]\nkeys_file = "clients"\n')
    with pytest.raises(ConfigError, match=word):
        load_config(str(path), {})


def test_a_missing_file_of_client_keys_is_refused(home: Path):
    path = write(home / "work" / "config.toml", '[auth]\nkeys_file = "clients"\n')
    with pytest.raises(ConfigError, match=r"clients: the file can't be read \(No such file"):
        load_config(str(path), {})


def agent(home: Path, text: str = "", workspace: str = "ws", more: str = ""):
    path = write(home / "etc" / "config.toml", f'[agent]\nenabled = true\nworkspace = "{workspace}"\n{text}\n{more}')
    return load_config(str(path), {})


def refused(home: Path, text: str = "", workspace: str = "ws") -> str:
    with pytest.raises(ConfigError) as caught:
        agent(home, text, workspace)
    return str(caught.value).removeprefix(f"{home}/etc/")


def test_the_agent_s_folder_is_relative_to_the_file(home: Path):
    (home / "etc" / "ws").mkdir(parents=True)
    loaded = agent(home)
    assert loaded.config.agent.workspace == str(home / "etc" / "ws")
    assert loaded.warnings == ()


def test_the_agent_s_folder_may_be_below_the_home(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(home / "user"))
    (home / "user" / "ws").mkdir()
    assert agent(home, workspace="~/ws").config.agent.workspace == str(home / "user" / "ws")
    assert agent(home, workspace="~").config.agent.workspace == str(home / "user")


def test_links_to_the_agent_s_folder_are_followed_when_the_file_is_read(home: Path):
    (home / "etc" / "real").mkdir(parents=True)
    (home / "etc" / "ws").symlink_to("real")
    assert agent(home).config.agent.workspace == str(home / "etc" / "real")


def test_an_agent_that_is_off_needs_no_folder(home: Path):
    path = write(home / "etc" / "config.toml", '[agent]\nworkspace = "nowhere"\n')
    assert load_config(str(path), {}).config.agent.workspace == str(home / "etc" / "nowhere")


def test_an_agent_s_folder_that_is_none_is_refused(home: Path):
    assert refused(home) == (
        f"config.toml:3: [agent] workspace names {home}/etc/ws, which does not exist: create it, or correct the path"
    )
    write(home / "etc" / "ws")
    assert refused(home) == "config.toml:3: [agent] workspace is a file: name the folder that the agent's tools may use"
    assert "can't be reached (Not a directory)" in refused(home, workspace="ws/below")
    assert refused(home, workspace="/") == (
        "config.toml:3: [agent] workspace is all of this machine: name a folder in it"
    )
    (home / "etc" / "loop").symlink_to("loop")
    assert "can't be reached" in refused(home, workspace="loop")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_agent_s_folder_that_is_closed_is_refused(home: Path):
    (home / "etc" / "ws").mkdir(parents=True, mode=0)
    assert "can't be read: let uid" in refused(home)


def test_the_file_of_the_agent_s_own_tools_must_exist(home: Path):
    (home / "etc" / "ws").mkdir(parents=True)
    assert refused(home, 'tools_file = "mine.py"').startswith(
        f"config.toml:4: [agent] tools_file names {home}/etc/mine.py, which does not exist"
    )
    assert "tools_file is no file" in refused(home, 'tools_file = "ws"')
    write(home / "etc" / "mine.py")
    assert agent(home, 'tools_file = "mine.py"').config.agent.tools_file == str(home / "etc" / "mine.py")


def test_what_the_agent_should_not_touch_is_warned_about(home: Path):
    (home / "etc" / "ws").mkdir(parents=True)
    write(home / "etc" / "ws" / "key")
    loaded = agent(home, more='[providers.kimi]\napi_key_file = "ws/key"\n')
    path = home / "etc" / "config.toml"
    said = "is in [agent] workspace, where the agent may read and change it: move one of them"
    assert loaded.warnings == (f"{path}: {home}/etc/ws/key {said}",)
    assert agent(home, workspace=".").warnings == (f"{path}: {path} {said}",)


def test_a_sandbox_that_is_not_installed_is_warned_about(home: Path, monkeypatch: pytest.MonkeyPatch):
    (home / "etc" / "ws").mkdir(parents=True)
    monkeypatch.setenv("PATH", str(home))
    assert "without bubblewrap: Bash runs nothing; install bwrap" in agent(home, 'sandbox = "required"').warnings[0]
    write(home / "bwrap").chmod(0o755)
    assert agent(home, 'sandbox = "required"').warnings == ()
