"""Keys of providers in files and in the keyring: `kimi-proxy set-key`, and what it is made of."""

import io
import os
import stat
import sys
import tomllib
from pathlib import Path

import pytest
from fakes.secret_tool import install_secret_tool
from fakes.terminal import Terminal

from shared.config import schema
from shared.errors import ConfigError, ControlError
from supervisor import cli
from supervisor.cli.launcher.catalogue import OFFERS
from supervisor.cli.launcher.commit import write_all
from supervisor.cli.launcher.conceal import conceal
from supervisor.cli.launcher.keystore import bad_key, delete_key, doubt, save_key

ROOT = Path(__file__).parents[2]
KEY = "sk-canary-77aa01"


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The configuration of an instance that does not run; it does not exist yet."""
    for name in ("STATE", "RUNTIME", "LOGS"):
        monkeypatch.setenv(f"{name}_DIRECTORY", str(tmp_path / name.lower()))
    for offer in ("KIMI", "MOONSHOT", "GROQ"):
        monkeypatch.delenv(f"{offer}_API_KEY", raising=False)
    monkeypatch.setenv("KIMI_PROXY_CONFIG", str(tmp_path / "etc" / "config.toml"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "etc" / "config.toml"


@pytest.fixture
def set_key(monkeypatch, capsys):
    def run(*arguments: str, stdin: str = "") -> tuple[int, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = cli.main(["set-key", *arguments])
        said = capsys.readouterr()
        assert said.out == ""
        assert KEY not in said.err
        return code, said.err

    return run


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# What can be a key


@pytest.mark.parametrize("key", ["", "a b", "a\tb", "a\nb", "a\x1b[200~b", "schlüssel", "sk-\u200b1", "a\x7f"])
def test_what_can_t_be_a_key(key):
    problem = bad_key(key)
    assert problem is not None
    assert not key or key not in problem


def test_the_beginnings_of_keys():
    assert bad_key(KEY) is None
    assert doubt("kimi", KEY) is None
    assert doubt("custom", KEY) is None
    assert doubt("mistral", KEY) is None
    assert doubt("kimi", "gsk_1") == "keys of Kimi (Moonshot) begin with sk-; this looks like one of Groq"
    assert doubt("gemini", "xyz") == "keys of Gemini begin with AIza or AQ."
    for provider, offer in OFFERS.items():
        for prefix in offer.key_prefixes:
            assert doubt(provider, f"{prefix}1") is None


# Where it is kept


def test_a_file_for_its_owner_alone(config):
    before = os.umask(0)
    try:
        saved = save_key("kimi", KEY, config=config)
    finally:
        os.umask(before)
    path = config.parent / "keys" / "kimi"
    assert (path.read_text(), mode(path), mode(path.parent)) == (f"{KEY}\n", 0o600, 0o700)
    assert saved.values == {"api_key_file": "keys/kimi", "api_key_env": None, "api_key_keyring": None}
    assert saved.place == str(path)
    assert delete_key("kimi", config=config)
    assert not path.parent.exists()
    assert not delete_key("kimi", config=config)


def test_the_file_that_the_configuration_names(config):
    section = schema.Provider(api_key_file="mine")
    save_key("kimi", "sk-0", config=config, section=section)
    (config.parent / "mine").chmod(0o644)
    saved = save_key("kimi", KEY, config=config, section=section)
    assert (config.parent / "mine").read_text() == f"{KEY}\n"
    assert mode(config.parent / "mine") == 0o600
    assert saved.values["api_key_file"] == "mine"
    with pytest.raises(ControlError, match="has blanks") as caught:
        save_key("kimi", "two words", config=config)
    assert "two words" not in str(caught.value)


def test_both_or_neither(config):
    """A configuration that is refused leaves the key as it was, and none where there was none."""

    def refuse(*_: object) -> str:
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        write_all(config, "kimi", KEY, in_keyring=False, env=os.environ, change=refuse)
    assert not (config.parent / "keys").exists()
    save_key("kimi", "sk-before", config=config)
    with pytest.raises(ConfigError, match="no"):
        write_all(config, "kimi", KEY, in_keyring=False, env=os.environ, change=refuse)
    assert (config.parent / "keys/kimi").read_text() == "sk-before\n"
    assert [path.name for path in (config.parent / "keys").iterdir()] == ["kimi"]


def test_both_or_neither_in_the_keyring(config, tmp_path):
    env = install_secret_tool(tmp_path, os.environ)
    kept = tmp_path / "keyring" / "kimi"

    def refuse(*_: object) -> str:
        raise ConfigError("no")

    for before in (None, "sk-before"):
        if before is not None:
            kept.write_text(before)
        with pytest.raises(ConfigError, match="no"):
            write_all(config, "kimi", KEY, in_keyring=True, env=env, change=refuse)
        assert (kept.read_text() if kept.exists() else None) == before


def test_conceal_leaves_other_arguments(monkeypatch):
    before = Path("/proc/self/cmdline").read_bytes()
    conceal("not-among-them-0815")
    conceal("")
    assert Path("/proc/self/cmdline").read_bytes() == before


# set-key


def test_the_first_key_makes_a_configuration(config, set_key):
    code, err = set_key("kimi", "-", stdin=f"{KEY}\r\n")
    assert code == 0, err
    target = {"provider": "kimi", "model": "kimi-k2.6"}
    assert tomllib.loads(config.read_text()) == {
        "providers": {"kimi": {"api_key_file": "keys/kimi"}},
        "models": {"claude-*": target, "default": target},
    }
    assert (config.parent / "keys/kimi").read_text() == f"{KEY}\n"
    # Another one is added, and leads nowhere yet.
    code, err = set_key("kimi-code", KEY)
    assert code == 0, err
    assert "history" in err
    assert "begin with sk-kimi-" in err
    made = tomllib.loads(config.read_text())
    assert made["models"]["claude-*"] == target
    assert made["providers"]["kimi-code"]["base_url"] == "https://api.kimi.com/coding/v1"
    text = config.read_text()
    assert set_key("kimi", "-", stdin="sk-2\n")[0] == 0
    assert config.read_text() == text
    assert (config.parent / "keys/kimi").read_text() == "sk-2\n"


def test_comments_stay_and_a_variable_goes(config, set_key):
    config.parent.mkdir()
    config.write_text('# mine\n[providers.groq] # g\napi_key_env = "X" # x\nmax_retries = 1 # one\n')
    assert set_key("groq", "-", stdin=f"{KEY}\n")[0] == 0
    assert config.read_text() == '# mine\n[providers.groq] # g\napi_key_file = "keys/groq"\nmax_retries = 1 # one\n'


def test_the_keyring(config, set_key, tmp_path, monkeypatch):
    env = install_secret_tool(tmp_path, os.environ)
    monkeypatch.setenv("PATH", env["PATH"])
    code, err = set_key("kimi", "-", "--keyring", stdin=f"{KEY}\n")
    assert code == 0, err
    assert "in the keyring" in err
    assert tomllib.loads(config.read_text())["providers"] == {"kimi": {"api_key_keyring": True}}
    assert not (config.parent / "keys").exists()
    # The configuration says by now that it is the place.
    assert set_key("kimi", "-", stdin="sk-2\n")[0] == 0
    assert (tmp_path / "keyring/kimi").read_text() == "sk-2"


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "said"),
    [
        (["kimi"], "", 2, "set-key kimi -"),
        (["kimi", "-"], "", 1, "it is empty"),
        (["kimi", "-"], "a b\n", 1, "it has blanks"),
        (["kimmi", "-"], "k\n", 1, 'did you mean "kimi"'),
        (["my-own", "-"], "k\n", 1, "setup --provider my-own --base-url URL"),
        (["echo", "-"], "k\n", 1, "has no key"),
    ],
)
def test_what_is_refused_changes_nothing(config, set_key, arguments, stdin, code, said):
    ended, err = set_key(*arguments, stdin=stdin)
    assert ended == code
    assert said in err
    assert not config.parent.exists()


def test_typed_at_a_terminal_it_is_not_shown(config):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with Terminal(100, 30) as terminal:
        process = terminal.run([sys.executable, "-m", "supervisor", "set-key", "kimi"], env)
        terminal.wait(lambda: "not shown: " in terminal.received)
        assert "https://platform.moonshot.ai" in terminal.received
        terminal.type(f"{KEY}\n".encode())
        assert terminal.wait_exit(process) == 0
        assert KEY not in terminal.received
        assert terminal.settings_now() == terminal.settings
    assert (config.parent / "keys/kimi").read_text() == f"{KEY}\n"
