"""`shared.keys`: where a provider's key is found, and what is said when it isn't."""

import os
from pathlib import Path

import pytest

from shared.config import Config, parse_config
from shared.errors import ConfigError
from shared.keys import CHATKIT, key_variables, resolve_keys

FAKE = '[providers.fake]\nbase_url = "http://127.0.0.1:1"\n'


def config_of(text: str, source: Path | None = None) -> Config:
    return parse_config(text, str(source / "config.toml") if source else None).config


def refused(config: Config, env: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve_keys(config, env)
    return str(caught.value)


def test_from_the_environment():
    config = config_of(FAKE + 'api_key_env = "FAKE_KEY"')
    assert resolve_keys(config, {"FAKE_KEY": "  secret\n"}) == {"fake": "secret"}


def test_where_keys_may_be_looked_for():
    config = config_of(FAKE + 'api_key_env = "FAKE_KEY"\n[chatkit]\nworkflow = "wf_1"')
    assert key_variables(config) >= {"FAKE_KEY", "OPENAI_API_KEY", "KIMI_API_KEY", "MOONSHOT_API_KEY"}


def test_a_provider_without_a_key_sends_none():
    assert resolve_keys(config_of(FAKE), {"FAKE_API_KEY": "x"}) == {}


def test_the_other_variable_of_a_preset():
    assert resolve_keys(config_of("[providers.kimi]"), {"MOONSHOT_API_KEY": "m"}) == {"kimi": "m"}
    assert resolve_keys(config_of("[providers.kimi]"), {"MOONSHOT_API_KEY": "m", "KIMI_API_KEY": "k"}) == {"kimi": "k"}


def test_a_preset_at_another_address_goes_without():
    config = config_of('[providers.kimi]\nbase_url = "http://127.0.0.1:1"')
    assert resolve_keys(config, {}) == {}
    assert resolve_keys(config, {"KIMI_API_KEY": "k"}) == {"kimi": "k"}


@pytest.mark.parametrize("name", ["FAKE_KEY", "fake_key", "fake_api_key"])
def test_from_the_credentials_whatever_their_mode(tmp_path: Path, name: str):
    (tmp_path / name).write_text("secret\n")
    (tmp_path / name).chmod(0o444)
    config = config_of(FAKE + 'api_key_env = "FAKE_KEY"')
    assert resolve_keys(config, {"CREDENTIALS_DIRECTORY": str(tmp_path), "FAKE_KEY": ""}) == {"fake": "secret"}
    assert resolve_keys(config, {"CREDENTIALS_DIRECTORY": str(tmp_path), "FAKE_KEY": "env"}) == {"fake": "env"}


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_from_a_private_file(tmp_path: Path, mode: int):
    (tmp_path / "key").write_text("secret\n")
    (tmp_path / "key").chmod(mode)
    assert resolve_keys(config_of(FAKE + 'api_key_file = "key"', tmp_path), {}) == {"fake": "secret"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int):
    (tmp_path / "key").write_text("secret")
    (tmp_path / "key").chmod(mode)
    config = config_of(FAKE + 'api_key_file = "key"', tmp_path)
    message = refused(config, {})
    assert message.startswith(f"provider fake: the key's file {tmp_path}/key can be read by others (mode {mode:04o})")
    assert message.endswith("chmod 600 it")
    assert resolve_keys(config, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == {"fake": "secret"}


def test_a_key_that_is_nowhere(tmp_path: Path):
    config = config_of(FAKE + 'api_key_env = "FAKE_KEY"')
    message = refused(config, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert message.startswith("provider fake: FAKE_KEY is not set: export it")
    assert "fake_api_key" in message
    assert "api_key_file" in message
    assert refused(config, {"FAKE_KEY": " "}).startswith("provider fake: FAKE_KEY is empty")
    assert "KIMI_API_KEY or MOONSHOT_API_KEY is not set" in refused(config_of("[providers.kimi]"), {})


@pytest.mark.parametrize("value", ["a\nb", "a\x00b", "a\x7fb", "a\u2028b", "日本"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_repeated(value: str):
    config = config_of(FAKE + 'api_key_env = "FAKE_KEY"')
    message = refused(config, {"FAKE_KEY": value})
    assert message == "provider fake: FAKE_KEY has a character that no key may hold: copy the key again"


@pytest.mark.parametrize(("content", "word"), [(b"\n", "is empty"), (b"\xff\xfe", "no key may hold")])
def test_a_bad_file(tmp_path: Path, content: bytes, word: str):
    (tmp_path / "key").write_bytes(content)
    (tmp_path / "key").chmod(0o600)
    assert word in refused(config_of(FAKE + 'api_key_file = "key"', tmp_path), {})


def test_no_file(tmp_path: Path):
    message = refused(config_of(FAKE + 'api_key_file = "key"', tmp_path), {})
    assert f"there is no file {tmp_path}/key" in message


def test_neither_a_folder_nor_a_pipe_is_a_file(tmp_path: Path):
    (tmp_path / "folder").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in ("folder", "fifo"):
        message = refused(config_of(FAKE + f'api_key_file = "{name}"', tmp_path), {})
        assert "is not a regular file" in message


def test_a_path_below_a_file(tmp_path: Path):
    (tmp_path / "key").write_text("x")
    message = refused(config_of(FAKE + 'api_key_file = "key/more"', tmp_path), {})
    assert "can't be read (Not a directory)" in message


def test_the_key_for_chatkit(tmp_path: Path):
    text = '[providers.echo]\n[chatkit]\nworkflow = "wf_1"\n'
    assert resolve_keys(config_of(text), {"OPENAI_API_KEY": "o"}) == {CHATKIT: "o"}
    assert refused(config_of(text), {}).startswith("ChatKit: OPENAI_API_KEY is not set: export it, provide the cred")
    assert refused(config_of(text + 'api_key_env = "MINE"'), {"OPENAI_API_KEY": "o"}).startswith("ChatKit: MINE is not")
    elsewhere = text + 'base_url = "http://127.0.0.1:1"\n'
    assert resolve_keys(config_of(elsewhere), {}) == {}
    assert resolve_keys(config_of(elsewhere), {"OPENAI_API_KEY": "o"}) == {CHATKIT: "o"}
    (tmp_path / "key").write_text("f")
    (tmp_path / "key").chmod(0o600)
    assert resolve_keys(config_of(text + 'api_key_file = "key"', tmp_path), {}) == {CHATKIT: "f"}
    (tmp_path / "chatkit_api_key").write_text("c")
    assert resolve_keys(config_of(text), {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == {CHATKIT: "c"}


def test_without_a_workflow_chatkit_needs_no_key():
    assert resolve_keys(config_of('[providers.echo]\n[chatkit]\napi_key_env = "MINE"'), {}) == {}
