"""`shared.keyring` and `api_key_keyring`, with a tool that keeps, refuses, hangs, or is not there."""

import os

import pytest
from fakes.secret_tool import install_secret_tool

from shared import keyring
from shared.config import parse_config
from shared.errors import ConfigError
from shared.keys import resolve_keys

ENV = {"PATH": os.environ["PATH"]}
KIMI = parse_config("[providers.kimi]\napi_key_keyring = true").config


def test_kept_found_and_forgotten(tmp_path):
    env = install_secret_tool(tmp_path, ENV)
    assert keyring.look_up("kimi", env) is None
    keyring.store("kimi", "sk-1", env)
    keyring.store("groq", "gsk-2", env)
    keyring.store("kimi", "sk-3", env)
    assert (keyring.look_up("kimi", env), keyring.look_up("groq", env)) == ("sk-3", "gsk-2")
    keyring.clear("kimi", env)
    keyring.clear("kimi", env)
    assert keyring.look_up("kimi", env) is None


def test_a_configuration_that_refers_to_it(tmp_path):
    env = install_secret_tool(tmp_path, ENV)
    with pytest.raises(ConfigError, match=r"provider kimi: the keyring has no key for it: .* set-key kimi --keyring"):
        resolve_keys(KIMI, env)
    keyring.store("kimi", "sk-1\n", env)
    # It goes before what the environment has.
    assert resolve_keys(KIMI, {**env, "KIMI_API_KEY": "other"}) == {"kimi": "sk-1"}
    off = parse_config("[providers.kimi]\napi_key_keyring = false", None, {"KIMI_API_KEY": "k"}).config
    assert resolve_keys(off, {"KIMI_API_KEY": "k"}) == {"kimi": "k"}


@pytest.mark.parametrize("other", ['api_key_file = "k"', 'api_key_env = "K"'])
def test_one_way_to_name_a_key(other):
    with pytest.raises(ConfigError, match=r"configuration:2: .* and api_key_keyring: keep one"):
        parse_config(f"[providers.kimi]\napi_key_keyring = true\n{other}\n")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("#!/bin/sh\necho 'secret-tool: Cannot autolaunch D-Bus' >&2\nexit 1\n", "Cannot autolaunch D-Bus"),
        ("#!/nowhere/sh\n", "No such file"),
        ("#!/bin/sh\nexec sleep 60\n", "did not answer within 0.2 s"),
    ],
)
def test_a_tool_that_does_not_work(tmp_path, script, said):
    env = install_secret_tool(tmp_path, ENV, script)
    for action in (
        lambda: keyring.look_up("kimi", env, timeout=0.2),
        lambda: keyring.store("kimi", "sk-secret", env, timeout=0.2),
        lambda: keyring.clear("kimi", env, timeout=0.2),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            action()
        assert "sk-secret" not in str(caught.value)


def test_without_the_tool(tmp_path):
    env = {"PATH": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"provider kimi: the keyring can't be asked without secret-tool: install"):
        resolve_keys(KIMI, env)
