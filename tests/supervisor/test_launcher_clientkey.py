"""A key for Claude Code, where the service wants one."""

import pytest
from fakes.admin import AdminServer

from shared.config.locate import load_config
from shared.errors import ControlError
from shared.paths import prepare, resolve_paths
from supervisor.cli.launcher.clientkey import key_for
from supervisor.control import Done, Refused, Reload

CONFIG = """# mine
[providers.fake]
base_url = "http://127.0.0.1:1/v1"
[auth.clients.other]
key = "the-key-of-somebody-else"
"""


@pytest.fixture
def env(tmp_path):
    env = {f"{name}_DIRECTORY": str(tmp_path / name.lower()) for name in ("STATE", "RUNTIME", "LOGS")}
    prepare(resolve_paths(env))
    return env


@pytest.fixture
def load(tmp_path, env):
    def load(text=None):
        path = tmp_path / "config.toml"
        if text is not None:
            path.write_text(text)
        return load_config(str(path), env).config

    return load


def test_none_is_made_where_none_is_wanted(env, load, tmp_path):
    assert key_for(load(CONFIG.partition("[auth")[0]), env) is None
    assert key_for(None, env) is None
    assert key_for(None, env | {"KIMI_PROXY_CLIENT_KEY": "kp-mine"}) == "kp-mine"
    assert not (tmp_path / "state/launcher.key").exists()


def test_one_is_made_once(env, load, tmp_path):
    paths = resolve_paths(env)
    with AdminServer(paths.admin_socket, lambda _: Done("read again")) as service:
        key = key_for(load(CONFIG), env)
        assert service.requests == [Reload()]
        made = load()
        assert key_for(made, env) == key
        assert service.requests == [Reload()]
        file = tmp_path / "state/launcher.key"
        assert file.stat().st_mode & 0o777 == 0o600
        file.unlink()
        # A key whose file is gone is replaced by another one.
        other = key_for(made, env)
        assert other != key
        assert [client.name for client in load().auth.clients] == ["other", "launcher"]
    assert (tmp_path / "config.toml").read_text().startswith(CONFIG)


def test_one_that_is_known_already_is_used(env, load):
    made = load(CONFIG)
    for name in ("KIMI_PROXY_CLIENT_KEY", "ANTHROPIC_AUTH_TOKEN"):
        assert key_for(made, env | {name: "the-key-of-somebody-else"}) == "the-key-of-somebody-else"
    plain = load(CONFIG.partition("[auth")[0] + '[auth]\nkeys = ["a-plain-one"]\n')
    assert key_for(plain, env | {"ANTHROPIC_AUTH_TOKEN": "sk-ant-of-anthropic"}) == "a-plain-one"


def test_where_none_can_be_made_it_says_what_to_do(env, load):
    made = load(CONFIG)
    refusal = r"the file is broken\n.*kimi-proxy key add NAME.*KIMI_PROXY_CLIENT_KEY"
    with (
        AdminServer(resolve_paths(env).admin_socket, lambda _: Refused("the file is broken")),
        pytest.raises(ControlError, match=refusal),
    ):
        key_for(made, env)
